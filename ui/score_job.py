"""`python -m ui.score_job FOLDER`: score pictures with rewards, one network after the other."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ui.work import Telling, main, scored


def work(asked: dict[str, Any], telling: Telling) -> None:
    """Tell reward → scores, as each is there."""
    pictures = [(Path(each["file"]), each["prompt"]) for each in asked["pictures"]]
    telling(total=len(pictures) * len(asked["rewards"]))
    found = dict[str, Any]()
    for name, scores in scored(asked["rewards"], asked["folder"], pictures, telling):
        found[name] = scores
        telling(scores=found)


if __name__ == "__main__":
    sys.exit(main(work))
