"""The alarm: how often it is false, how often it is missed, and what comes of it.

The statistical tests simulate whole runs; their limits are stated beside them.
"""

from __future__ import annotations

import math
import signal
from pathlib import Path
from statistics import fmean

import pytest
import torch
from checks import student_limit
from PIL import Image

pytest.importorskip("diffusers")

import killed
import recorded_runs
import runs

from rlr_core.config import RunConfig, to_toml
from rlr_core.errors import ConfigError
from rlr_core.lora import LoraWeights
from rlr_core.rewards.statistics import diversity
from rlr_core.runs import log, runner
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.summary import Summary
from rlr_core.trainer import AlarmRaised, Evaluation, Iteration, NewBest, Trainer, prepare
from rlr_core.trainer.alarm import HELD_OUT, TRAINED, Alarm, probabilities, student_tail
from rlr_core.trainer.watch import Watch

CHECKS, PAIRS, ALL = 9, 16, 64
RUNS = 100


# the test that it rests on


@pytest.mark.parametrize("freedom", [4, 5, 8, 15, 63])
@pytest.mark.parametrize("rate", [0.2, 0.05, 0.001])
def test_the_tail_of_students_t(freedom, rate):
    assert student_tail(student_limit(rate, freedom), freedom) == pytest.approx(rate / 2, rel=5e-3)


def test_the_tail_at_its_ends():
    assert student_tail(0.0, 5) == 0.5 and student_tail(math.inf, 5) == pytest.approx(0, abs=1e-15)
    assert student_tail(1.0, 1) == pytest.approx(0.25), "Cauchy"


@pytest.mark.parametrize(
    "differences", [[1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0], [1.0, math.nan], [math.inf, 2.0, math.nan]]
)
def test_what_tells_nothing_is_no_rise(differences):
    assert probabilities(torch.tensor([differences])) == [1.0]


def test_pairs_without_a_score_are_left_out():
    differences = torch.tensor([[1.0, math.nan, 2.0, 1.5, math.inf]])
    assert probabilities(differences) == probabilities(torch.tensor([[1.0, 2.0, 1.5]]))


def test_few_pairs_show_nothing_however_alike_they_are():
    assert probabilities(torch.ones(2, 3)) == [0.125, 0.125]
    assert probabilities(torch.ones(1, 16)) == [2**-16]


# false alarms and missed ones, over whole runs


def simulated(
    generator: torch.Generator, *, kind: str, fall: float = 0.0, rise: float = 3.0, since: int = CHECKS - 3
) -> bool:
    """Whether a run raises the alarm whose trained reward rises by `rise` a check, while a series falls from check `since` on.

    A score is the pair's own level, the same at every check, and noise of the same size. The last check is of all pairs.
    """
    levels = torch.randn(3, ALL, generator=generator)
    checks = []
    for check in range(CHECKS):
        noisy = levels + torch.randn(3, ALL, generator=generator)
        noisy[0] -= fall if check >= since else 0.0
        held_out, *others = (SHAPES[kind](values) for values in noisy)
        trained = torch.randn(ALL, generator=generator) + rise * check
        checks.append(
            {TRAINED: trained, HELD_OUT: held_out, **{f"series {k}": s for k, s in enumerate(others)}}
        )
    return recorded_runs.alarm_of(checks, PAIRS) is not None


SHAPES = {
    "normal": lambda x: x,
    "probability": lambda x: torch.sigmoid(4 * x),  # of a classifier that is mostly sure
    "skewed": lambda x: x.exp(),
}


def raised(kind: str, **settings: float) -> float:
    generator = torch.Generator().manual_seed(1)
    return sum(simulated(generator, kind=kind, **settings) for _ in range(RUNS)) / RUNS


@pytest.mark.parametrize("kind", SHAPES)
def test_false_alarms_are_as_rare_as_promised(kind):
    """At most 5% of runs; 11.5% would be 3 standard errors more (the test fails by chance in 1 of 300 at the worst)."""
    assert raised(kind) < 0.115


def test_a_reward_that_stays_where_it_is_has_not_collapsed():
    """False alarms, again of at most 5%."""
    assert raised("normal", rise=0.0) < 0.115


