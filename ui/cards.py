"""A run as HTML: what it is doing, what can be done now, whether it is better, and what lies under the hood."""

from __future__ import annotations

import html
import shlex
from collections.abc import Sequence
from statistics import fmean

from rlr_core.config import Judged, RunConfig, to_toml
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.state import RunState
from rlr_core.runs.summary import short
from ui.charts import Curve, chart
from ui.live import Live
from ui.words import badge, duration, first_line, signed

PURPOSES = {
    "calibration": "measuring the reward's scale",
    "starts": "measuring where predictions can be trusted",
    "preview": "painting the preview",
    "before": "painting the start",
    "during": "checking on held-out pictures",
    "after": "painting the end",
}
ACTIONS = {
    "stop": "Stop and save",
    "preview": "Preview now",
    "save": "Save now",
    "resume": "Resume",
    "export": "Export…",
    "compare": "Compare",
    "extend": "Train longer…",
    "merge": "Merge into the checkpoint…",
    "best": "Stop, take the best",
    "up": "Move up",
    "remove": "Remove from the queue",
    "clone": "Clone this run",
    "kill": "Kill",
    "delete": "Delete this run…",
}


def head(
    directory: RunDirectory, state: RunState, live: Live, *, stopping: bool, hardware: Sequence[object] = ()
) -> str:
    """The title, the state in a sentence, what the graphics cards say, and at most three actions."""
    word = "stopping" if stopping and state.state == "running" else state.state
    buttons = "".join(_button(name, first=k == 0) for k, name in enumerate(actions(state, live, stopping)))
    share = 100 * state.iteration / state.iterations if state.iterations else 0
    bar = (
        f'<div class="bar" role="progressbar" aria-label="iterations done" aria-valuenow="{share:.0f}" '
        f'aria-valuemin="0" aria-valuemax="100"><i style="width:{share:.1f}%"></i></div>'
        if word in ("running", "stopping")
        else ""
    )
    alarm = _alarm(state, live)
    told = "; ".join(map(str, hardware))
    note = f'<p class="note">{html.escape(told)}</p>' if told else ""
    return (
        f'<div class="run-head"><div><h2>{html.escape(directory.folder.name)}</h2>'
        f'<p class="sentence">{badge(word)} {html.escape(sentence(state, live, stopping))}</p>{note}</div>'
        f'<div class="actions">{buttons}</div></div>{bar}{alarm}'
    )


def actions(state: RunState, live: Live, stopping: bool) -> list[str]:
    """What makes sense now, the main one first."""
    if stopping:
        return []
    begun = bool(live.iterations)
    match state.state:
        case "queued":
            return ["up", "remove"]
        case "starting" | "running":
            alarmed = bool(live.of("alarm")) and bool(live.of("best"))
            return ["stop", "preview", "save"] if not alarmed else ["best", "stop", "preview"]
        case "finished":
            return ["export", "compare", "extend"]
        case "stopped":
            return ["resume", "export", "compare"] if begun else ["resume"]
        case "failed" | "interrupted":
            return ["resume", "export"] if begun else ["resume"]
    return []


def _button(name: str, first: bool) -> str:
    kind = ' class="primary"' if first and name not in ("remove",) else ""
    return f'<button type="button" data-action="{name}"{kind}>{ACTIONS[name]}</button>'


def sentence(state: RunState, live: Live, stopping: bool) -> str:
    """What the run is doing, or how it ended."""
    at = f"{state.iteration} of {state.iterations} iterations"
    match state.state:
        case "queued":
            return "It waits for its turn."
        case "starting":
            return "Loading the checkpoint."
        case "running":
            return f"Saving at {at}." if stopping else _running(state, live, at)
        case "stopped":
            return f"Stopped at {at}." + (" A LoRA is there." if state.iteration else "")
        case "finished":
            return f"{at}."
        case "failed":
            return f"At {at}: {first_line(state.message)}"
        case "interrupted":
            return f"Its process is gone, at {at}. Nothing up to its last checkpoint is lost."
    return first_line(state.message)


def _running(state: RunState, live: Live, at: str) -> str:
    if live.painting:
        done = f"{live.painting['done']} of {live.painting['total']} pictures"
        doing = PURPOSES.get(live.painting["purpose"], "painting")
        return f"{doing[0].upper()}{doing[1:]}: {done}." if not state.iteration else f"{at}; {doing}: {done}."
    if not live.iterations:
        begun = live.previews or live.checks
        return (
            "The first iteration is under way."
            if begun
            else "Loaded. Pictures from before training come first."
        )
    left = live.seconds_left(state.iterations)
    return f"{at}" + (f", {duration(left)} left." if left is not None else ".")


def _alarm(state: RunState, live: Live) -> str:
    """In plain words, with what can be done."""
    alarms = live.of("alarm")
    if state.state in ("failed", "damaged"):
        return f'<div class="notice red"><pre>{html.escape(state.message.strip())}</pre></div>'
    if not alarms:
        return ""
    told = alarms[-1]
    best = f" The best LoRA so far is that of iteration {told['best']}." if told.get("best", -1) >= 0 else ""
    return (
        f'<div class="notice amber" role="status"><b>Alarm at iteration {told["iteration"]}.</b> '
        f"{html.escape(told['message'][:1].upper() + told['message'][1:])}.{best}</div>"
    )


