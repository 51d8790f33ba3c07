"""The page Score."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace


def score(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML('<div class="rlr"><h1>Score</h1></div>')
