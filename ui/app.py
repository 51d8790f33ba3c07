"""The Gradio app: a rail, five pages, our own look. A page is shown by `look/script.js`, without asking the server."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio import themes

from ui.pages import PAGES
from ui.pages.train import train
from ui.workspace import Workspace

LOOK = Path(__file__).parent / "look"
RAIL = """<div id="rail" class="rlr"><a class="brand" href="?view=train" data-page="train">RLR</a><nav aria-label="pages">
{links}</nav></div>"""
RUNS = """<div class="runs rlr"><aside aria-label="all runs"><h1>Runs</h1>
<input type="search" placeholder="Search" aria-label="search runs"><ul class="list"></ul><div class="more"></div></aside>
<section aria-live="off"></section></div>"""


def build(workspace: Workspace) -> gr.Blocks:
    """All pages of a workspace."""
    links = "".join(
        f'<a href="?view={name.lower()}" data-page="{name.lower()}">{name}</a>' for name in TITLES
    )
    with gr.Blocks(title="RLR", analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(RAIL.format(links=links), apply_default_css=False)
        for title in TITLES:
            with gr.Column(elem_id=f"page-{title.lower()}", elem_classes="page"):
                if title == "Runs":
                    gr.HTML(RUNS, apply_default_css=False, js_on_load=None)
                elif title == "Train":
                    train(workspace, blocks)
                else:
                    PAGES[title](workspace)
    return blocks


TITLES = ("Train", "Runs", "Compare", "Score", "Settings")


def theme() -> themes.Base:
    """The system's letters, one accent, greys."""
    return themes.Base(
        primary_hue=themes.colors.indigo,
        neutral_hue=themes.colors.zinc,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=themes.sizes.radius_md,
    ).set(
        body_background_fill="var(--paper)",
        body_background_fill_dark="var(--paper)",
        block_background_fill="var(--card)",
        block_background_fill_dark="var(--card)",
        block_label_text_color="var(--soft)",
        block_label_text_color_dark="var(--soft)",
        block_title_text_color="var(--ink)",
        block_title_text_color_dark="var(--ink)",
        block_info_text_color="var(--soft)",
        block_info_text_color_dark="var(--soft)",
        body_text_color="var(--ink)",
        body_text_color_dark="var(--ink)",
        body_text_color_subdued="var(--soft)",
        body_text_color_subdued_dark="var(--soft)",
        button_primary_background_fill="var(--accent)",
        button_primary_background_fill_dark="var(--accent)",
        button_primary_background_fill_hover="var(--accent)",
        button_primary_background_fill_hover_dark="var(--accent)",
        button_primary_text_color="var(--accent-ink)",
        button_primary_text_color_dark="var(--accent-ink)",
        input_background_fill="var(--paper)",
        input_background_fill_dark="var(--paper)",
        border_color_primary="var(--line)",
        border_color_primary_dark="var(--line)",
    )
