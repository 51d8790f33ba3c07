"""Checks of whole runs, recorded or simulated, shown to the watch as a run shows them.

A recorded run (`recorded_runs/*.json`) is a real one on the embedded checkpoint: by series, the scores of the checks in turn,
on the way of the first 32 pairs of the evaluation or, where the run was in doubt, of all 64, as at the start and the end.
`python tests/recorded_runs.py RUN FILE` takes one from the log of a run with `alarm.pictures=32` and the action `warn`, so
that none ends early. `collapse-v1-0` and `-1` are those of docs/evidence.md. The others have 32 pairs and chains of 5 steps:

    rlr demo --set model.threads=1 --set sampling.steps=5 --set output.evaluation=32 --set alarm.pictures=32
        --set output.preview_every=10 --set training.seed=SEED --set training.iterations=40 --set training.learning_rate=0.015
        --set estimator.chunk=4 --set estimator.name=v1 | alignprop | draft --set estimator.first_order_steps=2

for `collapse-NAME-SEED`; `good-NAME-SEED` have 30 iterations at a rate of 0.001, and `good-default-SEED` the preset's estimator
and rate.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rlr_core.config import RunConfig, from_dict
from rlr_core.lora import LayerWeights, Place
from rlr_core.trainer import AlarmRaised, Evaluation
from rlr_core.trainer.alarm import HELD_OUT, TRAINED
from rlr_core.trainer.watch import Watch

FOLDER = Path(__file__).with_name("recorded_runs")
Check = dict[str, Tensor]


def recorded(name: str) -> list[Check]:
    """The checks of a recorded run, that at the end included."""
    told = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return [{series: torch.tensor(scores) for series, scores in check.items()} for check in told["checks"]]


def alarm_of(checks: Sequence[Check], pictures: int) -> AlarmRaised | None:
    """The alarm that a run raises whose checks are these; on the way it sees the first `pictures` pairs, and others in doubt.

    The iteration of check k is k, and that of the last one, of all pairs, the same as of the one before.
    """
    watch = Watch(_config(len(checks), len(checks[0][TRAINED]), pictures))
    for k, check in enumerate(checks):
        first, last = k == 0, k == len(checks) - 1
        seen = evaluation(k - last, check, None if first or last else pictures)
        doubts = [] if first else watch.doubts(seen)
        closer = {iteration: evaluation(iteration, checks[iteration]) for iteration in doubts}
        for event in watch.judge(seen, lambda: LORA, closer):
            if isinstance(event, AlarmRaised):
                return event
    return None


LORA = {Place("unet", "layer"): LayerWeights(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)}


def _config(checks: int, pairs: int, pictures: int) -> RunConfig:
    return from_dict(
        {
            "training": {"iterations": checks - 2},
            "output": {"preview_every": 1, "evaluation": pairs},
            "alarm": {"pictures": pictures},
        }
    )


def evaluation(iteration: int, check: Check, pictures: int | None = None) -> Evaluation:
    """Of the first `pictures` pairs of a check."""
    scores = {name: values[:pictures] for name, values in check.items()}
    trained, held_out = scores.pop(TRAINED), scores.pop(HELD_OUT)
    diversity = scores.pop("diversity", torch.ones(len(trained)))
    return Evaluation(
        "during",
        prompts=["a circle"] * len(trained),
        seeds=list(range(len(trained))),
        images=torch.zeros(len(trained), 3, 1, 1),
        scores=held_out,
        rewards=trained,
        iteration=iteration,
        watched=scores,
        statistics={"diversity": diversity},
    )


def record(lines: Iterable[str]) -> str:
    """A recorded run, from the lines of its log."""
    events = [event for event in map(json.loads, lines) if event["type"] == "evaluation"]
    checks = [
        {
            TRAINED: event["rewards"],
            HELD_OUT: event["scores"],
            "diversity": event["statistics"]["diversity"],
        }
        for event in events
    ]
    rounded = [
        {name: [round(score, 4) for score in scores] for name, scores in check.items()} for check in checks
    ]
    return json.dumps({"iterations": [event["iteration"] for event in events], "checks": rounded}) + "\n"


if __name__ == "__main__":
    run, file = map(Path, sys.argv[1:])
    file.write_text(record((run / "events.jsonl").read_text(encoding="utf-8").splitlines()), encoding="utf-8")
