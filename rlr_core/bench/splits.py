"""How captions of the drawn world are told stage by stage, for the study of Table 4, and probes of what each stage decides.

The embedded checkpoint was trained on whole captions, now and then on the shorter ones of `world.stage_captions`, and last with
half of the colours wrong, so that it hardly tells a colour from its partner. Which of these splits helps it is measured, on
training prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rlr_core.dcot import NAMES, StagePrompts, format_line
from rlr_core.embedded import world
from rlr_core.embedded.world import COLOURS, PARTNER, Scene, caption, stage_captions

Split = Callable[[Scene], StagePrompts]
"""The stages' prompts of a scene; what the reward is told is the caption, whatever they are."""


def _coloured(scene: Scene) -> str:
    """The colour before the shape is known."""
    return f"a {scene.colour} shape on {scene.background}"


def _positive(prompts: Callable[[Scene], tuple[str, ...]]) -> Split:
    return lambda scene: StagePrompts(prompts(scene))


def _against_partner(*stages: str) -> Split:
    """The whole caption throughout, and in some stages, as negative prompt, the same with the colour's partner."""

    def split(scene: Scene) -> StagePrompts:
        other = caption(replace(scene, colour=PARTNER[scene.colour]))
        return StagePrompts((caption(scene),) * 3, tuple(other if name in stages else "" for name in NAMES))

    return split


SPLITS: dict[str, Split] = {
    "the world's own": _positive(stage_captions),
    "background, then all": _positive(lambda scene: (stage_captions(scene)[0], *[caption(scene)] * 2)),
    "shape and colour, then all": _positive(lambda scene: (stage_captions(scene)[1], *[caption(scene)] * 2)),
    "shape and colour, texture late": _positive(lambda scene: (*[stage_captions(scene)[1]] * 2, caption(scene))),
    "colour, shape, all": _positive(lambda scene: (_coloured(scene), *stage_captions(scene)[1:])),
    "colour, then all": _positive(lambda scene: (_coloured(scene), *[caption(scene)] * 2)),
    "all, not its partner when coarse": _against_partner("coarse"),
    "all, not its partner until fine": _against_partner("coarse", "mid"),
}  # fmt: skip
"""Ways to split a caption over three stages."""
PLAIN, AGAINST = "plain", "plain, not its partner"
CONTROLS: dict[str, Split] = {
    PLAIN: _positive(lambda scene: (caption(scene),)),
    AGAINST: _against_partner(*NAMES),
}
"""One prompt for the whole chain; also one with that negative prompt, so that it is not mistaken for what stages do."""


def _recoloured(scene: Scene) -> str:
    """The caption with another colour: the next one of the world's, which is nobody's partner."""
    colours = list(COLOURS)
    after = colours[(colours.index(scene.colour) + 1) % len(colours)]
    return caption(replace(scene, colour=after))


def _probe(stage: str) -> Split:
    return _positive(
        lambda scene: tuple(_recoloured(scene) if name == stage else caption(scene) for name in NAMES)
    )


PROBES = {stage: _probe(stage) for stage in NAMES}
"""The whole caption in every stage, but in one of them another colour: where that harms most, colours are decided."""
KNOWN: dict[str, Split] = {**CONTROLS, **SPLITS, **PROBES}


def line_of(split: str, text: str) -> str:
    """A caption of the world as a prompt's line."""
    return format_line(replace(KNOWN[split](world.parse(text)), intent=text))
