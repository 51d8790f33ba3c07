"""Networks of published rewards: built without memory, filled strictly from a file, frozen."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlr_core.errors import RewardError


@dataclass(frozen=True)
class Placement:
    """Where a network computes.

    Attributes:
        device: of the weights.
        dtype: of the weights and the activations; preprocessing and scores are float32, or float64 with float64.
        rerun: keep only each block's input for the gradient and run the block again: less memory, one more forward pass.
        networks: those that were put there.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    rerun: bool = False
    networks: list[Any] = field(default_factory=list, compare=False)

    @property
    def exact(self) -> torch.dtype:
        """Of scores, and of the last layers, which are small."""
        return torch.promote_types(self.dtype, torch.float32)


def frozen(
    make: Callable[[], nn.Module],
    tensors: Mapping[str, Tensor],
    file: Path,
    placement: Placement,
    dtype: torch.dtype | None = None,
) -> Any:
    """A network with these weights, none missing and none left over, which only gradients to its input pass through.

    Args:
        make: gives the network; called where no memory is taken.
        tensors: name → weight, in any floating type.
        file: that they are from, for the error.
        placement: where to; on "meta" the network has its shapes only.
        dtype: instead of the placement's.

    Raises:
        RewardError: the weights are not this network's.
    """
    with torch.device("meta"):
        network = make().requires_grad_(False).eval()
    placement.networks.append(network)
    kind = dtype or placement.dtype
    if placement.device.type == "meta":
        return network.to(kind)
    _check_fit(network.state_dict(), tensors, file)
    moved = {name: tensor.to(placement.device, kind) for name, tensor in tensors.items()}
    network.load_state_dict(moved, assign=True)
    _compute_buffers(network, placement.device, kind)
    return network.requires_grad_(False)


def _check_fit(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], file: Path) -> None:
    other = [name for name in wanted if name in found and wanted[name].shape != found[name].shape]
    wrong = {
        "are missing": [name for name in wanted if name not in found],
        "are not the network's": [name for name in found if name not in wanted],
        "have another shape": [f"{name} {tuple(found[name].shape)}" for name in other],
    }
    said = [f"{len(names)} {what} ({names[0]})" for what, names in wrong.items() if names]
    if said:
        raise RewardError(
            f"the weights in {file} are those of another network: of its tensors {', '.join(said)}",
            f"the published file, with {len(wanted)} tensors",
            "delete the file and get the right one: `rlr rewards` says where",
        )


def _compute_buffers(network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Make what no file holds: positions, and the mask of a text tower that does not look ahead."""
    for module in network.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_meta:
                setattr(module, name, _computed(name, buffer.shape, dtype).to(device))


def _computed(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    assert name in ("position_ids", "attn_mask"), name
    if name == "position_ids":
        return torch.arange(shape[-1]).expand(shape)
    return torch.full(shape, -torch.inf, dtype=dtype).triu(1)


def rerun(blocks: Iterable[nn.Module]) -> None:
    """From now on, run each block again in the backward pass instead of keeping its activations."""
    for block in blocks:
        forward = functools.partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
        block.forward = forward


def affine_head(width: int) -> nn.Module:
    """The layers that LAION's and ImageReward's authors put on an embedding (B, width): linear ones, nothing between them.

    Their dropout is gone; its places in the numbering stay.
    """
    sizes = (width, 1024, 128, 64, 16, 1)
    first, second, third, fourth, last = (nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
    gap = nn.Identity
    layers = nn.Sequential(first, gap(), second, gap(), third, gap(), fourth, last)
    return nn.ModuleDict({"layers": layers})


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