def test_a_collapse_is_found():
    """The trained reward falls by a tenth of a standard deviation of its noise a check, by 0.8 in all."""
    assert raised("normal", rise=-0.1) > 0.9


@pytest.mark.parametrize("since", [CHECKS - 3, CHECKS - 1])
def test_a_real_fall_is_found(since):
    """The held-out score falls by 1.1 standard deviations of its noise, at the last three checks or at the very end."""
    assert raised("normal", fall=1.1, since=since) > 0.9


@pytest.mark.parametrize(("share", "fallen"), [(0.975, False), (0.9, True)])
def test_diversity_may_lose_a_little(share, fallen):
    spread = 0.3 + 0.05 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    watched = Alarm(9, 0.05)
    watched({TRAINED: torch.zeros(64), HELD_OUT: spread, "diversity": spread})
    better = torch.linspace(0.5, 1, 64)
    falls = watched({TRAINED: better, HELD_OUT: spread + 0.1, "diversity": share * spread})
    assert [fall.series for fall in falls] == ["diversity"] * fallen


def test_a_fall_of_what_judges_is_found_whatever_the_trained_reward_does():
    assert raised("normal", fall=1.1, rise=0.0) > 0.9


def test_a_level_that_is_too_lax_would_be_noticed(monkeypatch):
    """Power of the first test: without the union bound, far more than 5% of runs raise a false alarm."""
    monkeypatch.setattr(Alarm, "_tests", lambda alarm, check, series: 1)
    assert raised("normal") > 0.3


# recorded runs: real ones on the embedded checkpoint, three methods with several seeds (see `recorded_runs.py`)


COLLAPSES, GOOD = (
    sorted(file.stem for file in recorded_runs.FOLDER.glob(f"{kind}-*.json")) for kind in ("collapse", "good")
)
MISSED = "collapse-alignprop-0"
"""Held out, it fell from its best check, of 0.57, to 0.22 and then stayed at 0.30, not clearly below the start's 0.36."""
BACK = {MISSED, "collapse-draft-1"}
"""Those that ended about where they had begun."""


def without_checks(checks: list[recorded_runs.Check]) -> list[recorded_runs.Check]:
    """The start, the last check and the evaluation at the end: a run without checks on the way."""
    return [checks[0], *checks[-2:]]


def test_recorded_collapses_are_caught():
    """9 of 10, each before training was over."""
    alarms = {
        name: recorded_runs.alarm_of(recorded_runs.recorded(name), PAIRS)
        for name in COLLAPSES
        if name != MISSED
    }
    assert len(alarms) == 9
    for name, alarm in alarms.items():
        assert alarm and alarm.iteration < len(recorded_runs.recorded(name)) - 1, name


@pytest.mark.parametrize("name", [name for name in COLLAPSES if name not in BACK])
def test_a_recorded_collapse_is_caught_at_the_end(name):
    assert recorded_runs.alarm_of(without_checks(recorded_runs.recorded(name)), PAIRS)


@pytest.mark.parametrize("name", ["collapse-v1-0", "collapse-v1-1"])
def test_a_recorded_collapse_is_silent_until_it_falls(name):
    """The checks of the first 20 iterations, which are above, or about at, the start."""
    checks = recorded_runs.recorded(name)[:3]
    assert recorded_runs.alarm_of([*checks, checks[-1]], PAIRS) is None


@pytest.mark.parametrize("pairs", [PAIRS, 2 * PAIRS])
def test_recorded_runs_that_went_well_raise_no_alarm(pairs):
    """11 runs; a rate of false alarms of 24% or more would show with a probability of 95%."""
    assert len(GOOD) == 11
    assert not [name for name in GOOD if recorded_runs.alarm_of(recorded_runs.recorded(name), pairs)]


def test_diversity_has_an_honest_standard_error():
    """The jackknife's standard error against the spread of 400 means; a naive one, of mean distances, has half of it."""
    samples = [torch.rand(12, 3, 32, 32) * torch.rand(12, 1, 1, 1) for _ in range(400)]
    values = torch.stack([diversity(images) for images in samples])
    spread, claimed = values.mean(1).std(), (values.var(1) / 12).mean().sqrt()
    assert 0.8 < float(claimed / spread) < 1.25


