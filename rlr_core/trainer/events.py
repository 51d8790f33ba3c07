"""What a training run tells: one small dataclass for each kind of event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rlr_core.lora import LoraWeights
from rlr_core.rewards import Pictures
from rlr_core.trainer.alarm import Fall


@dataclass(frozen=True)
class PartReport:
    """A part of the gradient: its norm, its standard error, and the weight it was given."""

    norm: float
    standard_error: float
    weight: float


@dataclass(frozen=True)
class Iteration:
    """An optimizer step was taken.

    Attributes:
        iteration: counted from 1.
        reward: mean over the batch; `reward_error` its standard error.
        measured_on: "finished pictures", or the "predicted pictures" of an estimator that does not run the chain to its end.
        reward_parts: of a mix: each part's own mean over all pictures that were scored.
        step: of a trust region: the "rate" of Adam's step, the "signal" in its direction, and the "kl" it is meant to have;
            of a leash: the "distance" from the checkpoint, in nats for each number of a latent.
        gradient_norm: of the weighed gradient, before it is scaled down.
        evaluations: network evaluations spent, per picture.
        seconds: wall-clock time.
    """

    iteration: int
    reward: float
    reward_error: float
    parts: Mapping[str, PartReport]
    gradient_norm: float
    evaluations: float
    seconds: float
    measured_on: str = "finished pictures"
    reward_parts: Mapping[str, float] = field(default_factory=dict)
    step: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """An iteration that changed nothing, and why; `evaluations` as in `Iteration`."""

    iteration: int
    reason: str
    seconds: float
    evaluations: float = 0.0


@dataclass(frozen=True)
class Painting:
    """Pictures that only measure are being painted. Told before the first one, and after each group that is painted together.

    Attributes:
        iteration: that the LoRA is of.
        purpose: "calibration" (of the reward's scale), "starts" (where predictions rank), "preview", or the evaluation
            "before", "during" or "after" training.
        done: pictures so far, of `total`.
    """

    iteration: int
    purpose: str
    done: int
    total: int


@dataclass(frozen=True)
class Preview:
    """Pictures at fixed prompts and seeds: images (N, 3, H, W), range [0, 1] (or a list), and their held-out scores (N,).

    `watched` and `statistics` are (N,) each: scores of the rewards that only watch, and what the pictures are like.
    """

    iteration: int
    prompts: list[str]
    seeds: list[int]
    images: Pictures = field(repr=False)
    scores: Tensor
    watched: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Pictures of (prompt, seed) pairs that are never trained on.

    Attributes:
        when: "before", "during" (of the first pairs alone, as a rule) or "after" training.
        iteration: that the LoRA is of.
        images: (N, 3, H, W), range [0, 1]; where their sizes differ, a list.
        scores: (N,) by the held-out reward.
        rewards: (N,) by the reward that is trained on; a mix on the scale of the start.
        parts: of a mix: each part's own scores, (N,).
        watched, statistics: as in `Preview`.
    """

    when: str
    prompts: list[str]
    seeds: list[int]
    images: Pictures = field(repr=False)
    scores: Tensor
    rewards: Tensor
    iteration: int = 0
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    watched: Mapping[str, Tensor] = field(default_factory=dict)
    statistics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class NewBest:
    """A trained LoRA has the highest held-out score so far.

    Attributes:
        iteration: that it is of.
        score: mean held-out score of the check's first `pairs` pairs.
        weights: the LoRA itself, a copy that nothing changes any more.
    """

    iteration: int
    score: float
    pairs: int
    weights: LoraWeights = field(repr=False)


@dataclass(frozen=True)
class AlarmRaised:
    """Others fell while the trained reward rose, or it fell itself, or the held-out score did.

    Attributes:
        iteration: of the check that showed it.
        since: iteration of the check that the surest fall is measured from.
        falls: what fell, the surest first.
        trained: the trained reward's mean at the start and now, of the same pairs.
        best: iteration of the best LoRA so far by held-out score.
    """

    iteration: int
    since: int
    falls: list[Fall]
    trained: tuple[float, float]
    best: int

    @property
    def message(self) -> str:
        """In plain words."""
        fall = self.falls[0]
        change = (
            f"{fall.before:.3f} → {fall.now:.3f} "
            f"({fall.now - fall.before:+.3f} ± {fall.half_width:.3f}, {fall.pairs} pairs)"
        )
        others = ", ".join(other.series.removeprefix("the ") for other in self.falls[1:])
        what = (
            f"the {fall.series.removeprefix('the ')} fell: {change}{'; also the ' + others if others else ''}"
        )
        if fall.hacked:
            rose = f"the reward trained on rose ({self.trained[0]:.3f} → {self.trained[1]:.3f})"
            return f"the reward may be hacked: {rose}, but since iteration {self.since} {what}"
        if not self.since:
            return f"training has collapsed, to below the start: {what}"
        return f"training has made it worse: since iteration {self.since} {what}"


@dataclass(frozen=True)
class Ranked:
    """How well the rewards of pictures that are predicted on the way rank those of finished ones, and what follows.

    Attributes:
        tau: Kendall's rank correlation within prompts at each step; empty where rewards did not differ enough to tell.
        starts: first step, and the one after the last, where sub-chains start from now on; empty: where the config says.
    """

    iteration: int
    tau: list[float]
    starts: list[int]


@dataclass(frozen=True)
class CheckpointDue:
    """The state is whole: a checkpoint may be written."""

    iteration: int


@dataclass(frozen=True)
class Replanned:
    """The memory was not enough, or would not be; the run goes on from its last checkpoint with smaller settings.

    Attributes:
        settings: what changed, as `--set` takes it.
    """

    iteration: int
    settings: list[str]


@dataclass(frozen=True)
class Edited:
    """A run that was resumed goes on with settings that were changed in its config.

    Attributes:
        settings: each with both values.
    """

    iteration: int
    settings: list[str]


@dataclass(frozen=True)
class Warned:
    """What the user should know, and what to do about it; the run goes on."""

    message: str


Event = (
    Iteration
    | Skipped
    | Painting
    | Preview
    | Evaluation
    | NewBest
    | AlarmRaised
    | Ranked
    | CheckpointDue
    | Replanned
    | Edited
    | Warned
)
