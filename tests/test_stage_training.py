"""Prompts by stage in training and painting: one stage is the plain prompt to the bit, and each step is told its own."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.config import LoraConfig
from rlr_core.dcot import Boundaries, StageSettings, parse_line, plain
from rlr_core.errors import ConfigError, EstimatorError, PromptError
from rlr_core.lora import inject
from rlr_core.models import load_model, prompted
from rlr_core.runs import runner
from rlr_core.trainer import Trainer, prepare

EQUAL = "coarse: a b | mid: a b | fine: a b"
STAGED = "coarse: a b | mid: c d | fine: e f | negative fine: dark"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="module")
def model(workshop):
    return load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32)


def trainer(workshop: Path, *prompts: str, **overrides) -> Trainer:
    given = {"prompts__train": list(prompts), "prompts__held_out": list(prompts), "output__evaluation": 0}
    return Trainer(prepare(runs.config(workshop, **given, **overrides)))


ESTIMATORS = {
    "rlr": {"estimator__name": "rlr"},
    "lookahead": {"estimator__name": "lookahead", "estimator__first_order_steps": 0},
    "ddpo": {"estimator__name": "ddpo"},
    "text encoder": {"estimator__name": "rlr", "lora__text_encoder": True},
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.filterwarnings("ignore:estimator:UserWarning")
def test_equal_stages_are_the_plain_prompt_to_the_bit(name, workshop):
    """Pictures and gradients; in the same batch with another prompt of one stage, too."""
    plainly, staged = (
        trainer(workshop, prompt, "c d", sampling__guidance_scale=2.0, **ESTIMATORS[name])
        for prompt in ("a b", EQUAL)
    )
    one, other = (made.estimate(made.batch()) for made in (plainly, staged))
    assert torch.equal(one.gradient, other.gradient) and bool(one.gradient.any())
    assert torch.equal(one.rewards, other.rewards)
    paintings = [made.setup.painter(made.setup.prompts, [1, 2]) for made in (plainly, staged)]
    assert torch.equal(*paintings)


def test_each_step_is_told_its_own_stage(model):
    schedule, view = model.schedule(6), prompted(model, 2.0, encode_anew=False)
    settings = StageSettings(negative="bad")
    said = [parse_line(STAGED), *plain(["g h"]), parse_line("1: i j | 2: k l | at: 0.9")]
    conditioning = view.conditioning([settings.schedule(each, schedule) for each in said])
    told = [("a b", "g h", "i j")] * 2 + [("c d", "g h", "i j")] * 2 + [("e f", "g h", "i j")] * 2
    against = [("", "bad", "bad")] * 4 + [("dark", "bad", "bad")] * 2
    for step in range(6):
        found = conditioning.at(torch.full((3,), step), torch.arange(3))
        expected = model.encode(told[step], against[step])
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected), step


def test_a_text_is_encoded_once(workshop):
    model, rows = load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32), []
    view, schedule = prompted(model, 2.0, encode_anew=False), model.schedule(6)
    (encoder,) = model.tokens.networks.values()
    with encoder.register_forward_pre_hook(
        lambda network, given, named: rows.append(len((*given, *named.values())[0])), with_kwargs=True
    ):
        for _ in range(2):
            view.conditioning([StageSettings().schedule(parse_line(STAGED), schedule)] * 3)
    assert sum(rows) == len({"a b", "c d", "e f", "", "dark"})


def test_blending_mixes_what_is_encoded(model):
    schedule, view = model.schedule(10), prompted(model, 1.0, encode_anew=False)
    said = parse_line("1: a b | 2: c d")
    conditioning = view.conditioning([StageSettings(blend=0.4).schedule(said, schedule)])
    shares = [0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    first, second = (model.encode([text], [""])["text"] for text in said.prompts)
    for step, share in enumerate(shares):
        found = conditioning.at(torch.tensor([step]), torch.tensor([0]))["text"]
        torch.testing.assert_close(found, torch.lerp(first, second, share))


def test_token_numbers_are_not_mixed(workshop):
    model = load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32)
    inject(model, LoraConfig(rank=2, text_encoder=True), 0)
    view = prompted(model, 1.0, encode_anew=True)
    schedules = [StageSettings(blend=0.4).schedule(parse_line("1: a b | 2: c d"), model.schedule(10))]
    with pytest.raises(ConfigError, match="blend"):
        view.conditioning(schedules)


def test_stages_change_the_picture_from_their_step_on(workshop):
    made = trainer(workshop, "a b", sampling__steps=6)
    first, last = (
        made.setup.painter([parse_line(line)], [3])
        for line in ("1: a b | 2: c d | at: 0.99", "1: a b | 2: c d | at: 0.5")
    )
    assert torch.equal(first, made.setup.painter(plain(["a b"]), [3])), (
        "a stage without steps changes nothing"
    )
    assert not torch.equal(first, last)


def test_sub_chains_of_chosen_stages_are_said(workshop):
    chosen = {"estimator__stages": ["coarse"], "sampling__steps": 6}
    with pytest.warns(
        UserWarning, match=r"from steps 1 to 2 of 6 \(coarse\): this is no longer the gradient"
    ):
        made = trainer(workshop, STAGED, **chosen)
    assert [problem.window for problem in made.setup.problems] == [range(2)]
    with pytest.warns(UserWarning, match=r"estimator\.stages is ignored by the estimator 'alignprop'"):
        trainer(workshop, STAGED, estimator__name="alignprop", **chosen)
    with pytest.raises(EstimatorError, match=r"in the stages chosen"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer(workshop, STAGED, estimator__sub_chain_length=3, **chosen)
    with pytest.raises(PromptError, match=r"estimator\.stages"):
        trainer(workshop, STAGED, estimator__stages=["rough"])


def test_boundaries_of_the_run_are_for_prompts_of_as_many_stages(workshop):
    made = trainer(workshop, "1: a b | 2: c d", prompts__boundaries=[0.25], sampling__steps=4)
    (prompt,) = made.setup.prompts
    assert made.setup.stages.boundaries_of(prompt) == Boundaries((0.25,))
    assert made.setup.stages.boundaries_of(parse_line(STAGED)) == Boundaries.even(3)
    with pytest.raises(PromptError, match="rising fractions"):
        trainer(workshop, "a b", prompts__boundaries=[0.7, 0.2])


def test_a_run_with_stages_is_resumed_to_the_bit(workshop, tmp_path):
    given = {
        "prompts__train": [STAGED, "g h | times: 2"],
        "prompts__held_out": [STAGED],
        "prompts__boundaries": [0.25, 0.75],
        "training__iterations": 3,
    }
    straight = runner.start(runs.config(workshop, **given), tmp_path / "straight").folder
    seen: list[int] = []

    def stop() -> bool:
        seen.append(1)
        return len(seen) == 50

    stopped = runner.start(runs.config(workshop, **given), tmp_path / "stopped", should_stop=stop)
    assert stopped.state().state == "stopped"
    runs.assert_same_run(runner.resume(stopped.folder).folder, straight)
    for host in ("prompts.txt", "comfyui.json", "diffusers.py"):
        assert "c d" in (straight / f"rlr-lora.{host}").read_text(encoding="utf-8")
    assert "c d" in runs.lora(straight)[1]["rlr.prompts"]
