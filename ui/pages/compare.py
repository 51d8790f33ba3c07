"""The page Compare."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace


def compare(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML('<div class="rlr"><h1>Compare</h1></div>')
