"""Noise as a function of (seed, step): it is regenerated wherever it is needed again and never stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


def derive_seed(*words: int | str) -> int:
    """A 63-bit seed from any integers and words; different words give independent streams."""
    digest = hashlib.blake2b(repr(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def normal(seed: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Standard normal numbers on the CPU, the same on every machine with the same torch."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Noise(Protocol):
    """x_0 and z_0 … z_{T-1} of a batch of B samples."""

    def initial(self) -> Tensor:
        """A standard normal draw for x_0, (B, …); `initial_latents` brings it to the scale of a chain."""
        ...

    def at(self, step: Tensor, samples: Tensor) -> Tensor:
        """z of the samples `samples` (n,), the j-th at its own step `step[j]`: (n, …)."""
        ...


class SampleNoise:
    """Noise of pictures with a seed each: a picture depends on its own seed only, not on its neighbours or the batch size.

    Args:
        seeds: one for each of the B samples.
        shape: of one latent, without the batch.
    """

    def __init__(
        self, seeds: Sequence[int], shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ):
        self._seeds, self._shape, self._dtype, self._device = tuple(seeds), tuple(shape), dtype, device

    def initial(self) -> Tensor:
        return self._stack(derive_seed(seed, "initial") for seed in self._seeds)

    def at(self, step: Tensor, samples: Tensor) -> Tensor:
        pairs = zip(step.tolist(), samples.tolist(), strict=True)
        return self._stack(derive_seed(self._seeds[j], i) for i, j in pairs)

    def _stack(self, seeds) -> Tensor:
        return torch.stack([normal(seed, self._shape, self._dtype) for seed in seeds]).to(self._device)


class BatchNoise:
    """Noise of a whole batch from one seed: for very many small samples."""

    def __init__(self, seed: int, shape: Sequence[int], dtype: torch.dtype):
        self._seed, self._shape, self._dtype = seed, tuple(shape), dtype

    def initial(self) -> Tensor:
        return normal(derive_seed(self._seed, "initial"), self._shape, self._dtype)

    def at(self, step: Tensor, samples: Tensor) -> Tensor:
        out = torch.empty(len(samples), *self._shape[1:], dtype=self._dtype)
        for value in step.unique().tolist():
            rows = step == value
            out[rows] = normal(derive_seed(self._seed, value), self._shape, self._dtype)[samples[rows]]
        return out