# when it is raised


def series(trained: float, held_out: float, spread: float = 0.01) -> dict[str, torch.Tensor]:
    noise = torch.linspace(-spread, spread, PAIRS)
    return {TRAINED: trained + noise, HELD_OUT: held_out + noise.flip(0) ** 3}


@pytest.mark.parametrize(
    ("checks", "expected"),
    [
        ([(0.5, 0.5), (0.6, 0.6), (0.7, 0.7)], None),
        ([(0.5, 0.5), (0.6, 0.4)], (0, True)),
        ([(0.5, 0.5), (0.5, 0.4)], (0, False)),  # the trained reward did not rise
        ([(0.5, 0.5), (0.6, 0.9), (0.7, 0.6)], (1, True)),  # fallen from the best, though above the start
        ([(0.5, 0.5), (0.7, 0.9), (0.7, 0.6)], (1, True)),  # the trained reward has risen before
        ([(0.5, 0.5), (0.7, 0.9), (0.6, 0.6)], (1, False)),  # both fell, though they are above the start
        ([(0.5, 0.5), (0.7, 0.9), (0.6, 0.9)], (1, False)),  # the trained reward alone
    ],
)
def test_when_it_is_raised(checks, expected):
    alarm = Alarm(len(checks), 0.05)
    *quiet, last = [alarm(series(*check), best=1 if k > 1 else None) for k, check in enumerate(checks)]
    assert not any(quiet)
    assert ((last[0].check, last[0].hacked) if last else None) == expected


@pytest.mark.parametrize(("trained", "expected"), [(0.6, ["sharpness"]), (0.5, [])])
def test_what_is_only_watched_may_fall_where_no_reward_rises(trained, expected):
    alarm = Alarm(2, 0.05)
    alarm({**series(0.5, 0.5), "sharpness": torch.randn(PAIRS)})
    falls = alarm({**series(trained, 0.5), "sharpness": torch.randn(PAIRS) - 6})
    assert [fall.series for fall in falls] == expected


@pytest.mark.parametrize("held_out", [0.3, 0.5, 0.8])
def test_when_training_has_collapsed(held_out):
    """The trained reward is below that of the start, whatever became of the others."""
    alarm = Alarm(3, 0.05)
    assert not alarm(series(0.5, 0.5)) and not alarm(series(0.6, 0.5))
    fall = next(fall for fall in alarm(series(0.4, held_out)) if fall.series == TRAINED)
    assert (fall.check, fall.pairs, fall.hacked) == (0, PAIRS, False)
    assert fall.before == pytest.approx(0.5) and fall.now == pytest.approx(0.4)


def test_the_best_was_chosen_among_all_checks():
    """A fall from it, of one size, shows less than one from the start."""
    alarm = Alarm(9, 0.05)
    for check in ((0.5, 0.5), (0.5, 0.5), (0.5, 0.5)):
        alarm(series(*check))
    start, best = (alarm._chances(series(0.5, 0.4), check)[HELD_OUT] for check in (0, 1))
    assert best == pytest.approx(start * 28 / 8)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            (0.6, 0.4),
            "the reward may be hacked: the reward trained on rose (0.500 → 0.600), but since iteration 0",
        ),
        (
            (0.4, 0.4),
            "training has collapsed, to below the start: the reward trained on fell: 0.500 → 0.400",
        ),
    ],
)
def test_what_it_says(now, words):
    watch = Watch(RunConfig())
    told = [
        event
        for k, check in enumerate([(0.5, 0.5), now])
        for event in watch.judge(evaluation(k, *check), dict)
    ]
    (alarm,) = (event for event in told if isinstance(event, AlarmRaised))
    assert alarm.message.startswith(words)
    assert watch.raised


def evaluation(iteration: int, trained: float, held_out: float) -> Evaluation:
    rewards, scores = series(trained, held_out).values()
    return Evaluation(
        "during",
        prompts=["a circle"] * PAIRS,
        seeds=list(range(PAIRS)),
        images=torch.zeros(PAIRS, 3, 1, 1),
        scores=scores,
        rewards=rewards,
        iteration=iteration,
        statistics={"diversity": torch.ones(PAIRS)},
    )


