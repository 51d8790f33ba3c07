"""The studies: their statistics against exact values, their bookkeeping, and each of them once in small."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy import toy_batch, toy_problem

from rlr_core.bench import study
from rlr_core.bench.beds import EMBEDDED
from rlr_core.bench.breakdown import Stopwatch
from rlr_core.bench.dcot import Arm, _rows
from rlr_core.bench.figures import on_grid
from rlr_core.bench.jobs import complete
from rlr_core.bench.learn import Budget
from rlr_core.bench.memory import LiveTensors
from rlr_core.bench.methods import read_methods
from rlr_core.bench.plan import plan_settings
from rlr_core.bench.splits import AGAINST, KNOWN, PLAIN, PROBES, SPLITS, line_of
from rlr_core.bench.statistics import (
    Measured,
    jackknife,
    mean_over_seeds,
    ratio,
    squared_mean,
    student,
    total_variance,
)
from rlr_core.bench.store import Store, fingerprint
from rlr_core.bench.terms import back_propagated, squares
from rlr_core.chain import rollout
from rlr_core.cli.main import main
from rlr_core.config import EstimatorConfig
from rlr_core.dcot import parse_line
from rlr_core.embedded import world
from rlr_core.errors import ConfigError
from rlr_core.estimators import Part, RecursiveLikelihoodRatio, build
from rlr_core.estimators.half_order import HALF
from rlr_core.planner.machine import ITSELF

# Statistics


def draws(count: int, seed: int) -> np.ndarray:
    """Vectors with mean (2, 0, 0) and variances 1, 4, 9."""
    return np.random.default_rng(seed).normal([2.0, 0.0, 0.0], [1.0, 2.0, 3.0], (count, 3))


def test_u_statistics_are_unbiased_and_their_intervals_hold() -> None:
    """|mean|² = 4 and tr Cov = 14 over 400 repetitions; of their 95% intervals 90 to 99% hold the truth."""
    squares, variances = [], []
    for seed in range(400):
        rows = draws(24, seed)
        gram = rows @ rows.T
        squares.append(jackknife(squared_mean(gram), 24))
        variances.append(jackknife(total_variance(gram), 24))
    for found, truth in ((squares, 4.0), (variances, 14.0)):
        values = np.array([m.value for m in found])
        assert abs(values.mean() - truth) < 4.5 * values.std() / math.sqrt(400)
        assert 0.88 < np.mean([m.low <= truth <= m.high for m in found]) < 0.99


def test_the_variance_is_that_of_numpy() -> None:
    rows = draws(10, 0)
    gram, everyone = rows @ rows.T, np.arange(10)
    assert total_variance(gram)(everyone) == pytest.approx(rows.var(0, ddof=1).sum())
    double = ratio(total_variance(4 * gram), total_variance(gram))
    assert double(everyone) == pytest.approx(4)


def test_means_over_seeds_have_students_interval() -> None:
    measured = mean_over_seeds([1.0, 2.0, 3.0])
    assert measured.value == 2 and measured.half_width == pytest.approx(4.303 / math.sqrt(3))
    assert measured.low == pytest.approx(2 - measured.half_width)
    assert measured.high == pytest.approx(2 + measured.half_width)
    assert math.isnan(mean_over_seeds([1.0]).half_width)
    assert student(1000) == pytest.approx(1.962, abs=2e-3)


def test_curves_are_read_between_their_points() -> None:
    points = [{"seconds": 0.0, "held_out": 0.2}, {"seconds": 10.0, "held_out": 0.4}]
    assert on_grid(points, "seconds", [0, 5, 10, 20]) == pytest.approx([0.2, 0.3, 0.4, 0.4])


# Bookkeeping


def test_the_fingerprint_is_that_of_the_settings_whatever_their_order() -> None:
    assert fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_a_store_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Store(path).put({"a": 1}, {"x": 10})
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    store = Store(path)
    assert store.get({"a": 1}) == {"x": 10} and store.get({"a": 2}) is None
    store.put({"a": 2}, {"x": 20})
    assert Store(path).get({"a": 2}) == {"x": 20} and len(path.read_text().splitlines()) == 2


def square(settings: dict[str, Any]) -> dict[str, Any]:
    """A job that leaves a trace each time it is done."""
    with Path(settings["trace"]).open("a") as file:
        file.write(f"{settings['value']}\n")
    if settings["value"] == "?":
        raise ConfigError("value = '?'", "a number", "write one")
    return {"square": settings["value"] ** 2}


@pytest.mark.parametrize("workers", [0, 2])
def test_jobs_that_are_done_are_not_done_again(tmp_path: Path, workers: int) -> None:
    store, trace = Store(tmp_path / "results.jsonl"), tmp_path / "trace"
    jobs = [{"value": value, "trace": str(trace)} for value in range(4)]
    first = complete(square, jobs[:2], store, workers=workers, what="jobs")
    both = complete(square, jobs, Store(tmp_path / "results.jsonl"), workers=workers, what="jobs")
    assert first == [{"square": 0}, {"square": 1}]
    assert both == [{"square": value**2} for value in range(4)]
    assert sorted(trace.read_text().split()) == ["0", "1", "2", "3"]


def test_a_failing_job_keeps_what_the_others_found(tmp_path: Path) -> None:
    store, trace = Store(tmp_path / "results.jsonl"), str(tmp_path / "trace")
    jobs = [{"value": 1, "trace": trace}, {"value": "a", "trace": trace}]
    with pytest.raises(TypeError):
        complete(square, jobs, store, workers=0, what="jobs")
    assert Store(tmp_path / "results.jsonl").get(jobs[0]) == {"square": 1}


def test_a_job_that_fails_in_its_process_says_why_and_keeps_the_others(tmp_path: Path) -> None:
    jobs = [{"value": "?", "trace": str(tmp_path / "trace")}, {"value": 3, "trace": str(tmp_path / "trace")}]
    with pytest.raises(ConfigError, match="what to do"):
        complete(square, jobs, Store(tmp_path / "results.jsonl"), workers=2, what="jobs")
    assert Store(tmp_path / "results.jsonl").get(jobs[1]) == {"square": 9}


def test_the_fingerprint_counts_what_the_estimator_reads() -> None:
    """So that a setting of other estimators may change, or lose a value, and results stay."""

    def of(**estimator: Any) -> str:
        return fingerprint({"config": {**EMBEDDED.settings, "estimator": {"name": "v1", **estimator}}})

    assert of() == of(sigma=0.5) == of(sub_chains="gone")
    assert of() != of(chunk=4) and of(name="rlr") != of(name="rlr", branches=2)
    with pytest.raises(ConfigError, match="gone"):
        of(name="rlr", sub_chains="gone")


def test_a_run_that_failed_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared at equal seconds are runs that ran."""

    def fake(settings: dict[str, Any]) -> dict[str, Any]:
        failed = settings["config"]["training"]["seed"] == 1
        points = [
            {"evaluations": n, "held_out": 0.4 + n / 1000, "iteration": n, "error": 0.1} for n in (0, 100)
        ]
        return {"points": points[:1] if failed else points, "failure": "NaN" if failed else ""}

    monkeypatch.setattr(study, "learn", fake)
    monkeypatch.setattr(study, "breakdown", lambda settings: {"seconds": 6.0, "evaluations": 3.0})
    one = {"draft_1": read_methods()["draft_1"]}
    study.study_learn(one, Budget(100, 0.0, 1, 4), 3, study.Desk(tmp_path, 0), 1)
    row = rows(tmp_path, "learn")["draft_1"]
    assert row["collapsed"] == 1 and row["seconds"]["value"] == pytest.approx((0.5 + 0.4 + 0.5) / 3)
    assert row["gained"]["value"] == pytest.approx(0.2 / 3), "from each seed's own start"


