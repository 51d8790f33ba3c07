"""A device without memory, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlr_core.errors import PlanError
from rlr_core.planner.check import is_out_of_memory

from .host import unload_all_models


@contextmanager
def told_in_words() -> Iterator[None]:
    """Raise `PlanError` in place of what torch raises.

    It is made anew each time: an error keeps what it was raised from, and with that all tensors of the run that failed.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, PlanError) or not is_out_of_memory(error):
            raise
        raise PlanError(
            "the memory of the device is not enough for this training",
            "a smaller run, or more memory",
            "wire RLR: settings with checkpoint_denoiser on, lower width and height, or free other models; the run goes on when"
            " it is queued again",
        ) from error


@contextmanager
def room_made() -> Iterator[None]:
    """Where memory was not enough, let go of all models, as ComfyUI does after such an error in a node of its own."""
    try:
        with told_in_words():
            yield
    except PlanError as error:
        if is_out_of_memory(error):
            unload_all_models()
        raise