def test_the_surest_fall_comes_first():
    alarm = Alarm(2, 0.05)
    alarm({**series(0.5, 0.5), "sharpness": torch.randn(PAIRS), "steady": torch.ones(PAIRS)})
    falls = alarm({**series(0.6, 0.3), "sharpness": torch.randn(PAIRS) - 3, "steady": torch.ones(PAIRS)})
    assert [fall.series for fall in falls] == ["held-out score", "sharpness"]
    assert falls[0].before == pytest.approx(0.5) and falls[0].now == pytest.approx(0.3)


# in a run: the tiny checkpoint, where "held out" is the very opposite of what is trained on


HACKED = """
from reward import red

def less_red(images, prompts):
    return -red(images, prompts)
"""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    folder = runs.workshop(tmp_path_factory.mktemp("workshop"))
    (folder / "hacked.py").write_text(HACKED, encoding="utf-8")
    return folder


def hacked(workshop: Path, action: str, **overrides):
    """A run that gets better for some iterations, and then worse than it was."""
    settings = {
        "estimator__chunk": 2,
        "alarm__action": action,
        "reward__held_out": f"{workshop / 'hacked.py'}:less_red",
        "output__evaluation": 12,
        "alarm__pictures": 12,
        "training__learning_rate": 0.03,
        "training__iterations": 8,
        "output__preview_every": 1,
    }
    return runs.config(workshop, **{**settings, **overrides})


