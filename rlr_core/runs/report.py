"""A run's one-page report: HTML that opens anywhere, without a script and with every picture inside."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from rlr_core.config import Judged, RewardConfig, RunConfig, nearest, to_toml
from rlr_core.estimators import ESTIMATORS
from rlr_core.runs.curve import reward_curve
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.iterations import FACTS, Iterations, spread
from rlr_core.runs.pictures import SHOWN, tiles
from rlr_core.runs.scoreboard import MARKS, alarm_banner, scoreboard, with_minus
from rlr_core.runs.summary import Summary, short
from rlr_core.storage import write_text

PREVIEWS = 40
"""On the page at most."""
PAGE = Path(__file__).with_name("report.template.html")


def write_report(directory: RunDirectory) -> None:
    """Write `report.html` from what is in the folder; a picture that is not there is left out."""
    page = _page(directory, Summary.read(directory.events_file))
    write_text(directory.folder / "report.html", page)


def _page(directory: RunDirectory, summary: Summary) -> str:
    config = directory.config
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(config.output.name),
        headline=_so_far(summary, config) or _headline(summary, Judged.of(config)),
        facts=_facts(directory, summary),
        grid=_before_after(directory, summary),
        alarm=alarm_banner(summary.of("alarm"), config),
        warnings=_warnings(summary.of("warning")),
        scoreboard=_scoreboard(directory, summary),
        curve=_curve(summary),
        curve_note=_curve_note(summary.taken),
        previews=_previews(directory, summary),
        parts=_parts(summary.taken),
        config=html.escape(to_toml(config, comments=False)),
    )


def _so_far(summary: Summary, config: RunConfig) -> str:
    """Of a run that has iterations left, and so no scores after training; "" for one that is over."""
    done = max(summary.taken.done, summary.skipped.done)
    over = done >= config.training.iterations or any(e["when"] == "after" for e in summary.of("evaluation"))
    if over:
        return ""
    return (
        f"<p>So far {done} of {config.training.iterations} iterations. "
        "Pictures are compared with those of the start when training is over.</p>"
    )


def _headline(summary: Summary, judged: Judged) -> str:
    held_out = summary.held_out
    if held_out is None and summary.of("evaluation"):
        return "<p>No pair of pictures has a finite held-out score before and after.</p>"
    if held_out is None:
        return "<p>This run has no evaluation before and after.</p>"
    kind = held_out.verdict.removeprefix("got ") if "got" in held_out.verdict else "unclear"
    better = (
        summary.better
        and f"<p>A better LoRA is kept: <code>{html.escape(summary.better.file)}</code>, {summary.better}.</p>"
    )
    return (
        f'<p class="score"><b>{held_out.before:.3f}</b> → <b>{held_out.after:.3f}</b> '
        f'<span class="verdict {kind}">{MARKS[kind]} {held_out.verdict}</span></p>'
        f"<p>{judged.score[0].upper()}{judged.score[1:]}: "
        f"{with_minus(f'{held_out.difference:+.3f}')} ± {held_out.half_width:.3f} "
        f"(95% confidence, {held_out.counted}; {judged.pairs}).</p>"
        f"{better or ''}"
    )


def _warnings(events: list[dict[str, Any]]) -> str:
    if not events:
        return ""
    told = "".join(f"<li>{html.escape(event['message'])}</li>" for event in events)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{told}</ul></section>'


def _facts(directory: RunDirectory, summary: Summary) -> str:
    config = directory.config
    judged = Judged.of(config)
    seconds = sum(_known(summary.taken.seconds))
    rows = {
        "Checkpoint": config.model.checkpoint,
        "Reward": _reward(config.reward),
        "Judged by": f"{short(config.reward.held_out)}: {judged.score}, {judged.pairs}",
        "Watched by": ", ".join(map(short, config.reward.watch)) or "no other reward",
        "Training reward": str(summary.trained) if summary.trained else "not evaluated",
        "Estimator": f"{config.estimator.name}: {ESTIMATORS[config.estimator.name].summary}",
        "Preset": _preset(config),
        "Iterations": f"{len(summary.taken)} of {config.training.batch_size} pictures each; {len(summary.skipped)} skipped",
        "Training time": f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds",
        "LoRA": f"{config.output.name}.safetensors, rank {config.lora.rank}",
        "Best on the way": _best(summary.of("best")),
    }
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items())


def _preset(config: RunConfig) -> str:
    """The one that the config comes nearest to, and what of the method differs from it."""
    name, differing = nearest(config)
    told = "; ".join(f"{change.name} = {change.now!r} ({change.before!r})" for change in differing)
    return f"{name}; other than in it: {told}" if told else f"{name}, as it is"


def _reward(config: RewardConfig) -> str:
    if config.name != "mix":
        return config.name
    return "mix of " + " + ".join(f"{weight:g} {short(name)}" for name, weight in config.mix.items())


def _best(events: list[dict[str, Any]]) -> str:
    """The events of new best LoRAs; each replaces the file of the one before."""
    if not events:
        return "none: no pictures were scored on the way"
    best = events[-1]
    score = f"score {best['score']:.3f} of the first {best['pairs']} pairs"
    return f"{best['file']}, iteration {best['iteration']}: {score}"


def _scoreboard(directory: RunDirectory, summary: Summary) -> str:
    if not summary.series:
        return ""
    pairs = min(series.pairs for series in summary.series)
    return (
        '<section><h2>Every score</h2><table class="scores"><thead><tr><th></th>'
        '<th class="number">before</th><th class="number">after</th>'
        '<th class="number">change, 95% confidence</th><th></th><th>along the way</th></tr></thead>'
        f"{scoreboard(summary.series, directory.config)}</table>"
        f'<p class="note">The same prompts and seeds each time. The curves are of the first {pairs} pairs alone, '
        "with the 95% band of their difference to the start.</p></section>"
    )


def _curve(summary: Summary) -> str:
    """One for each of wide and narrow, light and dark pages; "" without matplotlib."""
    try:
        wide = _data(reward_curve(summary))
    except ImportError:
        return ""
    narrow, dark = "(max-width: 600px)", "(prefers-color-scheme: dark)"
    media = {f"{narrow} and {dark}": (True, True), narrow: (True, False), dark: (False, True)}
    sources = "".join(
        f'<source media="{where}" srcset="{_data(reward_curve(summary, narrow=small, dark=night))}">'
        for where, (small, night) in media.items()
    )
    return f'<picture>{sources}<img alt="reward curve" src="{wide}"></picture>'


def _curve_note(taken: Iterations) -> str:
    """What the curve's rewards were measured on, and a mix's unit."""
    latest = {"measured_on": "finished pictures", "reward_parts": {}} | taken.latest
    notes = [f"Measured on the {latest['measured_on']} of each batch."]
    if latest["measured_on"] == "predicted pictures":
        notes = [
            "Measured on predicted pictures: this estimator does not run the chain to its end, but scores what the denoiser "
            "predicts half-way. Finished pictures are scored in the table above."
        ]
    if latest["reward_parts"]:
        notes.append("A mix counts standard deviations from where training began.")
    return " ".join(notes)


def _before_after(directory: RunDirectory, summary: Summary) -> str:
    """The first pictures of the evaluation, each pair with its prompt."""
    prompts = next((event["prompts"] for event in summary.of("evaluation")), [])[:SHOWN]
    before, after = (_tiles(directory.folder / f"{when}.png", len(prompts)) for when in ("before", "after"))
    pairs = [
        f'<figure><div><img alt="before" src="{one}"><img alt="after" src="{other}"></div>'
        f"<figcaption>{html.escape(prompt)}</figcaption></figure>"
        for one, other, prompt in zip(before, after, prompts, strict=False)
    ]
    note = '<p class="note">The same prompts and seeds; on the left before, on the right after training.</p>'
    return f'<div class="pairs">{"".join(pairs)}</div>{note}' if pairs else ""


def _previews(directory: RunDirectory, summary: Summary) -> str:
    """Without scores: so few pictures would not tell the same as the evaluation. Of a long run, some."""
    rows, previews = [], summary.of("preview")
    for event in (previews[k] for k in spread(len(previews), PREVIEWS)):
        shown = _tiles(directory.folder / event["file"], len(event["prompts"]))
        pictures = "".join(
            f'<img alt="{html.escape(prompt)}" title="{html.escape(prompt)}" src="{tile}">'
            for prompt, tile in zip(event["prompts"], shown, strict=False)
        )
        if shown:
            rows.append(
                f"<div><h3>Iteration {event['iteration']}</h3><div class='strip'>{pictures}</div></div>"
            )
    return "".join(rows)


def _tiles(strip: Path, count: int) -> list[str]:
    """The pictures of a strip, as addresses of data; [] where the file cannot be read."""
    with suppress(OSError), Image.open(strip) as sheet:
        return [_data(_png(tile)) for tile in tiles(sheet.convert("RGB"), count)] if count else []
    return []


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _parts(taken: Iterations) -> str:
    """Each part's typical norm, noise and weight."""
    rows = []
    for name, columns in taken.parts.items():
        cells = "".join(f"<td>{_mean_or_dash(columns[fact])}</td>" for fact in FACTS)
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    return "".join(rows)


def _mean_or_dash(values: Iterable[float], form: str = ".3g") -> str:
    """Of the known ones: a single chunk tells no standard error."""
    known = _known(values)
    return format(sum(known) / len(known), form) if known else "–"


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _data(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
