"""The process's global random numbers, lent to what draws from them: seeded, and given back as they were found.

Everything of ours has generators of its own. Rewards of users, and libraries, draw from the global ones of torch, Python and
numpy; a host program that trains in its own process has a use for them, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the global generators follow from `seed`; afterwards they are as before, whatever happened.

    They belong to all threads: do not stay inside across a `yield`.
    """
    kept = _states()
    try:
        _seed(seed, kept)
        yield
    finally:
        _restore(kept)


def _states() -> dict[str, Any]:
    """Of the generators that exist: a device that nobody has used yet has none."""
    states = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": np.random.get_state()}
    if torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def _seed(seed: int, kept: dict[str, Any]) -> None:
    """Seed what is kept. `torch.manual_seed` would also seed a device that is used for the first time later on."""
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # numpy takes 32 bits
    if "cuda" in kept:
        torch.cuda.manual_seed_all(seed)
    if "mps" in kept:
        torch.mps.manual_seed(seed)


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    if "mps" in states:
        torch.mps.set_rng_state(states["mps"])
