"""Installations of A1111, Forge, reForge, SD.Next and ComfyUI on this machine: their folders of checkpoints and LoRAs.

Only the usual places are looked at, a few folders deep, for a few seconds: nothing is searched for on whole disks.
"""

from __future__ import annotations

import os
import re
import string
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from rlr_core.storage import read_text

DEEP = 3
"""Folders below a place."""
SECONDS = 3.0
WIDE = 300
"""Entries of a folder that are looked at; one with more is no place for programs."""
SKIPPED = {
    "node_modules",
    "venv",
    "site-packages",
    "__pycache__",
    "windows",
    "$recycle.bin",
    "appdata",
    "library",
    "proc",
    "sys",
}
LARGEST = 100_000
"""Bytes of a file of ComfyUI's paths."""


@dataclass(frozen=True)
class Installation:
    """A program that paints.

    Attributes:
        kind: its name, as "ComfyUI".
        root: its folder.
        checkpoints, loras: folders that are there.
    """

    kind: str
    root: Path
    checkpoints: list[Path] = field(default_factory=list)
    loras: list[Path] = field(default_factory=list)


def found_installations(
    places: Iterable[Path] | None = None, *, seconds: float = SECONDS
) -> list[Installation]:
    """Those in `places`, by default the usual ones, found within so many seconds."""
    end, seen, found = time.monotonic() + seconds, set[str](), list[Installation]()
    level = [Path(place) for place in (usual_places() if places is None else places)]
    for deep in range(DEEP + 1):
        below: list[Path] = []
        for folder in level:
            place = os.path.realpath(folder)
            if place in seen or time.monotonic() > end:
                continue
            seen.add(place)
            if each := installation(folder):
                found.append(each)
            elif deep < DEEP:
                below += _inside(folder)
        level = below
    return sorted(found, key=lambda each: (each.kind, str(each.root)))


def usual_places() -> list[Path]:
    """Where people put such programs, on this system, and the folders above ours."""
    home = Path.home()
    places = [
        home,
        *(home / name for name in ("Documents", "Desktop", "Downloads", "AI", "StabilityMatrix/Packages")),
    ]
    places += [home / "AppData/Roaming/StabilityMatrix/Packages", home / "AppData/Local/Programs"]
    here = Path.cwd()
    places += [here, *list(here.parents)[:3]]
    if sys.platform == "win32":
        drives = (Path(f"{letter}:\\") for letter in string.ascii_uppercase)
        places += [drive for drive in drives if os.path.isdir(drive)]
    else:
        places += [Path("/opt"), Path("/workspace"), Path("/content")]
    return [
        place for place in dict.fromkeys(places) if place != Path(place.anchor) or sys.platform == "win32"
    ]


def installation(folder: Path) -> Installation | None:
    """The program in `folder`, told by its own files; None where it has none of them."""
    kind = _kind(folder)
    if not kind:
        return None
    models = folder / "models"
    if kind == "ComfyUI":
        extra = list(_extra_paths(folder / "extra_model_paths.yaml"))
        checkpoints = [models / "checkpoints", *(path for what, path in extra if what == "checkpoints")]
        loras = [models / "loras", *(path for what, path in extra if what == "loras")]
    else:
        checkpoints, loras = [models / "Stable-diffusion"], [models / "Lora"]
    return Installation(kind, folder, _there(checkpoints), _there(loras))


def _kind(folder: Path) -> str:
    def has(*names: str) -> bool:
        return all(os.path.exists(folder / name) for name in names)

    if has("comfy", "nodes.py", "folder_paths.py"):
        return "ComfyUI"
    if has("modules_forge", "webui.py"):
        return "reForge" if "reforge" in folder.name.casefold() else "Forge"
    if has("modules", "webui.py", "extensions-builtin"):
        return "SD.Next" if has("sdnext.py") or has("installer.py") else "A1111"
    return ""


def _there(folders: Iterable[Path]) -> list[Path]:
    return [path for path in dict.fromkeys(folders) if os.path.isdir(path)]


def _inside(folder: Path) -> list[Path]:
    """Subfolders that may hold programs; none of one that cannot be read, or has very much in it."""
    found = []
    with suppress(OSError), os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= WIDE:
                break
            hidden = entry.name.startswith(".") or entry.name.casefold() in SKIPPED
            with suppress(OSError):
                if not hidden and entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
    return sorted(found)


LINE = re.compile(r"(\s*)([\w-]+)\s*:\s*(.*?)\s*$")


def _extra_paths(file: Path) -> Iterator[tuple[str, Path]]:
    """What ComfyUI's extra_model_paths.yaml names: tables of `base_path` and, below it, lines of folders or of several.

    The few forms that its example has; anything else is passed over.
    """
    base, kind, inset = file.parent, "", 0
    for line in _lines(file):
        found = LINE.fullmatch(line)
        if found and not found[1]:
            base, kind = file.parent, ""
        elif found and (not kind or len(found[1]) <= inset):
            kind, inset, value = found[2], len(found[1]), found[3].strip("\"'")
            if kind == "base_path":
                base, kind = file.parent / os.path.expanduser(value), ""
            elif value and value != "|":
                yield kind, base / os.path.expanduser(value)
        elif kind and line.strip():
            yield kind, base / os.path.expanduser(line.strip().removeprefix("- ").strip("\"'"))


def _lines(file: Path) -> list[str]:
    with suppress(OSError, UnicodeDecodeError):
        lines = (line.split(" #")[0].rstrip() for line in read_text(file, LARGEST).splitlines())
        return [line for line in lines if line and not line.lstrip().startswith("#")]
    return []
