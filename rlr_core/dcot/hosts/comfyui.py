"""Nodes of a ComfyUI graph (API format) that give each stage's conditioning its range of the chain.

`ConditioningSetTimestepRange` counts in percent of the model's timesteps, not of steps: a percent p is the noise of timestep
(1 - p)·999, and a range holds where the step's noise is between its ends (`comfy/samplers.py`). Which steps that are depends
on the scheduler and the number of steps; so the ends are laid halfway between the last step of a stage and the next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Schedule
from rlr_core.dcot.stages import StagePrompts, StageSettings

LAST = 999
"""The noisiest timestep of Stable Diffusion."""
Node = dict[str, Any]
Link = list[Any]
"""A node's name and the number of its output."""


def _sigmas() -> Tensor:
    """σ/α of each timestep, (1000,) float64, of Stable Diffusion's own noise schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, LAST + 1, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    return ((1 - alphas) / alphas).sqrt()


def _karras(steps: int) -> Tensor:
    sigmas = _sigmas()
    ends = sigmas[-1] ** (1 / 7), sigmas[0] ** (1 / 7)
    wanted = (ends[0] + torch.linspace(0, 1, steps, dtype=torch.float64) * (ends[1] - ends[0])) ** 7
    above = torch.searchsorted(sigmas, wanted).clamp(1, LAST)
    low, high = sigmas[above - 1].log(), sigmas[above].log()
    return above - 1 + (wanted.log() - low) / (high - low)


SCHEDULERS: dict[str, Callable[[int], Tensor]] = {
    "ddim_uniform": lambda steps: torch.arange(
        1, LAST + 1, max((LAST + 1) // steps, 1), dtype=torch.float64
    ).flip(0),
    "normal": lambda steps: torch.linspace(LAST, 0, steps, dtype=torch.float64),
    "sgm_uniform": lambda steps: torch.linspace(LAST, 0, steps + 1, dtype=torch.float64)[:-1],
    "simple": lambda steps: torch.tensor(
        [LAST - int(step * (LAST + 1) / steps) for step in range(steps)], dtype=torch.float64
    ),
    "karras": _karras,
}
"""Scheduler → of a number of steps the timestep at which each begins, (N,) float64, falling ("ddim_uniform" may add steps)."""


def ranges(
    prompts: StagePrompts, settings: StageSettings, steps: int, scheduler: str
) -> list[tuple[int, float, float]]:
    """Of each stage that has a step: its number, and its start and end in percent of the timesteps (0 is noise)."""
    times = SCHEDULERS[scheduler](steps)
    stages = settings.boundaries_of(prompts).stage_of_step(_schedule(times)).tolist()
    first = [step for step in range(len(times)) if step == 0 or stages[step] != stages[step - 1]]
    between = [round(1 - float(times[step - 1] + times[step]) / 2 / LAST, 3) for step in first[1:]]
    edges = [0.0, *between, 1.0]
    return [(stages[step], edges[k], edges[k + 1]) for k, step in enumerate(first)]


def _schedule(times: Tensor) -> Schedule:
    """The levels at these timesteps, interpolated as the host does."""
    sigmas = _sigmas().log()
    low = times.floor().long().clamp(max=LAST - 1)
    sigma = torch.lerp(sigmas[low], sigmas[low + 1], times - low).exp()
    alpha, end = 1 / (1 + sigma**2).sqrt(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    noise = torch.cat([sigma * alpha, end[1:]])
    return Schedule(torch.cat([alpha, end[:1]]), noise, torch.cat([times, end[1:]]))


def encoders(
    prompts: StagePrompts, settings: StageSettings, clip: Link, steps: int, scheduler: str
) -> tuple[dict[str, Node], Link, Link]:
    """Nodes that encode a prompt by `clip`, and the links to its positive and its negative conditioning."""
    nodes = dict[str, Node]()
    held = ranges(prompts, settings, steps, scheduler)
    negatives = prompts.negatives or (settings.negative,) * len(prompts.prompts)
    positive = _staged(nodes, "prompt", prompts.prompts, held, clip)
    return nodes, positive, _staged(nodes, "negative prompt", negatives, held, clip)


def node(kind: str, **inputs: Any) -> Node:
    """One of a graph."""
    return {"class_type": kind, "inputs": inputs}


def _staged(
    nodes: dict[str, Node],
    name: str,
    texts: Sequence[str],
    held: Sequence[tuple[int, float, float]],
    clip: Link,
) -> Link:
    """Add what encodes the texts, each in its range; returns the link to all of them together."""
    if len({texts[stage] for stage, _, _ in held}) == 1:
        nodes[name] = node("CLIPTextEncode", clip=clip, text=texts[held[0][0]])
        return [name, 0]
    parts = [_in_range(nodes, name, texts, clip, *each) for each in held]
    for number, part in enumerate(parts[1:], 2):
        both = f"{name} 1 to {number}"
        nodes[both] = node("ConditioningCombine", conditioning_1=[parts[0], 0], conditioning_2=[part, 0])
        parts[0] = both
    return [parts[0], 0]


def _in_range(
    nodes: dict[str, Node], name: str, texts: Sequence[str], clip: Link, stage: int, start: float, end: float
) -> str:
    """Add what encodes a stage's text and holds it in its range; returns the node's name."""
    text, part = f"{name} {stage + 1}", f"{name} {stage + 1} in its range"
    nodes[text] = node("CLIPTextEncode", clip=clip, text=texts[stage])
    nodes[part] = node("ConditioningSetTimestepRange", conditioning=[text, 0], start=start, end=end)
    return part
