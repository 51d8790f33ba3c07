"""What each command does. Maths and files are the other packages' matter; here it is said in plain words."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path

from rlr_core.cli.bench import bench
from rlr_core.cli.checkpoints import checkpoint, checkpoints
from rlr_core.cli.choosing import composed_of, refuse_unchosen
from rlr_core.cli.lora import lora
from rlr_core.cli.queue import add_to_queue, going_on_with_queue, queue, resume_in_queue
from rlr_core.cli.rewards import rewards
from rlr_core.cli.sample import sample
from rlr_core.cli.saying import say
from rlr_core.cli.score import score
from rlr_core.cli.stages import stages
from rlr_core.cli.telling import tell_defaults, tell_judge, tell_method
from rlr_core.config import Judged, RunConfig, load, to_guide
from rlr_core.embedded import DEMO
from rlr_core.errors import ConfigError, RunError
from rlr_core.file_names import name_problem
from rlr_core.runs.directory import RUNS, RunDirectory, reserved
from rlr_core.runs.listing import list_runs
from rlr_core.runs.requests import Request, request
from rlr_core.runs.state import RunState
from rlr_core.runs.summary import Summary, short
from rlr_core.storage import user_path

__all__ = [
    "bench", "checkpoint", "checkpoints", "config", "demo", "estimators", "export", "extend", "lora", "plan",
    "preview", "queue", "report", "resume", "rewards", "runs", "sample", "save", "score", "stages", "stop", "train",
]  # fmt: skip


def demo(options: argparse.Namespace) -> None:
    """Train on the embedded checkpoint."""
    say(
        "This demo trains a LoRA that mends a weakness of a small embedded checkpoint: it often paints the wrong colour."
    )
    _start(load(DEMO, options.set, options.preset), options, "demo")


def train(options: argparse.Namespace) -> None:
    """Train on a checkpoint, or as a config file says."""
    if not options.config and not options.checkpoint:
        raise ConfigError(
            "rlr train without a checkpoint and without a config",
            "rlr train --checkpoint FILE --reward NAME --prompts FILE, or rlr train CONFIG.toml",
            "name one; `rlr demo` trains on the embedded checkpoint",
        )
    made = composed_of(options, options.config)
    refuse_unchosen(made)
    tell_defaults(made)
    _start(made.config, options, _run_name(options))


def _run_name(options: argparse.Namespace) -> str:
    """That of the config, or of the checkpoint where that can be a folder's."""
    name = options.config.stem if options.config else user_path(options.checkpoint).stem
    return name if options.config or not name_problem(name) else "run"


def _start(config: RunConfig, options: argparse.Namespace, name: str) -> None:
    from rlr_core.cli.progress import Narrator, stopping_on_interrupt
    from rlr_core.runs.launching import launch
    from rlr_core.runs.runner import start
    from rlr_core.trainer.deciding import decided

    given, config = config.prompts, decided(config)
    tell_method(config)
    tell_judge(config, given)
    if options.queue:
        add_to_queue(config, options, name)
        return
    run = user_path(options.run) if options.run else None
    if options.detach:
        _tell_launched(launch(config, run, name))
        return
    with nullcontext(run) if run else reserved(RUNS, name) as folder:
        directory = RunDirectory(folder)
        directory.refuse_if_taken()
        say(
            f"The run's folder is {folder}. It may be stopped (Ctrl-C, or rlr stop) and resumed at any time.",
            flush=True,
        )
        with going_on_with_queue(directory):
            with Narrator(config) as narrator, stopping_on_interrupt(directory):
                start(config, folder, narrator)
            _tell_outcome(directory)


def resume(options: argparse.Namespace) -> None:
    """Go on with a run."""
    _go_on(options)


def extend(options: argparse.Namespace) -> None:
    """Go on with a run to more iterations."""
    from rlr_core.runs.extending import lengthen

    config = lengthen(options.run, options.iterations)
    say(f"{options.run} is now to have {config.training.iterations} iterations.")
    if config.training.schedule == "cosine":
        say("Its learning rate, which had fallen, is higher again: cosine spreads over all iterations.")
    _go_on(options)