def test_the_shipped_methods_are_valid_and_differ() -> None:
    methods = read_methods()
    assert next(iter(methods)) == "default" and "published" in methods
    configs = [method.config(EMBEDDED.settings) for method in methods.values()]
    assert len({repr(config) for config in configs}) == len(configs)
    assert len({method.learning_rates for method in methods.values()}) == 1, "all are tuned alike"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\nestimator = { nam = 'v1' }", "'nam'"),
        ("[a]\nestimator = { name = ", "cannot be read"),
        ("[a]\nspeed = 3", "'a' is"),
        ("a = 3", "'a' is 3"),
        ("[a]\nspeed = { x = 1 }", "'speed'"),
    ],
)
def test_a_bad_methods_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "methods.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_methods(path)


def test_a_table_is_aligned_markdown() -> None:
    assert study.table(["a", "bcd"], [["ef", "g"]]) == "| a  | bcd |\n| -- | --- |\n| ef | g   |\n"


# Time and memory


def test_live_tensors_count_what_lives_and_no_more() -> None:
    with LiveTensors() as live:
        a = torch.zeros(1000)
        view = a[:10]
        assert live.now == live.peak == 4000
        b = a + 1
        assert live.peak == 8000
        del a
        assert live.now == 8000, "a view keeps its storage"
        del view
        assert live.now == 4000 and live.peak == 8000
        del b
    assert live.now == 0


