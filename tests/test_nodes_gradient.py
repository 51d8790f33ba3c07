"""Gradients through networks that change their own values in place, and through a host that has kernels without a gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy_bed
import pytest
import test_nodes as contract
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

objects, given = contract.objects, contract.given


class Block(nn.Module):
    """As FLUX's: what comes in is normed, and then added to in place."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x += self.linear(self.norm(x))
        return x


class Network(nn.Sequential):
    """Blocks; `plain` computes the same without changing anything in place."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0)

    def plain(self, x: Tensor) -> Tensor:
        for block in self:
            x = x + block.linear(block.norm(x))  # pyright: ignore
        return x


@pytest.mark.parametrize("again", [False, True])
def test_what_norms_keep_is_not_spoilt(again):
    network = Network(*(Block() for _ in range(3)))
    weights = list(network.parameters())
    x = torch.randn(2, 3, 4, requires_grad=True)
    right = torch.autograd.grad(network.plain(x).square().sum(), weights)
    forward: Any = partial(checkpoint, network, use_reentrant=False) if again else network
    if again:  # nothing would tell
        wrong = torch.autograd.grad(forward(x).square().sum(), weights)
        assert not all(torch.allclose(one, other) for one, other in zip(wrong, right, strict=True))
    else:
        with pytest.raises(RuntimeError, match="inplace"):
            torch.autograd.grad(forward(x).square().sum(), weights)
    with comfy_bed.node_file("kept_inputs").kept_inputs(network):
        ours = torch.autograd.grad(forward(x).square().sum(), weights)
    assert all(torch.allclose(one, other) for one, other in zip(ours, right, strict=True))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_the_host_is_told_that_gradients_are_wanted_and_told_otherwise_afterwards(given, monkeypatch):
    host = comfy_bed.node_file("host").comfy.model_management
    monkeypatch.setattr(host, "in_training", False, raising=False)
    with pytest.raises(KeyboardInterrupt), contract.held(given):
        assert host.in_training
        raise KeyboardInterrupt
    assert not host.in_training
    monkeypatch.delattr(host, "in_training")
    with contract.held(given):  # versions without such kernels
        assert not hasattr(host, "in_training")
