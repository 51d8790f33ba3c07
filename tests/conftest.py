"""One thread and a fixed global seed, so that every test sees the same numbers wherever it runs."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest

# Before torch is loaded, and for every process that a test starts: threads that wait for a core which
# another test has make a run ten times as slow.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

LONGEST = ("test_ui_browser.py", "test_ui_processes.py", "test_resume.py", "test_bench.py")
"""Files that begin, so that at the end no worker is left alone with minutes of one test."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, in that order; the others as they come."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def _reproducible():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What whoever reads a log has asked for, in bytes, call by call; the system reads some more ahead."""
    taken: list[int] = []
    opened = Path.open

    class Counted(io.BufferedReader):
        def read(self, size: int | None = -1) -> bytes:
            return counted(super().read(size))

        def __next__(self) -> bytes:
            return counted(super().__next__())

    def counted(data: bytes) -> bytes:
        taken.append(len(data))
        return data

    def opening(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if path.name == "events.jsonl" and mode == "rb":
            return Counted(io.FileIO(path))
        return opened(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", opening)
    return taken
