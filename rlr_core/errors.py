"""Errors for users: what came, what was expected, what to do.

Everything that a user can put right is an `RLRError` (a `ValueError`); the command line prints its message and exits
with code 2. Broken invariants of our own are asserts.
"""

from __future__ import annotations

import json

LONGEST = 1000
"""Letters of each part of a message: a value out of a file may be of any length."""


def visible(text: str) -> str:
    """Text of any source, fit for a terminal: what is not printable is written as in JSON, but for the ends of lines."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


class RLRError(ValueError):
    """A problem that the user can put right. Its message is `visible`, and not endless.

    Args:
        got: what came, with the offending value or path.
        expected: what would have been right.
        do: what to do about it.
    """

    def __init__(self, got: str, expected: str, do: str):
        told = [visible(_shortened(part)) for part in (got, expected, do)]
        super().__init__("{}\n  expected:   {}\n  what to do: {}".format(*told))
        self.parts = got, expected, do

    def __reduce__(self) -> tuple[type[RLRError], tuple[str, str, str]]:
        """So that it can come from another process."""
        return type(self), self.parts


class ConfigError(RLRError):
    """A setting that does not exist, has the wrong type, or contradicts another one."""


class CheckpointError(RLRError):
    """A model or LoRA file that is missing, damaged or of another kind."""


class PromptError(RLRError):
    """A prompts file that cannot be used."""


class RewardError(RLRError):
    """A reward that raised, or returned something that is not one finite score for each picture."""


class EstimatorError(RLRError):
    """An estimator that cannot work on this chain with this reward."""


class GradientError(EstimatorError):
    """An estimator that needs the gradient of a reward that has none."""


class RunError(RLRError):
    """A run folder that is in use, damaged or not a run; or a run that cannot go on."""


class PlanError(RLRError):
    """A run that does not fit the device."""


class StorageError(RLRError):
    """The disk is full, or the folder cannot be written."""


def _shortened(text: str) -> str:
    """Without its middle, where it is too long: the end often says where something went wrong."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