def _go_on(options: argparse.Namespace) -> None:
    from rlr_core.cli.progress import Narrator, stopping_on_interrupt
    from rlr_core.runs import runner
    from rlr_core.runs.launching import launch_resume
    from rlr_core.runs.resuming import restore_config

    if options.queue:
        resume_in_queue(options.run)
        return
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
    extended = directory.is_extended
    say(
        f"Going on with {options.run}{'' if extended else f', which {came}'} at iteration {state.iteration}.",
        flush=True,
    )
    with going_on_with_queue(directory):
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
        _tell_files(directory)
        return
    summary = Summary.read(directory.events_file)
    if summary.held_out:
        judged = Judged.of(directory.config)
        say(f"\nThe pictures {summary.held_out.verdict}. {judged.title}: {summary.held_out}")
        if summary.better:
            say(f"A better LoRA is kept: {folder / summary.better.file}, {summary.better}")
        if summary.trained:
            say(f"Reward that was trained on: {summary.trained}")
        for series in summary.series:
            if series.group in ("part", "watched"):
                what = "part of it" if series.group == "part" else "only watched"
                say(f"  {what}, {short(series.name)}: {series.comparison}")
    _tell_alarm(directory, summary)
    _tell_files(directory)


def _tell_files(directory: RunDirectory) -> None:
    """What there is to look at, and to use."""
    folder = directory.folder
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
        best = f"the best LoRA by {Judged.of(directory.config).score}, of iteration {event['best']}"
        if event["best"] < 0:
            say("No check had finite scores, so that the best LoRA is not known.")
        elif directory.config.alarm.action == "rollback":
            say(f"Training ended there, with {best}.")
        else:
            say(f"Before it, {best}, was kept: {directory.config.output.name}-best.safetensors")


def preview(options: argparse.Namespace) -> None:
    """Ask a run for a preview."""
    _ask(options.run, "preview")
    say(f"Asked {options.run} for a preview, after this iteration: {options.run / 'previews'}")


def save(options: argparse.Namespace) -> None:
    """Ask a run to save."""
    _ask(options.run, "save")
    say(f"Asked {options.run} to save a checkpoint and its LoRA, after this iteration; it goes on.")


def _ask(run: Path, what: Request) -> None:
    if not request(run, what):
        raise RunError(
            f"the run {run} is not running", "a running run", "`rlr runs` lists them with their state"
        )


def stop(options: argparse.Namespace) -> None:
    """Ask a run to stop."""
    _ask(options.run, "stop")
    say(
        f"Asked {options.run} to stop; it saves a checkpoint first. Go on with:  rlr resume {shlex.quote(str(options.run))}"
    )


def export(options: argparse.Namespace) -> None:
    """Write the LoRA of a checkpoint."""
    from rlr_core.runs.exporting import export_checkpoint

    out = user_path(options.out) if options.out else None
    made = export_checkpoint(options.run, options.iteration, out, force=options.force)
    there = ", ".join(map(str, made.iterations))
    say(f"The LoRA of iteration {made.iteration} is in {made.file} (there are checkpoints of: {there}).")


def report(options: argparse.Namespace) -> None:
    """Draw a run's curve and report as they are now."""
    from rlr_core.runs.curve import write_curve
    from rlr_core.runs.report import write_report

    directory = RunDirectory.open(options.run)
    write_curve(directory)
    write_report(directory)
    state = directory.state()
    say(f"{options.run} ({state.state}, iteration {state.iteration} of {state.iterations})")
    _tell_files(directory)


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
        return f"score {scores.before:.3f} → {scores.after:.3f} ({scores.change}, {scores.counted})"
    return f"reward of the latest batch {state.latest:.3f}" if state.latest is not None else ""


def _lost(state: RunState) -> str:
    lines = "line" if state.unreadable == 1 else "lines"
    return f"({state.unreadable} damaged {lines} in its log)" if state.unreadable else ""


def config(options: argparse.Namespace) -> None:
    """Print a config in which what was chosen is set, and all else a comment."""
    made = composed_of(options, None)
    say(to_guide(made.config, made.chosen, made.reasons), end="")


def plan(options: argparse.Namespace) -> None:
    """Print the plans for a config."""
    from rlr_core.cli.plan import CARDS, family_settings, plan

    given = bool(options.prompts)
    options.set = [*family_settings(options.family, prompts=given), *options.set]
    made = composed_of(options, options.config, options.device)
    plan(made.config, options.memory or list(CARDS), options.device)


def estimators(options: argparse.Namespace) -> None:
    """List estimators."""
    from rlr_core.estimators import ESTIMATORS

    for name, recipe in ESTIMATORS.items():
        say(f"{name:12} {recipe.summary}")
        if recipe.uses:
            say(f"{'':12} settings: {', '.join(recipe.uses)}")
