"""A file is put in the place of another one, also where the system refuses that for a moment."""

from __future__ import annotations

import os

import pytest

from rlr_core import storage
from rlr_core.errors import StorageError


@pytest.fixture
def refusals(monkeypatch) -> list[int]:
    """How often a file is still open elsewhere; each attempt takes one away."""
    left, replaced = [0], os.replace

    def replace(*paths: object) -> None:
        if left[0]:
            left[0] -= 1
            raise PermissionError(13, "somebody has it open")
        replaced(*paths)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", replace)
    return left


def test_windows_is_asked_again_while_somebody_reads(refusals, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "WINDOWS", True)
    refusals[0] = 3
    storage.write_text(tmp_path / "worker.json", "new")
    assert (tmp_path / "worker.json").read_text(encoding="utf-8") == "new" and refusals == [0]


def test_it_is_not_asked_for_ever(refusals, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "WINDOWS", True)
    monkeypatch.setattr(storage, "PATIENCE", 0.05)
    refusals[0] = 10**6
    with pytest.raises(StorageError, match="somebody has it open"):
        storage.write_text(tmp_path / "worker.json", "new")
    assert 2 < 10**6 - refusals[0] < 100 and not list(tmp_path.iterdir())


def test_elsewhere_a_refusal_is_the_folders_own(refusals, monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "WINDOWS", False)
    refusals[0] = 3
    with pytest.raises(StorageError, match="permissions"):
        storage.write_text(tmp_path / "worker.json", "new")
    assert refusals == [2], "asked once"
