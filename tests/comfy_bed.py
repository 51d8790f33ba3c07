"""ComfyUI for tests: the real one where COMFYUI_DIR names its folder, else a stand-in; and the nodes, as it loads them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import fake_comfyui

from rlr_core.runs import RunDirectory

ROOT = Path(__file__).parent.parent
PACK = "rlr_pack"
REAL = bool(os.environ.get("COMFYUI_DIR"))


@cache
def _host() -> Any:
    if not REAL:
        fake_comfyui.install()
        return fake_comfyui
    import real_comfyui

    return real_comfyui


def objects(family: str = "sd1") -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the host, made anew: of SD 1.x, or "sd3", a flow."""
    return _host().objects(family)


@cache
def _loaded() -> None:
    _host()
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def train(
    given: Any, config: Any, folder: Path, listen: Any = lambda event: None, **options: Any
) -> RunDirectory:
    """A run on the host, in that folder; `listen` is called with its events."""
    live = node_file("live")

    class Telling(live.Telling):
        def __call__(self, event: Any) -> None:
            super().__call__(event)
            listen(event)

    def telling(directory: RunDirectory) -> Any:
        return Telling("7", directory.folder, config.training.iterations)

    return node_file("training").train(given, config, lambda whole: RunDirectory(folder), telling, **options)


def node_file(name: str) -> Any:
    """A file of `nodes`, as ComfyUI imports it: not as `nodes`, which is a name of its own."""
    _loaded()
    return importlib.import_module(f"{PACK}.nodes.{name}")