@pytest.fixture(scope="module")
def rolled_back(workshop, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rolled") / "run"
    return runner.start(hacked(workshop, "rollback"), folder, lambda event: None).folder


def test_rollback_ends_with_the_best(rolled_back):
    events = log.read(rolled_back / "events.jsonl")
    (alarm,) = (event for event in events if event["type"] == "alarm")
    after = [event for event in events if event["type"] == "evaluation"][-1]
    assert 0 < alarm["best"] < alarm["iteration"] < 8 and alarm["falls"][0]["series"] == "held-out score"
    assert max(event["iteration"] for event in events if event["type"] == "iteration") == alarm["iteration"]
    assert (after["when"], after["iteration"]) == ("after", alarm["best"])
    assert runs.lora(rolled_back)[1]["rlr.iterations"] == str(alarm["best"])
    best = next(e for e in events if e["type"] == "evaluation" and e["iteration"] == alarm["best"])
    assert after["scores"] == best["scores"], "the same pictures, from the same weights"
    (beside,) = rolled_back.glob("*.preview.png")
    with Image.open(beside) as shown, Image.open(rolled_back / "after.png") as strip:
        best_picture = strip.crop((0, 0, 128, 128))
        assert shown.resize((128, 128), Image.Resampling.NEAREST).tobytes() == best_picture.tobytes()
    state = RunDirectory(rolled_back).state()
    assert state.state == "finished" and "fell" in state.message


def hacked_to_the_end(workshop: Path) -> RunConfig:
    """So few pairs on the way that nothing shows: it is the evaluation of all pairs that raises the alarm."""
    return hacked(workshop, "rollback", output__evaluation=24, alarm__pictures=3)


@pytest.fixture(scope="module")
def rolled_back_at_the_end(workshop, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rolled") / "run"
    return runner.start(hacked_to_the_end(workshop), folder, lambda event: None).folder


def test_rollback_acts_on_the_evaluation_at_the_end(rolled_back_at_the_end):
    folder = rolled_back_at_the_end
    events = log.read(folder / "events.jsonl")
    (alarm,) = (event for event in events if event["type"] == "alarm")
    after = [event for event in events if event["type"] == "evaluation" and event["when"] == "after"]
    assert alarm["iteration"] == 8 and 0 < alarm["best"] < 8 and alarm["falls"][0]["pairs"] == 24
    assert [event["iteration"] for event in after] == [8, alarm["best"]]
    assert events.index(after[0]) < events.index(alarm) < events.index(after[1])
    assert runs.lora(folder)[1]["rlr.iterations"] == str(alarm["best"])
    runs.assert_same(runs.lora(folder)[0], runs.loras(folder)["rlr-lora-best.safetensors"][0])
    told = Summary.read(folder / "events.jsonl")
    assert told.held_out and told.held_out.after == pytest.approx(fmean(after[1]["scores"]))
    assert "Training ended there, and the LoRA is the best one." in (folder / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("kind", [AlarmRaised, Evaluation])
def test_a_rollback_at_the_end_survives_a_crash(kind, workshop, rolled_back_at_the_end, tmp_path):
    runs.assert_a_crash_changes_nothing(
        kind, hacked_to_the_end(workshop), rolled_back_at_the_end, tmp_path / "run"
    )


@pytest.mark.parametrize("action", ["warn", "stop"])
def test_an_alarm_at_the_end_is_told(action, workshop, tmp_path):
    config = hacked(workshop, action, output__evaluation=24, alarm__pictures=3)
    directory = runner.start(config, tmp_path / "run", lambda event: None)
    assert directory.state().state == "finished" and "fell" in directory.state().message
    assert runs.lora(directory.folder)[1]["rlr.iterations"] == "8"
    assert "Training was over." in (directory.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", [AlarmRaised, NewBest, Evaluation])
def test_a_rollback_survives_a_crash_anywhere(kind, workshop, rolled_back, tmp_path):
    """The process dies after the last event of each kind, and at the last line of the log."""
    runs.assert_a_crash_changes_nothing(kind, hacked(workshop, "rollback"), rolled_back, tmp_path / "run")


@pytest.mark.parametrize(
    "point", ["at_the_alarm", "while_the_lora_is_written", "while_the_report_is_written"]
)
def test_a_rollback_survives_kill_9(point, workshop, rolled_back, tmp_path):
    (tmp_path / "run.toml").write_text(to_toml(hacked(workshop, "rollback")), encoding="utf-8")
    assert killed.exit_code(killed.by_config, point, tmp_path / "run") == -signal.SIGKILL
    runner.resume(tmp_path / "run", lambda event: None)
    runs.assert_same_run(tmp_path / "run", rolled_back)


def test_stop_saves_and_can_be_resumed(workshop, tmp_path):
    directory = runner.start(hacked(workshop, "stop"), tmp_path / "run", lambda event: None)
    state = directory.state()
    assert state.state == "stopped" and state.iteration < 8 and "fell" in state.message
    told = []
    runner.resume(tmp_path / "run", told.append)
    assert RunDirectory(tmp_path / "run").state().state == "finished"
    assert not any(isinstance(event, AlarmRaised) for event in told), "it is raised once"
    assert [event.iteration for event in told if isinstance(event, Iteration)][-1] == 8


def test_the_best_is_kept(workshop):
    """A warning goes on; the file at the end is of the best iteration, training's own weights stay in the checkpoint."""
    made = Trainer(prepare(hacked(workshop, "warn", output__lora="best", training__iterations=4)))
    told = list(made.run())
    during = [event for event in told if isinstance(event, Evaluation) and event.when != "after"]
    best = max(during, key=lambda event: float(event.scores.mean()))
    newest = [event for event in told if isinstance(event, NewBest)][-1]
    assert newest.iteration == best.iteration
    assert_same_weights(newest.weights, made.watch.best_lora)
    assert made.exported_iteration == best.iteration and told[-1].iteration == best.iteration
    own = made.setup.lora.state_dict()
    with made.exported():
        assert_same_weights(made.setup.lora.weights(), made.watch.best_lora)
    runs.assert_same(made.setup.lora.state_dict(), own)


def assert_same_weights(one: LoraWeights, other: LoraWeights) -> None:
    runs.assert_same([*map(vars, one.values())], [*map(vars, other.values())])
    assert list(one) == list(other)


@pytest.mark.parametrize("setting", [{"alarm__action": "rollback"}, {"output__lora": "best"}])
@pytest.mark.parametrize("none", [{"alarm__pictures": 0}, {"output__evaluation": 0}])
def test_a_best_that_nobody_looks_for(setting, none, workshop):
    with pytest.raises(ConfigError, match=r"no held-out pictures are scored(.|\n)*alarm\.pictures"):
        prepare(runs.config(workshop, **setting, **none))