def test_live_tensors_see_what_autograd_keeps() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def peak(length: int) -> int:
        with LiveTensors() as live:
            x = weight
            for _ in range(length):
                x = x.exp()
            torch.autograd.grad(x.sum(), weight)
        return live.peak

    assert peak(8) - peak(4) == 4 * 4000


def test_a_stopwatch_adds_up_and_counts_nested_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    with watch.span("outer"), watch.span("inner"):
        pass
    watch.timed("outer", lambda: None)()
    assert watch.seconds == {"everything else": 2, "outer": 3, "outer: inner": 1}


# The studies in small


@pytest.mark.slow
def test_predictions_are_what_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "plan", "--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert len({row["predicted"] for row in found}) == len(found) == 3
    for row in found:
        assert row["predicted"] == pytest.approx(row["tensors"], rel=0.05), row["case"]
        assert row["tensors"] < row["process"] < row["tensors"] + 2 * ITSELF["cpu"], row["case"]
    assert "| rlr, K = 2, h = 2" in capsys.readouterr().out


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_is_measured_at_full_size(device: str) -> None:
    models = {
        (s["family"], s["size"], s["config"]["model"]["precision"])
        for s in plan_settings(device, quick=False)
    }
    assert {family for family, _, _ in models} == {"sd1", "sdxl"}
    if device == "cuda":
        assert models == {("sd1", 512, "bfloat16"), ("sdxl", 1024, "bfloat16")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evidence")


def rows(folder: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))}


METHODS = """
[all]
learning_rates = [1e-3]
sampling = { steps = 4 }
training = { batch_size = 2, prompts_per_batch = 2 }
[default]
estimator = { name = "lookahead", sub_chain_length = 1, starts_from = 0.1, starts_until = 0.6, unit = true, chunk = 1 }
[lookahead]
label = "RLR lookahead"
estimator = { name = "lookahead", sub_chain_length = 1, unit = false }
[draft_1]
label = "DRaFT-1"
estimator = { name = "v1" }
[rlr]
estimator = { name = "rlr", first_order_steps = 3, sub_chain_length = 2 }
[full_bp]
label = "full BP"
estimator = { name = "full_bp" }
"""
"""Chains of four steps, for speed."""


def run(folder: Path, name: str, *methods: str) -> None:
    (folder / "methods.toml").write_text(METHODS, encoding="utf-8")
    where = ["--out", str(folder), "--methods", str(folder / "methods.toml"), "--only", ",".join(methods)]
    assert main(["bench", name, "--quick", "--workers", "0", *where]) == 0


@pytest.mark.slow
def test_learning_curves(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "learn", "default", "draft_1")
    found = rows(folder, "learn")
    assert set(found) == {"default", "draft_1"} and found["draft_1"]["seeds"] == 2
    assert found["default"]["iterations"] > found["draft_1"]["iterations"], "a lookahead is cheaper"
    assert found["default"]["start"] == found["draft_1"]["start"], "the same pictures"
    assert (folder / "learn-evaluations.png").stat().st_size > 10_000
    before = (folder / "learn.jsonl").read_bytes()
    assert "DRaFT-1" in capsys.readouterr().out
    run(folder, "learn", "default", "draft_1")
    assert (folder / "learn.jsonl").read_bytes() == before, "nothing is done twice"


@pytest.mark.slow
def test_variance(folder: Path) -> None:
    run(folder, "variance", "full_bp", "draft_1", "default")
    found = rows(folder, "variance")
    exact = found["full_bp"]
    assert abs(exact["bias"]["value"]) < 1e-9 and exact["evaluations"] == 16
    assert found["draft_1"]["evaluations"] == 6 and found["draft_1"]["megabytes"] > 0
    assert found["default"]["signal"] == exact["signal"], "the same reference"
    assert found["default"]["bias"] != exact["bias"]


@pytest.mark.slow
def test_what_a_gradient_tells_at_each_step(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "steps", "default")
    found = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    assert [row["at"] for row in found] == [*map(str, range(4)), "full BP"]
    assert [row["cost"] for row in found] == [*range(3, 7), 16]
    assert all(row["tail"] >= 1 and row["median"] > 0 for row in found)
    assert "| full BP |" in capsys.readouterr().out


