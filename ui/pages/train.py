"""The page Train: three cards, each complete with its default, and what comes of them."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr

from rlr_core.config import PRESETS, RunConfig, from_dict, load, read_settings, to_toml
from rlr_core.embedded import DEMO
from rlr_core.errors import RLRError
from ui import choosing, form
from ui.doing import begin
from ui.form import Filled
from ui.infotext import read_infotext
from ui.pages.fields import (
    CHAIN,
    FILTER,
    SEARCH,
    STAGES,
    rewarded,
    setting_field,
    staged_boxes,
    uploaded,
    weights_of,
)
from ui.planning import plan_in_words
from ui.stripping import begin_strip
from ui.workspace import Workspace

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AUTO = ("auto: another reward that is installed", "auto")
EXAMPLES = (
    "With the demo checkpoint: empty for its own prompts.\nElse yours, such as\na cat on a sofa, soft light"
)
NO_CHECKPOINT = """<p class="fact">The webui has no checkpoint yet, so this is the built-in demo. Put one into the webui’s
folder, then press Refresh.</p>"""
DEFAULTS = RunConfig()
SHOWN = 12
"""Prompts that are listed."""
GO = "(told) => { if (told && told.run) window.rlr.show('runs', told.run); }"

Data = Mapping[Any, Any]


def train(workspace: Workspace) -> None:
    """Make it."""
    page = TrainPage(workspace)
    gr.HTML(
        '<div class="rlr"><h1>Train</h1><p class="soft">A checkpoint, a reward, prompts: a LoRA comes of it.</p></div>'
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            page.checkpoint_card()
            page.reward_card()
            page.prompt_card()
        with gr.Column(scale=2, min_width=320, elem_classes="summary"):
            page.summary()
    page.advanced_drawer()
    page.wire()


class TrainPage:
    """Its components, and what they do."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.advanced: dict[str, Any] = {}

    # the cards

    def checkpoint_card(self) -> None:
        """Which checkpoint."""
        with gr.Column(elem_classes="step"):
            gr.HTML('<div class="rlr"><h3>1 · Checkpoint</h3></div>')
            with gr.Row(equal_height=True):
                self.checkpoint = gr.Dropdown(
                    self._checkpoints(), value=form.EMBEDDED, label="Checkpoint", allow_custom_value=True, filterable=True,
                    info="From your folders; or paste the path of a file, or of a folder in diffusers' layout.", scale=5,
                )  # fmt: skip
                self.refresh = gr.Button("Refresh", size="sm", scale=1, min_width=88)
            self.about = gr.HTML(choosing.described(form.EMBEDDED)[0])

    def reward_card(self) -> None:
        """Which rewards, how much of each, and who judges."""
        with gr.Column(elem_classes="step"):
            gr.HTML('<div class="rlr"><h3>2 · Reward</h3></div>')
            self.rewards = gr.CheckboxGroup(
                self._rewards(form.EMBEDDED),
                value=[form.EMBEDDED],
                label="Train towards",
                elem_classes="reward-chips",
            )
            self.weights = gr.Textbox(
                label="Weights", info="One number for each, in this order; equal ones if nothing is written.",
                placeholder="1, 1", visible=False,
            )  # fmt: skip
            self.missing = gr.HTML(self._missing(form.EMBEDDED))
            with gr.Accordion("A reward of your own, and who judges", open=False):
                self.own = gr.Textbox(
                    label="Your own reward", placeholder="my_reward.py:function",
                    info="A Python function (images, prompts) → one number for each picture; higher is better.",
                )  # fmt: skip
                self.judge = gr.Dropdown(
                    self._judges(form.EMBEDDED), value="auto", label="Judged by", allow_custom_value=True,
                    info="Never trained on: whether the pictures get better, or the reward is merely fooled.",
                )  # fmt: skip

    def prompt_card(self) -> None:
        """What the pictures are to show."""
        with gr.Column(elem_classes="step"):
            gr.HTML('<div class="rlr"><h3>3 · Prompts</h3></div>')
            self.staged = gr.Checkbox(
                label="A prompt per stage",
                info="Early steps draw the layout, middle ones the shapes, late ones the detail.",
            )
            self.prompts = gr.Textbox(
                label="Prompts", lines=6, max_lines=16, placeholder=EXAMPLES,
                info="One per line. `{red|blue}` and wildcards, between double underscores, are drawn; # is a comment.",
            )  # fmt: skip
            with gr.Column(visible=False) as self.stage_box:
                gr.HTML(CHAIN)
                with gr.Row():
                    self.stages = [
                        gr.Textbox(label=label, lines=4, max_lines=12, min_width=180, placeholder=example)
                        for label, example in STAGES
                    ]
                with gr.Row():
                    self.first = gr.Slider(0.05, 0.9, 0.33, step=0.01, label="Layout ends at", min_width=180)
                    self.second = gr.Slider(0.1, 0.95, 0.67, step=0.01, label="Shapes end at", min_width=180)
                self.show = gr.Button("Show what each stage decides", size="sm")
                self.strip = gr.HTML()
            with gr.Row():
                self.upload = gr.UploadButton(
                    "Upload a file", file_types=[".txt", ".toml", ".jsonl"], size="sm", min_width=120
                )
                self.look = gr.Button("Show them as they are drawn", size="sm", min_width=120)
            self.count = gr.HTML()
            with gr.Accordion("Prompts to judge by", open=False):
                self.judged = gr.Textbox(
                    label="Held-out prompts", lines=3, max_lines=10,
                    info="Never trained on. Empty: a fifth of yours is set aside, from ten on.",
                )  # fmt: skip

    def summary(self) -> None:
        """What is seldom changed, what it will take, and the button."""
        with gr.Column(elem_classes="step"):
            gr.HTML('<div class="rlr"><h3>The run</h3></div>')
            self.cloned = gr.HTML()
            self.name = gr.Textbox(label="Name of the LoRA", placeholder="rlr-lora", max_lines=1)
            self.preset = gr.Dropdown(
                [*PRESETS], value="default", label="Method", info=PRESETS["default"].summary
            )
            with gr.Row():
                self.iterations = gr.Number(
                    _iterations(form.EMBEDDED), label="Iterations", precision=0, min_width=90
                )
                self.rank = gr.Number(DEFAULTS.lora.rank, label="Rank", precision=0, min_width=90)
                self.seed = gr.Number(0, label="Seed", precision=0, min_width=90)
            self.plan = gr.HTML(
                '<p class="fact">Memory and time are told before it starts: press “What it takes”.</p>'
            )
            self.told = gr.JSON(visible=False)
            self.error = gr.HTML()
            self.button = gr.Button("Train", variant="primary", size="lg", elem_id="train-button")
            with gr.Row():
                self.ask = gr.Button("What it takes", size="sm", min_width=120)
                self.load = gr.UploadButton("Load settings", file_types=[".toml"], size="sm", min_width=120)
                self.save = gr.DownloadButton("Save settings", size="sm", min_width=120)

    def advanced_drawer(self) -> None:
        """Every other setting of the config, from its own metadata."""
        with gr.Accordion("Advanced", open=False, elem_classes="advanced"):
            gr.HTML(
                '<p class="soft rlr">What is left empty fits the checkpoint; what it usually is stands in grey.</p>'
            )
            gr.HTML(SEARCH, js_on_load=FILTER)
            for section, about, settings in form.settings():
                gr.HTML(
                    f'<div class="rlr section"><h3>{section}</h3><p class="soft">{html.escape(about)}</p></div>'
                )
                with gr.Row(elem_classes="settings"):
                    for each in settings:
                        self.advanced[each.name] = setting_field(each)

    # what they do

    def wire(self) -> None:
        """Connect the components."""
        fields = {
            self.checkpoint, self.rewards, self.weights, self.own, self.judge, self.staged, self.prompts, *self.stages,
            self.first, self.second, self.judged, self.name, self.preset, self.iterations, self.rank, self.seed,
            *self.advanced.values(),
        }  # fmt: skip
        filling = [
            self.checkpoint, self.rewards, self.weights, self.own, self.judge, self.staged, self.prompts, self.judged,
            self.name, self.preset, self.iterations, self.rank, self.seed, *self.advanced.values(),
        ]  # fmt: skip
        chosen = [self.about, self.rewards, self.judge, self.missing, self.iterations]
        filled = [self.about, self.cloned, self.missing, *filling]
        gr.on(None, self._begun, None, filled, **PRIVATE)
        self.checkpoint.input(
            self._chosen, {self.checkpoint, self.rewards, self.iterations}, chosen, **PRIVATE
        )
        self.preset.change(
            lambda name: gr.update(info=PRESETS[name].summary), self.preset, self.preset, **PRIVATE
        )
        self.refresh.click(lambda: gr.update(choices=self._checkpoints()), None, self.checkpoint, **PRIVATE)
        self.rewards.input(rewarded, [self.rewards, self.preset], [self.weights, self.preset], **PRIVATE)
        staged = [self.prompts, self.stage_box, *self.stages]
        self.staged.input(staged_boxes, [self.staged, self.prompts, *self.stages], staged, **PRIVATE)
        self.upload.upload(uploaded, self.upload, self.prompts, **PRIVATE)
        self.look.click(self._drawn, fields, self.count, **PRIVATE)
        self.show.click(self._strip, fields, self.strip, **PRIVATE)
        self.ask.click(self._plan, fields, self.plan, api_visibility="private")
        self.load.upload(
            lambda path: self._fill(from_dict(read_settings(Path(path)))), self.load, filled, **PRIVATE
        )
        self.save.click(self._saved, fields, self.save, **PRIVATE)
        started = self.button.click(self._train, fields, [self.told, self.error], api_visibility="private")
        started.then(None, self.told, None, js=GO, api_visibility="private")

    def _checkpoints(self) -> list[tuple[str, str]]:
        return [
            (f"✕ {c.label}: {c.problem}" if c.problem else c.label, c.value)
            for c in choosing.checkpoints(self.workspace)
        ]

    def _rewards(self, checkpoint: str) -> list[tuple[str, str]]:
        found = choosing.rewards(self.workspace.rewards, checkpoint)
        return [(each.label, each.value) for each in found if not each.problem]

    def _judges(self, checkpoint: str) -> list[tuple[str, str]]:
        held_out = [("the embedded scorer", "embedded-held-out")] if checkpoint == form.EMBEDDED else []
        return [AUTO, *held_out, *self._rewards(checkpoint)]

    def _missing(self, checkpoint: str) -> str:
        found = [each for each in choosing.rewards(self.workspace.rewards, checkpoint) if each.problem]
        rows = "".join(
            f"<tr><td>{html.escape(each.label)}</td><td>{html.escape(each.problem)}</td>"
            f"<td><button type='button' data-download='{html.escape(each.value)}'>Download</button></td></tr>"
            for each in found
        )
        return (
            f"<details class='rlr'><summary>{len(found)} more can be downloaded</summary>"
            f"<table class='missing'>{rows}</table></details>"
            if found
            else ""
        )

    def _begun(self, request: gr.Request) -> dict[Any, Any]:
        """What a new page begins with: the run that its address says is cloned, or what the program around us has chosen.

        There the address may have a picture's text, too. `extension/gateway.py` tells of that program's checkpoint and VAE.
        """
        if run := request.query_params.get("clone", ""):
            try:
                told = f'<p class="fact">With the settings of <b>{html.escape(run)}</b>.</p>'
                return {**self._fill(self.workspace.run(run).config), self.cloned: told}
            except RLRError as error:
                return {self.cloned: _told(error)}
        chosen = self._chosen_around(request)
        picture = request.query_params.get("picture")
        return chosen if picture is None else {**chosen, **self._pictured(picture)}

    def _pictured(self, text: str) -> dict[Any, Any]:
        """A picture's prompt, negative prompt and size."""
        try:
            made = read_infotext(text)
        except RLRError as error:
            return {self.cloned: _told(error)}
        return {
            self.cloned: '<p class="fact">With the prompt and the size of that picture.</p>',
            self.prompts: made.prompt,
            self.advanced["prompts.negative"]: made.negative,
            self.advanced["sampling.size"]: made.size,
        }

    def _chosen_around(self, request: gr.Request) -> dict[Any, Any]:
        checkpoint, vae = (unquote(request.headers.get(f"rlr-{name}", "")) for name in ("checkpoint", "vae"))
        if not checkpoint:
            return {self.cloned: NO_CHECKPOINT if "rlr-checkpoint" in request.headers else ""}
        box = gr.update(choices=self._checkpoints(), value=checkpoint)
        given = {self.checkpoint: checkpoint, self.rewards: [], self.iterations: _iterations(form.EMBEDDED)}
        return {**self._chosen(given), self.checkpoint: box, self.advanced["model.vae"]: vae}

    def _chosen(self, data: Data) -> dict[Any, Any]:
        """Another checkpoint: what it is, and what is for it; one that cannot be trained on changes nothing else."""
        checkpoint = data[self.checkpoint] or ""
        about, usable = choosing.described(checkpoint)
        if not usable:
            return {self.about: about}
        offered = self._rewards(checkpoint)
        values = {value for _, value in offered}
        kept = [name for name in data[self.rewards] if name in values]
        told = {
            self.about: about,
            self.rewards: gr.update(
                choices=offered, value=kept or [each for each in (form.EMBEDDED,) if each in values]
            ),
            self.judge: gr.update(choices=self._judges(checkpoint)),
            self.missing: self._missing(checkpoint),
        }
        untouched = data[self.iterations] in map(_iterations, (form.EMBEDDED, ""))
        return {**told, self.iterations: _iterations(checkpoint)} if untouched else told

    def _filled(self, data: Data) -> Filled:
        names = [*data[self.rewards], *([data[self.own].strip()] if (data[self.own] or "").strip() else [])]
        return Filled(
            checkpoint=data[self.checkpoint] or "",
            rewards=dict(zip(names, weights_of(data[self.weights] or "", len(names)), strict=True)),
            judge=data[self.judge] or "auto",
            prompts=data[self.prompts] or "",
            stages=tuple(data[box] or "" for box in self.stages) if data[self.staged] else (),
            boundaries=(round(data[self.first], 4), round(data[self.second], 4)) if data[self.staged] else (),
            judged=data[self.judged] or "",
            preset=data[self.preset] or "default",
            rank=data[self.rank],
            iterations=data[self.iterations],
            seed=data[self.seed],
            name=data[self.name] or "",
            advanced={name: data[box] or "" for name, box in self.advanced.items()},
        )

    def _config(self, data: Data) -> RunConfig:
        return form.compose(self._filled(data), str(self.workspace.rewards))

    def _train(self, data: Data) -> tuple[Any, str]:
        try:
            return begin(self.workspace, self._config(data), (data[self.name] or "").strip()), ""
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

    def _fill(self, config: RunConfig) -> dict[Any, Any]:
        """The fields as a config has them."""
        filled = form.filled_by(config)
        offered = self._rewards(filled.checkpoint)
        known = {value for _, value in offered}
        own = [name for name in filled.rewards if name not in known]
        weights = (
            ""
            if len(set(filled.rewards.values())) == 1
            else ", ".join(f"{w:g}" for w in filled.rewards.values())
        )
        return {
            self.about: choosing.described(filled.checkpoint)[0],
            self.cloned: "",
            self.checkpoint: filled.checkpoint,
            self.rewards: gr.update(
                choices=offered, value=[name for name in filled.rewards if name in known]
            ),
            self.missing: self._missing(filled.checkpoint),
            self.weights: gr.update(value=weights, visible=len(filled.rewards) > 1),
            self.own: own[0] if own else "",
            self.judge: gr.update(choices=self._judges(filled.checkpoint), value=filled.judge),
            self.staged: False,
            self.prompts: gr.update(value=filled.prompts, visible=True),
            self.judged: filled.judged,
            self.name: filled.name,
            self.preset: filled.preset,
            self.iterations: filled.iterations,
            self.rank: filled.rank,
            self.seed: filled.seed,
            **{box: filled.advanced.get(name, "") for name, box in self.advanced.items()},
        }


def _iterations(checkpoint: str) -> int:
    """The default for a checkpoint."""
    return load(DEMO).training.iterations if checkpoint == form.EMBEDDED else DEFAULTS.training.iterations


def _told(error: RLRError) -> str:
    return f'<div class="notice red rlr" role="alert"><pre>{html.escape(str(error))}</pre></div>'
