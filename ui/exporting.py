"""A run's LoRA as a file for a host: its keys, precision and name, the card and the picture beside it."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from rlr_core.errors import CheckpointError, ConfigError
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.exporting import export_checkpoint
from rlr_core.storage import refuse_overwriting, storing, write_atomically, write_text


def export(
    directory: RunDirectory, source: str, out: Path, kind: str, precision: str, words: str, *, force: bool
) -> Path:
    """Write it; returns the file.

    Args:
        source: a LoRA file of the run by its name, or "checkpoint N".
        kind: of its keys, "auto" for those of the file.
        words: what triggers it, for the card; "" for none.
        force: whether a file that is there is replaced.

    Raises `RLRError` for what the run does not have, and for a file that is there already.
    """
    import torch

    from rlr_core.lora import read_lora, write_lora

    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    refuse_overwriting([out], force)
    if source.startswith("checkpoint "):
        number = source.removeprefix("checkpoint ")
        export_checkpoint(directory.folder, int(number) if number.isdigit() else None, out, force=force)
        given = out
    else:
        given = directory.folder / source
        if source not in {path.name for path in directory.folder.glob("*.safetensors")}:
            raise ConfigError(f"the file {source[:80]!r}", "a LoRA file of this run", "reload the page")
    file = read_lora(given)
    if file.family is None:
        raise CheckpointError(
            f"{source} does not tell which family it is for", "a LoRA of this run", "choose another"
        )
    wanted = kind if kind != "auto" else file.family.formats[0]
    metadata = {**file.metadata, "ss_output_name": out.stem}
    write_lora(
        out, file.weights, metadata, kind=wanted, family=file.family, dtype=getattr(torch, precision, None)
    )
    _write_beside(directory, out, words)
    return out


def merge_into_checkpoint(
    directory: RunDirectory, source: str, out: Path, strength: float, *, force: bool
) -> Path:
    """The run's checkpoint with a LoRA of the run in its weights, as `out`; returns what was written.

    Args:
        source: as in `export`.
        out: without an ending: that of a single file is added.

    Raises `RLRError` as `export` and `rlr lora merge` do.
    """
    from rlr_core.embedded import CHECKPOINT
    from rlr_core.lora.merge import merge

    named = directory.config.model.checkpoint
    base = CHECKPOINT if named == "embedded" else Path(named)
    target = out if base.is_dir() else out.with_name(f"{out.name}.safetensors")
    with storing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        lora = export(
            directory, source, Path(folder) / f"{out.name}.safetensors", "auto", "float32", "", force=False
        )
        merge(lora, base, target, strength, force=force)
    return target


def _write_beside(directory: RunDirectory, out: Path, words: str) -> None:
    """The card, with the words that trigger it, and the picture; the LoRA is there without them, too."""
    lora = directory.folder / f"{directory.config.output.name}.safetensors"
    with suppress(OSError, ValueError):
        card = json.loads(lora.with_suffix(".json").read_text(encoding="utf-8"))
        card["activation text"] = words
        write_text(out.with_suffix(".json"), json.dumps(card, ensure_ascii=False, indent=1) + "\n")
    picture = lora.with_suffix(".preview.png")
    with suppress(OSError):
        write_atomically(
            out.with_suffix(".preview.png"), lambda temporary: shutil.copyfile(picture, temporary)
        )
