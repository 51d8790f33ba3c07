"""What each command does. Maths and files are the other packages' matter; here it is said in plain words."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path

from rlr_core.cli.bench import bench
from rlr_core.cli.checkpoints import checkpoint, checkpoints
from rlr_core.cli.lora import lora
from rlr_core.cli.progress import Narrator, stopping_on_interrupt
from rlr_core.cli.rewards import rewards
from rlr_core.cli.sample import sample
from rlr_core.cli.saying import say
from rlr_core.cli.score import score
from rlr_core.config import RunConfig, load, to_toml
from rlr_core.embedded import DEMO
from rlr_core.errors import RunError
from rlr_core.runs.directory import RUNS, RunDirectory, reserved
from rlr_core.runs.listing import list_runs
from rlr_core.runs.state import RunState
from rlr_core.runs.summary import Summary, short

__all__ = [
    "bench", "checkpoint", "checkpoints", "config", "demo", "estimators", "lora", "plan", "resume", "rewards", "runs", "sample",
    "score", "stop", "train",
]  # fmt: skip


def demo(options: argparse.Namespace) -> None:
    """Train on the embedded checkpoint."""
    say(
        "This demo trains a LoRA that mends a weakness of a small embedded checkpoint: it often paints the wrong colour."
    )
    _start(_load(DEMO, options), options, "demo")


def train(options: argparse.Namespace) -> None:
    """Train as a config file says."""
    _start(_load(options.config, options), options, options.config.stem)


def _load(path: Path | None, options: argparse.Namespace) -> RunConfig:
    return load(path, options.set, options.preset)


def _start(config: RunConfig, options: argparse.Namespace, name: str) -> None:
    from rlr_core.runs.launching import launch
    from rlr_core.runs.runner import start

    if options.detach:
        _tell_launched(launch(config, options.run, name))
        return
    with nullcontext(options.run) if options.run else reserved(RUNS, name) as folder:
        directory = RunDirectory(folder)
        directory.refuse_if_taken()
        say(
            f"The run's folder is {folder}. It may be stopped (Ctrl-C, or rlr stop) and resumed at any time.",
            flush=True,
        )
        with Narrator(config) as narrator, stopping_on_interrupt(directory):
            start(config, folder, narrator)
    _tell_outcome(directory)


def resume(options: argparse.Namespace) -> None:
    """Go on with a run."""
    from rlr_core.runs import runner
    from rlr_core.runs.launching import launch_resume
    from rlr_core.runs.resuming import restore_config

    if options.detach:
        launch_resume(options.run)
        _tell_launched(options.run)
        return
    directory = RunDirectory.open(options.run)
    with directory.held():
        restored = restore_config(directory)
    if restored:
        say(f"WARNING: {restored}.")
    state = directory.state()
    came = "failed" if state.state == "failed" else f"was {state.state}"
    say(f"Going on with {options.run}, which {came} at iteration {state.iteration}.", flush=True)
    with Narrator(directory.config, state) as narrator, stopping_on_interrupt(directory):
        runner.resume(options.run, narrator)
    _tell_outcome(directory)


def _tell_launched(folder: Path) -> None:
    say(
        f"The run in {folder} goes on by itself, whatever becomes of this terminal; its output is in {folder / 'worker.log'}.\n"
        f"How far it is:  rlr runs {shlex.quote(str(folder.parent))}\nStop it:        rlr stop {shlex.quote(str(folder))}"
    )


def _tell_outcome(directory: RunDirectory) -> None:
    """After training: what came of it, and where it is."""
    folder, state = directory.folder, directory.state()
    if state.state == "stopped":
        _tell_alarm(directory, Summary.read(directory.events_file))
        say(
            f"Stopped after iteration {state.iteration}; nothing is lost.\nGo on with:  rlr resume {shlex.quote(str(folder))}"
        )
        return
    summary = Summary.read(directory.events_file)
    if summary.held_out:
        say(f"\nThe pictures {summary.held_out.verdict}. Held-out score: {summary.held_out}")
        if summary.better:
            say(f"A better LoRA is kept: {folder / summary.better.file}, {summary.better}")
        if summary.trained:
            say(f"Reward that was trained on: {summary.trained}")
        for series in summary.series:
            if series.group in ("part", "watched"):
                what = "part of it" if series.group == "part" else "only watched"
                say(f"  {what}, {short(series.name)}: {series.comparison}")
    _tell_alarm(directory, summary)
    files = {
        "LoRA": f"{directory.config.output.name}.safetensors",
        "before and after": "before_after.png",
        "reward curve": "reward.png",
        "report": "report.html",
    }
    say()
    for what, name in files.items():
        if (folder / name).exists():
            say(f"  {what + ':':18}{folder / name}")


def _tell_alarm(directory: RunDirectory, summary: Summary) -> None:
    for event in summary.of("alarm"):
        say(f"\nALARM at iteration {event['iteration']}: {event['message']}.")
        best = f"the best LoRA by held-out score, of iteration {event['best']}"
        if event["best"] < 0:
            say("No check had finite held-out scores, so that the best LoRA is not known.")
        elif directory.config.alarm.action == "rollback":
            say(f"Training ended there, with {best}.")
        else:
            say(f"Before it, {best}, was kept: {directory.config.output.name}-best.safetensors")


def stop(options: argparse.Namespace) -> None:
    """Ask a run to stop."""
    from rlr_core.runs.runner import request_stop

    if not request_stop(options.run):
        raise RunError(
            f"the run {options.run} is not running", "a running run", "`rlr runs` lists them with their state"
        )
    say(
        f"Asked {options.run} to stop; it saves a checkpoint first. Go on with:  rlr resume {shlex.quote(str(options.run))}"
    )


def runs(options: argparse.Namespace) -> None:
    """List runs."""
    found = list_runs(options.root)
    if not found:
        say(f"no runs in {options.root}")
    for state in found:
        say(_run_line(state))


def _run_line(state: RunState) -> str:
    done = f"{state.iteration:>5}/{state.iterations:<5}"
    reason = state.message.splitlines()[0] if state.message else ""
    told = "  ".join(part for part in (_score(state), reason, _lost(state)) if part)
    return f"{state.folder!s:32} {state.state:12} {done} {told}".rstrip()


def _score(state: RunState) -> str:
    """The pictures before and after; the reward of one batch alone while there is no such comparison."""
    if scores := state.held_out:
        return f"held-out score {scores.before:.3f} → {scores.after:.3f} ({scores.change}, {scores.counted})"
    return f"reward of the latest batch {state.latest:.3f}" if state.latest is not None else ""


def _lost(state: RunState) -> str:
    lines = "line" if state.unreadable == 1 else "lines"
    return f"({state.unreadable} damaged {lines} in its log)" if state.unreadable else ""


def config(options: argparse.Namespace) -> None:
    """Print the default config."""
    say(to_toml(_load(None, options)), end="")


def plan(options: argparse.Namespace) -> None:
    """Print the plans for a config."""
    from rlr_core.cli.plan import CARDS, family_settings, plan

    options.set = [*family_settings(options.family), *options.set]
    plan(_load(options.config, options), options.memory or list(CARDS), options.device)


def estimators(options: argparse.Namespace) -> None:
    """List estimators."""
    from rlr_core.estimators import ESTIMATORS

    for name, recipe in ESTIMATORS.items():
        say(f"{name:12} {recipe.summary}")
        if recipe.uses:
            say(f"{'':12} settings: {', '.join(recipe.uses)}")
