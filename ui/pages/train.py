"""The page Train: three cards, each complete with its default, and what comes of them."""

from __future__ import annotations

import html
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr

from rlr_core import __version__
from rlr_core.config import PRESETS, RunConfig, from_dict, read_settings, to_toml
from rlr_core.errors import RLRError
from ui import choosing, form
from ui.doing import begin
from ui.infotext import read_infotext
from ui.pages.fields import rewarded, staged_boxes, uploaded
from ui.pages.train_fields import Data, TrainFields
from ui.planning import plan_in_words
from ui.stripping import begin_strip
from ui.workspace import Workspace

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AFRESH = '<p class="fact">As you left it. <a href="?view=train&fresh=1">Start afresh</a></p>'
NO_CHECKPOINT = """<p class="fact">The webui has no checkpoint yet, so this is the built-in demo, whose LoRA is of no use to the
webui. Put a checkpoint into the webui’s folder, then press Refresh.</p>"""
SHOWN = 12
"""Prompts that are listed."""
GO = "(told) => { if (told && told.run) window.rlr.show('runs', told.run); }"


def train(workspace: Workspace, blocks: gr.Blocks) -> None:
    """Make it, among the `blocks`, which tell when it is opened."""
    page = TrainPage(workspace)
    gr.HTML(
        '<div class="rlr"><h1>Train</h1><p class="soft">A checkpoint, a reward, prompts: a LoRA comes of it.</p></div>'
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            page.fields.checkpoint_card()
            page.fields.reward_card()
            page.fields.prompt_card()
        with gr.Column(scale=2, min_width=320, elem_classes="summary"):
            page.fields.summary()
    page.fields.advanced_drawer()
    page.wire(blocks)


class TrainPage:
    """What its fields do."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.fields = workspace, TrainFields(workspace)

    def wire(self, blocks: gr.Blocks) -> None:
        """Connect the components."""
        f = self.fields
        fields, filled = {*f.inputs.values()}, [f.about, f.cloned, f.missing, f.stage_box, *f.inputs.values()]
        self.draft = draft = gr.BrowserState(None, storage_key=f"rlr-draft-{__version__}", secret="rlr")
        blocks.load(self._begun, draft, [draft, *filled], **PRIVATE)
        kept: dict[str, Any] = {"js": f.draft_in_javascript(), "api_visibility": "private"}
        gr.on([box.change for box in f.inputs.values()], None, [*f.inputs.values()], draft, **kept)
        chosen = [f.about, f.rewards, f.judge, f.missing, f.iterations]
        f.checkpoint.input(f.chosen, {f.checkpoint, f.rewards, f.iterations}, chosen, **PRIVATE)
        f.preset.change(lambda name: gr.update(info=PRESETS[name].summary), f.preset, f.preset, **PRIVATE)
        f.refresh.click(lambda: gr.update(choices=f.offered_checkpoints()), None, f.checkpoint, **PRIVATE)
        towards: list[Any] = [f.rewards.input, f.own.blur]
        gr.on(towards, rewarded, [f.rewards, f.own, f.preset], [f.weights, f.preset], **PRIVATE)
        staged = [f.prompts, f.stage_box, *f.stages]
        f.staged.input(staged_boxes, [f.staged, f.prompts, *f.stages], staged, **PRIVATE)
        f.upload.upload(uploaded, f.upload, f.prompts, **PRIVATE)
        f.look.click(self._drawn, fields, f.count, **PRIVATE)
        f.show.click(self._strip, fields, f.strip, **PRIVATE)
        f.ask.click(self._plan, fields, f.plan, api_visibility="private")
        f.load.upload(lambda path: f.fill(from_dict(read_settings(Path(path)))), f.load, filled, **PRIVATE)
        f.save.click(self._saved, fields, f.save, **PRIVATE)
        started = f.button.click(self._train, fields, [f.told, f.error], api_visibility="private")
        started.then(None, f.told, None, js=GO, api_visibility="private")

    def _begun(self, draft: Any, request: gr.Request) -> dict[Any, Any]:
        """What a new page begins with: the run that its address says is cloned, what was written here before, or the defaults.

        The program around us may have chosen a checkpoint and a VAE, of which `extension/gateway.py` tells, and have put a
        picture's text into the address.
        """
        f = self.fields
        if run := request.query_params.get("clone", ""):
            try:
                told = f'<p class="fact">With the settings of <b>{html.escape(run)}</b>.</p>'
                return {**f.fill(self.workspace.run(run).config), f.cloned: told}
            except RLRError as error:
                return {f.cloned: _told(error)}
        if request.query_params.get("fresh"):
            return {self.draft: None, **self._chosen_around(request)}
        picture = request.query_params.get("picture")
        if picture is not None:
            return {**self._chosen_around(request), **self._pictured(picture)}
        left = f.left(draft, *_around(request))
        return {f.cloned: AFRESH, **left} if left else self._chosen_around(request)

    def _pictured(self, text: str) -> dict[Any, Any]:
        """A picture's prompt, negative prompt and size."""
        f = self.fields
        try:
            made = read_infotext(text)
        except RLRError as error:
            return {f.cloned: _told(error)}
        return {
            f.cloned: '<p class="fact">With the prompt and the size of that picture.</p>',
            f.prompts: made.prompt,
            f.advanced["prompts.negative"]: made.negative,
            f.advanced["sampling.size"]: made.size,
        }

    def _chosen_around(self, request: gr.Request) -> dict[Any, Any]:
        f = self.fields
        checkpoint, vae = _around(request)
        if not checkpoint:
            return {f.cloned: NO_CHECKPOINT if "rlr-checkpoint" in request.headers else ""}
        box = gr.update(choices=f.offered_checkpoints(), value=checkpoint)
        given = {
            f.checkpoint: checkpoint,
            f.rewards: [],
            f.iterations: choosing.usual_iterations(form.EMBEDDED),
        }
        return {**f.chosen(given), f.checkpoint: box, f.advanced["model.vae"]: vae}

    def _config(self, data: Data) -> RunConfig:
        return form.compose(self.fields.filled(data), str(self.workspace.rewards))

    def _train(self, data: Data) -> tuple[Any, str]:
        try:
            return begin(self.workspace, self._config(data), (data[self.fields.name] or "").strip()), ""
        except RLRError as error:
            return None, _told(error)

    def _plan(self, data: Data) -> str:
        try:
            return plan_in_words(self._config(data))
        except RLRError as error:
            return _told(error)

    def _strip(self, data: Data) -> str:
        """A place for the strip of the first prompt, which appears when it is painted."""
        try:
            job = begin_strip(self.workspace, self._config(data))
        except RLRError as error:
            return _told(error)
        return f'<div class="rlr strip" role="status" data-strip="{job}">Painting the first prompt …</div>'

    def _drawn(self, data: Data) -> str:
        """The prompts as a run would have them."""
        from rlr_core.trainer.deciding import decided

        try:
            prompts = decided(self._config(data)).prompts
        except RLRError as error:
            return _told(error)
        if not prompts.train:
            return '<p class="fact">The demo’s own prompts are trained on, and others of its world judge.</p>'
        shown = "".join(f"<li>{html.escape(line)}</li>" for line in prompts.train[:SHOWN])
        more = (
            f"<p class='soft'>and {len(prompts.train) - SHOWN} more</p>" if len(prompts.train) > SHOWN else ""
        )
        aside = (
            f", {len(prompts.held_out)} to judge by"
            if prompts.held_out
            else "; the same at other seeds to judge by"
        )
        count = f"<p class='fact'><b>{len(prompts.train)} prompts</b> to train on{aside}.</p>"
        return f"<div class='rlr'>{count}<ol>{shown}</ol>{more}</div>"

    def _saved(self, data: Data) -> str | None:
        """A file with the settings, for the browser."""
        try:
            config = self._config(data)
        except RLRError as error:
            raise gr.Error(str(error)) from None
        folder = Path(tempfile.mkdtemp(prefix="rlr-"))
        file = folder / f"{config.output.name}.toml"
        file.write_text(to_toml(config), encoding="utf-8")
        return str(file)


def _around(request: gr.Request) -> tuple[str, str]:
    """Checkpoint and VAE of the program around us, or "" where it has not chosen."""
    checkpoint, vae = (unquote(request.headers.get(f"rlr-{name}", "")) for name in ("checkpoint", "vae"))
    return checkpoint, vae


def _told(error: RLRError) -> str:
    return f'<div class="notice red rlr" role="alert"><pre>{html.escape(str(error))}</pre></div>'
