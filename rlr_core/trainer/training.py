"""The training loop: estimate, weigh, step; previews, evaluations and checkpoints when they are due.

All randomness is a function of (seed, iteration), so the iteration number is the whole state of the random numbers, and a
resumed run is the run that was never interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain.noise import derive_seed
from rlr_core.errors import RunError
from rlr_core.estimators import Batch, Estimate, Problem
from rlr_core.estimators.length import length, scaled_to_unit
from rlr_core.estimators.problem import flatten
from rlr_core.trainer.averaging import Average
from rlr_core.trainer.events import (
    AlarmRaised,
    CheckpointDue,
    Evaluation,
    Event,
    Iteration,
    NewBest,
    Painting,
    PartReport,
    Preview,
    Ranked,
    Skipped,
    Warned,
)
from rlr_core.trainer.leash import Leash, has_distance
from rlr_core.trainer.measuring import calibrate, evaluation, preview
from rlr_core.trainer.misgivings import misgiving
from rlr_core.trainer.optimizer import adam
from rlr_core.trainer.prompts import deal
from rlr_core.trainer.seeding import seeded
from rlr_core.trainer.setup import Setup, StopRequested
from rlr_core.trainer.starts import measure_starts
from rlr_core.trainer.trust import TrustRegion
from rlr_core.trainer.values import copies, put
from rlr_core.trainer.watch import Watch
from rlr_core.trainer.way_back import WayBack
from rlr_core.trainer.weighing import Weighing

LONGEST = 1e18
"""Of a gradient whose components float32 can square."""


class Trainer:
    """Ascends the expected reward of a `Setup`. Iterate over `run()`.

    Between two events, and after an exception of whatever kind, everything is as training left it: the model has training's
    own LoRA, and the process its random numbers.

    Attributes:
        way_back: what checks have undone, each time to go on by steps of half the length, and half as far.
        whole: whether a run that goes on from `state_dict` is the run that was never interrupted, with nothing left out that
            it tells and nothing told twice. So it is at every `CheckpointDue`, and after an exception of any kind from a
            reward or a network. Within a step of the optimizer, between the events of one check, and from the evaluation
            after training on it is False: there the last checkpoint counts.
    """

    def __init__(self, setup: Setup):
        training = setup.config.training
        self.setup = setup
        self.whole = True
        self.iteration = 0
        self.skipped_in_a_row = 0
        self.previewed = self.checked = self.saved = -1
        self.watch = Watch(setup.config)
        self.optimizer = adam(setup.lora.parameters, training.learning_rate, setup.config.memory.optimizer)
        self.average = Average(setup.lora.parameters, training.ema)
        self.weighing = Weighing(by_signal=training.weighing == "signal")
        trusting = training.step == "trust"
        self.trust = TrustRegion(setup.lora.parameters, self.optimizer, training.kl) if trusting else None
        self.way_back = WayBack(setup.lora, copies(setup.lora.parameters))
        held = training.max_kl and all(map(has_distance, setup.problems))
        self.leash = Leash(setup.lora.parameters, training.max_kl, self.way_back.start) if held else None

    def run(self) -> Iterator[Event]:
        """Train to the end, then measure what came out."""
        yield from self.train()
        yield from self.evaluate()

    def train(self) -> Iterator[Event]:
        """To the end, from the start or from a loaded state; what is due follows from the state alone."""
        output = self.setup.config.output
        yield from self._ready()
        while True:
            if self.preview_due:
                seen = yield from preview(self.setup, self.iteration, self.averaged)
                self.previewed = self.iteration
                yield seen
            # the start is always checked, after its preview: so the first pictures are soon there
            if self.checked < 0 or (self._due(output.preview_every) and self.checked < self.iteration):
                yield from self.check()
            if self._due(output.checkpoint_every) and self.saved != self.iteration:
                self.saved = self.iteration
                yield CheckpointDue(self.iteration)
            if self.finished:
                break
            yield from self._iterated()

    def _ready(self) -> Iterator[Painting | Ranked]:
        """What reward and estimator have to know before the first iteration; nothing where they know it."""
        yield from calibrate(self.setup, self.iteration)
        yield from measure_starts(self.setup, self.iteration)

    @property
    def preview_due(self) -> bool:
        """Whether a preview comes next by itself."""
        return self._due(self.setup.config.output.preview_every) and self.previewed != self.iteration

    def preview(self) -> Iterator[Painting | Preview]:
        """Paint and score a preview that is not due; those that are due come all the same."""
        yield (yield from preview(self.setup, self.iteration, self.averaged))

    def evaluate(self) -> Iterator[Event]:
        """Paint and score the held-out pairs with what comes out of the training that is over.

        It is the last check, and where its alarm has the best LoRA put in the place of the last one, that one is scored, too.
        """
        if not self.setup.config.output.evaluation:
            return
        told = yield from self._evaluated()
        yield from told
        if told[0].iteration != self.exported_iteration:
            yield from (yield from self._evaluated())

    def _evaluated(self) -> Generator[Painting, None, list[Evaluation | NewBest | AlarmRaised]]:
        """The evaluation after training, and what it shows."""
        iteration, count = self.exported_iteration, self.setup.config.output.evaluation
        evaluated = yield from evaluation(self.setup, "after", iteration, count, self.exported)
        closer = yield from self._closer(evaluated)
        self.whole = False
        return [evaluated, *self.watch.judge(evaluated, self.setup.lora.weights, closer)]

    @property
    def finished(self) -> bool:
        """Whether training is over."""
        return self.iteration >= self.setup.config.training.iterations or self.rolled_back

    @property
    def rolled_back(self) -> bool:
        """Whether the alarm has ended training; then the best LoRA is what comes out."""
        return self.watch.raised and self.setup.config.alarm.action == "rollback"

    @property
    def exported_iteration(self) -> int:
        """That the run's LoRA is of."""
        best = self.rolled_back or self.setup.config.output.lora == "best"
        return self.watch.best if best and self.watch.best_lora else self.iteration

    def exported(self) -> AbstractContextManager[None]:
        """With the LoRA that is the run's result: its average, or the best; training's own is back afterwards."""
        if self.exported_iteration == self.iteration:
            return self.averaged()
        return self._best()

    def _best(self) -> AbstractContextManager[None]:
        """With the best LoRA so far; training's own is back afterwards."""
        return self._wearing(lambda: self.setup.lora.set_weights(self.watch.best_lora))

    def averaged(self) -> AbstractContextManager[None]:
        """With the LoRA's average; training's own is back afterwards."""
        return self._wearing(self.average.apply) if self.average.decay else nullcontext()

    @contextmanager
    def _wearing(self, dress: Callable[[], None]) -> Iterator[None]:
        """With the LoRA that `dress` puts on; the state is whole again when training's own is back, to the last bit."""
        parameters, whole = self.setup.lora.parameters, self.whole
        own = [p.detach().clone() for p in parameters]
        self.whole = False
        try:
            dress()
            yield
        finally:
            put(parameters, own)
            self.whole = whole  # not where that was interrupted

    def _due(self, every: int) -> bool:
        """At the first and the last iteration, and at every `every`-th one."""
        return self.iteration == 0 or self.finished or (every > 0 and self.iteration % every == 0)

    def _iterated(self) -> Iterator[Event]:
        """An iteration, and before it what has to be known of it."""
        taken = self.iterate()
        if warning := misgiving(self.setup.config, taken):
            self.whole = False
            yield Warned(warning)
            self.whole = True
        yield taken

    def iterate(self) -> Iteration | Skipped:
        """One iteration: an optimizer step, or a skip that leaves everything as it was."""
        for _ in self._ready():
            pass
        began = time.perf_counter()
        batch = self.batch()
        if self.trust:
            new = self.iteration % self.setup.estimator.batch_reuse == 0
            self.trust.look(self._problem, batch, self.setup.prompted.denoiser, new_batch=new)
        if self.leash:
            self.leash.look(self._problem, batch)
        self.whole = False
        estimate = self.estimate(batch)
        reward_parts = self.setup.reward.settle(self._problem.collective.sum)
        self.iteration += 1
        taken = self._ascend(estimate, reward_parts, began)
        self.whole = True
        self._refuse_endless_skipping(taken)
        return taken

    def estimate(self, batch: Batch) -> Estimate:
        """The estimator's; where it is interrupted, estimator and reward forget what they saw of this batch."""
        estimator = self.setup.estimator
        learned = estimator.state_dict()
        try:
            with seeded(derive_seed(self.setup.config.training.seed, "iteration", self.iteration)):
                return estimator(self._problem, batch)
        except BaseException:  # a host may cancel by any
            estimator.load_state_dict(learned)
            self.setup.reward.forget()
            self.whole = True
            raise

    def _ascend(
        self, estimate: Estimate, reward_parts: dict[str, float], began: float
    ) -> Iteration | Skipped:
        rewards, n = estimate.rewards, len(estimate.rewards)
        if not estimate.finite:
            return self._skip(_what_is_not_finite(estimate), self._spent(estimate), began)
        weights = self.weighing(estimate.parts)
        weighed = [weights[name] * part.gradient for name, part in estimate.parts.items()]
        gradient = torch.stack(weighed).sum(0)
        if self._is_beyond_adam(gradient):
            reason = f"Adam cannot square a gradient of {length(gradient):.1g}: set training.max_grad_norm"
            return self._skip(reason, self._spent(estimate), began)
        if not self._step(gradient):
            reason = "the step would have made a weight of the LoRA NaN or infinite"
            return self._skip(reason, self._spent(estimate), began)
        if self.leash:
            self.leash.settle()
        self.average.update()
        self.skipped_in_a_row = 0
        return Iteration(
            iteration=self.iteration,
            reward=float(rewards.mean()),
            reward_error=float(rewards.std() / math.sqrt(n)) if n > 1 else math.nan,
            parts={k: PartReport(p.norm, p.standard_error, weights[k]) for k, p in estimate.parts.items()},
            gradient_norm=length(gradient),
            evaluations=self._spent(estimate),
            seconds=time.perf_counter() - began,
            measured_on=f"{'predicted' if self.setup.estimator.scores_predictions else 'finished'} pictures",
            reward_parts=reward_parts,
            step=self._told(),
        )

    @property
    def _turn(self) -> int:
        """The number of the batch: an estimator that reuses its rollouts is shown the same one again."""
        return self.iteration // self.setup.estimator.batch_reuse

    @property
    def _problem(self) -> Problem:
        """Of the size that this batch has."""
        return self.setup.problems[self._turn % len(self.setup.problems)]

    def batch(self) -> Batch:
        """The batch of this iteration; sizes come in turn."""
        setup, training, turn = self.setup, self.setup.config.training, self._turn
        repeats = training.batch_size // training.prompts_per_batch
        dealt = deal(setup.prompts, training.prompts_per_batch, turn, training.seed)
        prompts = [prompt for prompt in dealt for _ in range(repeats)]
        canvas = setup.canvases[turn % len(setup.canvases)]
        seeds = [derive_seed(training.seed, "picture", turn, j) for j in range(training.batch_size)]
        return Batch(
            prompts=[prompt.scored for prompt in prompts],
            conditioning=setup.prompted.conditioning(
                [setup.stages.schedule(prompt, canvas.schedule) for prompt in prompts]
            ),
            noise=canvas.noise(seeds, setup.model.device),
            seed=derive_seed(training.seed, "estimator", self.iteration),
        )

    def _spent(self, estimate: Estimate) -> float:
        """Network evaluations of this iteration, per picture."""
        looked = sum(each.cost.evaluations for each in (self.trust, self.leash) if each)
        return (estimate.cost.evaluations + looked) / len(estimate.rewards)

    def _told(self) -> dict[str, float]:
        """Of the step's length, and of how far it all has come."""
        step = self.trust.told(self._share) if self.trust else {}
        return step | (self.leash.told() if self.leash else {})

    def _rate(self) -> float:
        """Of Adam's step with the gradient that the parameters have now."""
        if self.trust:
            return self._share * self.trust.rate(flatten(p.grad for p in self.setup.lora.parameters))
        return self._share * self.setup.config.training.learning_rate

    @property
    def _share(self) -> float:
        """Of the steps' length, what schedule and checks leave in the iteration that is now carried out."""
        training, whole = self.setup.config.training, self.way_back.share
        if training.schedule == "constant":
            return whole
        done = (self.iteration - 1) / training.iterations
        return whole * (1 + math.cos(math.pi * done)) / 2

    def _is_beyond_adam(self, gradient: Tensor) -> bool:
        """Whether float32 cannot hold its squares, which would make the step 0."""
        return not self.setup.config.training.max_grad_norm and length(gradient) > LONGEST

    def _step(self, gradient: Tensor) -> bool:
        """Ascend. False if a weight would not be finite: the LoRA is as before, and Adam starts anew."""
        parameters, limit = self.setup.lora.parameters, self.setup.config.training.max_grad_norm
        if limit and length(gradient) > LONGEST:
            gradient = scaled_to_unit(gradient) * limit  # whose norm float32 does not hold is clipped to 0
        before = [p.detach().clone() for p in parameters]
        for p, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
            p.grad = -part.view_as(p)
        if limit:
            torch.nn.utils.clip_grad_norm_(parameters, limit)
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        if all(p.isfinite().all() for p in parameters):
            return True
        put(parameters, before)
        self.optimizer.state.clear()
        return False

    def _skip(self, reason: str, evaluations: float, began: float) -> Skipped:
        self.skipped_in_a_row += 1
        return Skipped(self.iteration, reason, time.perf_counter() - began, evaluations)

    def _refuse_endless_skipping(self, taken: Iteration | Skipped) -> None:
        if isinstance(taken, Skipped) and self.skipped_in_a_row >= self.setup.config.training.max_skipped:
            raise RunError(
                f"{self.skipped_in_a_row} iterations in a row were skipped, the last because {taken.reason}",
                "finite rewards and gradients",
                "check the reward, lower training.learning_rate, or use model.precision = float32",
            )

    def check(self) -> Iterator[Event]:
        """Paint and score held-out pairs for the best LoRA, the alarm and the way back: all before training, then fewer."""
        before = self.iteration == 0
        count = self.setup.config.output.evaluation if before else self.watch.pictures
        if not count:
            return
        when = "before" if before else "during"
        evaluated = yield from evaluation(self.setup, when, self.iteration, count, self.averaged)
        closer = {} if before or self.finished else (yield from self._closer(evaluated))
        evaluated = closer.get(self.iteration, evaluated)
        self.whole = False
        with self.averaged():
            told = self.watch.judge(evaluated, self.setup.lora.weights, closer)
        self.checked = self.iteration
        *others, last = evaluated, *told, *self._gone_back()
        yield from others
        self.whole = True
        yield last
        alarm = any(isinstance(event, AlarmRaised) for event in told)
        if alarm and self.setup.config.alarm.action == "stop":
            raise StopRequested

    def _gone_back(self) -> list[Warned]:
        """Where pictures are worse than at the start, the way back. Adam and the average begin anew."""
        training = self.setup.config.training
        if self.rolled_back or not training.backtrack:
            return []
        told = self.way_back.take(self.watch, over=self.iteration >= training.iterations)
        if not told:
            return []
        self.optimizer.state.clear()
        self.average = Average(self.setup.lora.parameters, training.ema)
        self._limit()
        return [Warned(f"{told} (training.backtrack = false leaves it alone)")]

    def _limit(self) -> None:
        """To the divergence, which grows with the square of the way."""
        if self.leash:
            self.leash.limit = self.setup.config.training.max_kl * self.way_back.share**2

    def _closer(self, seen: Evaluation) -> Generator[Painting, None, dict[int, Evaluation]]:
        """Evaluations of all pairs, by iteration, where `seen` may have fallen: of its own LoRA and of the best, if need be."""
        count, found = self.setup.config.output.evaluation, {}
        for iteration in self.watch.doubts(seen):
            wear = self.averaged if iteration == self.iteration else self._best
            found[iteration] = yield from evaluation(self.setup, "during", iteration, count, wear)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors, numbers and texts; training on does not change it."""
        return {
            "iteration": self.iteration,
            "skipped_in_a_row": self.skipped_in_a_row,
            "previewed": self.previewed,
            "checked": self.checked,
            "saved": self.saved,
            "halvings": self.way_back.halvings,
            "lora": self.setup.lora.state_dict(),
            "optimizer": deepcopy(self.optimizer.state_dict()),
            "estimator": self.setup.estimator.state_dict(),
            "weighing": self.weighing.state_dict(),
            "trust": self.trust.state_dict() if self.trust else {},
            "leash": self.leash.state_dict() if self.leash else {},
            "average": self.average.state_dict(),
            "watch": self.watch.state_dict(),
            "reward": self.setup.reward.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        for name in ("iteration", "skipped_in_a_row", "previewed", "checked", "saved"):
            setattr(self, name, state[name])
        self.way_back.halvings = state.get("halvings", 0)
        self._limit()
        self.setup.lora.load_state_dict(state["lora"])
        self.optimizer.load_state_dict(
            deepcopy(state["optimizer"])
        )  # torch would go on with the very tensors
        self.setup.estimator.load_state_dict(state["estimator"])
        self.weighing.load_state_dict(state["weighing"])
        if self.trust:
            self.trust.load_state_dict(state["trust"])
        if self.leash and state.get("leash"):
            self.leash.load_state_dict(state["leash"])
        self.average.load_state_dict(state["average"])
        self.watch.load_state_dict(state["watch"])
        self.setup.reward.load_state_dict(state["reward"])


def _what_is_not_finite(estimate: Estimate) -> str:
    if not estimate.rewards.isfinite().all():
        count = int((~estimate.rewards.isfinite()).sum())
        return f"{count} of {len(estimate.rewards)} rewards are NaN or infinite"
    bad = [name for name, part in estimate.parts.items() if not part.gradient.isfinite().all()]
    return f"the gradient is NaN or infinite ({', '.join(bad)})"
