"""LyCORIS's adapters (github.com/KohakuBlueleaf/LyCORIS, `modules/`): what each adds to a layer's weight.

| kind | ΔW |
|---|---|
| LoHa (arXiv 2108.06098) | alpha/rank · (a1·b1) ⊙ (a2·b2) |
| LoKr (arXiv 2309.14859) | alpha/rank · w1 ⊗ w2, either of which may be a product a·b; where neither is, alpha does not count |
| LoCon with a Tucker core | alpha/rank · Σ t[i, j] up[i] down[j]; cores of LoHa and LoKr likewise |
| full | ΔW itself, and that of the bias |
| (IA)³ (arXiv 2205.05638) | W with its rows, or columns, times w |

Formulas of our own: version 4.1.3 of the package scales a LoHa twice when it merges, and takes seconds to import.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlr_core.errors import CheckpointError
from rlr_core.lora.weights import LayerChange, LayerWeights

ALPHA, MAGNITUDE = ".alpha", ".dora_scale"
DO = "choose kohya's format, or merge it into the checkpoint (`rlr lora merge`)"


@dataclass(frozen=True)
class LycorisLayer(LayerChange):
    """A layer of LyCORIS, kept in the tensors that the file has.

    Attributes:
        parts: ending of a key, as ".hada_w1_a" → tensor; a convolution's places may lie flat beside its inputs.
    """

    parts: Mapping[str, Tensor]
    alpha: float
    magnitude: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        return [*self.parts.values(), *([] if self.magnitude is None else [self.magnitude])]

    @property
    def useful(self) -> bool:
        """A product is 0 where a factor is."""
        return all(bool(part.float().any()) for part in self.parts.values())

    @property
    def counts(self) -> bool:
        """Whether alpha counts."""
        return True

    def in_file(self) -> dict[str, Tensor]:
        """Ending of a key → tensor."""
        norms = {} if self.magnitude is None else {MAGNITUDE: self.magnitude}
        return {**self.parts, ALPHA: torch.tensor(self.alpha), **norms}

    @abstractmethod
    def _scaled_part(self) -> str:
        """The part that a scale is multiplied into."""

    def to(self, dtype: torch.dtype) -> LycorisLayer:
        magnitude = None if self.magnitude is None else self.magnitude.to(dtype)
        return replace(
            self, parts={end: part.to(dtype) for end, part in self.parts.items()}, magnitude=magnitude
        )

    def folded(self) -> LycorisLayer:
        if not self.counts:
            return self
        end = self._scaled_part()
        part = self.parts[end]
        parts = {**self.parts, end: (part.float() * self.scale).to(part.dtype)}
        return replace(self, parts=parts, alpha=float(self.rank))

    def fits(self, shape: tuple[int, ...]) -> bool:
        flat = len(self.shape) == 2 and (shape[0], math.prod(shape[1:])) == self.shape
        return flat or super().fits(shape)

    @property
    @abstractmethod
    def lora_rank(self) -> int:
        """Rank of the LoRA that `low_rank` is."""

    @abstractmethod
    def low_rank(self) -> tuple[Tensor, Tensor]:
        """Factors (out, r) and (r, in, …) of ΔW before the scale, float32."""

    def as_lora(self, base: Tensor | None = None) -> LayerWeights:
        rows, *columns = (size or 0 for size in self.shape)
        if self.lora_rank < min(rows, math.prod(columns)):
            factors, alpha = self.low_rank(), self.scale
        elif base is not None:
            factors, alpha = _whole(self.change_of(base)), 1.0
        else:
            raise CheckpointError(
                f"a {self.kind} of no low rank, as a LoRA", "a LoHa or LoKr of a low rank", DO
            )
        up, down = factors
        down = down if base is None else down.reshape(len(down), *base.shape[1:])
        up = up.reshape(*up.shape, *[1] * (down.dim() - 2))
        return LayerWeights(down.contiguous(), up.contiguous(), alpha * len(down), self.magnitude)


def _whole(delta: Tensor) -> tuple[Tensor, Tensor]:
    """ΔW (out, in, …) as two factors, one of which is the identity: exact, whatever the rank is."""
    flat = delta.flatten(1)
    rows, columns = flat.shape
    return (torch.eye(rows).to(flat), flat) if rows <= columns else (flat, torch.eye(columns).to(flat))


def _pair(a: Tensor, b: Tensor, core: Tensor | None) -> tuple[Tensor, Tensor]:
    """Factors (out, r) and (r, in, …): a and b themselves, or with a Tucker core (i, j, …) of a (i, out) and b (j, in)."""
    if core is None:
        return a.float(), b.float()
    down = torch.einsum("ij...,jr->ir...", core.float(), b.float())
    return a.float().T.contiguous(), down.contiguous()


def _times(factors: tuple[Tensor, Tensor]) -> Tensor:
    up, down = factors
    return (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])


class LoHa(LycorisLayer):
    """alpha/rank · (a1·b1) ⊙ (a2·b2)."""

    kind = "LoHa"

    def _scaled_part(self) -> str:
        return ".hada_w1_a"

    @property
    def rank(self) -> int:
        return len(self.parts[".hada_w1_b"])

    @property
    def shape(self) -> tuple[int | None, ...]:
        a, b, core = self.parts[".hada_w1_a"], self.parts[".hada_w1_b"], self.parts.get(".hada_t1")
        return (len(a), b.shape[1]) if core is None else (a.shape[1], b.shape[1], *core.shape[2:])

    @property
    def lora_rank(self) -> int:
        return self.rank * len(self.parts[".hada_w2_b"])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        part = self.parts
        return [_pair(part[f".hada_w{n}_a"], part[f".hada_w{n}_b"], part.get(f".hada_t{n}")) for n in (1, 2)]

    def delta(self) -> Tensor:
        one, other = map(_times, self._pairs())
        assert one.shape == other.shape
        return self.scale * one * other

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """Column by column and row by row: rank², exactly (Khatri and Rao, 1968)."""
        (up, down), (up_2, down_2) = self._pairs()
        ups = torch.einsum("op,oq->opq", up, up_2).flatten(1)
        return ups, torch.einsum("p...,q...->pq...", down, down_2).flatten(0, 1)


class LoKr(LycorisLayer):
    """alpha/rank · w1 ⊗ w2."""

    kind = "LoKr"

    @property
    def counts(self) -> bool:
        """Not where neither part is a product: LyCORIS and hosts then leave it out."""
        return not {".lokr_w1", ".lokr_w2"} <= set(self.parts)

    def _scaled_part(self) -> str:
        return ".lokr_w1" if ".lokr_w1" in self.parts else ".lokr_w1_a"

    @property
    def rank(self) -> int:
        """That of the part which is a product; 1 where neither is."""
        inner = self.parts.get(".lokr_w2_b", self.parts.get(".lokr_w1_b"))
        return 1 if inner is None else len(inner)

    @property
    def shape(self) -> tuple[int | None, ...]:
        one, two = self._sizes(".lokr_w1"), self._sizes(".lokr_w2")
        return (one[0] * two[0], one[1] * two[1], *two[2:])

    @property
    def lora_rank(self) -> int:
        p, *inputs = self._sizes(".lokr_w2")
        inner = min(p, math.prod(inputs)) if ".lokr_w2" in self.parts else len(self.parts[".lokr_w2_b"])
        return inner * min(self._sizes(".lokr_w1"))

    def _sizes(self, name: str) -> tuple[int, ...]:
        """Shape of w1 or w2."""
        if name in self.parts:
            return tuple(self.parts[name].shape)
        a, b, core = self.parts[f"{name}_a"], self.parts[f"{name}_b"], self.parts.get(".lokr_t2")
        if core is None or name == ".lokr_w1":
            return len(a), b.shape[1]
        return a.shape[1], b.shape[1], *core.shape[2:]

    def _first(self) -> Tensor:
        """w1, (out, in)."""
        if ".lokr_w1" in self.parts:
            return self.parts[".lokr_w1"].float()
        return self.parts[".lokr_w1_a"].float() @ self.parts[".lokr_w1_b"].float()

    def _second(self) -> tuple[Tensor, Tensor]:
        """Factors of w2, of which one is the identity where it is whole."""
        if ".lokr_w2" not in self.parts:
            part = self.parts
            return _pair(part[".lokr_w2_a"], part[".lokr_w2_b"], part.get(".lokr_t2"))
        whole = self.parts[".lokr_w2"].float()
        up, down = _whole(whole)
        return up, down.reshape(len(down), *whole.shape[1:])

    def delta(self) -> Tensor:
        one, two = self._first(), self.parts.get(".lokr_w2")
        two = _times(self._second()) if two is None else two.float()
        return self.scale * torch.kron(one.reshape(*one.shape, *[1] * (two.dim() - 2)), two)

    def low_rank(self) -> tuple[Tensor, Tensor]:
        """(w1 ⊗ up) · (1 ⊗ down), or (1 ⊗ up) · (w1 ⊗ down), whichever has the lower rank."""
        one, (up, down) = self._first(), self._second()
        rows, columns = one.shape
        left, right = (one, torch.eye(columns)) if columns <= rows else (torch.eye(rows), one)
        return torch.kron(left, up), torch.kron(right.reshape(*right.shape, *[1] * (down.dim() - 2)), down)


class Tucker(LycorisLayer):
    """A LoRA of a convolution with a core between its factors."""

    kind = "LoRA with a Tucker core"

    def _scaled_part(self) -> str:
        return ".lora_up.weight"

    @property
    def rank(self) -> int:
        return len(self.parts[".lora_down.weight"])

    @property
    def shape(self) -> tuple[int | None, ...]:
        up, down, core = (
            self.parts[end] for end in (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight")
        )
        return (len(up), down.shape[1], *core.shape[2:])

    @property
    def lora_rank(self) -> int:
        return len(self.parts[".lora_mid.weight"])

    def delta(self) -> Tensor:
        return self.scale * _times(self.low_rank())

    def low_rank(self) -> tuple[Tensor, Tensor]:
        up, down = self.parts[".lora_up.weight"].flatten(1), self.parts[".lora_down.weight"].flatten(1)
        return _pair(up.T, down, self.parts[".lora_mid.weight"])
