"""A reward that is the user's own Python function, "path/to/file.py:function"; a file's only one needs no name.

The function takes images (B, 3, H, W), float32 in [0, 1], and a list of B prompts, and returns B scores: a
tensor, an array or a list. It is a black box (images on the CPU, without a graph) unless it says otherwise:
`function.differentiable = True`.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from rlr_core.errors import RewardError
from rlr_core.rewards.reward import FunctionReward, place
from rlr_core.storage import read_text, user_path

FORM = '"path/to/file.py:function"'
PREFIX = "rlr_reward_"
"""Of the names under which files are run."""
LONGEST = 2**20
"""Bytes of a file that is looked through."""
_FOLDERS: list[str] = []
"""Those of the files that were run, the latest last."""


def from_file(name: str) -> FunctionReward:
    """Run the file and take the function out of it. Raises `RewardError`."""
    file, _, function = (name, "", "") if name.endswith(".py") else name.rpartition(":")
    if not file.endswith(".py") or not (function or name == file):
        raise RewardError(f"the reward '{name}'", FORM, "name the function after a colon")
    path = user_path(file)
    if not os.path.isfile(path):
        raise RewardError(
            f"there is no file {path} for the reward '{name}'", FORM, "check the path for a typing error"
        )
    module = _run(path.resolve())
    found = _find(module, function or _only(module, path), path)
    return FunctionReward(name, bool(getattr(found, "differentiable", False)), found, str(path.resolve()))


def says_differentiable(name: str) -> bool:
    """Whether the file of such a reward says of any function that it has a gradient; the file is read, and not run.

    True where nothing is known: what cannot be read is told when the reward is loaded.
    """
    file = name if name.endswith(".py") else name.rpartition(":")[0]
    try:
        tree = ast.parse(read_text(user_path(file), LONGEST))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return True
    return any(_sets_differentiable(node) for node in ast.walk(tree))


def _sets_differentiable(node: ast.AST) -> bool:
    """Whether it is `….differentiable = …` of anything but False."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
        return False
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    named = {getattr(target, "attr", getattr(target, "id", "")) for target in targets}
    denied = isinstance(node.value, ast.Constant) and not node.value.value
    return "differentiable" in named and not denied


def _run(path: Path) -> ModuleType:
    """The file as a module under a name of its own; it can import its neighbours."""
    name = f"{PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    _forget_neighbours()
    _FOLDERS[:] = [folder for folder in _FOLDERS if folder != str(path.parent)] + [str(path.parent)]
    # After all else, and this file's own first among them: functions may import as late as when they are called.
    sys.path[:] = [entry for entry in sys.path if entry not in _FOLDERS] + _FOLDERS[::-1]
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise RewardError(
            f"{path} cannot be run: {type(error).__name__}: {error}{place(error, str(path))}",
            "a Python file that defines the reward",
            "run it with Python to see the whole error",
        ) from error
    return module


def _forget_neighbours() -> None:
    """What files of rewards imported from their folders: it may be edited since, or another folder's of that name."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and "." not in name and str(Path(file).parent) in _FOLDERS and not name.startswith(PREFIX):
            del sys.modules[name]


def _only(module: ModuleType, path: Path) -> str:
    """The name of the one function that a file defines for others. Raises `RewardError` where there is not one."""
    mine = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__]
    names = [key for key in mine if callable(getattr(module, key)) and not key.startswith("_")]
    if len(names) != 1:
        got = f"{path} defines {', '.join(names) or 'no function'}"
        raise RewardError(
            got, "one function, or the name of one", f'name it after a colon: "{path.name}:function"'
        )
    return names[0]


def _find(module: ModuleType, name: str, path: Path) -> Any:
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    found = getattr(module, name, None)
    if callable(found):
        return found
    near = difflib.get_close_matches(name, functions, n=1)
    raise RewardError(
        f"{path} has no function '{name}'",
        f"one of {', '.join(functions)}" if functions else "a function of (images, prompts)",
        f"did you mean '{near[0]}'?" if near else "correct the name, or define the function",
    )
