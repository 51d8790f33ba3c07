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


def objects() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the host, made anew."""
    return _host().objects()


@cache
def _loaded() -> None:
    _host()
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec and spec.loader
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])


def node_file(name: str) -> Any:
    """A file of `nodes`, as ComfyUI imports it: not as `nodes`, which is a name of its own."""
    _loaded()
    return importlib.import_module(f"{PACK}.nodes.{name}")
