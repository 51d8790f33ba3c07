"""A run's reward curve (PNG) and its one-page report (HTML that opens anywhere: no script, every picture inside)."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from string import Template
from typing import Any

from rlr_core.config import RewardConfig, to_toml
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.scoreboard import alarm_banner, scoreboard
from rlr_core.runs.summary import Summary, short
from rlr_core.storage import write_atomically, write_text

PAGE = Path(__file__).with_name("report.template.html")


def write_curve(directory: RunDirectory) -> None:
    """Write `reward.png` from the log."""
    curve = reward_curve(Summary.read(directory.events_file))
    write_atomically(directory.folder / "reward.png", lambda path: path.write_bytes(curve))


def write_report(directory: RunDirectory) -> None:
    """Write `report.html` from what is in the folder; a picture that is not there is left out."""
    page = _page(directory, Summary.read(directory.events_file))
    write_text(directory.folder / "report.html", page)


def reward_curve(summary: Summary) -> bytes:
    """PNG: the batch reward with its 95% band, smoothed, and the held-out score of the previews."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    iterations = [event for event in summary.of("iteration") if event["reward"] is not None]
    x = [event["iteration"] for event in iterations]
    smooth = _smoothed([event["reward"] for event in iterations])
    band = [
        1.96 * error for error in _smoothed_errors([event["reward_error"] or 0.0 for event in iterations])
    ]
    axes.plot(
        x, [event["reward"] for event in iterations], ".", color="#b8c4d6", markersize=4, label="each batch"
    )
    axes.plot(x, smooth, color="#2454a6", label="running mean")
    low, high = ([s + sign * b for s, b in zip(smooth, band, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color="#2454a6", alpha=0.15, linewidth=0, label="95% band")
    axes.set(xlabel="iteration", ylabel="training reward")
    for event in summary.of("alarm"):
        axes.axvline(event["iteration"], color="#c0392b", linewidth=1, label="alarm")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _smoothed(values: list[float], decay: float = 0.8) -> list[float]:
    """Running mean with bias correction, as in Adam."""
    out, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        out.append(total / weight)
    return out


def _smoothed_errors(errors: list[float], decay: float = 0.8) -> list[float]:
    """Standard errors of `_smoothed`, for independent batches."""
    out, variance, weight = [], 0.0, 0.0
    for error in errors:
        variance, weight = decay**2 * variance + error**2, decay * weight + 1
        out.append(variance**0.5 / weight)
    return out


def _page(directory: RunDirectory, summary: Summary) -> str:
    config = directory.config
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        title=html.escape(config.output.name),
        headline=_headline(summary),
        facts=_facts(directory, summary),
        grid=_figure(directory.folder / "before_after.png", "The same prompts and seeds, before and after."),
        alarm=alarm_banner(summary.of("alarm"), config),
        warnings=_warnings(summary.of("warning")),
        scoreboard=_scoreboard(directory, summary),
        curve=_image(directory.folder / "reward.png", "reward curve"),
        curve_note=_curve_note(summary.of("iteration")),
        previews=_previews(directory, summary),
        parts=_parts(summary.of("iteration")),
        config=html.escape(to_toml(config, comments=False)),
    )


def _headline(summary: Summary) -> str:
    held_out = summary.held_out
    if held_out is None and summary.of("evaluation"):
        return "<p>No pair of pictures has a finite held-out score before and after.</p>"
    if held_out is None:
        return "<p>This run has no evaluation before and after.</p>"
    return (
        f'<p class="score"><b>{held_out.before:.3f}</b> → <b>{held_out.after:.3f}</b> <span>{held_out.verdict}</span></p>'
        f"<p>Held-out score, never trained on: {held_out.difference:+.3f} ± {held_out.half_width:.3f} "
        f"(95% confidence, {held_out.counted}, of prompts and seeds never trained on).</p>"
    )


def _warnings(events: list[dict[str, Any]]) -> str:
    if not events:
        return ""
    told = "".join(f"<li>{html.escape(event['message'])}</li>" for event in events)
    return f'<section class="warnings"><h2>Warnings</h2><ul>{told}</ul></section>'


def _facts(directory: RunDirectory, summary: Summary) -> str:
    config, iterations = directory.config, summary.of("iteration")
    seconds = sum(event["clock"]["seconds"] for event in iterations)
    rows = {
        "Checkpoint": config.model.checkpoint,
        "Reward": _reward(config.reward),
        "Watched by": ", ".join(map(short, (config.reward.held_out, *config.reward.watch))),
        "Training reward": str(summary.trained) if summary.trained else "not evaluated",
        "Estimator": config.estimator.name,
        "Iterations": f"{len(iterations)} of {config.training.batch_size} pictures each; {len(summary.of('skipped'))} skipped",
        "Training time": f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.0f} seconds",
        "LoRA": f"{config.output.name}.safetensors, rank {config.lora.rank}",
        "Best by held-out score": _best(summary.of("best")),
    }
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items())


