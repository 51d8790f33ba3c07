"""`python -m ui.strip_job FOLDER`: paint a prompt, and draw what its stages decide."""

from __future__ import annotations

import sys
from typing import Any

from ui.work import Telling, main


def work(asked: dict[str, Any], telling: Telling) -> None:
    """Leave `strip.png`."""
    from rlr_core.config import from_dict
    from rlr_core.runs.pictures import save_png
    from rlr_core.runs.stage_strip import stage_strip, unfolded

    config = from_dict(asked["config"])
    telling(doing="painting")
    save_png(
        stage_strip(unfolded(config, config.prompts.train[0], config.training.seed)),
        telling.folder / "strip.png",
    )


if __name__ == "__main__":
    sys.exit(main(work))
