"""The trainer: maths without IO. It yields events; whoever calls it logs, draws and saves."""

from rlr_core.trainer.composing import Composed, composed
from rlr_core.trainer.events import (
    AlarmRaised,
    CheckpointDue,
    Edited,
    Evaluation,
    Event,
    Iteration,
    NewBest,
    Painting,
    Preview,
    Ranked,
    Replanned,
    Skipped,
    Warned,
)
from rlr_core.trainer.materials import Materials, Rewards
from rlr_core.trainer.sampling import Painter, painter, score
from rlr_core.trainer.setup import Setup, StopRequested, prepare
from rlr_core.trainer.training import Trainer
from rlr_core.trainer.unfolding import Unfolding, unfold

__all__ = [
    "AlarmRaised", "CheckpointDue", "Composed", "Edited", "Evaluation", "Event", "Iteration", "Materials", "NewBest", "Painter",
    "Painting", "Preview", "Ranked", "Replanned", "Rewards", "Setup", "Skipped", "StopRequested", "Trainer", "Unfolding",
    "Warned", "composed", "painter", "prepare", "score", "unfold",
]  # fmt: skip
