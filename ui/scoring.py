"""The page Score without its HTML: pictures that were dropped, the rewards that are installed, and the table of scores."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from threading import Lock
from typing import Any

from rlr_core.errors import ConfigError, PromptError, RLRError
from rlr_core.storage import read_text, storing, write_text
from ui import jobs
from ui.workspace import Workspace

MOST, LARGEST = 50, 32 * 2**20
"""Pictures of a job, and bytes of each."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
STORED = re.compile(r"\d{2}\.(png|jpg|jpeg|webp)")
"""Names under which pictures are kept; their own are told beside them."""
NEGATIVE = re.compile(r"\nNegative prompt: |\nSteps: ")
LORA = re.compile(r" ?<lora:[^>]*>")
LIST, LONGEST = "pictures.json", 2**20
"""Where the pictures of a job are listed, and bytes of that at most."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet would take for the beginning of a formula."""


@dataclass(frozen=True)
class Offered:
    """A reward.

    Attributes:
        there: whether all that it needs is installed.
        measures: in a few words.
        published: whether others have published its weights.
    """

    name: str
    there: bool
    measures: str
    published: bool


def installed(workspace: Workspace) -> list[Offered]:
    """All rewards that have a name, and whether they can score here."""
    from rlr_core.rewards import PUBLISHED, REWARDS
    from rlr_core.rewards.published_files import find

    libraries = all(map(find_spec, ("open_clip", "transformers")))
    found = [
        Offered(
            name, libraries and all(find(file, workspace.rewards) for file in each.files), each.measures, True
        )
        for name, each in PUBLISHED.items()
    ]
    return [*found, *(Offered(name, True, SHIPPED.get(name, ""), False) for name in REWARDS)]


SHIPPED = {
    "embedded": "how well a drawn shape fits its prompt",
    "embedded-held-out": "the same, judged by another network",
    "jpeg-compressibility": "small as a JPEG",
    "jpeg-incompressibility": "large as a JPEG",
    "sharpness": "fine detail",
}


def stored_name(name: str, number: int) -> str:
    """Under which a picture called `name` is kept. Raises `ConfigError` for another kind of file."""
    ending = os.path.splitext(name)[1].lower()
    if ending not in ENDINGS:
        raise ConfigError(f"the file {name[:80]!r}", f"pictures: {', '.join(ENDINGS)}", "drop others")
    if number >= MOST:
        raise ConfigError(f"more than {MOST} pictures", f"{MOST} at most", "score them in several goes")
    return f"{number:02d}{ending}"


def shown_name(name: str) -> str:
    """A file's own name for the table: of any length and letters, it came from elsewhere."""
    plain = "".join(letter for letter in re.split(r"[/\\]", name)[-1] if letter.isprintable())
    return plain[:120] or "picture"


def look(file: Path) -> dict[str, Any]:
    """Size of a picture, and the prompt that its file names, "" for none. Raises `RLRError` for what is no picture."""
    from PIL import Image

    from rlr_core.runs.pictures import refuse_unreadable

    refuse_unreadable(file)
    with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
        told = picture.info.get("parameters")
        text = told if isinstance(told, str) else _comment(picture)
        size = picture.size[::-1] if _lies(picture) else picture.size
        return {"size": size, "prompt": prompt_of(text)}


def _lies(picture: Any) -> bool:
    """Whether the camera was held on its side: EXIF's Orientation (0x0112) is 5 to 8."""
    with suppress(Exception):  # as below
        return picture.getexif().get(0x0112, 1) >= 5
    return False


def _comment(picture: Any) -> str:
    """What A1111 writes into JPEG and WebP: the EXIF's UserComment (0x9286), of 8 bytes that name its letters, then text."""
    try:
        data = picture.getexif().get_ifd(0x8769).get(0x9286, b"")
    except Exception:  # broken EXIF makes Pillow stumble in any way, and the picture is as good without
        return ""
    if not isinstance(data, bytes):
        return data if isinstance(data, str) else ""
    code = "utf-16-be" if data.startswith(b"UNICODE") else "utf-8"
    return data[8:].decode(code, "replace")


