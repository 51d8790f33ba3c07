"""What of a run is only looked at: strips of pictures, the grid, the curve and the report. The result never waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from rlr_core.dcot import AS_THE_RUN
from rlr_core.runs.comfyui_graph import texts
from rlr_core.runs.curve import write_curve
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.painted import Painted
from rlr_core.runs.pictures import SHOWN, before_after, save_png, strip, to_picture
from rlr_core.runs.report import write_report
from rlr_core.runs.stage_files import write_stage_files
from rlr_core.trainer import Evaluation, Preview, Setup

Softly = Callable[[str, Callable[[], object]], None]
"""Carries out what may fail, and tells of it by the name that it gets."""


class Gallery:
    """Draws for one run.

    Args:
        directory: of the run.
        lora: its file, beside which hosts look for a picture.
        setup: of the run.
    """

    def __init__(self, directory: RunDirectory, lora: Path, setup: Setup, softly: Softly):
        self._directory, self._lora, self._setup, self._softly = directory, lora, setup, softly

    def preview(self, event: Preview) -> str:
        """Draw a preview; returns its file, as seen from the run's folder."""
        file = self._directory.previews / f"{event.iteration:06d}.png"
        self._softly(f"previews/{file.name}", lambda: save_png(strip(event.images), file))
        self._show_beside_the_lora(event, hashed=False)
        if not event.iteration:
            height, width = event.images[0].shape[-2:]
            what = "the prompts for other hosts"
            self._softly(what, lambda: write_stage_files(self._lora, self._setup, (width, height)))
        return f"previews/{file.name}"

    def evaluation(self, event: Evaluation) -> None:
        """Draw the pictures before and after training, and then both."""
        if event.when == "during":
            return
        name, shown = f"{event.when}.png", event.images[:SHOWN]
        self._softly(name, lambda: save_png(strip(shown), self._directory.folder / name))
        if event.when == "after":
            self._show_beside_the_lora(
                event, hashed=True
            )  # of the LoRA that is exported, maybe an earlier one
            self._softly("before_after.png", lambda: self._compare(event.prompts[:SHOWN]))

    def finish(self) -> None:
        """Draw what is drawn at the end, from what is in the folder."""
        self._softly("reward.png", lambda: write_curve(self._directory))
        self._softly("report.html", lambda: write_report(self._directory))

    def _show_beside_the_lora(self, event: Preview | Evaluation, *, hashed: bool) -> None:
        """Write the picture that hosts show for the LoRA: the first one, with how it was painted."""
        file = self._lora.with_suffix(".preview.png")
        self._softly(
            file.name, lambda: save_png(to_picture(event.images[0], 512), file, self._told(event, hashed))
        )

    def _told(self, event: Preview | Evaluation, hashed: bool) -> dict[str, str]:
        setup, first = self._setup, event.prompts[0]
        height, width = event.images[0].shape[-2:]
        painted = replace(
            Painted.by(setup.config, self._lora, hashed=hashed),
            seed=event.seeds[0],
            size=(width, height),
            checkpoint=setup.model.name,
        )
        prompts = next(prompts for prompts in setup.held_out_prompts if prompts.scored == first)
        if isinstance(event, Evaluation):
            prompts = replace(prompts, shown=AS_THE_RUN)
        return texts(painted.told(prompts, setup.stages, setup.painter.showing(prompts.shown)[1].schedule))

    def _compare(self, prompts: Sequence[str]) -> None:
        before, after = (self._strip(name) for name in ("before", "after"))
        save_png(before_after(before, after, prompts), self._directory.folder / "before_after.png")

    def _strip(self, name: str) -> Image.Image:
        with Image.open(self._directory.folder / f"{name}.png") as picture:
            return picture.convert("RGB")
