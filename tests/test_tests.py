"""Tests that a machine without a host skips are not forgotten: what they import of the project is there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOMS = ("rlr_core", "ui", "extension")
"""Of `nodes`, a part can be imported inside of ComfyUI alone."""


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every `from … import …` of ours, in functions too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            yield from ((node.module, alias.name) for alias in node.names)


def missing(module: str, name: str) -> bool:
    if hasattr(import_module(module), name):
        return False
    try:
        import_module(f"{module}.{name}")
    except ImportError:
        return True
    return False


def test_what_tests_import_of_ours_is_there() -> None:
    pytest.importorskip("gradio")
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = {(file.name, *each) for file in files for each in imported(file)}
    assert len(found) > 500
    assert not [told for told in sorted(found) if missing(*told[1:])]
