"""`python -m ui.paint_job FOLDER`: paint rows of pictures at the same prompts and seeds, score them, put them on a sheet."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlr_core.config import RunConfig
from ui.answering import intervals
from ui.work import Telling, free_memory, main, scored

if TYPE_CHECKING:
    from rlr_core.runs.painted import Painted
    from rlr_core.trainer.sampling import Painter

SMALL = 64 * 64
"""Places of a latent up to which pictures are painted 8 at a time; of larger ones 2 fit where one does."""
SIDE, COLUMNS = 320, 12
"""Of the sheet: pixels of a picture's height at least, and pictures side by side at most."""


def work(asked: dict[str, Any], telling: Telling) -> None:
    """Paint, score, and make the sheet."""
    count = len(asked["seeds"])
    total = len(asked["rows"]) * count
    telling(total=total * (1 + len(asked["rewards"])), pictures=[])
    _export(asked, telling)
    _paint(asked, telling)
    free_memory()
    files = [telling.folder / name(row, k) for row in range(len(asked["rows"])) for k in range(count)]
    pictures = [(file, asked["scored"][k % count]) for k, file in enumerate(files)]
    found = dict[str, Any]()
    for reward, scores in scored(asked["rewards"], asked["folder"], pictures, telling):
        found[reward] = [scores[row * count : (row + 1) * count] for row in range(len(asked["rows"]))]
        telling(scores=found)
    telling(doing="putting them on a sheet")
    _sheet(asked, found, telling.folder)


def name(row: int, column: int) -> str:
    """Of a picture's file."""
    return f"{row}-{column}.png"


def _export(asked: dict[str, Any], telling: Telling) -> None:
    """The LoRAs of checkpoints, into the job's folder."""
    from rlr_core.runs.exporting import export_checkpoint

    for each in asked["exports"]:
        telling(doing=f"taking the LoRA of iteration {each['iteration']}")
        export_checkpoint(Path(each["run"]), each["iteration"], Path(each["file"]), force=True)


def _config(asked: dict[str, Any]) -> RunConfig:
    """The run's, or the defaults for the checkpoint, which is chosen in any case."""
    from rlr_core.runs.directory import RunDirectory
    from rlr_core.trainer import composed

    if not asked["run"]:
        return composed(overrides=[{"model": {"checkpoint": asked["checkpoint"]}}]).config
    config = RunDirectory.open(Path(asked["run"])).config
    return replace(config, model=replace(config.model, checkpoint=asked["checkpoint"], device="auto"))


def _paint(asked: dict[str, Any], telling: Telling) -> None:
    from rlr_core.cli.quick import painting_only
    from rlr_core.models import load_configured
    from rlr_core.runs.painted import Painted
    from rlr_core.trainer.devices import choose_device, threads
    from rlr_core.trainer.prompts import understood

    config = _config(asked)
    telling(doing="loading the checkpoint")
    with painting_only(), threads(config.model.threads):
        model = load_configured(config.model, choose_device(config.model.device))
        prompts = understood(asked["prompts"], config.prompts)
        rows = enumerate(asked["rows"])
        for lora, mine in groupby(rows, key=lambda row: row[1]["lora"]):
            file = Path(lora) if lora else None
            facts = Painted.by(config, file)
            with _painter(model, config, file) as (paint, by):
                told = [
                    replace(facts, seed=seed).told(prompt, by.stages, by.showing(prompt.shown)[1].schedule)
                    for prompt, seed in zip(prompts, asked["seeds"], strict=True)
                ]
                for number, row in mine:
                    telling(doing=f"painting: {row['label']}")
                    for numbers, images in paint(row["strength"], prompts, asked["seeds"]):
                        _save(telling, number, row, zip(numbers, images, strict=True), told)


@contextmanager
def _painter(model: Any, config: RunConfig, file: Path | None) -> Iterator[tuple[Any, Painter]]:
    """(strength, prompts, seeds) → groups of pictures as they are painted, and by whom; the LoRA is in the model as long."""
    from rlr_core.lora import load_lora
    from rlr_core.lora.hooked_lora import HookedLora
    from rlr_core.trainer import painter
    from rlr_core.trainer.prompts import stage_settings

    lora = load_lora(file, model, HookedLora) if file else None
    anew = lora is not None and lora.in_text_encoder
    paint = painter(
        model, config.sampling, config.inference, stages=stage_settings(config.prompts), encode_anew=anew
    )
    large = any(math.prod(canvas.latent_shape[1:]) > SMALL for canvas in paint.canvases)
    paint = replace(paint, together=2 if large else paint.together)

    def painted(strength: float, prompts: Any, seeds: list[int]) -> Iterator[Any]:
        with lora.scaled(strength) if lora else nullcontext():
            yield from paint.groups(prompts, seeds)

    try:
        yield painted, paint
    finally:
        if lora:
            lora.eject()


def _save(
    telling: Telling, number: int, row: dict[str, Any], images: Iterable[Any], told: Sequence[Painted]
) -> None:
    """Pictures as files that say how they were painted."""
    from rlr_core.runs.comfyui_graph import texts
    from rlr_core.runs.pictures import save_png, to_picture

    for column, image in images:
        picture = to_picture(image, 0)
        painted = replace(told[column], size=picture.size, strength=row["strength"])
        save_png(picture, telling.folder / name(number, column), texts(painted))
        pictures = [*telling.facts["pictures"], [number, column]]
        telling(pictures=pictures, done=telling.facts["done"] + 1, size=picture.size)


def _sheet(asked: dict[str, Any], scores: dict[str, Any], folder: Path) -> None:
    """All pictures on one, with what they were painted with and what they scored."""
    from PIL import Image

    from rlr_core.runs.pictures import grid, read_picture, save_png, strip

    columns = range(min(COLUMNS, len(asked["seeds"])))
    strips = {}
    for row, each in enumerate(asked["rows"]):
        means = [f"{reward} {intervals(table[row])}" for reward, table in scores.items()]
        label = "  ".join([each["label"], *means])
        strips[label if label not in strips else f"{label} ({row})"] = strip(
            [read_picture(folder / name(row, k)) for k in columns], SIDE
        )
    with Image.open(folder / name(0, 0)) as first:
        texts = {str(key): value for key, value in first.info.items() if isinstance(value, str)}
    told = {key: asked[key] for key in ("rows", "prompts", "seeds", "checkpoint")}
    settings = json.dumps({**told, "scores": scores}, ensure_ascii=False)
    save_png(
        grid(strips, [asked["prompts"][k] for k in columns]),
        folder / "sheet.png",
        {**texts, "rlr compare": settings},
    )


if __name__ == "__main__":
    sys.exit(main(work))
