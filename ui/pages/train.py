"""The page Train."""

from __future__ import annotations

import gradio as gr

from ui.workspace import Workspace


def train(workspace: Workspace) -> None:
    """Make it."""
    gr.HTML('<div class="rlr"><h1>Train</h1></div>')
