"""The part of the report that says what every reward and statistic makes of the pictures, and whether the alarm was raised."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from rlr_core.config import Judged, RunConfig
from rlr_core.runs.iterations import spread
from rlr_core.runs.sparkline import sparkline
from rlr_core.runs.summary import Series, short

TITLES = {
    "trained": "Trained on",
    "part": "Its parts",
    "held-out": "Judged by",
    "watched": "Only watched",
    "statistic": "What the pictures are like",
}
MARKS = {"better": "▲", "worse": "▼", "unclear": "●"}
"""Beside a verdict's colour and word."""
POINTS = 180
"""Of a curve along the way at most: as many as it has pixels."""
WHAT_IT_DID = {
    "warn": "Training went on.",
    "stop": "The run was stopped there; rlr resume goes on with it.",
    "rollback": "Training ended there, and the LoRA is {lora}.",
}


def scoreboard(series: Sequence[Series], config: RunConfig) -> str:
    """Table rows, grouped."""
    named = {"trained": short(config.reward.name), "held-out": short(config.reward.held_out)}
    rows = []
    judged = {"held-out": Judged.of(config).title}
    for group, title in {**TITLES, **judged}.items():
        mine = [each for each in series if each.group == group]
        mine = [_row(each, named.get(group) or short(each.name)) for each in mine]
        rows += [f'<tbody><tr><th colspan="6">{title}</th></tr>{"".join(mine)}</tbody>'] if mine else []
    return "".join(rows)


def _row(series: Series, name: str) -> str:
    compared = series.comparison
    digits = _decimals(compared.half_width)
    change = f"{compared.difference:+.{digits}f} ± {compared.half_width:.{digits}f}"
    numbers = (f"{compared.before:.{digits}f}", f"{compared.after:.{digits}f}")
    kind, word = _verdict(series)
    points = [series.points[k] for k in spread(len(series.points), POINTS)]
    cells = [
        f'<td class="name">{html.escape(name)}</td>',
        *(f'<td class="number">{with_minus(number)}</td>' for number in numbers),
        f'<td class="number change">{with_minus(change)}</td>',
        f'<td class="word {kind}">{word}</td>',
        f"<td class='curve'>{sparkline(points, html.escape(name + ' along the way'))}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _verdict(series: Series) -> tuple[str, str]:
    """Class and words; what a picture is like is neither good nor bad."""
    change = series.comparison.verdict
    if change.startswith("did not"):
        return "unclear", f"{MARKS['unclear']} unclear"
    kind = change.removeprefix("got ")
    if series.group == "statistic":
        return "clear", "▲ more" if kind == "better" else "▼ less"
    return kind, f"{MARKS[kind]} {kind}"


def _decimals(half_width: float) -> int:
    """So many that an uncertainty shows two digits."""
    if not half_width > 0:  # NaN of a single pair, or no uncertainty
        return 3
    return min(6, max(0, 1 - math.floor(math.log10(half_width))))


def with_minus(text: str) -> str:
    """With the sign that is as wide as a plus."""
    return text.replace("-", "−")


def alarm_banner(alarms: Sequence[dict[str, Any]], config: RunConfig) -> str:
    """What raised the alarm, what came of it, and what to do; "" where it was not raised."""
    if not alarms:
        return ""
    alarm = alarms[0]
    best = (
        f"that of iteration {alarm['best']}" if alarm["best"] >= 0 else "unknown: no check had finite scores"
    )
    over = config.alarm.action != "rollback" and alarm["iteration"] >= config.training.iterations
    did = (
        "Training was over."
        if over
        else WHAT_IT_DID[config.alarm.action].format(
            lora="the best one" if alarm["best"] >= 0 else "the last one"
        )
    )
    return (
        '<section class="alarm"><h2>Alarm</h2>'
        f"<p>At iteration {alarm['iteration']} {html.escape(alarm['message'])}.</p>"
        f"<p>{did} The best LoRA by {Judged.of(config).score} is {best}. What helps: fewer iterations, "
        "a lower training.learning_rate, or a mix with a reward that the fallen one agrees with.</p></section>"
    )