TERMS = """
[all]
sampling = { steps = 4 }
training = { batch_size = 2, prompts_per_batch = 2 }
estimator = { name = "rlr", first_order_steps = 1, sub_chain_length = 2, chunk = 1 }
[antithetic]
[control]
estimator = { sub_chain_end = "control_variate" }
[draft]
estimator = { name = "draft" }
"""


def test_the_terms_of_sub_chains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """3 steps before the tail: sub-chains of 1 and of 2, each differentiated (3 a step), and finished once more by the twin.

    The control variate has two lookaheads with gradient (6), and a second way back for its other part (2 a step).
    """
    (tmp_path / "methods.toml").write_text(TERMS, encoding="utf-8")
    command = [
        "bench",
        "terms",
        "--quick",
        "--workers",
        "0",
        "--out",
        str(tmp_path),
        "--spread",
        "0.05",
        "--methods",
    ]
    assert main([*command, str(tmp_path / "methods.toml"), "--only", "antithetic,control"]) == 0
    found = rows(tmp_path, "terms")
    for name, costs in (("antithetic", [3 + 3, 6 + 1]), ("control", [3 + 3 + 6 + 2, 6 + 1 + 6 + 4])):
        terms = found[name]["terms"]
        assert [(term["start"], term["stop"]) for term in terms] == [(0, 1), (1, 3)]
        assert [term["cost"] for term in terms] == costs
        moments = [term["estimated"]["value"] for term in terms]
        assert found[name]["uniform"]["value"] == pytest.approx(2 * sum(moments))
        assert found[name]["best"]["value"] == pytest.approx(sum(m**0.5 for m in moments) ** 2)
    assert found["antithetic"]["terms"][0]["exact"] == found["control"]["terms"][0]["exact"]
    assert '"spread": 0.05' in (tmp_path / "terms.jsonl").read_text(encoding="utf-8")
    assert "| 1–2 " in capsys.readouterr().out
    assert main([*command, str(tmp_path / "methods.toml"), "--only", "draft"]) == 2
    assert "'draft'" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "methods.toml")]) == 0, "those that have terms, which are there"


def mean_square(part: Part, n: int) -> float:
    """Mean of |g_k|² over n chunks, from what a part tells: |mean|² + (n − 1)·SE²."""
    return part.norm**2 + (n - 1) * part.standard_error**2


@pytest.mark.parametrize(
    "settings", [{}, {"sub_chain_end": "plain", "baseline": "running_mean"}], ids=["antithetic", "plain"]
)
def test_terms_are_those_of_the_estimator(settings: dict[str, Any]) -> None:
    """With a single sub-chain before the tail, the term of a picture is the estimator's half-order part."""
    problem, n = toy_problem(), 4
    length = {"sub_chain_length": problem.steps - 1, "sub_chains": "all"}
    config = EstimatorConfig(name="rlr", first_order_steps=1, chunk=1, **length, **settings)
    mine, its = (build(config, problem.steps) for _ in range(2))
    assert isinstance(mine, RecursiveLikelihoodRatio) and mine.half
    parts = mine.half.sub_chains.draw(n, range(problem.steps - 1), torch.Generator())
    for seed in range(3):
        batch = toy_batch(n, seed)
        found = squares(problem, batch, mine.half, mine.baseline, parts)
        half = its(problem, batch).parts[HALF]
        assert sum(f.estimated[0] for f in found) / n == pytest.approx(mean_square(half, n), rel=1e-9)
        (whole,) = build(EstimatorConfig(name="full_bp"), problem.steps)(problem, batch).parts.values()
        assert sum(f.full for f in found) / n == pytest.approx(mean_square(whole, n), rel=1e-9)
        assert all(f.exact[0] > 0 for f in found)


def test_back_propagated_terms_add_up_to_the_whole_gradient() -> None:
    problem, batch = toy_problem(), toy_batch(4, 0)
    chain, x = problem.chain(batch), batch.noise.initial()
    _, latents = rollout(chain, x, torch.arange(4), range(problem.steps), keep=range(problem.steps))
    latents[problem.steps], _ = rollout(chain, x, torch.arange(4), range(problem.steps))
    apart = torch.stack(
        [
            back_propagated(problem, chain, batch, j, {i: x[j].detach() for i, x in latents.items()})
            for j in torch.arange(4).split(1)
        ]
    )
    assert apart.shape[:2] == (4, problem.steps)
    whole = build(EstimatorConfig(name="full_bp", chunk=4), problem.steps)(problem, batch).gradient
    assert torch.allclose(apart.sum(1).mean(0), whole, rtol=1e-10, atol=1e-14)
    assert (apart.abs().sum(-1) > 0).all(), "every step has a term"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_chain(folder: Path) -> None:
    run(folder, "memory", "rlr", "draft_1")
    sizes = {
        (row["method"], row["steps"], row["length"]): row["megabytes"]
        for row in json.loads((folder / "memory.json").read_text(encoding="utf-8"))
    }
    assert sizes["rlr", 10, 1] < 1.1 * sizes["rlr", 5, 1]


