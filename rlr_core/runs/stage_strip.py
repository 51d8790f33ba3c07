"""A picture along its chain as one sheet: predicted pictures, lines where stages meet, prompts above and rewards below."""

from __future__ import annotations

from PIL import Image, ImageDraw

from rlr_core.config import RunConfig
from rlr_core.runs.captions import LINE, Lettering
from rlr_core.runs.pictures import INK, MARGIN, PAPER, strip
from rlr_core.trainer import Unfolding

SIDE, EDGE = 128, "#c0504d"
"""Pixels of a small picture's height, and the colour of a boundary."""


def unfolded(config: RunConfig, text: str, seed: int = 0, reward: str = "") -> Unfolding:
    """Paint a picture with a config's model and sampling, and see it along its chain.

    Args:
        text: one line of a prompts file, plain or of stages.
        reward: whose score each prediction gets; by default the embedded one's for the embedded checkpoint, else none.

    Raises `RLRError` for what cannot be read or loaded.
    """
    from rlr_core.models import load_configured
    from rlr_core.rewards import load_reward
    from rlr_core.trainer import painter, unfold
    from rlr_core.trainer.devices import choose_device, threads
    from rlr_core.trainer.prompts import stage_settings, understood

    (prompt,) = understood([text], config.prompts)
    name = reward or ("embedded" if config.model.checkpoint == "embedded" else "")
    device = choose_device(config.model.device)
    with threads(config.model.threads):
        judge = load_reward(name, device, config.reward) if name else None
        brush = painter(
            load_configured(config.model, device), config.sampling, stages=stage_settings(config.prompts)
        )
        return unfold(brush, prompt, seed, judge)


def stage_strip(unfolding: Unfolding) -> Image.Image:
    """The sheet."""
    lettering, pictures = Lettering(), strip(unfolding.pictures, SIDE)
    column = (pictures.width + MARGIN) // len(unfolding.steps)
    columns = _columns(unfolding)
    captions = [
        lettering.wrapped(caption, column * (last - first) - 2 * MARGIN) for caption, first, last in columns
    ]
    top = MARGIN + LINE * max(map(len, captions)) + MARGIN
    below = [line for line in (_told_steps(unfolding), _told_scores(unfolding)) if line]
    height = top + pictures.height + MARGIN + LINE * len(below) + MARGIN
    sheet = Image.new("RGB", (pictures.width + 2 * MARGIN, height), PAPER)
    sheet.paste(pictures, (MARGIN, top))
    draw = ImageDraw.Draw(sheet)
    for lines, (_, first, _) in zip(captions, columns, strict=True):
        left = MARGIN + first * column
        if first:
            x = left - MARGIN // 2
            draw.line([(x, 0), (x, height)], EDGE, 2)
        for row, line in enumerate(lines):
            lettering.draw(draw, (left, MARGIN + row * LINE), line, INK)
    for row, texts in enumerate(below):
        for number, text in enumerate(texts):
            at = MARGIN + number * column, top + pictures.height + MARGIN + row * LINE
            lettering.draw(draw, at, text, INK)
    return sheet


def _columns(unfolding: Unfolding) -> list[tuple[str, int, int]]:
    """Caption, first column and the one after the last, of each stage that has a step."""
    found = []
    for name, text, steps in unfolding.spans:
        mine = [number for number, step in enumerate(unfolding.steps) if step in steps]
        if mine:
            where = told_range(steps)
            caption = f"{name}, {where}: {text}" if len(unfolding.prompt.prompts) > 1 else f"{where}: {text}"
            found.append((caption, mine[0], mine[-1] + 1))
    return found


def told_range(steps: range) -> str:
    """Steps as people count them, from 1."""
    if not steps:
        return "no step"
    return f"step {steps[0] + 1}" if len(steps) == 1 else f"steps {steps[0] + 1} to {steps[-1] + 1}"


def _told_steps(unfolding: Unfolding) -> list[str]:
    return [f"{step + 1} of {len(unfolding.stage_of_step)}" for step in unfolding.steps]


def _told_scores(unfolding: Unfolding) -> list[str]:
    return [f"{score:.3f}" for score in unfolding.scores]
