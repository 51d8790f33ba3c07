"""Import what paints in two thirds of the time: without torch's compiler, which is not used to paint.

transformers and diffusers mark functions for it when they are imported, and so import it, with sympy and torch.distributed.
Here the marks are taken for granted, and the libraries find neither torchvision nor peft, which they would import as well. The
packages of the environment are listed once for both libraries, and no garbage is looked for among what was just imported.

The libraries remember what they found. So this is for a process of our own that paints and ends; one that trains, or that
somebody else began, imports all as usual.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from importlib import metadata
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
NOT_NEEDED = ("peft", "torchvision")
"""Which are not imported while None stands for them in `sys.modules`."""


@contextmanager
def painting_only() -> Iterator[None]:
    """Inside, networks are imported and loaded without the compiler, where the libraries bear that."""
    with _without_compiler() if _imported_without() else nullcontext():
        yield


def _imported_without() -> bool:
    """Import the networks' classes; whether that went well. Where it did not, the usual import tells what is wrong."""
    if {COMPILER, *NOT_NEEDED} & set(sys.modules):
        return False
    with suppress(Exception), _without_collecting(), _without_compiler():  # libraries raise of all kinds
        from transformers import CLIPTokenizer  # noqa: F401

        from rlr_core.models.stable_diffusion.loading.networks import class_of

        class_of("unet")
        return True
    return False


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Inside, the compiler is one that leaves every function as it is, and torch has no distributed part."""
    import torch.compiler
    import torch.distributed

    disable, is_available = torch.compiler.disable, torch.distributed.is_available
    listed = metadata.packages_distributions
    torch.compiler.disable, torch.distributed.is_available = _unchanged, lambda: False
    metadata.packages_distributions = functools.cache(listed)
    sys.modules.update({COMPILER: _compiler(torch.__path__[0]), **dict.fromkeys(NOT_NEEDED)})  # type: ignore
    try:
        yield
    finally:
        torch.compiler.disable, torch.distributed.is_available = disable, is_available
        metadata.packages_distributions = listed
        for name in (COMPILER, *NOT_NEEDED):
            sys.modules.pop(name, None)


@contextmanager
def _without_collecting() -> Iterator[None]:
    """What is imported inside stays: the garbage collector need not look at it, neither now nor later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _compiler(torch_folder: str) -> ModuleType:
    """In the place of torch's; some of its files are imported by themselves."""

    def find(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unchanged

    compiler = ModuleType(COMPILER)
    compiler.__path__ = [os.path.join(torch_folder, "_dynamo")]
    compiler.__getattr__ = find
    return compiler


def _unchanged(function: Any = None, *_: Any, **__: Any) -> Any:
    """A decorator, with arguments or without, that does nothing."""
    return (lambda decorated: decorated) if function is None else function
