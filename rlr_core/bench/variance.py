"""Bias and variance of estimators at one point: a checkpoint, a reward and a LoRA that is not zero.

All methods see the same batches (prompts, x_0 and z), and full back-propagation of each batch is the reference. With g_k the
estimate of batch k and f_k full back-propagation's, from U-statistics over n batches of B pictures:

    |∇J|² = mean of ⟨f_k, f_l⟩,  bias² = mean of ⟨g_k − f_k, g_l − f_l⟩ over pairs k ≠ l,  variance = B·tr Cov(g) of a picture

all relative to the variance of full back-propagation, which is known well where |∇J|² drowns in it. Variance times cost in
network evaluations ranks unbiased estimators at equal compute; full back-propagation's product is its cost.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlr_core.bench.beds import EMBEDDED, Bed, prepared
from rlr_core.bench.memory import peak_megabytes
from rlr_core.bench.methods import Method
from rlr_core.bench.statistics import Measured, jackknife, ratio, squared_mean, total_variance
from rlr_core.bench.store import fingerprint
from rlr_core.config import from_dict, to_dict
from rlr_core.storage import write_atomically

WARM_UP = 8
"""Batches that estimators which learn see before they are measured; no more than are measured."""


def variance_settings(
    method: Method, batches: int, spread: float, cache: Path, bed: Bed = EMBEDDED, **model: Any
) -> dict[str, Any]:
    """What defines a job of `variance`.

    Args:
        spread: standard deviation of the random numbers that are added to the LoRA, which is zero when new.
        cache: folder for the reference gradients.
    """
    job = bed.job("variance", method.config(bed.settings, {"model": {"threads": 1, **model}}))
    job["config"]["estimator"] |= {"batch_reuse": 1, "normalise": False}  # the gradient itself
    return {**job, "batches": batches, "spread": spread, "_cache": str(cache)}


def variance(settings: dict[str, Any]) -> dict[str, Any]:
    """|∇J|² ("signal"), bias² and variance as {"value", "half_width"}; cost, time and peak memory of a picture."""
    config, n = from_dict(settings["config"]), settings["batches"]
    exact = _references(settings)
    trainer, gradients, evaluations, seconds = trainer_at_a_point(settings), [], 0.0, 0.0
    warm_up = min(WARM_UP, n)
    for k in range(-warm_up, n):
        trainer.iteration = k % (n + warm_up)
        batch, began = trainer.batch(), time.perf_counter()
        estimate = trainer.estimate(batch)
        if k >= 0:
            seconds += time.perf_counter() - began
            evaluations += estimate.cost.evaluations
            gradients.append(estimate.gradient.cpu().numpy())
    pictures = n * config.training.batch_size
    drawn, size = np.stack(gradients), config.training.batch_size
    bias, spread, signal = (_gram(rows) for rows in (drawn - exact, drawn, exact))
    truth, of_full = squared_mean(signal), total_variance(signal)
    measured = {
        "signal": jackknife(ratio(truth, lambda chosen: size * of_full(chosen)), n),
        "bias": jackknife(ratio(squared_mean(bias), lambda chosen: size * of_full(chosen)), n),
        "variance": jackknife(ratio(total_variance(spread), of_full), n),
    }
    return {
        **{name: asdict(value) for name, value in measured.items()},
        "evaluations": evaluations / pictures,
        "seconds": seconds / pictures,
        "megabytes": peak_megabytes(trainer),
    }


def reference_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The job of `reference` that a job of `variance` with these settings builds on."""
    config = {section: dict(table) for section, table in settings["config"].items()}
    config["estimator"] = {"name": "full_bp"}  # with the same chunk for all
    return {**settings, "study": "reference", "config": to_dict(from_dict(config))}


def reference(settings: dict[str, Any]) -> dict[str, Any]:
    """Write full back-propagation's gradients (n, P) of the batches to the cache folder."""
    trainer, gradients = trainer_at_a_point(settings), []
    for trainer.iteration in range(settings["batches"]):
        gradients.append(trainer.estimate(trainer.batch()).gradient.cpu().numpy())
    write_atomically(_reference_file(settings), lambda temporary: _save(temporary, np.stack(gradients)))
    return {}


def _reference_file(settings: dict[str, Any]) -> Path:
    return Path(settings["_cache"]) / f"reference-{fingerprint(settings)}.npy"


def _references(settings: dict[str, Any]) -> np.ndarray:
    """The gradients (n, P) of the reference job, which is done now if its file is gone."""
    mine = reference_settings(settings)
    if not _reference_file(mine).exists():
        reference(mine)
    return np.load(_reference_file(mine))


def _save(path: Path, values: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, values)


def trainer_at_a_point(settings: dict[str, Any]) -> Any:
    """A trainer at the point: the new LoRA plus random numbers."""
    import torch

    from rlr_core.trainer import Trainer

    trainer = Trainer(prepared(settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainer.setup.lora.parameters:
            p.add_(settings["spread"] * torch.randn(p.shape, generator=generator).to(p))
    return trainer


def _gram(rows: np.ndarray) -> np.ndarray:
    """Inner products (n, n) of rows (n, P)."""
    rows = rows.astype(np.float64)
    return rows @ rows.T


def product(result: dict[str, Any]) -> Measured:
    """Variance × cost: what ranks unbiased estimators at equal compute."""
    value, width = result["variance"]["value"], result["variance"]["half_width"]
    return Measured(value * result["evaluations"], width * result["evaluations"])
