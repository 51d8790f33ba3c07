"""Pictures of any width and height, and of several sizes in one run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.config import from_dict, load, to_dict, to_toml
from rlr_core.dcot import plain
from rlr_core.errors import ConfigError
from rlr_core.models import load_model
from rlr_core.planner.footprint import rehearse
from rlr_core.rewards import alike, statistics
from rlr_core.runs.pictures import strip
from rlr_core.trainer import Evaluation, Preview, Trainer, prepare, score
from rlr_core.trainer.materials import load_rewards

SIZES = [[16, 24], [24, 16], [16, 16]]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        (0, [None]),
        (64, [(64, 64)]),
        ([832, 1216], [(832, 1216)]),
        ([[832, 1216], [1024, 1024]], [(832, 1216), (1024, 1024)]),
    ],
)
def test_a_config_takes_a_number_a_pair_or_pairs(given, sizes, tmp_path):
    config = from_dict({"sampling": {"size": given}})
    assert config.sampling.sizes == sizes
    file = tmp_path / "config.toml"
    file.write_text(to_toml(config), encoding="utf-8")
    assert load(file) == config == from_dict(to_dict(config))


@pytest.mark.parametrize(
    "given", [-1, [], [64], [64, 0], [1, 2, 3], [[64, 64], [64]], "64", [64.0, 64], [True, 64], [[]]]
)
def test_other_sizes_are_refused(given):
    with pytest.raises(ConfigError, match=r"sampling\.size = .*[\s\S]*\[width, height\]"):
        from_dict({"sampling": {"size": given}})


def test_sizes_come_in_turn(workshop):
    """In training and in what measures it; each picture depends on its own size and seed alone."""
    shapes = []
    with prepare(runs.config(workshop, sampling__size=SIZES, output__evaluation=5)) as setup:
        decode = setup.problems[0].decode

        def seen(latents):
            shapes.append(tuple(latents.shape[2:]))
            return decode(latents)

        for problem in setup.problems:
            object.__setattr__(problem, "decode", seen)
        trainer = Trainer(setup)
        for _ in range(4):
            shapes.clear()
            trainer.iterate()
            width, height = SIZES[(trainer.iteration - 1) % 3]
            assert set(shapes) == {(height // 2, width // 2)}
    config = runs.config(workshop, sampling__size=SIZES, output__evaluation=5)
    with prepare(config) as setup:
        told = list(Trainer(setup).run())
        before = next(event for event in told if isinstance(event, Evaluation))
        assert [tuple(image.shape[1:]) for image in before.images] == [
            (height, width) for width, height in (SIZES * 2)[:5]
        ]
        assert before.scores.shape == before.rewards.shape == (5,)
        preview = next(event for event in told if isinstance(event, Preview))
        assert [tuple(image.shape[1:]) for image in preview.images] == [(24, 16), (16, 24)]
    with prepare(runs.config(workshop, sampling__size=SIZES[1], output__evaluation=5)) as alone:
        whole = alone.painter(plain([before.prompts[1]]), [before.seeds[1]])
    torch.testing.assert_close(before.images[1], whole[0], atol=1e-5, rtol=0)


def test_a_prompts_own_size_and_seed_are_for_previews(workshop):
    held_out = ["g h --w 24 --h 16 --d 42 --s 2", "i j"]
    with prepare(runs.config(workshop, prompts__held_out=held_out, output__previews=2)) as setup:
        told = list(Trainer(setup).run())
        preview = next(event for event in told if isinstance(event, Preview))
        at = preview.prompts.index("g h")
        assert preview.seeds[at] == 42 and preview.images[at].shape[1:] == (16, 24)
        assert preview.images[1 - at].shape[1:] == (16, 16)
        evaluations = [event for event in told if isinstance(event, Evaluation)]
    assert evaluations and all(image.shape[1:] == (16, 16) for each in evaluations for image in each.images)
    held_out = ["g h --w 25 --h 16"]
    with pytest.raises(ConfigError, match="multiples of 2 pixels"):
        prepare(runs.config(workshop, prompts__held_out=held_out))


def test_a_run_of_several_sizes_is_resumed_to_the_same_bits(workshop):
    config = runs.config(workshop, sampling__size=SIZES, estimator__name="ddpo", estimator__batch_reuse=2)

    def trained(interrupted_at: int) -> dict[str, torch.Tensor]:
        with prepare(config) as setup:
            trainer = Trainer(setup)
            for _ in range(interrupted_at):
                trainer.iterate()
            state = trainer.state_dict()
        with prepare(config) as setup:
            trainer = Trainer(setup)
            trainer.load_state_dict(state)
            while trainer.iteration < 6:
                trainer.iterate()
            return setup.lora.state_dict()

    runs.assert_same(trained(0), trained(3))


def test_scores_and_statistics_are_those_of_each_picture(workshop):
    pictures = [torch.rand(3, height, width) for width, height in SIZES + SIZES]
    prompts = [str(number) for number in range(6)]
    reward = load_rewards(runs.config(workshop).reward, torch.device("cpu")).trained
    together = score(reward, pictures, prompts, chunk=1).total
    alone = torch.stack(
        [score(reward, p[None], [q]).total[0] for p, q in zip(pictures, prompts, strict=True)]
    )
    assert torch.equal(together, alone)
    assert [numbers for numbers, _ in alike(pictures, 8)] == [[0, 3], [1, 4], [2, 5]]
    table = statistics(pictures)
    for name in ("saturation", "edge density", "entropy"):
        each = [float(statistics(picture[None])[name][0]) for picture in pictures]
        assert table[name].tolist() == pytest.approx(each)
    assert table["diversity"].isfinite().all() and (table["diversity"] > 0).all()


def test_a_strip_has_cells_of_one_size():
    sheet = strip([torch.zeros(3, 40, 20), torch.zeros(3, 20, 40)], 0)
    assert sheet.size == (2 * 40 + 8, 40)


def test_a_plan_is_of_the_largest_size(workshop):
    one, several = (
        rehearse(runs.config(workshop, sampling__size=size, output__evaluation=4), "cpu")
        for size in ([32, 24], [[16, 16], [32, 24], [24, 24]])
    )
    assert one == several


def test_a_size_that_does_not_fit_is_refused_by_name(workshop):
    model = load_model(str(workshop / "checkpoint"), device="cpu", dtype=torch.float32)
    assert model.latent_shape((16, 24)) == (4, 12, 8)
    with pytest.raises(ConfigError, match="16 × 23"):
        prepare(runs.config(workshop, sampling__size=[[16, 16], [16, 23]]))