def better(config: RunConfig, state: RunState, live: Live, width: int) -> str:
    """One line that answers, and the charts."""
    judged = Judged.of(config)
    end = max(state.iterations, live.done)
    marks = [event["iteration"] for event in live.of("alarm")]
    held_out, trained = live.held_out(), live.trained()
    charts = [
        chart(
            f"{judged.title}, {short(config.reward.held_out)}: mean with the 95% band of its change",
            [Curve("held-out", "main", held_out, dots=True)],
            width,
            230,
            end,
            marks,
        )
        if len(held_out) > 1
        else "",
        *(
            chart(
                f"Only watched: {short(name)}",
                [Curve(short(name), "second", live.watched(name), True)],
                width,
                150,
                end,
            )
            for name in config.reward.watch
        ),
        chart(
            f"Trained reward, {short(config.reward.name)}: running mean of the batches, 95% band",
            [Curve("trained", "second", trained)],
            width,
            180,
            end,
            marks,
        ),
    ]
    return f'<p class="answer">{html.escape(answer(state, live, judged))}</p>{"".join(charts)}'


def answer(state: RunState, live: Live, judged: Judged) -> str:
    """Whether the pictures are better, in a sentence that claims no more than was measured."""
    if state.held_out:
        pairs = state.held_out
        return f"The pictures {pairs.verdict}: {judged.score} {pairs.before:.3f} → {pairs.after:.3f} ({pairs.change}, 95%)."
    found = live.held_out()
    if len(found) < 2:
        start = (
            f"{judged.score[:1].upper()}{judged.score[1:]} of the start: {found[0][1]:.3f}. " if found else ""
        )
        return (
            f"{start}The first comparison comes with the next check."
            if start
            else "Nothing was measured yet."
        )
    (_, start, _), (iteration, now, band) = found[0], found[-1]
    difference = now - start
    clear = (
        "clearly better"
        if difference > band
        else "clearly worse"
        if -difference > band
        else "not clearly different"
    )
    return f"So far, at iteration {iteration:g}: {clear} ({signed(difference)} ± {band:.3f})."


def hood(directory: RunDirectory, config: RunConfig, state: RunState, live: Live, tail: str) -> str:
    """Parts of the gradient with their noise, pace, files, the log's tail, the config."""
    return (
        f"{_files(directory)}{_parts(live)}{_pace(live)}"
        f"<h4>Log</h4><pre class='log' tabindex='0'>{html.escape(tail or 'nothing was printed')}</pre>"
        f"<h4>Config</h4><pre class='toml' tabindex='0'>{html.escape(to_toml(config, comments=False))}</pre>"
        f"<p class='actions'><button type='button' data-action='clone'>{ACTIONS['clone']}</button>"
        f"<button type='button' data-copy='.toml'>Copy the config</button>"
        + (
            f"<button type='button' data-action='merge'>{ACTIONS['merge']}</button>"
            if state.iteration
            else ""
        )
        + (
            f"<button type='button' data-action='kill'>{ACTIONS['kill']}</button>"
            if state.state == "running"
            else ""
        )
        + (
            f"<button type='button' data-action='delete'>{ACTIONS['delete']}</button>"
            if state.state not in ("running", "starting", "queued")
            else ""
        )
        + f"</p><p class='note'>{html.escape(str(directory.folder))}<br>"
        f"In a terminal: rlr resume {html.escape(shlex.quote(str(directory.folder)))}</p>"
    )


def _files(directory: RunDirectory) -> str:
    names = sorted(path.name for path in directory.folder.glob("*.safetensors"))
    rows = "".join(f"<li><code>{html.escape(name)}</code></li>" for name in names)
    return f"<h4>LoRA files</h4><ul class='files'>{rows}</ul>" if rows else ""


def _parts(live: Live) -> str:
    recent = [event["parts"] for event in live.iterations[-20:] if event["parts"]]
    if not recent:
        return ""
    rows = ""
    for name in recent[-1]:
        norm, noise, weight = (
            _mean([parts.get(name, {}).get(key) for parts in recent])
            for key in ("norm", "standard_error", "weight")
        )
        rows += f"<tr><td>{html.escape(name)}</td><td>{norm}</td><td>{noise}</td><td>{weight}</td></tr>"
    return (
        "<h4>Parts of the gradient, mean of the last 20 iterations</h4><table><thead><tr><th>part</th><th>length</th>"
        f"<th>its noise</th><th>weight</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3g}" if known else "–"


def _starts(steps: Sequence[int]) -> str:
    """Where sub-chains start since it was measured: first step, and the one after the last."""
    if not steps:
        return "predicted pictures rank as finished ones nowhere, so sub-chains start as set"
    return f"sub-chains start at steps {steps[0] + 1} to {steps[1]}, where predicted pictures rank as finished ones"


def _pace(live: Live) -> str:
    seconds = [event["seconds"] for event in live.iterations[-20:] if event["seconds"]]
    skipped = sum(1 for event in live.iterations if event.get("reason"))
    far = live.iterations[-1].get("distance") if live.iterations else None
    told = [
        f"{fmean(seconds):.2f} s an iteration" if seconds else "",
        f"{skipped} iterations skipped" if skipped else "",
        f"{far:.2g} nats for each number of a latent from the checkpoint" if far is not None else "",
        *(_starts(event["starts"]) for event in live.of("ranked")[-1:]),
    ]
    warnings = "".join(f"<li>{html.escape(event['message'])}</li>" for event in live.of("warning")[-5:])
    return f"<p class='note'>{', '.join(filter(None, told))}</p>" + (
        f"<h4>Warnings</h4><ul>{warnings}</ul>" if warnings else ""
    )
