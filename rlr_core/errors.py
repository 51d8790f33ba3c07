"""Errors for users: what came, what was expected, what to do.

Everything that a user can put right is an `RLRError` (a `ValueError`); the command line prints its message and exits
with code 2. Broken invariants of our own are asserts.
"""

from __future__ import annotations


class RLRError(ValueError):
    """A problem that the user can put right.

    Args:
        got: what came, with the offending value or path.
        expected: what would have been right.
        do: what to do about it.
    """

    def __init__(self, got: str, expected: str, do: str):
        super().__init__(f"{got}\n  expected:   {expected}\n  what to do: {do}")
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


class RunError(RLRError):
    """A run folder that is in use, damaged or not a run; or a run that cannot go on."""


class PlanError(RLRError):
    """A run that does not fit the device."""


class StorageError(RLRError):
    """The disk is full, or the folder cannot be written."""
