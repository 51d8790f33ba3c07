"""The fields of the page Train: three cards, the run and the drawer, what they offer, and what is read off them."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from rlr_core.config import PRESETS, RunConfig
from ui import choosing, form
from ui.form import Filled
from ui.pages.fields import CHAIN, FILTER, SEARCH, STAGES, setting_field, weights_of, whole
from ui.workspace import Workspace

AUTO = ("auto: another reward that is installed", "auto")
EXAMPLES = (
    "With the demo checkpoint: empty for its own prompts.\nElse yours, such as\na cat on a sofa, soft light"
)
DEFAULTS = RunConfig()

Data = Mapping[Any, Any]
OWN = (
    "checkpoint", "rewards", "weights", "own", "judge", "staged", "prompts", "first", "second", "judged", "name", "preset",
    "iterations", "rank", "seed",
)  # fmt: skip
"""The fields that are filled in, beside those of the stages and of the drawer."""


class TrainFields:
    """Components, made card by card where they are to stand."""

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
                    self.offered_checkpoints(), value=form.EMBEDDED, label="Checkpoint",
                    allow_custom_value=True, filterable=True,
                    info="From your folders; or paste the path of a file, or of a folder in diffusers' layout.", scale=5,
                )  # fmt: skip
                self.refresh = gr.Button("Refresh", size="sm", scale=1, min_width=88)
            self.about = gr.HTML(choosing.described(form.EMBEDDED)[0])

    def reward_card(self) -> None:
        """Which rewards, how much of each, and who judges."""
        with gr.Column(elem_classes="step"):
            gr.HTML('<div class="rlr"><h3>2 · Reward</h3></div>')
            self.rewards = gr.CheckboxGroup(
                self._offered_rewards(form.EMBEDDED),
                value=[form.EMBEDDED],
                label="Train towards",
                elem_classes="reward-chips",
            )
            self.weights = gr.Textbox(
                label="Weights", info="One number for each, in this order; equal ones if nothing is written.",
                placeholder="1, 1", visible=False,
            )  # fmt: skip
            self.missing = gr.HTML(self._not_installed(form.EMBEDDED))
            with gr.Accordion("A reward of your own, and who judges", open=False):
                self.own = gr.Textbox(
                    label="Your own reward", placeholder="my_reward.py:function",
                    info="A Python function (images, prompts) → one number for each picture; higher is better.",
                )  # fmt: skip
                self.judge = gr.Dropdown(
                    self._offered_judges(form.EMBEDDED), value="auto", label="Judged by", allow_custom_value=True,
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
                    choosing.usual_iterations(form.EMBEDDED), label="Iterations", min_width=90
                )
                self.rank = gr.Number(DEFAULTS.lora.rank, label="Rank", min_width=90)
                self.seed = gr.Number(0, label="Seed", min_width=90)
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

    # what they offer

    def offered_checkpoints(self) -> list[tuple[str, str]]:
        """Label and value, of the folders as they are now."""
        return [
            (f"✕ {c.label}: {c.problem}" if c.problem else c.label, c.value)
            for c in choosing.checkpoints(self.workspace)
        ]

    def _offered_rewards(self, checkpoint: str) -> list[tuple[str, str]]:
        found = choosing.rewards(self.workspace.rewards, checkpoint)
        return [(each.label, each.value) for each in found if not each.problem]

    def _offered_judges(self, checkpoint: str) -> list[tuple[str, str]]:
        held_out = [("the embedded scorer", "embedded-held-out")] if checkpoint == form.EMBEDDED else []
        return [AUTO, *held_out, *self._offered_rewards(checkpoint)]

    def _not_installed(self, checkpoint: str) -> str:
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

    # what is in them

    def chosen(self, data: Data) -> dict[Any, Any]:
        """Another checkpoint: what it is, and what is for it; one that cannot be trained on changes nothing else."""
        checkpoint = data[self.checkpoint] or ""
        about, usable = choosing.described(checkpoint)
        if not usable:
            return {self.about: about}
        offered = self._offered_rewards(checkpoint)
        values = {value for _, value in offered}
        kept = [name for name in data[self.rewards] if name in values]
        told = {
            self.about: about,
            self.rewards: gr.update(
                choices=offered, value=kept or [each for each in (form.EMBEDDED,) if each in values]
            ),
            self.judge: gr.update(choices=self._offered_judges(checkpoint)),
            self.missing: self._not_installed(checkpoint),
        }
        untouched = data[self.iterations] in choosing.all_usual_iterations()
        return {**told, self.iterations: choosing.usual_iterations(checkpoint)} if untouched else told

    @property
    def inputs(self) -> dict[str, Any]:
        """Name → what is filled in."""
        stages = dict(zip(form.STAGES, self.stages, strict=True))
        return {**{name: getattr(self, name) for name in OWN}, **stages, **self.advanced}

    def draft_in_javascript(self) -> str:
        """A function of the values of `inputs`, which gives them their names: what a browser keeps for `left`."""
        return f"(...values) => Object.fromEntries({json.dumps([*self.inputs])}.map((name, k) => [name, values[k]]))"

    def left(self, draft: Any, checkpoint: str = "", vae: str = "") -> dict[Any, Any]:
        """The fields as they were left in this browser; nothing where all are as they are at first.

        A `checkpoint` that was chosen since, and its `vae`, count more.
        """
        usual = {name: box.value or "" for name, box in self.inputs.items()}
        if not isinstance(draft, dict) or draft.keys() != usual.keys():
            return {}
        if all((value or "") == usual[name] for name, value in draft.items()):
            return {}
        if checkpoint:
            draft = {**draft, "checkpoint": checkpoint, "model.vae": vae}
        offered, several = self._offered_rewards(draft["checkpoint"]), len(draft["rewards"]) > 1
        kept = [value for _, value in offered if value in draft["rewards"]]
        return {
            **{box: draft[name] for name, box in self.inputs.items()},
            self.checkpoint: gr.update(choices=self.offered_checkpoints(), value=draft["checkpoint"]),
            self.about: choosing.described(draft["checkpoint"])[0],
            self.rewards: gr.update(choices=offered, value=kept),
            self.missing: self._not_installed(draft["checkpoint"]),
            self.weights: gr.update(value=draft["weights"], visible=several),
            self.judge: gr.update(choices=self._offered_judges(draft["checkpoint"]), value=draft["judge"]),
            self.prompts: gr.update(value=draft["prompts"], visible=not draft["staged"]),
            self.stage_box: gr.update(visible=draft["staged"]),
        }

    def filled(self, data: Data) -> Filled:
        """What is read off them. Raises `ConfigError`."""
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
            rank=whole(data[self.rank]),
            iterations=whole(data[self.iterations]),
            seed=whole(data[self.seed]),
            name=data[self.name] or "",
            advanced={name: data[box] or "" for name, box in self.advanced.items()},
        )

    def fill(self, config: RunConfig) -> dict[Any, Any]:
        """The fields as a config has them."""
        filled = form.filled_by(config)
        offered = self._offered_rewards(filled.checkpoint)
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
            self.missing: self._not_installed(filled.checkpoint),
            self.weights: gr.update(value=weights, visible=len(filled.rewards) > 1),
            self.own: own[0] if own else "",
            self.judge: gr.update(choices=self._offered_judges(filled.checkpoint), value=filled.judge),
            self.staged: False,
            self.stage_box: gr.update(visible=False),
            self.prompts: gr.update(value=filled.prompts, visible=True),
            self.judged: filled.judged,
            self.name: filled.name,
            self.preset: filled.preset,
            self.iterations: filled.iterations,
            self.rank: filled.rank,
            self.seed: filled.seed,
            **{box: filled.advanced.get(name, "") for name, box in self.advanced.items()},
        }
