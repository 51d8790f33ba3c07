"""Weights of published rewards, fetched into ComfyUI's models folder when the user presses for it, and never otherwise."""

from __future__ import annotations

from threading import Lock, Thread
from typing import Any

from rlr_core.errors import RewardError, RLRError
from rlr_core.rewards.download import download
from rlr_core.rewards.library import PUBLISHED
from rlr_core.rewards.published import Published
from rlr_core.rewards.published_files import WeightsFile, find

from .folders import weights

_UNDER_WAY: set[str] = set()
_FAILED: dict[str, str] = {}
_LOCK = Lock()


def fetch(name: str) -> dict[str, Any]:
    """Begin, or go on, unless it is under way; says how far it is. Raises `RewardError` for a name that is none."""
    published = _published(name)
    with _LOCK:
        if name not in _UNDER_WAY and _lacking(published):
            _UNDER_WAY.add(name)
            _FAILED.pop(name, None)
            Thread(target=_fetch, args=(name, published), daemon=True).start()
    return fetched(name)


def fetched(name: str) -> dict[str, Any]:
    """How far it is: "state", bytes "done" of "total", the "licences", and why it failed. Raises `RewardError`."""
    published = _published(name)
    lacking, total = _lacking(published), sum(file.size for file in published.files)
    done = total - sum(file.size for file in lacking) + sum(map(_part, lacking))
    state = "installed" if not lacking else "fetching" if name in _UNDER_WAY else "missing"
    return {
        "state": state,
        "done": done,
        "total": total,
        "licences": sorted({file.licence for file in published.files}),
        "folder": str(weights()),
        "message": _FAILED.get(name, ""),
    }


def _fetch(name: str, published: Published) -> None:
    try:
        for file in _lacking(published):
            download(file, weights(), name)
    except RLRError as error:
        _FAILED[name] = str(error)
    except Exception as error:  # whatever a network does is told on the node
        _FAILED[name] = repr(error)
    finally:
        _UNDER_WAY.discard(name)


def _published(name: str) -> Published:
    if name not in PUBLISHED:
        raise RewardError(f"reward {name[:60]!r}", f"one of {', '.join(PUBLISHED)}", "reload the page")
    return PUBLISHED[name]


def _lacking(published: Published) -> list[WeightsFile]:
    return [file for file in published.files if not find(file, weights())]


def _part(file: WeightsFile) -> int:
    target = weights() / file.place
    return sum(path.stat().st_size for path in target.parent.glob(f"{target.name}.*.part"))
