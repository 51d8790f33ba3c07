"""Where a run computes: this machine's devices, and how many threads of its processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rlr_core.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """The device named, as "cuda:1", or the best there is for "auto". Raises `ConfigError` for one that is not there."""
    here = devices_here()
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if kind in here))
    if name not in here:
        raise ConfigError(
            f"the device '{name}', which this machine does not have",
            f"one of auto, {', '.join(here)}",
            "set model.device, or --device",
        )
    return torch.device(name)


def devices_here() -> list[str]:
    """This machine's devices by the names that `choose_device` takes; "cuda" is torch's current card."""
    cards = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return [
        "cpu",
        *(["cuda", *cards] if cards else []),
        *(["mps"] if torch.backends.mps.is_available() else []),
    ]


def half_precision(device: str) -> str:
    """The precision below float32 that a device computes fast in, "" for none. A card that is not here counts as new."""
    if not device.startswith("cuda"):
        return ""
    old = device in devices_here() and torch.cuda.get_device_capability(torch.device(device)) < (8, 0)
    return "float16" if old else "bfloat16"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads inside; 0 leaves the choice to torch."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