def _reward(config: RewardConfig) -> str:
    if config.name != "mix":
        return config.name
    return "mix of " + " + ".join(f"{weight:g} {short(name)}" for name, weight in config.mix.items())


def _best(events: list[dict[str, Any]]) -> str:
    """The events of new best LoRAs; each replaces the file of the one before."""
    if not events:
        return "none: no held-out pictures were scored on the way"
    return f"{events[-1]['file']}, iteration {events[-1]['iteration']} ({events[-1]['score']:.3f})"


def _scoreboard(directory: RunDirectory, summary: Summary) -> str:
    if not summary.series:
        return ""
    return (
        '<section><h2>Every score</h2><table class="scores"><tr><th></th>'
        '<th class="number">before</th><th class="number">after</th>'
        '<th class="number">change, 95% confidence</th><th>along the way</th></tr>'
        f"{scoreboard(summary.series, directory.config)}</table>"
        '<p class="note">The same prompts and seeds each time. The curves have the first of these pictures, with the 95% band '
        "of their difference to the start.</p></section>"
    )


def _curve_note(iterations: list[dict[str, Any]]) -> str:
    """What the curve's rewards were measured on, and a mix's unit."""
    latest = iterations[-1] if iterations else {"measured_on": "finished pictures", "reward_parts": {}}
    notes = [f"Measured on the {latest['measured_on']} of each batch."]
    if latest["measured_on"] == "predicted pictures":
        notes = [
            "Measured on predicted pictures: this estimator does not run the chain to its end, but scores what the denoiser "
            "predicts half-way. Finished pictures are scored in the table above."
        ]
    if latest["reward_parts"]:
        notes.append("A mix counts standard deviations from where training began.")
    return " ".join(notes)


def _previews(directory: RunDirectory, summary: Summary) -> str:
    rows = []
    for event in summary.of("preview"):
        score = _mean_or_dash(event["scores"], ".3f")
        caption = f"Iteration {event['iteration']}: held-out score {score}"
        rows.append(_figure(directory.folder / event["file"], caption))
    return "".join(rows)


def _parts(iterations: list[dict[str, Any]]) -> str:
    """Each part's typical norm, noise and weight."""
    rows = []
    for name in iterations[-1]["parts"] if iterations else []:
        reports = [event["parts"][name] for event in iterations]
        cells = [
            _mean_or_dash([report[key] for report in reports]) for key in ("norm", "standard_error", "weight")
        ]
        rows.append(
            f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        )
    return "".join(rows)


def _mean_or_dash(values: list[float | None], form: str = ".3g") -> str:
    """Of the known ones: a single chunk tells no standard error, and NaN is no score."""
    known = [value for value in values if value is not None]
    return format(sum(known) / len(known), form) if known else "–"


def _figure(path: Path, caption: str) -> str:
    picture, text = _image(path, caption), html.escape(caption)
    return f'<figure class="pictures">{picture}<figcaption>{text}</figcaption></figure>' if picture else ""


def _image(png: Path, alternative: str) -> str:
    """ "" where the file is not there."""
    if not png.is_file():
        return ""
    data = base64.b64encode(png.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'
