"""Predictions of the planner against what an iteration takes, on any device, at full size.

The networks have the published sizes and random weights: memory does not depend on their values. Each case is measured in a
process of its own. On CUDA the figures are the allocator's; on the CPU tensors are counted while they live, and the process
tells the most it has had of main memory.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from rlr_core.bench.random_weights import values
from rlr_core.config import ModelConfig, from_dict, load, to_dict
from rlr_core.errors import ConfigError
from rlr_core.families import FAMILIES
from rlr_core.models import Model
from rlr_core.models.architecture import Request
from rlr_core.models.stable_diffusion.loading.blank import blank_folder
from rlr_core.models.stable_diffusion.loading.parts import assembled
from rlr_core.planner.footprint import rehearse, with_moments
from rlr_core.planner.live import LiveTensors
from rlr_core.planner.machine import ITSELF, peak_bytes
from rlr_core.trainer import Iteration, Materials, Setup, Trainer, prepare

PLAIN = "lookahead, h = 1"
BOTH = "rlr, K = 2, h = 2"
THRIFTY = "lookahead, h = 1, thrifty"
CASES = {
    PLAIN: ["estimator.name=lookahead"],
    "lookahead, h = 2, chunk = 2": ["estimator.sub_chain_length=2", "estimator.chunk=2"],
    "rlr, K = 1, h = 1": ["estimator.name=rlr", "estimator.first_order_steps=1"],
    BOTH: [
        "estimator.name=rlr", "estimator.first_order_steps=2", "estimator.sub_chain_length=2"
    ],
    "draft, K = 2": ["estimator.name=draft", "estimator.first_order_steps=2"],
    THRIFTY: ["memory.checkpoint_denoiser=true", "memory.decoder=rerun", "memory.offload=text"],
}  # fmt: skip
"""What is measured → settings."""
Models = tuple[tuple[str, int, str], ...]
FULL: dict[str, Models] = {
    "cuda": (("sd1", 512, "bfloat16"), ("sdxl", 1024, "bfloat16")),
    "cpu": (("sd1", 128, "float32"),),
}
"""Device → family, pixels, precision, for all cases. Main memory and patience are too short for more on a CPU."""
FEW: dict[str, Models] = {"cuda": (), "cpu": (("sdxl", 128, "bfloat16"), ("sd1", 256, "float32"))}
"""The same, for `PLAIN` and `THRIFTY` alone."""


def plan_settings(device: str, *, quick: bool) -> list[dict[str, Any]]:
    """What defines the jobs of `predicted_and_measured`; quick: some, of the embedded checkpoint. Raises `ConfigError`."""
    kind = device.partition(":")[0]
    if kind not in FULL:
        raise ConfigError(f"--device {device}", f"one of {', '.join(FULL)}", "choose one of them")
    if quick:
        return [_settings(device, "embedded", 0, "float32", name) for name in (PLAIN, BOTH, THRIFTY)]
    jobs = [(model, name) for model in FULL[kind] for name in CASES]
    jobs += [(model, name) for model in FEW[kind] for name in (PLAIN, THRIFTY)]
    return [_settings(device, *model, name) for model, name in jobs]


def _settings(device: str, family: str, size: int, precision: str, name: str) -> dict[str, Any]:
    checkpoint = family if family == "embedded" else str(FAMILIES[family].configs)
    common = [f"model.checkpoint={checkpoint}", f"model.precision={precision}", f"model.device={device}"]
    common += [f"sampling.size={size}", f"sampling.steps={10 if device.startswith('cuda') else 4}"]
    common += ["prompts.train=['a red circle']", "training.batch_size=2", "training.prompts_per_batch=1"]
    config = to_dict(load(None, [*common, *CASES[name]]))
    return {"study": "plan", "family": family, "size": size, "case": name, "config": config}


def predicted_and_measured(settings: dict[str, Any]) -> dict[str, Any]:
    """Bytes of an iteration: {"predicted", "tensors", "process", "seconds"}."""
    config = from_dict(settings["config"])
    predicted = sum(rehearse(config, torch.device(config.model.device).type).training.values())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return {"predicted": predicted, **pool.apply(measured, (settings,))}


def measured(settings: dict[str, Any]) -> dict[str, Any]:
    """Of one iteration in this process."""
    config = from_dict(settings["config"])
    device = torch.device(config.model.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    materials = None if settings["family"] == "embedded" else Materials(load=load_random)
    setup = prepare(config, device=device, materials=materials)
    trainer = with_moments(Trainer(setup))
    tensors, seconds = (on_card if device.type == "cuda" else in_main_memory)(trainer.iterate, setup)
    return {"tensors": tensors, "process": peak_bytes(device), "seconds": seconds}


def load_random(settings: ModelConfig, device: torch.device) -> Model:
    """The model of a family's configs, with random weights."""
    path, dtype = Path(settings.checkpoint), getattr(torch, settings.precision)
    name = next(key for key, family in FAMILIES.items() if family.configs == path)
    request = Request(
        name, device, dtype, settings.prediction, settings.zero_snr, clip_skip=settings.clip_skip
    )
    parts = blank_folder(path, request)
    generator = torch.Generator().manual_seed(0)
    for network in (parts.unet, parts.vae, *parts.text_encoders):
        network.to_empty(device=device)
        with torch.no_grad():
            for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                rows = tensor.flatten(1) if tensor.dim() > 1 else tensor  # a row is what an output is made of
                tensor.copy_(values(name, rows.shape, generator, tensor.dtype).view_as(tensor))
    return assembled(parts, request)


def on_card(iterate: Callable[[], Any], setup: Setup) -> tuple[int, float]:
    """The allocator's peak of tensors and the seconds of an iteration, the second one: the first warms up."""
    device = setup.model.device
    iterate()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    assert isinstance(iterate(), Iteration)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device), time.perf_counter() - began


def in_main_memory(iterate: Callable[[], Any], setup: Setup) -> tuple[int, float]:
    """The most bytes of tensors that lived, what was there before included, and seconds."""
    before = resident(setup)
    began = time.perf_counter()
    with LiveTensors() as live:
        assert isinstance(iterate(), Iteration)
    return before + live.peak, time.perf_counter() - began


def resident(setup: Setup) -> int:
    """Bytes of weights, and of the LoRA with its two moments."""
    networks = [component.network for component in setup.model.components]
    networks += [*setup.reward.networks, *setup.held_out.networks]
    tensors = {id(t): t for network in networks for t in (*network.parameters(), *network.buffers())}
    moments = 2 * sum(tensor.nbytes for tensor in setup.lora.parameters)
    return moments + sum(tensor.nbytes for tensor in tensors.values())


def plan_cells(rows: Sequence[dict[str, Any]], device: str) -> list[list[str]]:
    """Of the table."""
    itself = int(ITSELF[torch.device(device).type])
    return [
        [row["model"], row["case"], _gb(row["predicted"]), _gb(row["tensors"]), _off(row["predicted"], row["tensors"]),
         _gb(row["process"]), _off(row["predicted"] + itself, row["process"]), f"{row['seconds']:.1f} s"]
        for row in rows
    ]  # fmt: skip


def _gb(count: float) -> str:
    return f"{count / 2**30:.2f} GB"


def _off(predicted: float, measured: float) -> str:
    return f"{predicted / measured - 1:+.1%}"
