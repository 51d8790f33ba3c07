"""A critic that is learned while it is used, for rewards without a gradient.

A surrogate C of the reward (`surrogate.py`) is fitted to the scores of the pictures that are painted, and climbed in its place:

    r · ∂θ C(decode(x̂_θ(x_a))),   a drawn from a window of the chain, x_a without gradient

as the lookahead does (`lookahead.py`), from states of the rollouts that were scored. r is what C is worth: its correlation with
the reward on pictures that it had not seen, so that a critic which knows nothing moves nothing, and one that is pleased by what
does not please the reward is soon taught, and weighs less until then. Biased as the lookahead is, and by what C does not know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlr_core.chain import Cost, initial_latents, rollout
from rlr_core.chain.noise import derive_seed
from rlr_core.estimators.base import Estimator, check_chunk, my_chunks
from rlr_core.estimators.estimate import Estimate, GradientMean
from rlr_core.estimators.length import scaled_to_unit
from rlr_core.estimators.problem import Batch, Problem
from rlr_core.estimators.starts import check_window, drawn, steps_of
from rlr_core.estimators.surrogate import Surrogate


@dataclass
class LearnedCritic(Estimator):
    """The gradient of the critic's lookahead.

    Attributes:
        window: the part of the chain that a is drawn from, as fractions of T.
        draws: starts a of each picture.
        unit: whether each chunk's gradient at one start is scaled to length 1, before r.
        chunk: samples that go through the network together.
    """

    window: tuple[float, float]
    draws: int = 2
    unit: bool = True
    chunk: int = 1
    _surrogate: Surrogate | None = None

    def __call__(self, problem: Problem, batch: Batch) -> Estimate:
        cost, mean = Cost(), GradientMean()
        problem = problem.counted(cost)
        generator = torch.Generator().manual_seed(derive_seed(batch.seed, "plan"))
        starts, mine = self._starts(problem, batch, generator), my_chunks(problem, batch, self.chunk)
        kept, rewards = self._paint(problem, batch, starts, mine, generator)
        for samples, states in zip(mine, kept, strict=True):
            mean.add(self._gradient(problem, batch, samples, starts[:, samples], states))
        return Estimate.of({"critic": mean}, rewards, cost, problem.collective)

    @torch.no_grad()
    def _paint(
        self, problem: Problem, batch: Batch, starts: Tensor, mine: list[Tensor], generator: torch.Generator
    ) -> tuple[list[dict[int, Tensor]], Tensor]:
        """Roll out, score and learn; gives for each chunk step → latents (n, …) before it, and the rewards (B,)."""
        chain, gather = problem.chain(batch), problem.collective.gather
        x0, kept, painted, rewards = initial_latents(chain), [], [], []
        for samples in mine:
            wanted = starts[:, samples].flatten().tolist()
            x, states = rollout(chain, x0[samples.to(x0.device)], samples, range(problem.steps), keep=wanted)
            images = problem.decode(x)
            rewards.append(problem.reward(images, _prompts(batch, samples)))
            painted.append(images.float())
            kept.append(states)
        images, scores = gather(torch.cat(painted)), gather(torch.cat(rewards))
        self._critic(images.device).learn(images, batch.prompts, scores, generator)
        return kept, scores.to(problem.parameters[0].dtype)

    def _gradient(
        self, problem: Problem, batch: Batch, samples: Tensor, starts: Tensor, states: dict[int, Tensor]
    ) -> Tensor:
        """Mean over the starts (draws, n) of a chunk, (P,)."""
        chain, prompts = problem.chain(batch), _prompts(batch, samples)
        critic, found = self._critic(states[int(starts[0, 0])].device), []
        for step in starts:
            x = torch.stack([states[i][j] for j, i in enumerate(step.tolist())])
            with torch.enable_grad():
                predicted = chain.predict(x, step, samples).sample
                score = critic(problem.decode(problem.amplified(predicted)), prompts)
                gradient = problem.gradient(score.mean())
            found.append(scaled_to_unit(gradient) if self.unit else gradient)
        return critic.worth * torch.stack(found).mean(0)

    def _critic(self, device: torch.device) -> Surrogate:
        self._surrogate = self._surrogate or Surrogate.new(device)
        return self._surrogate

    def _starts(self, problem: Problem, batch: Batch, generator: torch.Generator) -> Tensor:
        """a of each sample, (draws, B), from the window; of a problem that is limited to a window of steps, from that."""
        limit = problem.window
        low, high = (limit.start, limit.stop) if limit else steps_of(self.window, problem.steps)
        return torch.stack([drawn(low, high, len(batch), generator) for _ in range(self.draws)])

    def check(self, problem: Problem, batch_size: int) -> None:
        check_chunk(problem, batch_size, self.chunk)
        check_window(self.window, "predictions")

    def coverage(self, problem: Problem) -> Tensor:
        """Of no step: a prediction stands for the steps that follow, and the critic for the reward."""
        return torch.zeros(problem.steps)

    def state_dict(self) -> dict[str, Any]:
        return {"surrogate": self._surrogate.state_dict()} if self._surrogate else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "surrogate" not in state:
            self._surrogate = None
            return
        device = next(iter(state["surrogate"]["network"].values())).device
        self._critic(device).load_state_dict(state["surrogate"])


def _prompts(batch: Batch, samples: Tensor) -> list[str]:
    numbers: list[int] = samples.tolist()
    return [batch.prompts[j] for j in numbers]
