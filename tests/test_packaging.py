"""What is imported is declared: among everyone's dependencies, or in an extra that the importing room may use."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import rlr_core

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(rlr_core.__file__).parent
ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    "bench": {"sd", "clip"},
    "cli": {"sd"},
    "dcot": {"prompts"},
    "embedded": {"sd"},
    "lora": {"sd"},
    "models": {"sd"},
    "planner": {"sd"},
    "rewards": {"clip"},
    "runs": {"sd", "trackers"},
    "trainer": {"adam8bit"},
}
"""Room → extras that it may use, inside functions."""
HOSTED = {"ui": {"ui", "sd"}, "nodes": set()}
"""Room beside the core → extras without which it is not started: it may import them anywhere. ComfyUI has none of them."""
OURS = {"rlr_core", *HOSTED, "comfy", "comfy_api", "folder_paths", "server", "aiohttp"}
SCRIPTS = {PACKAGE / "embedded" / name for name in ("train_checkpoint.py", "train_rewards.py")}
"""Which nothing imports."""


KNOWN = packages_distributions()
"""Module → who distributes it, where it is installed."""


def named(requirements: Iterable[str]) -> set[str]:
    """The names in requirements, as a package index spells them."""
    return {re.split(r"[^\w.-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Other people's packages."""
    modules = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    tops = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - OURS
    return named(KNOWN.get(top, [top])[0] for top in tops)


def parsed(room: Path) -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(room.rglob("*.py")):
        yield file, ast.parse(file.read_text(encoding="utf-8"))


def declared(extras: Iterable[str]) -> set[str]:
    """What everyone has, and what these extras add."""
    optional = PROJECT["optional-dependencies"]
    return named([*PROJECT["dependencies"], *(each for extra in extras for each in optional[extra])])


def test_what_is_imported_is_declared() -> None:
    everyone = declared([])
    for file, tree in parsed(PACKAGE):
        extras = EXTRAS.get(file.relative_to(PACKAGE).parts[0], set())
        assert imported(ast.walk(tree)) <= declared(extras), file
        assert file in SCRIPTS or imported(tree.body) <= everyone, (
            f"{file} imports an extra before it is used"
        )


def test_what_stands_on_the_core_declares_what_it_imports() -> None:
    for room, extras in HOSTED.items():
        for file, tree in parsed(ROOT / room):
            assert imported(ast.walk(tree)) <= declared(extras), file


def test_every_dependency_is_used() -> None:
    rooms = [PACKAGE, *(ROOT / room for room in HOSTED)]
    used = set().union(*(imported(ast.walk(tree)) for room in rooms for _, tree in parsed(room)))
    everything = declared(PROJECT["optional-dependencies"])
    assert everything - {"tomli"} == used - {"tomli"}, "tomli is for old Pythons"


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()
