"""The core beside the nodes, without a folder on the search path: `ui`, `nodes` and `tests` are names of others, too."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

CORE = "rlr_core"


def use_own_core() -> None:
    """Make `import rlr_core` find it, unless one is installed or loaded."""
    if CORE in sys.modules or importlib.util.find_spec(CORE):
        return
    folder = Path(__file__).parent.parent / CORE
    spec = importlib.util.spec_from_file_location(
        CORE, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[CORE] = module
    spec.loader.exec_module(module)
