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
from rlr_core.dcot.files import read_lines
from rlr_core.embedded import DEMO
from rlr_core.errors import RLRError
from ui import choosing, form
from ui.doing import begin
from ui.form import Filled
from ui.planning import plan_in_words
from ui.stripping import begin_strip
from ui.workspace import Workspace

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
AUTO = ("auto: another reward that is installed", "auto")
EXAMPLES = "a red circle on a white table\na cat on a sofa, soft light"
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

    def proposed(self, request: gr.Request) -> tuple[Any, Any]:
        """The checkpoint and the VAE that the program around us has chosen, if it says so; see `extension/gateway.py`."""
        told = [unquote(request.headers.get(f"rlr-{name}", "")) for name in ("checkpoint", "vae")]
        checkpoint = gr.update(choices=self._checkpoints(), value=told[0]) if told[0] else gr.skip()
        return checkpoint, told[1] or gr.skip()

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
            self.name = gr.Textbox(label="Name of the LoRA", placeholder="rlr-lora", max_lines=1)
            self.preset = gr.Dropdown(
                [*PRESETS], value="default", label="Method", info=PRESETS["default"].summary
            )
            with gr.Row():
                self.iterations = gr.Number(
                    _iterations(form.EMBEDDED), label="Iterations", precision=0, minimum=1, min_width=90
                )
                self.rank = gr.Number(
                    DEFAULTS.lora.rank, label="Rank", precision=0, minimum=1, maximum=4096, min_width=90
                )
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
            self.plan = gr.HTML(
                '<p class="fact">What it takes is told before it starts: press “What does it take?”.</p>'
            )
            self.told = gr.JSON(visible=False)
            self.error = gr.HTML()
            self.button = gr.Button("Train", variant="primary", size="lg", elem_id="train-button")
            with gr.Row():
                self.ask = gr.Button("What does it take?", size="sm", min_width=120)
                self.load = gr.UploadButton("Load settings", file_types=[".toml"], size="sm", min_width=120)
                self.save = gr.DownloadButton("Save settings", size="sm", min_width=120)
            self.clone = gr.Textbox(elem_id="clone", visible="hidden", label="run to clone")

    def advanced_drawer(self) -> None:
        """Every other setting of the config, from its own metadata."""
        with gr.Accordion("Advanced", open=False, elem_classes="advanced"):
            gr.HTML(SEARCH, js_on_load=FILTER)
            for section, about, settings in form.settings():
                gr.HTML(
                    f'<div class="rlr section"><h3>{section}</h3><p class="soft">{html.escape(about)}</p></div>'
                )
                with gr.Row(elem_classes="settings"):
                    for each in settings:
                        self.advanced[each.name] = _field(each)

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
        gr.on(None, self.proposed, None, [self.checkpoint, self.advanced["model.vae"]], **PRIVATE)
        self.checkpoint.change(self._chosen, [self.checkpoint, self.rewards], chosen, **PRIVATE)
        self.preset.change(
            lambda name: gr.update(info=PRESETS[name].summary), self.preset, self.preset, **PRIVATE
        )
        self.refresh.click(lambda: gr.update(choices=self._checkpoints()), None, self.checkpoint, **PRIVATE)
        self.rewards.change(
            lambda names: gr.update(visible=len(names) > 1), self.rewards, self.weights, **PRIVATE
        )
        self.staged.change(
            lambda on: (gr.update(visible=not on), gr.update(visible=on)),
            self.staged,
            [self.prompts, self.stage_box],
            **PRIVATE,
        )
        self.upload.upload(_uploaded, self.upload, self.prompts, **PRIVATE)
        self.look.click(self._drawn, fields, self.count, **PRIVATE)
        self.show.click(self._strip, fields, self.strip, **PRIVATE)
        self.ask.click(self._plan, fields, self.plan, api_visibility="private")
        self.load.upload(
            lambda path: self._fill(from_dict(read_settings(Path(path)))), self.load, filling, **PRIVATE
        )
        self.save.click(self._saved, fields, self.save, **PRIVATE)
        self.clone.input(
            lambda name: self._fill(self.workspace.run(name).config), self.clone, filling, **PRIVATE
        )
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
            f"<details class='rlr'><summary>{len(found)} more can be downloaded</summary><table>{rows}</table></details>"
            if found
            else ""
        )

    def _chosen(self, checkpoint: str, rewards: list[str]) -> tuple[Any, ...]:
        """Another checkpoint: what it is, and the rewards for it."""
        about, _ = choosing.described(checkpoint or "")
        offered = self._rewards(checkpoint)
        values = {value for _, value in offered}
        kept = [name for name in rewards if name in values] or (
            [form.EMBEDDED] if form.EMBEDDED in values else []
        )
        judges = gr.update(choices=self._judges(checkpoint))
        return (
            about,
            gr.update(choices=offered, value=kept),
            judges,
            self._missing(checkpoint),
            _iterations(checkpoint),
        )

    def _filled(self, data: Data) -> Filled:
        names = [*data[self.rewards], *([data[self.own].strip()] if (data[self.own] or "").strip() else [])]
        return Filled(
            checkpoint=data[self.checkpoint] or "",
            rewards=dict(zip(names, _weights(data[self.weights] or "", len(names)), strict=True)),
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

    def _fill(self, config: RunConfig) -> list[Any]:
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
        return [
            filled.checkpoint,
            gr.update(choices=offered, value=[name for name in filled.rewards if name in known]),
            weights,
            own[0] if own else "",
            filled.judge,
            False,
            filled.prompts,
            filled.judged,
            filled.name,
            filled.preset,
            filled.iterations,
            filled.rank,
            filled.seed,
            *(filled.advanced.get(name, "") for name in self.advanced),
        ]


SHOWN = 12
DEFAULTS = RunConfig()
STAGES = (
    ("Coarse: the layout", "two people facing each other"),
    ("Mid: the shapes", "relaxed hands with five fingers"),
    ("Fine: the detail", "skin texture, soft light"),
)
CHAIN = """<div class="chain" aria-hidden="true"><i class="coarse">layout</i><i class="mid">shapes</i>
<i class="fine">detail</i></div>"""
SEARCH = '<input type="search" class="filter" placeholder="Search settings" aria-label="search settings">'
FILTER = """element.addEventListener('input', (event) => {
  const words = event.target.value.toLowerCase().split(/\\s+/);
  for (const box of document.querySelectorAll('.advanced .setting'))
    box.style.display = words.every((word) => box.textContent.toLowerCase().includes(word)) ? '' : 'none';
});"""


def _iterations(checkpoint: str) -> int:
    """The default for a checkpoint."""
    return load(DEMO).training.iterations if checkpoint == form.EMBEDDED else DEFAULTS.training.iterations


def _uploaded(path: str) -> str:
    """The prompts of a file, in whatever encoding and layout `read_lines` knows."""
    try:
        return "\n".join(line for _, line in read_lines(Path(path)))
    except RLRError as error:
        raise gr.Error(str(error).replace(path, Path(path).name)) from None


def _field(setting: form.Setting) -> Any:
    """A setting's field: empty is its default."""
    label = setting.name.partition(".")[2]
    if setting.choices:
        options = [(f"default: {setting.default}", ""), *((choice, choice) for choice in setting.choices)]
        return gr.Dropdown(
            options, value="", label=label, info=setting.comment, elem_classes="setting", min_width=220
        )
    placeholder = f"default: {setting.default}"
    return gr.Textbox(
        label=label,
        info=setting.comment,
        placeholder=placeholder,
        max_lines=1,
        elem_classes="setting",
        min_width=220,
    )


def _weights(text: str, count: int) -> list[float]:
    """As many numbers; equal ones where nothing is written. Raises `ConfigError`."""
    from rlr_core.errors import ConfigError

    words = text.replace(";", ",").split(",") if text.strip() and count > 1 else ["1"] * count
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise ConfigError(
            f"weights {text!r} of {count} rewards",
            f"{count} numbers, as 1, 0.5",
            "correct them, or write nothing",
        )
    return numbers


def _told(error: RLRError) -> str:
    return f'<div class="notice red rlr" role="alert"><pre>{html.escape(str(error))}</pre></div>'
