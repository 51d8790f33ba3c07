"""Checkpoints of the published sizes with random weights, in the original layout: described, loaded offline, trained on for one
iteration, and the LoRA exported.

`RLR_FULL_SIZE=1 python install.py test tests/test_full_size.py -s` prints seconds and peak memory; it needs 8 GB of disk and
16 GiB of memory.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import ldm
import pytest
from runs import REWARD
from safetensors import safe_open

from rlr_core.families import FAMILIES
from rlr_core.models.describing import describe_checkpoint

ASKED_FOR = pytest.mark.skipif(
    "RLR_FULL_SIZE" not in os.environ, reason="RLR_FULL_SIZE is not set: takes minutes and 8 GB"
)
CASES = [(key, list(family.sizes)[-1]) for key, family in FAMILIES.items()]
"""Family, and what its newest checkpoints predict: "v_prediction" where there are any."""
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}


@pytest.mark.full_size
@pytest.mark.timeout(3000)
@ASKED_FOR
@pytest.mark.parametrize(("key", "prediction"), CASES)
def test_a_checkpoint_of_full_size(key, prediction, tmp_path):
    family, size = FAMILIES[key], FAMILIES[key].own_size(prediction)
    precision = "bfloat16" if family.is_xl else "float32"  # within the memory
    path = ldm.write_full_size(family, tmp_path / f"{key}_{size}.safetensors")
    try:
        began = time.perf_counter()
        described = describe_checkpoint(path)
        milliseconds = 1000 * (time.perf_counter() - began)
        assert (described.family, described.prediction, described.size) == (family.title, prediction, size)
        assert described.precision == "fp16" and described.missing == ()
        seconds, peak = train(path, precision, tmp_path)
        print(
            f"\n{key}: {path.stat().st_size / 1e9:.1f} GB, described in {milliseconds:.0f} ms, "
            f"one iteration with everything around it {seconds:.0f} s, peak {peak:.1f} GiB in {precision}"
        )
        assert peak < 16
    finally:
        path.unlink()
    with safe_open(tmp_path / "run" / "rlr-lora.safetensors", "pt") as lora:
        assert lora.metadata()["modelspec.architecture"] == architecture_of(key, prediction)
        assert all(lora.get_tensor(key).isfinite().all() for key in lora.keys())  # noqa: SIM118


def architecture_of(key: str, prediction: str) -> str:
    return FAMILIES[key].lora.metadata(prediction)["modelspec.architecture"]


@pytest.mark.parametrize(("key", "prediction"), CASES)
def test_what_is_expected_of_a_case_is_known(key, prediction):
    """Without weights, so that a mistake in the expensive test shows everywhere."""
    assert architecture_of(key, prediction).startswith(FAMILIES[key].lora.architectures[prediction])
    assert FAMILIES[key].own_size(prediction) == FAMILIES[key].sizes[prediction]


def train(path: Path, precision: str, folder: Path) -> tuple[float, float]:
    """`rlr train` without a network: (seconds, GiB at most)."""
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    settings = {
        "model.checkpoint": str(path),
        "model.precision": precision,
        "model.device": "cpu",
        "prompts.train": ["a photo of a cat"],
        "prompts.held_out": ["a photo of a dog"],
        "reward.name": f"{folder / 'reward.py'}:red",
        "reward.held_out": f"{folder / 'reward.py'}:bright",
        "sampling.steps": 2,
        "sampling.size": 64,
        "training.iterations": 1,
        "training.batch_size": 1,
        "training.prompts_per_batch": 1,
        "estimator.chunk": 1,
        "estimator.first_order_steps": 1,
        "output.previews": 1,
        "output.evaluation": 0,
    }
    overrides = [f"--set={key}={json.dumps(value)}" for key, value in settings.items()]
    (folder / "config.toml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "rlr_core", "train", str(folder / "config.toml"), *overrides]
    measure = "import os, resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode; "
    measure += "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", measure, *command, "--run", str(folder / "run")],
        capture_output=True,
        text=True,
        env={**os.environ, **OFFLINE},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - began, int(done.stdout.split("peak")[-1]) / 2**20
