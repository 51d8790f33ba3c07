"""A run's reward curve (PNG) and its one-page report (HTML that opens anywhere: no script, every picture inside)."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from string import Template
from typing import Any

from rlr_core.config import to_toml
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.storage import write_atomically, write_text
from rlr_core.runs.summary import Comparison, Summary


def write_report(directory: RunDirectory) -> Path:
    """Write `reward.png` and `report.html` from what is in the folder; returns the latter."""
    summary = Summary.read(directory.events_file)
    curve = reward_curve(summary)
    write_atomically(directory.folder / "reward.png", lambda path: path.write_bytes(curve))
    report = directory.folder / "report.html"
    write_text(report, _page(directory, summary, curve))
    return report


def reward_curve(summary: Summary) -> bytes:
    """PNG: the batch reward with its 95% band, smoothed, and the held-out score of the previews."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    iterations = summary.of("iteration")
    x = [event["iteration"] for event in iterations]
    smooth = _smoothed([event["reward"] for event in iterations])
    band = [1.96 * error for error in _smoothed_errors([event["reward_error"] or 0.0 for event in iterations])]
    axes.plot(x, [event["reward"] for event in iterations], ".", color="#b8c4d6", markersize=4, label="each batch")
    axes.plot(x, smooth, color="#2454a6", label="running mean")
    low, high = ([s + sign * b for s, b in zip(smooth, band, strict=True)] for sign in (-1, 1))
    axes.fill_between(x, low, high, color="#2454a6", alpha=0.15, linewidth=0, label="95% band")
    axes.set(xlabel="iteration", ylabel="training reward")
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


def _page(directory: RunDirectory, summary: Summary, curve: bytes) -> str:
    config = directory.config
    return PAGE.substitute(
        title=html.escape(config.output.name),
        headline=_headline(summary.held_out),
        facts=_facts(directory, summary),
        grid=_figure(directory.folder / "before_after.png", "The same prompts and seeds, before and after."),
        curve=_image(curve, "reward curve"),
        previews=_previews(directory, summary),
        parts=_parts(summary.of("iteration")),
        config=html.escape(to_toml(config, comments=False)),
    )


def _headline(held_out: Comparison | None) -> str:
    if held_out is None:
        return "<p>This run has no evaluation before and after.</p>"
    word = "better" if held_out.difference > held_out.half_width else "worse" if held_out.difference < -held_out.half_width else "no clear change"
    return (
        f'<p class="score"><b>{held_out.before:.3f}</b> → <b>{held_out.after:.3f}</b> <span>{word}</span></p>'
        f"<p>Held-out score, never trained on: {held_out.difference:+.3f} ± {held_out.half_width:.3f} "
        f"(95% confidence, {held_out.pairs} pairs of prompt and seed never trained on).</p>"
    )


def _facts(directory: RunDirectory, summary: Summary) -> str:
    config, iterations = directory.config, summary.of("iteration")
    seconds = sum(event["clock"]["seconds"] for event in iterations)
    rows = {
        "Checkpoint": config.model.checkpoint,
        "Reward": config.reward.name,
        "Watched by": config.reward.held_out,
        "Training reward": str(summary.trained) if summary.trained else "not evaluated",
        "Estimator": config.estimator.name,
        "Iterations": f"{len(iterations)} of {config.training.batch_size} pictures, {len(summary.of('skipped'))} skipped",
        "Training time": f"{seconds / 60:.1f} minutes",
        "LoRA": f"{config.output.name}.safetensors, rank {config.lora.rank}",
    }
    return "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in rows.items())


def _previews(directory: RunDirectory, summary: Summary) -> str:
    rows = []
    for event in summary.of("preview"):
        scores = event["scores"]
        caption = f"Iteration {event['iteration']}: held-out score {sum(scores) / len(scores):.3f}"
        rows.append(_figure(directory.folder / event["file"], caption))
    return "".join(rows)


def _parts(iterations: list[dict[str, Any]]) -> str:
    """Each part's typical norm, noise and weight."""
    rows = []
    for name in iterations[-1]["parts"] if iterations else []:
        reports = [event["parts"][name] for event in iterations]
        cells = [sum(report[key] or 0.0 for report in reports) / len(reports) for key in ("norm", "standard_error", "weight")]
        rows.append(f"<tr><td>{html.escape(name)}</td>" + "".join(f"<td>{cell:.3g}</td>" for cell in cells) + "</tr>")
    return "".join(rows)


def _figure(path: Path, caption: str) -> str:
    if not path.exists():
        return ""
    return f"<figure>{_image(path.read_bytes(), caption)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _image(png: bytes, alternative: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'


PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>$title · RLR</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #f6f6f4; margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px }
section { background: #fff; border-radius: 10px; padding: 20px 24px; margin: 20px 0; box-shadow: 0 1px 3px #0002 }
h1 { margin: 0; font-size: 26px } h2 { margin: 0 0 12px; font-size: 17px }
.score { font-size: 34px; margin: 8px 0 } .score span { font-size: 16px; color: #fff; background: #2454a6; border-radius: 20px; padding: 4px 12px; vertical-align: middle }
img { max-width: 100%; image-rendering: pixelated } figure { margin: 0 0 16px } figcaption { color: #666; font-size: 14px }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 24px; margin: 0 } dt { color: #666 } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { text-align: left; padding: 4px 20px 4px 0 } th { color: #666; font-weight: normal }
pre { overflow: auto; font-size: 13px; background: #f6f6f4; padding: 12px; border-radius: 6px } summary { cursor: pointer }
</style></head><body><main>
<h1>$title</h1>
<section><h2>Did the pictures get better?</h2>$headline$grid</section>
<section><h2>Training reward</h2>$curve</section>
<section><h2>Along the way</h2>$previews</section>
<section><h2>The run</h2><dl>$facts</dl></section>
<section><h2>Parts of the gradient, on average</h2><table><tr><th>part</th><th>norm</th><th>standard error</th><th>weight</th></tr>$parts</table></section>
<section><details><summary>Every setting</summary><pre>$config</pre></details></section>
</main></body></html>
""")
