"""Fields of the page Train that know nothing of the others: what they look like, and what their texts mean."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from rlr_core.dcot.files import read_lines
from rlr_core.errors import ConfigError, RLRError
from ui import form
from ui.words import BLACK_BOXES

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
  for (const row of document.querySelectorAll('.advanced .settings')) {
    const any = [...row.querySelectorAll('.setting')].some((box) => box.style.display !== 'none');
    row.style.display = row.previousElementSibling.style.display = any ? '' : 'none';
  }
});"""


def uploaded(path: str) -> str:
    """The prompts of a file, in whatever encoding and layout `read_lines` knows."""
    try:
        return "\n".join(line for _, line in read_lines(Path(path)))
    except RLRError as error:
        raise gr.Error(str(error).replace(path, Path(path).name)) from None


def setting_field(setting: form.Setting) -> Any:
    """A setting's field: empty is its default."""
    label, info = setting.name.partition(".")[2], _not_markdown(setting.comment)
    usual = "none" if setting.default in ('""', "[]", "{}") else setting.default.strip('"')
    placeholder = f"usually {usual}"
    if setting.choices:
        options = [(placeholder, ""), *((choice, choice) for choice in setting.choices)]
        return gr.Dropdown(options, value="", label=label, info=info, elem_classes="setting", min_width=220)
    return gr.Textbox(
        label=label,
        info=info,
        placeholder=placeholder,
        max_lines=1,
        elem_classes="setting",
        min_width=220,
    )


def _not_markdown(text: str) -> str:
    """As Gradio shows it in a component's info: two underscores would make the words between them bold."""
    return text.replace("`", "").replace("__", "_\u2060_")


def rewarded(names: list[str], own: str | None, preset: str) -> tuple[Any, Any]:
    """Several rewards have weights; one without a gradient needs a method that does without."""
    every = [*names, *filter(None, [(own or "").strip()])]
    blind = any(map(form.is_blind, every))
    changed = preset == "default" if blind else preset in BLACK_BOXES
    method = gr.update(value=BLACK_BOXES[0] if blind else "default") if changed else gr.skip()
    return gr.update(visible=len(every) > 1), method


def staged_boxes(on: bool, text: str | None, *boxes: str | None) -> list[Any]:
    """The prompts go along into the boxes, and back."""
    text, boxes = text or "", tuple(box or "" for box in boxes)
    with suppress(RLRError):  # told when it is trained
        if on and text.strip():
            boxes = form.in_boxes(text)
        elif not on and any(box.strip() for box in boxes):
            text = form.out_of_boxes(boxes)
    return [gr.update(value=text, visible=not on), gr.update(visible=on), *boxes]


def weights_of(text: str, count: int) -> list[float]:
    """As many numbers; equal ones where nothing is written. Raises `ConfigError`."""
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


def whole(value: float | None) -> Any:
    """An int where it is one, so that the config refuses what is not."""
    return int(value) if value is not None and value == int(value) else value
