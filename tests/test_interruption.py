"""A run that is cancelled by any exception, anywhere: what is kept, and whether it may be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

import runs

from rlr_core.families import Role
from rlr_core.models import networks_of
from rlr_core.trainer import (
    CheckpointDue,
    Evaluation,
    Event,
    Iteration,
    NewBest,
    Painting,
    Trainer,
    prepare,
    training,
)


class Cancelled(BaseException):
    """As hosts raise it: no `Exception`, so that nobody takes it for an error."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Path:
    return runs.workshop(tmp_path_factory.mktemp("workshop"))


LEARNS = {
    "rlr": {"estimator__name": "rlr", "estimator__sub_chains": "learned", "estimator__sub_chain_end": "control_variate"},
    "ddpo": {"estimator__name": "ddpo", "estimator__batch_reuse": 2, "estimator__baseline": "running_mean"},
}  # fmt: skip


def trainer(workshop: Path, **overrides: Any) -> Trainer:
    """On a mix with a running scale, which learns as well."""
    red = {f"{workshop / 'reward.py'}:red": 1.0}
    settings = {"reward__name": "mix", "reward__mix": red, "training__ema": 0.5, "estimator__chunk": 2}
    return Trainer(prepare(runs.config(workshop, **{**settings, **overrides})))


def cancel_at(number: int, function: Any) -> Any:
    """`function`, whose call number `number` is cancelled, and every later one is not."""
    calls = [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            raise Cancelled
        return function(*arguments, **options)

    return counted


def cancel_reward(made: Trainer, number: int) -> None:
    (part,) = made.setup.reward.parts.values()
    object.__setattr__(part, "function", cancel_at(number, part.function))


def cancel_denoiser(made: Trainer, number: int) -> None:
    (denoiser,) = networks_of(made.setup.model, Role.DENOISER)
    denoiser.forward = cancel_at(number, denoiser.forward)


@pytest.mark.parametrize("name", LEARNS)
@pytest.mark.parametrize(
    ("cancel", "number"), [(cancel_reward, 2), (cancel_denoiser, 1), (cancel_denoiser, 9)]
)
def test_an_iteration_that_is_cancelled_has_not_been(name, cancel, number, workshop):
    """The state is as before, in every part that learns; the iteration comes again, with the same numbers."""
    made = trainer(workshop, **LEARNS[name])
    made.iterate()
    made.iterate()
    before, generators = made.state_dict(), torch.get_rng_state()
    straight = trainer(workshop, **LEARNS[name])
    straight.load_state_dict(before)
    cancel(made, number)
    with pytest.raises(Cancelled):
        made.iterate()
    assert made.whole and made.iteration == 2
    runs.assert_same(made.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generators)
    made.iterate()
    straight.iterate()
    runs.assert_same(made.state_dict(), straight.state_dict())
    with pytest.raises(AssertionError):
        runs.assert_same(made.state_dict(), before)


@pytest.mark.parametrize("after", [False, True])
def test_a_step_that_is_cancelled_leaves_the_state_in_pieces(after, workshop):
    made = trainer(workshop)
    step = made.optimizer.step

    def cancelled() -> None:
        if after:
            step()
        assert not made.whole
        raise Cancelled

    assert made.whole
    made.optimizer.step = cancelled
    with pytest.raises(Cancelled):
        made.iterate()
    assert not made.whole


def test_a_painting_that_is_cancelled_leaves_trainings_own_lora(workshop):
    made = trainer(workshop, output__evaluation=3)
    told = made.run()
    while not isinstance(next(told), Iteration) or made.iteration < 2:
        pass
    before = made.state_dict()
    cancel_denoiser(made, 2)
    with pytest.raises(Cancelled):
        list(told)
    assert made.whole
    runs.assert_same(made.state_dict(), before)


def test_a_restoration_that_is_cancelled_is_known(workshop, monkeypatch):
    """The second Ctrl-C comes while the average gives way to training's own LoRA."""
    made = trainer(workshop)
    made.iterate()
    monkeypatch.setattr(training, "put", cancel_at(1, training.put))
    with pytest.raises(Cancelled), made.averaged():
        assert not made.whole
    assert not made.whole


# a listener that cancels


def plain(event: Event) -> list[Any]:
    """What is to be told once, without clocks."""
    facts = {name: value for name, value in vars(event).items() if name not in ("seconds", "weights")}
    return [type(event).__name__, facts]


def lasting(events: list[Event]) -> list[list[Any]]:
    """An interrupted painting is told again."""
    return [plain(event) for event in events if not isinstance(event, Painting)]


def test_a_listener_may_cancel_at_any_event(workshop):
    """Where the state is whole, going on from it tells what is left, and nothing twice; where it is not, that is known."""
    settings = {
        "training__iterations": 1,
        "output__evaluation": 3,
        "output__previews": 3,
        "sampling__steps": 2,
    }
    made, in_pieces = trainer(workshop, memory__painted=2, **settings), []
    straight = [(event, made.whole, made.state_dict()) for event in made.run()]
    events = [event for event, _, _ in straight]
    assert any(isinstance(event, NewBest) for event in events) and not made.whole
    for count, (event, whole, state) in enumerate(straight, 1):
        if isinstance(event, Painting) and event.done != 2:
            continue  # within a painting one place is like another
        if not whole:
            in_pieces.append((type(event), event.when))
            continue
        resumed = Trainer(made.setup)
        resumed.load_state_dict(state)
        runs.assert_same(lasting([*events[:count], *resumed.run()]), lasting(events))
    assert in_pieces == [(Evaluation, "during"), (Evaluation, "after")]


def test_a_run_that_is_left_can_be_taken_up(workshop):
    """In the very same trainer, after an iteration and in the middle of a painting."""
    made = trainer(workshop, training__iterations=2, output__evaluation=3)
    seen: list[Event] = []
    for last in ((Iteration, 1), (Painting, 2), (Evaluation, 2)):
        told = made.run()
        for event in told:
            seen.append(event)
            if (type(event), event.iteration) == last and getattr(event, "when", "after") == "after":
                break
        told.close()
    straight = trainer(workshop, training__iterations=2, output__evaluation=3)
    names = [f"{type(event).__name__} {event.iteration}" for event in seen if not isinstance(event, Painting)]
    assert names == [
        f"{type(event).__name__} {event.iteration}"
        for event in straight.run()
        if not isinstance(event, Painting)
    ]


def test_the_state_is_whole_at_every_checkpoint(workshop):
    made = trainer(workshop, output__evaluation=3)
    whole = [made.whole for event in made.run() if isinstance(event, (CheckpointDue, Iteration))]
    assert len(whole) == 10 and all(whole)
