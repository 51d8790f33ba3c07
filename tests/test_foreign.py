"""A model that the project does not know: trained, killed, resumed and exported, without an edit in `rlr_core`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import foreign
import killed
import pytest
import runs
import torch
from safetensors import safe_open

from rlr_core.errors import ConfigError
from rlr_core.estimators import ESTIMATORS
from rlr_core.lora import inject
from rlr_core.lora.hooked_lora import HookedLora
from rlr_core.rewards import FrameReward, FunctionReward
from rlr_core.runs import RunDirectory, resume, start
from rlr_core.trainer import Materials, Rewards, Trainer, prepare

SHAPES = {
    "3 × 5": {"frames": 0},
    "5-D to pictures": {"frames": 3},
    "5-D to videos": {"frames": 3, "video": True},
}


def red(images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    return images[:, 0].mean((1, 2)) - images[:, 2].mean((1, 2))


def materials(shape: str = "3 × 5", **others: Any) -> Materials:
    trained, held_out = (
        FunctionReward("red", True, red),
        FunctionReward("contrast", True, lambda i, p: i.flatten(1).std(1)),
    )
    video = SHAPES[shape].get("video")
    rewards = Rewards(*(FrameReward(each) if video else each for each in (trained, held_out)))
    return Materials(model=foreign.ForeignModel(**SHAPES[shape]), rewards=rewards, **others)


def config(**overrides: Any):
    return foreign.foreign_config("named by the objects", **overrides)


def in_a_process(*arguments: Any) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, encoding="utf-8"
    )


def quiet(event: Any) -> None:
    pass


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_trained_and_exported(shape, tmp_path):
    directory = start(config(training__iterations=12), tmp_path / "run", quiet, materials=materials(shape))
    assert directory.finished
    rewards = [
        event["reward"]
        for event in map(json.loads, directory.events_file.open())
        if event["type"] == "iteration"
    ]
    assert sum(rewards[-3:]) > sum(rewards[:3])
    with safe_open(tmp_path / "run" / "rlr-lora.safetensors", "pt") as file:
        names, facts = set(file.keys()), file.metadata()
    assert "diffusion_model.blocks.1.attention.out.lora_down.weight" in names and len(names) == 3 * 8
    assert facts["modelspec.architecture"] == "foreign-flow/lora" and facts["ss_sd_model_name"] == "foreign"
    assert facts["rlr.reward"] == ("red (mean of the frames)" if "videos" in shape else "red")
    assert directory.config.model.checkpoint == "foreign" and directory.config.reward.held_out.startswith(
        "contrast"
    )


@pytest.mark.parametrize(
    "point",
    ["while_measuring", "within_an_iteration", "while_a_checkpoint_is_written", "while_the_lora_is_written"],
)
def test_it_is_killed_and_resumed_to_the_same_bits(point, tmp_path):
    start(config(), tmp_path / "whole", quiet, materials=materials())
    assert killed.exit_code(train_alone, point, tmp_path / "run") == -signal.SIGKILL
    assert resume(tmp_path / "run", quiet, materials=materials()).finished
    runs.assert_same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.filterwarnings("ignore:estimator.first_order_steps is ignored")
@pytest.mark.parametrize("name", [name for name in ESTIMATORS if name not in ("half", "reinforce")])
def test_every_estimator_trains_it(name):
    """But for those that want a last step with noise, which this schedule has not."""
    settings = {"estimator__name": name, "estimator__first_order_steps": 1, "output__evaluation": 0}
    with prepare(config(**settings), materials=materials()) as setup:
        trainer = Trainer(setup)
        before = [p.detach().clone() for p in setup.lora.parameters]
        for _ in range(
            12 if name == "learned_critic" else 2
        ):  # which moves nothing before it knows something
            trainer.iterate()
        assert not all(torch.equal(p, q) for p, q in zip(before, setup.lora.parameters, strict=True))


def test_the_model_is_as_before_and_can_be_trained_again(tmp_path):
    """A setup is ejected at its end, also at that of a run that failed or was interrupted."""
    given, threads = materials(), torch.get_num_threads()
    network = given.model.components[0].network
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modules = [(name, type(module), len(module._forward_hooks)) for name, module in network.named_modules()]

    def unharmed() -> None:
        state = network.state_dict()
        assert state.keys() == before.keys() and all(torch.equal(state[k], v) for k, v in before.items())
        assert [(n, type(m), len(m._forward_hooks)) for n, m in network.named_modules()] == modules
        assert torch.get_num_threads() == threads

    def interrupt(event: Any) -> None:
        raise KeyboardInterrupt

    first = start(config(), tmp_path / "first", quiet, materials=given)
    unharmed()
    with pytest.raises(KeyboardInterrupt):
        start(config(), tmp_path / "second", interrupt, materials=given)
    unharmed()
    with pytest.raises(ConfigError):
        start(config(lora__text_encoder=True), tmp_path / "third", quiet, materials=given)
    unharmed()
    again = start(config(model__threads=2), tmp_path / "again", quiet, materials=given)
    unharmed()
    runs.assert_same(
        runs.loras(again.folder)["rlr-lora.safetensors"][0],
        runs.loras(first.folder)["rlr-lora.safetensors"][0],
    )


def test_a_lora_that_is_brought_stays_the_callers(tmp_path):
    given = materials()
    lora = inject(given.model, config().lora, 3, HookedLora)
    start(config(), tmp_path / "run", quiet, materials=materials_with(given, lora))
    x = torch.randn(2, 3, 3, 5)
    level = given.model.schedule(4, None).level(torch.tensor([1, 2]))
    trained = given.model.denoiser(1.0)(x, level, given.model.encode(["a", "b"], [""] * 2)).noise
    with lora.disabled():
        base = given.model.denoiser(1.0)(x, level, given.model.encode(["a", "b"], [""] * 2)).noise
    assert not torch.equal(trained, base), "it is still in the model"
    lora.eject()
    assert torch.equal(
        given.model.denoiser(1.0)(x, level, given.model.encode(["a", "b"], [""] * 2)).noise, base
    )


def materials_with(given: Materials, lora: Any) -> Materials:
    return Materials(model=given.model, rewards=given.rewards, lora=lora)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"memory__decoder": "rerun"},
            r"memory\.decoder = 'rerun' with the model foreign, which does not take it",
        ),
        ({"memory__autocast": "bfloat16"}, r"memory\.autocast"),
        ({"memory__offload": "all"}, r"memory\.offload"),
        ({"inference__sampler": "euler"}, r"inference\.sampler = 'euler'[\s\S]*one of chain"),
        ({"lora__targets": "all"}, r"lora\.targets = 'all' for Foreign flow"),
        ({"lora__text_encoder": True}, r"text encoder is not at hand"),
        ({"output__format": "kohya"}, r"output\.format = 'kohya'[\s\S]*one of comfyui"),
        ({"sampling__size": 18}, r"18 × 18"),
    ],
)
def test_what_it_does_not_offer_is_refused_by_name_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        start(config(**settings), tmp_path / "run", quiet, materials=materials())
    assert not (tmp_path / "run").exists()


HIDDEN = ("diffusers", "peft", "open_clip", "matplotlib", "transformers")
ALONE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {hidden}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Hidden())
from pathlib import Path
import test_foreign
test_foreign.main_alone(Path(sys.argv[1]))
assert not set(sys.modules) & {hidden}, sorted(set(sys.modules) & {hidden})
"""


def test_it_needs_neither_diffusers_nor_peft_nor_open_clip(tmp_path):
    """What a host that brings its own networks has: torch, and what every run needs."""
    program = ALONE.format(hidden=set(HIDDEN))
    done = in_a_process("-c", program, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    start(config(), tmp_path / "with them", quiet, materials=materials())
    mine, theirs = (runs.loras(tmp_path / name)["rlr-lora.safetensors"][0] for name in ("run", "with them"))
    runs.assert_same(mine, theirs)


def train_alone(folder: Path) -> RunDirectory:
    return start(config(), folder, quiet, materials=materials())


def main_alone(folder: Path) -> None:
    directory = train_alone(folder)
    assert directory.finished and RunDirectory.open(folder).state().state == "finished"
