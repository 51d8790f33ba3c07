"""What the processes of jobs have in common: they tell how far they are, and an error in the core's words."""

from __future__ import annotations

import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rlr_core.errors import RLRError
from ui import jobs


class Telling:
    """What a job has told so far; every change of it is written down at once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.facts: dict[str, Any] = {"state": "working", "done": 0, "total": 0, "doing": "loading"}
        self()

    def __call__(self, **facts: Any) -> None:
        """Tell more."""
        self.facts |= facts
        jobs.tell(self.folder, self.facts)


def main(work: Callable[[dict[str, Any], Telling], None]) -> int:
    """Do the job whose folder is the program's argument; returns the exit code."""
    folder = Path(sys.argv[1])
    telling = Telling(folder)
    warnings.filterwarnings("ignore")
    try:
        work(jobs.asked(folder), telling)
    except RLRError as error:
        telling(state="failed", error=str(error))
        return 2
    except Exception as error:
        traceback.print_exc()
        telling(state="failed", error=_plain(error))
        return 1
    telling(state="finished", doing="")
    return 0


def _plain(error: Exception) -> str:
    if "out of memory" in str(error).lower():
        return "The card has not enough memory for this now.\nClose what else uses it, or wait until the training is over."
    return f"{type(error).__name__}: {error}"


def scored(
    rewards: Sequence[str], folder: str, pictures: Sequence[tuple[Path, str]], telling: Telling
) -> Iterator[tuple[str, list[float | None]]]:
    """Each reward with a score for each (picture file, prompt), None where it is not defined; one network at a time.

    A reward that cannot say anything is told with its reason among `problems`, and harms no other one.
    """
    from rlr_core.config import RewardConfig
    from rlr_core.rewards import load_reward
    from rlr_core.runs.pictures import read_picture
    from rlr_core.trainer.devices import choose_device

    settings, problems = RewardConfig(folder=folder, download=False), dict[str, str]()
    for name in rewards:
        telling(doing=f"scoring with {name}")
        try:
            reward, scores = load_reward(name, choose_device("auto"), settings), []
            for path, prompt in pictures:
                value = float(reward.measure(read_picture(path)[None], [prompt]).total)
                scores.append(value if math.isfinite(value) else None)
                telling(done=telling.facts["done"] + 1)
        except RLRError as error:
            problems[name] = str(error)
            telling(problems=problems)
            continue
        yield name, scores
        del reward
        free_memory()


def free_memory() -> None:
    """Of networks that nobody refers to any more."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
