"""The paper's Table 4 in the drawn world: checkpoint and LoRA, each with plain prompts and with a prompt for each stage.

Three things are measured. With the checkpoint as it is, on training prompts and by the reward that training has: which way of
splitting captions is best (the study goes on with it), and which stage decides the colours, the checkpoint's weakness. Then, on
held-out prompts and by the held-out scorer: base, base + DCoT, RLR, RLR + DCoT, and RLR + DCoT with its sub-chains from that
stage alone. A seed has the same prompts and the same noise in all rows, so that differences are taken seed by seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlr_core.bench.beds import EMBEDDED
from rlr_core.bench.learn import Budget, learn, learn_settings
from rlr_core.bench.methods import Method
from rlr_core.bench.splits import AGAINST, KNOWN, PLAIN, PROBES, SPLITS, line_of
from rlr_core.bench.statistics import mean_over_seeds
from rlr_core.bench.study import TUNING_SEED, Desk, pm
from rlr_core.config import from_dict, merged, to_dict
from rlr_core.embedded import world
from rlr_core.markdown import table

METHODS = Path(__file__).with_name("dcot.toml")
"""The methods file of this study; each is trained at the first of its learning rates."""


def split_settings(method: Method, split: str, pictures: int, **model: Any) -> dict[str, Any]:
    """What defines a job of `paint`."""
    changes = {"training": {"seed": TUNING_SEED}, "model": {"threads": 1, **model}}
    config = to_dict(method.config(EMBEDDED.settings, changes))
    return {"study": "split", "config": config, "pictures": pictures, **_told(split)}


def _told(split: str) -> dict[str, str]:
    """A split by its name, and an example, so that results are those of what it says."""
    return {"split": split, "example": line_of(split, world.TRAIN_PROMPTS[0])}


def paint(settings: dict[str, Any]) -> dict[str, Any]:
    """Training prompts of a split, painted by the checkpoint as it is: {"reward", "held_out"}, their means."""
    from torch import Tensor

    from rlr_core.chain.noise import derive_seed
    from rlr_core.trainer import prepare, score
    from rlr_core.trainer.prompts import deal

    config, count = from_dict(_with_lines(settings)), settings["pictures"]
    setup = prepare(config)
    prompts = deal(setup.prompts, count, 0, config.training.seed)
    images = setup.painter(
        prompts, [derive_seed("bench", config.training.seed, j) >> 32 for j in range(count)]
    )
    assert isinstance(images, Tensor), "pictures of one size"
    texts = [prompt.scored for prompt in prompts]
    rewards = {"reward": setup.reward, "held_out": setup.held_out}
    return {
        name: round(float(score(reward, images, texts).total.mean()), 5) for name, reward in rewards.items()
    }


def _with_lines(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The config of a job with the world's prompts as its split tells them."""
    lines = {
        "train": [line_of(settings["split"], text) for text in world.TRAIN_PROMPTS],
        "held_out": [line_of(settings["split"], text) for text in world.HELD_OUT_PROMPTS],
    }
    return merged(settings["config"], {"prompts": lines})


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        label: for people.
        split: how prompts are told, in training and in painting.
        stages: that sub-chains come from; none means all.
    """

    label: str
    split: str
    stages: tuple[str, ...] = ()

    def settings(self, method: Method, seed: int, budget: Budget, device: str) -> dict[str, Any]:
        """What defines a job of `learn_staged`."""
        mine = learn_settings(method, method.learning_rates[0], seed, budget, device=device)
        config = merged(mine["config"], {"estimator": {"stages": list(self.stages)}})
        return {**mine, "study": "dcot", "config": config, **_told(self.split)}


def learn_staged(settings: dict[str, Any]) -> dict[str, Any]:
    """A job of `learn`, with the prompts of its split."""
    config = to_dict(from_dict(_with_lines(settings)))
    return learn({**settings, "config": config})


def study_dcot(methods: Mapping[str, Method], budget: Budget, seeds: int | None, desk: Desk) -> str:
    """The rows of Table 4 for every method, at `seeds` seeds (None: its own number)."""
    split, weak = _chosen(next(iter(methods.values())), budget.pictures, desk)
    arms = [
        Arm("plain", PLAIN),
        Arm("by stage", split),
        Arm(f"by stage, sub-chains from {weak} alone", split, (weak,)),
        Arm(AGAINST, AGAINST),
    ]
    first = next(iter(methods))
    jobs = [
        (method, seed, arm)
        for method in methods.values()
        for seed in range(seeds or method.seeds)
        for arm in (arms if method.name == first else arms[:-1])  # a control once
    ]
    settings = [arm.settings(method, seed, budget, desk.device) for method, seed, arm in jobs]
    results = desk.complete(learn_staged, settings, "dcot", "training")
    curves: dict[tuple[str, Arm], list[dict[str, Any]]] = {}
    for (method, _, arm), result in zip(jobs, results, strict=True):
        curves.setdefault((method.label, arm), []).append(result)
    rows = _rows(curves, arms)
    titles = ["trained by", "prompts", "held-out score", "above the base", "above plain prompts", "failed"]
    cells = [
        [row["label"], row["prompts"], *[_cell(row[key]) for key in ("held_out", "above_base", "above_plain")],
         str(row["failed"])]
        for row in rows
    ]  # fmt: skip
    return desk.write("dcot", rows, table(titles, cells))


def _chosen(method: Method, pictures: int, desk: Desk) -> tuple[str, str]:
    """The best split by the reward on training prompts, and the stage that decides the colours. Writes a table of both."""
    settings = [split_settings(method, split, pictures, device=desk.device) for split in KNOWN]
    results = desk.complete(paint, settings, "splits", "stage prompts")
    found = dict(zip(KNOWN, results, strict=True))
    cells = [
        [f"another colour when {split}" if split in PROBES else split, _example(mine),
         f"{found[split]['reward']:.3f}", f"{found[split]['held_out']:.3f}"]
        for split, mine in zip(KNOWN, settings, strict=True)
    ]  # fmt: skip
    rows = [{"split": split, **result} for split, result in found.items()]
    desk.write("splits", rows, table(["split", "example", "reward", "held-out scorer"], cells))
    best = max(SPLITS, key=lambda split: found[split]["reward"])
    return best, min(PROBES, key=lambda stage: found[stage]["reward"])


def _example(settings: Mapping[str, Any]) -> str:
    """Its bars would part the cells of a table."""
    return settings["example"].replace(" | ", "; ")


def _rows(
    curves: Mapping[tuple[str, Arm], Sequence[Mapping[str, Any]]], arms: Sequence[Arm]
) -> list[dict[str, Any]]:
    """The checkpoint's, whose pictures are the same for every method, and each method's; the first arm is plain."""
    plain, first = arms[0], next(iter(curves))[0]
    starts = {arm: [result["points"][0]["held_out"] for result in curves[first, arm]] for arm in arms}
    base = starts[plain]
    rows = [_row("–", arm, starts[arm], base, base, 0) for arm in arms if not arm.stages]
    for (label, arm), results in curves.items():
        ends = [_end(result) for result in results]
        failed = sum(bool(result["failure"]) for result in results)
        rows.append(_row(label, arm, ends, base, [_end(result) for result in curves[label, plain]], failed))
    return rows


def _end(result: Mapping[str, Any]) -> float:
    return result["points"][-1]["held_out"]


def _row(
    label: str,
    arm: Arm,
    scores: Sequence[float],
    base: Sequence[float],
    plain: Sequence[float],
    failed: int,
) -> dict[str, Any]:
    """Means over seeds, and differences from the base and from plain prompts, taken seed by seed."""
    return {
        "label": label,
        "prompts": arm.label,
        "split": arm.split,
        "stages": arm.stages,
        "seeds": len(scores),
        "scores": list(scores),
        "failed": failed,
        "held_out": vars(mean_over_seeds(scores)),
        "above_base": _paired(scores, base),
        "above_plain": _paired(scores, plain),
    }


def _paired(scores: Sequence[float], others: Sequence[float]) -> dict[str, float] | None:
    """None is a row's difference from itself. The base may have more seeds than a method."""
    if list(scores) == list(others):
        return None
    return vars(mean_over_seeds([mine - other for mine, other in zip(scores, others, strict=False)]))


def _cell(value: Mapping[str, float] | None) -> str:
    return pm(value) if value else "–"