@pytest.mark.slow
def test_the_time_of_an_iteration_is_explained(folder: Path) -> None:
    run(folder, "time", "default")
    row = rows(folder, "breakdown")["default"]
    assert sum(row["spans"].values()) == pytest.approx(row["seconds"], rel=0.01)
    assert row["spans"]["everything else"] < 0.1 * row["seconds"]


def test_an_unknown_method(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "learn", "--out", str(tmp_path), "--only", "v9"]) == 2
    assert "v9" in capsys.readouterr().err


def test_the_cost_of_a_level_is_read_between_points() -> None:
    points = [{"evaluations": 100.0 * k, "held_out": score} for k, score in enumerate((0.4, 0.6, 0.5, 0.9))]
    assert study.to_level(points, 0.5) == pytest.approx(50)
    assert study.to_level(points, 0.7) == pytest.approx(250)
    assert study.to_level(points, 0.95) == math.inf
    assert study.to_level([{**points[0], "held_out": 0.9}, points[1]], 0.6) == 0


def test_a_device_that_plans_are_not_measured_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="one of cuda, cpu"):
        plan_settings("mps", quick=True)
    assert main(["bench", "plan", "--out", str(tmp_path), "--device", "cuda:99"]) == 2
    assert "'cuda:99', which this machine does not have" in capsys.readouterr().err


def test_collapse_is_told_from_noise() -> None:
    def result(end: float, failure: str = "") -> dict[str, Any]:
        return {"points": [{"held_out": 0.4}, {"held_out": end, "error": 0.05}], "failure": failure}

    assert study.collapsed(result(0.29)) and study.collapsed(result(0.5, "NaN"))
    assert not study.collapsed(result(0.31)) and not study.collapsed(result(0.6))
    assert Measured(1.0, 0.5).high == 1.5


def test_every_split_tells_the_reward_the_whole_caption() -> None:
    for split in KNOWN:
        prompt = parse_line(line_of(split, world.TRAIN_PROMPTS[77]))
        assert prompt.scored == world.TRAIN_PROMPTS[77]
        assert set(prompt.prompts) == {prompt.scored} or split in {*SPLITS, *PROBES}, "the controls are plain"
    (negative,) = set(parse_line(line_of(AGAINST, "a plain red star on sand")).negatives)
    assert negative == "a plain blue star on sand"


def test_rows_of_table_4_differ_seed_by_seed() -> None:
    """The base's rows are the curves' starts; a method with fewer seeds is compared with those that it has."""
    arms = [Arm("plain", PLAIN), Arm("by stage", "the world's own"), Arm("weak", "the world's own", ("mid",))]

    def curve(start: float, end: float) -> dict[str, Any]:
        return {"points": [{"held_out": start}, {"held_out": end}], "failure": ""}

    curves = {
        ("A", arms[0]): [curve(0.1, 0.5), curve(0.3, 0.9)],
        ("A", arms[1]): [curve(0.2, 0.7), curve(0.5, 0.9)],
        ("A", arms[2]): [curve(0.2, 0.8), curve(0.5, 1.0)],
    }
    base, staged, plain, by_stage, weak = _rows(curves, arms)
    assert base["scores"] == [0.1, 0.3] and base["above_base"] is None
    assert staged["above_base"]["value"] == pytest.approx(0.15)
    assert plain["above_base"]["value"] == pytest.approx(0.5) and plain["above_plain"] is None
    assert by_stage["above_plain"]["value"] == pytest.approx(0.1)
    assert weak["above_plain"]["value"] == pytest.approx(0.2)
    assert weak["above_plain"]["half_width"] == pytest.approx(12.706 * 0.1)


@pytest.mark.slow
def test_table_4(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "dcot", "lookahead")
    found = json.loads((folder / "dcot.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in found] == ["–"] * 3 + ["RLR lookahead"] * 4
    assert found[2]["split"] == AGAINST and found[5]["stages"], "a control; and one limited to a stage"
    assert len(found[3]["scores"]) == 2 and found[3]["scores"] != found[0]["scores"]
    assert "sub-chains from" in capsys.readouterr().out
    told = (folder / "splits.md").read_text(encoding="utf-8")
    assert all(split in told for split in KNOWN)
