"""Linear layers in 8 bits with scales, as ComfyUI loads them; where COMFYUI_DIR is set."""

from __future__ import annotations

from typing import Any

import comfy_bed
import pytest
import test_nodes as contract
import torch

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]


@pytest.fixture(scope="module")
def objects() -> Any:
    return comfy_bed.objects("fp8")


given = contract.given


def test_a_quantised_checkpoint_is_trained_on_and_stays_as_it_was(given, tmp_path):
    network = given.model.model.diffusion_model
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.float8_e4m3fn in {value.dtype for value in before.values()}
    parts = contract.gradient(given)
    assert all(part.isfinite().all() and part.abs().max() > 0 for part in parts)
    with torch.inference_mode():
        done = comfy_bed.train(given, contract.config(), tmp_path / "run", rewards=contract.REWARDS)
    assert done.finished
    after = network.state_dict()
    assert all(torch.equal(bits(after[name]), bits(value)) for name, value in before.items())


def bits(value: torch.Tensor) -> torch.Tensor:
    """As whole numbers where the type has no comparison of its own."""
    return value.view(torch.uint8) if value.dtype == torch.float8_e4m3fn else value
