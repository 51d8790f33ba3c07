"""Two processes that share a batch come to the estimate of one, and learn the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from processes import Case, MixCase, outcomes
from torch import Tensor

from rlr_core.estimators import ESTIMATORS

PLAIN, CRITIC = {"sub_chain_end": "plain"}, {"sub_chain_end": "control_variate"}
SINGLE = {"sub_chain_length": 1}
CASES = [
    Case("rlr"),
    Case("rlr", {"sub_chains": "learned", **SINGLE}),
    Case("rlr", {"sub_chains": "learned", **PLAIN, **SINGLE, "baseline": "running_mean", "chunk": 1}),
    Case("rlr", {"branches": 2, **SINGLE}),
    Case("rlr", {"sub_chains": "all", **SINGLE}),
    Case("rlr", {"sub_chains": "all", **CRITIC, **SINGLE, "branches": 2}),
    Case("rlr", {"sub_chains": "learned", **CRITIC, **SINGLE}),
    Case("rlr", {"sub_chain_end": "lookahead_baseline", **SINGLE}),
    Case("rlr", {"sub_chain_end": "lookahead", **SINGLE}),
    Case("published"),
    Case("published", {"baseline": "running_mean", "chunk": 1}),
    Case("v1"),
    Case("v2"),
    Case("v3"),
    Case("half"),
    Case("half", PLAIN),
    Case("zeroth", {"antithetic": True}),
    Case("zeroth", {"antithetic": False}),
    Case("zeroth", {"antithetic": False, "baseline": "running_mean"}),
    Case("reinforce"),
    Case("ddpo"),
    Case("ddpo", {"normalise": True, "batch_reuse": 3, "clip": 0.05}),
    Case("ddpo", {"normalise": True, "baseline": "running_mean", "chunk": 1}),
    Case("nft", {"draws": 3}),
    Case("nft", {"batch_reuse": 2, "baseline": "running_mean"}),
    Case("learned_critic", {"starts_from": 0.0, "starts_until": 1.0}),
    Case("draft", {"first_order_steps": 2, "rerun": True}),
    Case("draft_lv"),
    Case("refl", {"first_order_steps": 3}),
    Case("lookahead", {"unit": True, "chunk": 1}),
    Case("lookahead", {"unit": False}),
    Case("lookahead", {"sub_chain_length": 1, "starts_until": 1.0, "looks": 2}),
    Case("alignprop"),
    Case("full_bp"),
    Case("flow_bp", {"first_order_steps": 2, "bridge": 0.5, "unit": False}),
    Case("auto", {"first_order_steps": 2}),
    Case("rsm", {"draws": 2}),
]
UNEVEN = [replace(case, batch=12, settings={**case.settings, "chunk": 4}) for case in CASES]
"""Three chunks for two processes."""
LEARNS = {"sub_chains": "learned", **PLAIN, **SINGLE, "baseline": "running_mean"}
WRONG = [
    Case(name, settings, collective=kind)
    for kind in ("GathersOwn", "GathersBackwards", "SumsOwn")
    for name, settings in (("rlr", LEARNS), ("rlr", {**CRITIC, **SINGLE}), ("zeroth", {"antithetic": False}), ("ddpo", {}))
]  # fmt: skip
MIXES = [MixCase(), MixCase("SumsOwn"), MixCase("HasAll")]
ALL: list[Case | MixCase] = [*CASES, *UNEVEN, *WRONG, *MIXES]


pytestmark = pytest.mark.slow  # two processes have to import torch


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Case → what each of the two processes found."""
    both = outcomes(ALL, tmp_path_factory.mktemp("processes"))
    return {named(case): list(pair) for case, pair in zip(ALL, zip(*both, strict=True), strict=True)}


def named(case: Case | MixCase) -> str:
    return f"{case}-{case.batch}" if isinstance(case, Case) else str(case)


def differences(one: Any, other: Any, rounding: float = 0.0, where: str = "") -> list[str]:
    """Where two outcomes differ by more than `rounding`, relative or absolute."""
    if isinstance(one, Mapping):
        if one.keys() != other.keys():
            return [f"{where}: {list(one)} and {list(other)}"]
        pairs = {key: (one[key], other[key]) for key in one}
    elif isinstance(one, list):
        pairs = dict(enumerate(zip(one, other, strict=True)))
    else:
        return [] if equal(one, other, rounding) else [f"{where}: {one} and {other}"]
    return [text for key, pair in pairs.items() for text in differences(*pair, rounding, f"{where}/{key}")]


def equal(one: Any, other: Any, rounding: float) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and torch.allclose(one, other, rounding, rounding, equal_nan=True)
    if isinstance(one, float):
        return math.isclose(one, other, rel_tol=rounding, abs_tol=rounding) or (one != one and other != other)
    return one == other


@pytest.mark.parametrize("case", [*CASES, *UNEVEN, MIXES[0]], ids=named)
def test_two_processes_find_what_one_finds(case: Case | MixCase, found: dict[str, list[Any]]) -> None:
    alone = replace(case, collective="Alone").outcome()
    for rank, outcome in enumerate(found[named(case)]):
        rounding = 1e-9 if isinstance(case, Case) else 1e-6  # a mix has its parts' scores in float32
        assert not differences(alone, outcome, rounding, f"process {rank}")


@pytest.mark.parametrize("case", [*WRONG, *MIXES[1:]], ids=named)
def test_processes_that_do_not_share_rightly_are_found_out(
    case: Case | MixCase, found: dict[str, list[Any]]
) -> None:
    alone = replace(case, collective="Alone").outcome()
    assert any(differences(alone, outcome, 1e-3) for outcome in found[named(case)])


def test_every_named_estimator_is_shared() -> None:
    assert {case.name for case in CASES} == set(ESTIMATORS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_processes_know_the_same_to_the_bit(case: Case, found: dict[str, list[Any]]) -> None:
    """Else θ would drift apart."""
    assert not differences(*found[named(case)])


def test_what_is_learned_is_not_nothing(found: dict[str, list[Any]]) -> None:
    """So that equal learned states above say something: probabilities, coefficients, means and rollouts."""
    learned = {named(case): found[named(case)][0][1]["learned"] for case in CASES}
    assert sum(bool(state.get("sub_chains")) for state in learned.values()) >= 3
    assert sum(bool(state.get("end")) for state in learned.values()) >= 2
    assert sum(bool(state.get("baseline")) for state in learned.values()) >= 4
    assert any("latents" in state for state in learned.values())
