"""A tiny run: a checkpoint of random weights, a reward of two lines, iterations of a tenth of a second."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open

from rlr_core.cli import main
from rlr_core.config import RunConfig, from_dict
from rlr_core.runs import log, runner
from rlr_core.runs.checkpoints import Checkpoints
from rlr_core.trainer import AlarmRaised, Evaluation, NewBest, StopRequested, Trainer, Warned

REWARD = """
import torch
from safetensors import safe_open

def red(images, prompts):
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))

red.differentiable = True

def bright(images, prompts):
    return [float(image.mean()) for image in images]

def nan(images, prompts):
    return images.mean((1, 2, 3)) * float("nan")

def shape(images, prompts):
    return images.mean()

def broken(images, prompts):
    return images / "two"
"""

SETTINGS: dict[str, dict[str, Any]] = {
    "model": {"threads": 1, "device": "cpu"},
    "prompts": {"train": ["a b", "c d", "e f"], "held_out": ["g h", "i j"]},
    "sampling": {"steps": 4},
    "estimator": {"name": "rlr", "first_order_steps": 1, "sub_chain_length": 1, "chunk": 2},
    "training": {"iterations": 6, "batch_size": 4, "prompts_per_batch": 2, "learning_rate": 0.01},
    "output": {"preview_every": 2, "previews": 2, "evaluation": 3, "checkpoint_every": 2},
}


def rlr(*words: Any) -> None:
    """The command line, which has to succeed."""
    assert main([str(word) for word in words]) == 0


def workshop(folder: Path) -> Path:
    """A folder with the checkpoint and the rewards."""
    tiny.build_checkpoint(folder / "checkpoint")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    return folder


def config(workshop: Path, **overrides: Any) -> RunConfig:
    """The tiny run; overrides as `training__iterations=3`."""
    values = {name: dict(table) for name, table in SETTINGS.items()}
    values["model"]["checkpoint"] = str(workshop / "checkpoint")
    values["reward"] = {
        "name": f"{workshop / 'reward.py'}:red",
        "held_out": f"{workshop / 'reward.py'}:bright",
    }
    for name, value in overrides.items():
        section, _, key = name.partition("__")
        values.setdefault(section, {})[key] = value
    return from_dict(values)


def told(folder: Path) -> list[str]:
    """The events that count, without sequence numbers and clocks."""
    events = log.read(folder / "events.jsonl")
    plain = [{key: value for key, value in event.items() if key not in ("seq", "clock")} for event in events]
    return [json.dumps(event, sort_keys=True) for event in plain]


def assert_same_run(folder: Path, reference: Path) -> None:
    """Weights, effective events, pictures and the last checkpoint, bit for bit."""
    assert told(folder) == told(reference)
    names = sorted(str(file.relative_to(reference)) for file in reference.rglob("*.png"))
    assert len(names) >= 6
    for name in names:
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), name
    assert_same(loras(folder), loras(reference))
    for name in loras(reference):
        assert (folder / name).read_bytes() == (reference / name).read_bytes(), "to the order of the metadata"
    assert_same(newest(folder), newest(reference))


LOGGED = {AlarmRaised: "alarm", NewBest: "best", Evaluation: "evaluation", Warned: "warning"}


def assert_a_crash_changes_nothing(kind: type, config: RunConfig, reference: Path, folder: Path) -> None:
    """The process dies after the last event of a kind that `reference`, a run of `config`, has; resumed it is as that one."""
    last = sum(event["type"] == LOGGED[kind] for event in log.read(reference / "events.jsonl"))
    seen = [0]

    def crash(event: object) -> None:
        seen[0] += isinstance(event, kind)
        if seen[0] == last and isinstance(event, kind):
            raise MemoryError

    with pytest.raises(MemoryError):
        runner.start(config, folder, crash)
    runner.resume(folder, lambda event: None)
    assert_same_run(folder, reference)


def assert_resumed_alike(workshop: Path, folder: Path, calls: int, **settings: Any) -> None:
    """A run that is stopped when it asks for the `calls`-th time, and resumed, ends as one that is let be."""
    runner.start(config(workshop, **settings), folder / "straight", lambda event: None)
    asked = itertools.count(1)
    directory = runner.start(
        config(workshop, **settings),
        folder / "run",
        lambda event: None,
        should_stop=lambda: next(asked) == calls,
    )
    assert directory.state().state == "stopped"
    runner.resume(folder / "run", lambda event: None)
    assert_same_run(folder / "run", folder / "straight")


def assert_an_interrupted_iteration_changes_nothing(trainer: Trainer) -> None:
    """It is interrupted by its first network evaluation, after three whole ones."""
    for _ in range(3):
        trainer.iterate()
    state, denoiser = trainer.state_dict(), trainer.setup.problem.denoiser

    def stop(*_: Any) -> None:
        raise StopRequested

    object.__setattr__(trainer.setup.problem, "denoiser", stop)
    with pytest.raises(StopRequested):
        trainer.iterate()
    object.__setattr__(trainer.setup.problem, "denoiser", denoiser)
    assert trainer.whole
    assert_same(trainer.state_dict(), state)


def newest(folder: Path) -> Any:
    """The trainer's state in the run's newest checkpoint."""
    return Checkpoints(folder / "checkpoints").newest("").checkpoint.trainer


def loras(folder: Path) -> dict[str, Any]:
    """Every LoRA file of the run, by name."""
    return {path.name: _lora_file(path) for path in sorted(folder.glob("*.safetensors"))}


def lora(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The run's LoRA."""
    return loras(folder)["rlr-lora.safetensors"]


def _lora_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        return tensors, dict(sorted(file.metadata().items()))


def assert_same(one: Any, other: Any, where: str = "") -> None:
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{k}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
