"""RLR: train a LoRA towards a reward (Recursive Likelihood Ratio, arXiv 2502.00639).

What a program needs is here, and loaded when it is first asked for; everything else is in the rooms below.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlr_core.config import RunConfig, load
    from rlr_core.errors import RLRError
    from rlr_core.lora import Lora, inject, load_lora
    from rlr_core.models import Model, load_model
    from rlr_core.rewards import FunctionReward, Reward, load_reward
    from rlr_core.runs import follow, launch, list_runs, request_stop, resume, start
    from rlr_core.trainer import Materials, Rewards, Trainer, composed, prepare

__version__ = "0.1.0"

_ROOMS = {
    "config": ("RunConfig", "load"),
    "errors": ("RLRError",),
    "lora": ("Lora", "inject", "load_lora"),
    "models": ("Model", "load_model"),
    "rewards": ("FunctionReward", "Reward", "load_reward"),
    "runs": ("follow", "launch", "list_runs", "request_stop", "resume", "start"),
    "trainer": ("Materials", "Rewards", "Trainer", "composed", "prepare"),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "FunctionReward", "Lora", "Materials", "Model", "RLRError", "Reward", "Rewards", "RunConfig", "Trainer", "composed",
    "follow", "inject", "launch", "list_runs", "load", "load_lora", "load_model", "load_reward", "prepare", "request_stop",
    "resume", "start",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a name's room: torch, which takes seconds, is not imported by `import rlr_core`."""
    if name in _HOME:
        return getattr(import_module(f"rlr_core.{_HOME[name]}"), name)
    raise AttributeError(f"module 'rlr_core' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
