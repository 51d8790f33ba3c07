"""The first picture of a run is on disk within 20 seconds of the command."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("psutil")

import psutil
import runs

MOST = 20.0
"""Seconds of processor time, which a busy machine does not lengthen much."""


def processor_time_at_the_first_picture(command: list[str], folder: Path) -> float:
    """In seconds, of a run in `folder`, which is ended then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    log = folder.with_suffix(".log")
    with (
        log.open("w") as told,
        subprocess.Popen(command, stdout=told, stderr=told, env=environment) as training,
    ):
        try:
            while training.poll() is None:
                if list(folder.rglob("*.png")):
                    used = psutil.Process(training.pid).cpu_times()
                    return used.user + used.system
                time.sleep(0.05)
        finally:
            training.kill()
    raise AssertionError(log.read_text(encoding="utf-8"))


def test_the_first_picture_of_a_run_comes_within_20_seconds(tmp_path):
    """Nothing is set but what a user gives. The first run may have to compile the libraries' modules, the second finds them."""
    runs.workshop(tmp_path)
    (tmp_path / "prompts.txt").write_text("a b\nc d\ne f\n", encoding="utf-8")
    command = [sys.executable, "-m", "rlr_core", "train", "--checkpoint", str(tmp_path / "checkpoint")]
    command += ["--reward", f"{tmp_path / 'reward.py'}:red", "--prompts", str(tmp_path / "prompts.txt")]
    times = [
        processor_time_at_the_first_picture([*command, "--run", str(tmp_path / name)], tmp_path / name)
        for name in ("first", "second")
    ]
    assert min(times) < MOST, times
