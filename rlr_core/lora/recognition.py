"""Which family a LoRA was made for: by the names and sizes of its layers, and by what its metadata say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from rlr_core.families import LoraFamily, Place
from rlr_core.lora.weights import LayerChange, LayerChanges


def family_of(
    weights: LayerChanges, metadata: Mapping[str, str], families: Sequence[LoraFamily]
) -> LoraFamily | None:
    """One of `families`, which all understand the names; None where nothing tells.

    Sizes go first, since metadata are copied from file to file. Where several families have such layers, or none of them, the
    metadata tell.
    """
    fitting = [family for family in families if _fits(weights, family)]
    if told := told_by(metadata, fitting or families):
        return told
    if len(fitting) == 1 or (fitting and _says_all(weights, fitting[0])):
        return fitting[0]
    return families[0] if len(families) == 1 else None


def told_by(metadata: Mapping[str, str], families: Iterable[LoraFamily]) -> LoraFamily | None:
    """The family that the metadata name: as our files do, or else as other programs' do."""
    families = list(families)
    ways: list[Callable[[LoraFamily], bool]] = [
        lambda family: family.writes(metadata),
        lambda family: family.claims(metadata),
    ]
    return next((family for says in ways for family in families if says(family)), None)


def _fits(weights: LayerChanges, family: LoraFamily) -> bool:
    """Whether some layers are like the family's, and none is unlike them."""
    answers = set(_answers(weights, family))
    return True in answers and False not in answers


def _says_all(weights: LayerChanges, family: LoraFamily) -> bool:
    """Whether every layer is like the family's: then the first that has them is meant, which has the fewest parts."""
    return set(_answers(weights, family)) == {True}


def _answers(weights: LayerChanges, family: LoraFamily) -> Iterable[bool | None]:
    return (_answer(family, place, layer) for place, layer in weights.items())


def _answer(family: LoraFamily, place: Place, layer: LayerChange) -> bool | None:
    outputs, inputs = layer.shape[:2]
    return None if outputs is None or inputs is None else family.has(place, inputs, outputs)