def prompt_of(parameters: str) -> str:
    """The prompt in A1111's text, without the LoRAs that it names."""
    return (
        LORA.sub("", NEGATIVE.split(parameters, maxsplit=1)[0]).strip()[:5000]
        if "\nSteps: " in parameters
        else ""
    )


_TAKING = Lock()
"""Pictures that come at the same time are listed one after the other."""


def take(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    """Keep a picture that came from the browser. Raises `RLRError` for too many, and for what is no picture."""
    with _TAKING:
        return _take(folder, name, data)


def _take(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    refuse_late(folder)
    known = pictures(folder)
    file = folder / stored_name(name, len(known))
    with storing(file):
        file.write_bytes(data)
    try:
        found = look(file)
    except RLRError:
        file.unlink(missing_ok=True)
        raise ConfigError(
            f"{shown_name(name)} is no picture that can be read",
            f"pictures: {', '.join(ENDINGS)}",
            "drop others",
        ) from None
    told = {"file": file.name, "name": shown_name(name), **found}
    write_text(folder / LIST, json.dumps([*known, told], ensure_ascii=False), durable=False)
    return told


def pictures(folder: Path) -> list[dict[str, Any]]:
    """Those that a job has taken in: `file`, `name`, `size` and `prompt` of each."""
    with suppress(OSError, ValueError):
        return json.loads(read_text(folder / LIST, LONGEST))
    return []


def job_of(
    workspace: Workspace, folder: Path, pictures: list[dict[str, Any]], prompt: str, own: bool
) -> dict[str, Any]:
    """What the process is to do. Raises `PromptError` where a picture has no prompt.

    Args:
        pictures: each with `file`, `name` and `prompt`, as `look` found it.
        prompt: of all pictures.
        own: whether a picture's own prompt goes before it.
    """
    if not pictures:
        raise ConfigError("no pictures", "some to score", "drop them on the page")
    asked = [
        {**each, "file": str(folder / each["file"]), "prompt": (own and each["prompt"]) or prompt.strip()}
        for each in pictures
    ]
    without = [each["name"] for each in asked if not each["prompt"]]
    if without:
        raise PromptError(
            f"no prompt for {without[0]}", "what the pictures were asked to show", "write it above"
        )
    names = [each.name for each in installed(workspace) if each.there]
    return {"pictures": asked, "rewards": names, "folder": str(workspace.rewards)}


def view(name: str, folder: Path) -> dict[str, Any]:
    """The table as the page shows it."""
    asked, told = jobs.asked(folder), jobs.told(folder)
    scores = told.get("scores", {})
    return {
        "job": name,
        **{key: told.get(key) for key in ("state", "done", "total", "doing", "error", "problems")},
        "rewards": asked.get("rewards", []),
        "rows": [
            {
                "name": each["name"],
                "file": Path(each["file"]).name,
                "prompt": each["prompt"],
                "scores": {reward: values[k] for reward, values in scores.items()},
            }
            for k, each in enumerate(asked.get("pictures", []))
        ],
        "means": {reward: mean(values) for reward, values in scores.items()},
    }


def mean(values: list[float | None]) -> float | None:
    """Of scores, all of which have to be known."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def table_of(shown: dict[str, Any]) -> str:
    """CSV of a view: picture, prompt, and a column for each reward that has scores."""
    names = [name for name in shown["rewards"] if any(name in row["scores"] for row in shown["rows"])]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(["picture", "prompt", *names])
    for row in shown["rows"]:
        writer.writerow(
            [_cell(row["name"]), _cell(row["prompt"]), *(_number(row["scores"].get(name)) for name in names)]
        )
    if len(shown["rows"]) > 1:
        writer.writerow(["mean", "", *(_number(shown["means"].get(name)) for name in names)])
    return buffer.getvalue()


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def refuse_late(folder: Path) -> None:
    """Raise `RLRError` where the pictures of a job are being scored, or were."""
    if jobs.told(folder)["state"] != "waiting":
        raise RLRError("these pictures were scored already", "new ones in a new table", "press Clear first")
