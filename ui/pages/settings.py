"""The page Settings."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace


def settings(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML('<div class="rlr"><h1>Settings</h1></div>')
