"""Many runs, long logs, many hands, with figures: python tests/many_runs.py [list|resume|resumes|starts|pollers …]

Without a name everything is measured. `--size` takes another number of runs, events, resumes or starts than the one that is
printed. Seconds are of the machine that it runs on; what must hold on every machine is in `test_listing.py`,
`test_overview.py` and `test_log.py`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlr_core.config import RunConfig, to_toml
from rlr_core.errors import RunError
from rlr_core.runs import list_runs, log
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.worker import Worker

PAIRS = 64
"""Of an evaluation, as by default."""


def event(number: int, kind: str, **facts: Any) -> dict[str, Any]:
    """A line of a log."""
    return {"seq": number, "type": kind, **facts, "clock": {"time": 1.7e9 + number, "seconds": 3.2}}


def iteration(number: int, done: int) -> dict[str, Any]:
    """As the default estimator tells it."""
    part = {"norm": 0.0039108701457, "standard_error": 6.327512369e-06, "weight": 1.0}
    return event(
        number, "iteration", iteration=done, reward=0.3 + done / 1e4, reward_error=0.0063075, parts={"lookahead": part},
        gradient_norm=0.0039108701457, evaluations=11.0, measured_on="predicted pictures", reward_parts={},
    )  # fmt: skip


def evaluation(number: int, when: str, done: int) -> dict[str, Any]:
    """Of `PAIRS` pictures."""
    scores = [0.3 + k / 997 + done / 1e3 for k in range(PAIRS)]
    statistics = {name: scores for name in ("saturation", "edge density", "entropy", "diversity")}
    return event(
        number, "evaluation", when=when, prompts=["a small red house by the sea"] * PAIRS, seeds=list(range(PAIRS)),
        scores=scores, rewards=scores, iteration=done, parts={}, watched={}, statistics=statistics,
    )  # fmt: skip


def events(iterations: int) -> Iterator[dict[str, Any]]:
    """A finished run's."""
    yield evaluation(1, "before", 0)
    for done in range(1, iterations + 1):
        yield iteration(done + 1, done)
    yield evaluation(iterations + 2, "after", iterations)
    yield event(iterations + 3, "finished", lora="rlr-lora.safetensors")


def make_run(folder: Path, iterations: int, config: str) -> Path:
    """A run's folder, as far as a list looks into it."""
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(config, encoding="utf-8")
    write_log(folder / "events.jsonl", events(iterations))
    Worker.of().write(folder / "worker.json")
    return folder


def write_log(path: Path, told: Iterator[dict[str, Any]]) -> None:
    """All at once: the run waits for the disk at each event."""
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(each) + "\n" for each in told)


def timed(what: str, measured: Callable[[], Any]) -> Any:
    """Call it and say what it took."""
    began = time.perf_counter()
    found = measured()
    print(f"  {what + ':':58}{time.perf_counter() - began:8.2f} s", flush=True)
    return found


# what is measured


def list_many(folder: Path, size: int) -> None:
    """A folder of `size` runs is listed, for the first time and again."""
    config = to_toml(RunConfig(), comments=False)
    for number in range(size):
        make_run(folder / f"run-{number:04d}", 100, config)
    weight = sum(file.stat().st_size for file in folder.rglob("events.jsonl"))
    print(f"{size} runs of 100 iterations, logs of {weight / 1e6:.0f} MB")
    timed("listed without overviews (made on the way)", lambda: list_runs(folder))
    found = timed("listed again", lambda: list_runs(folder))
    with (folder / "run-0000" / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(event(104, "warning", message="more")) + "\n")
    timed("listed after one log has grown", lambda: list_runs(folder))
    assert len(found) == size and all(state.state == "finished" and state.held_out for state in found)


def resume_long(folder: Path, size: int) -> None:
    """A run with `size` events in its log is resumed to its end, in a process of its own; and one without them."""
    import runs

    from rlr_core.runs import runner

    runs.workshop(folder)
    for number in (0, size):
        run = folder / f"run-{number}"
        with longer_by(number):
            runner.start(
                runs.config(folder, training__iterations=4), run, should_stop=lambda run=run: reached(run, 2)
            )
        megabytes = (run / "events.jsonl").stat().st_size / 1e6
        print(f"a stopped run, resumed to its end; its log has {number} events more ({megabytes:.1f} MB)")
        subprocess.run([sys.executable, __file__, "resume-one", str(run)], check=True)


def reached(run: Path, done: int) -> bool:
    """Whether a run that goes on in this process has come to an iteration."""
    file = run / "previews" / f"{done:06d}.png"
    return file.exists()


@contextmanager
def longer_by(size: int) -> Iterator[None]:
    """The first iteration of a run that starts is told again and again."""
    append = log.EventLog.append

    def append_many(self: log.EventLog, kind: str, /, *arguments: Any, **facts: Any) -> int:
        if kind == "iteration" and facts["iteration"] == 1:
            write_log(self.path, (iteration(self.sequence + 1 + k, 1) for k in range(size)))
            self.sequence += size
        return append(self, kind, *arguments, **facts)

    log.EventLog.append = append_many
    try:
        yield
    finally:
        log.EventLog.append = append


def resume_one(run: Path) -> None:
    """What `resume_long` starts."""
    from rlr_core.runs import runner

    began = time.perf_counter()
    first: list[float] = []
    runner.resume(run, lambda event: first.append(time.perf_counter()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {'until its first event:':58}{first[0] - began:8.2f} s")
    print(f"  {'until its end, with the report:':58}{time.perf_counter() - began:8.2f} s")
    print(f"  {'memory at its height:':58}{peak:8.0f} MB", flush=True)
    assert RunDirectory(run).finished


def resume_often(folder: Path, size: int) -> None:
    """One log in which a run goes back `size` times; what it costs must not depend on how often it did before."""
    directory = RunDirectory(folder / "run")
    directory.folder.mkdir()
    directory.config_file.write_text(to_toml(RunConfig(), comments=False), encoding="utf-8")
    print(f"{size} resumes in one log, each of 5 iterations and a checkpoint, of which every other is lost")
    quarter = size // 4
    for part in range(4):
        timed(
            f"resumes {part * quarter + 1} to {(part + 1) * quarter}",
            lambda: [_go_on(directory, lost=k % 2 == 1) for k in range(quarter)],
        )
    timed("read from the start", lambda: log.read(directory.events_file))
    directory.overview_file.unlink()
    timed("looked at from the start", directory.state)
    timed("looked at again", directory.state)


def _go_on(directory: RunDirectory, lost: bool) -> None:
    with directory.held(0):
        done = directory.state().iteration
        events = log.EventLog(directory.events_file)
        after = directory.keep_overview().facts.since
        events.go_back(after)
        for k in range(5):
            events.append("iteration", iteration=done + k + 1, reward=0.5)
        if not lost:
            events.append("checkpoint", iteration=done + 5)
        directory.keep_overview()


def start_at_once(folder: Path, size: int) -> None:
    """`size` times `rlr train` with the same config, at the same time."""
    import runs

    runs.workshop(folder)
    (folder / "tiny.toml").write_text(
        to_toml(runs.config(folder, training__iterations=1, output__evaluation=0)), encoding="utf-8"
    )
    command = [sys.executable, "-m", "rlr_core", "train", "tiny.toml"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    print(f"{size} times rlr train tiny.toml at once")
    started = [subprocess.Popen(command, **quiet) for _ in range(size)]
    told = [process.communicate()[1] for process in started]
    refused = [words for process, words in zip(started, told, strict=True) if process.returncode]
    found = list_runs(folder / "runs")
    print(f"  refused: {len(refused)}, finished: {sum(state.state == 'finished' for state in found)}")
    print("".join(refused), end="")
    assert not refused and len(found) == size


def poll_and_resume(folder: Path, size: int) -> None:
    """Two processes list all runs without a pause while one run is taken up `size` times, without waiting for its lock."""
    directory = RunDirectory(make_run(folder / "run", 20, to_toml(RunConfig(), comments=False)))
    context = multiprocessing.get_context("spawn")
    done, looks = context.Event(), context.Array("i", 2)
    pollers = [context.Process(target=_poll, args=(folder, done, looks, k)) for k in range(2)]
    for poller in pollers:
        poller.start()
    while min(looks) == 0:
        time.sleep(0.01)
    before, refused = sum(looks), 0
    for _ in range(size):
        try:
            _go_on_at_once(directory)
        except RunError:
            refused += 1
    done.set()
    for poller in pollers:
        poller.join()
    print(f"{size} resumes while two others look: {refused} refused, {sum(looks) - before} looks meanwhile")
    assert refused == 0 and all(poller.exitcode == 0 for poller in pollers)


def _go_on_at_once(directory: RunDirectory) -> None:
    with directory.held(0):
        log.EventLog(directory.events_file).go_back(1)


def _poll(folder: Path, done: Any, looks: Any, mine: int) -> None:
    while not done.is_set():
        (state,) = list_runs(folder)
        assert state.state != "damaged", state.message
        looks[mine] += 1


MEASURED: dict[str, tuple[Callable[[Path, int], None], int]] = {
    "list": (list_many, 2000),
    "resume": (resume_long, 100_000),
    "resumes": (resume_often, 3000),
    "starts": (start_at_once, 8),
    "pollers": (poll_and_resume, 200),
}


def main() -> None:
    if sys.argv[1:2] == ["resume-one"]:
        return resume_one(Path(sys.argv[2]))
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "names", nargs="*", metavar="NAME", default=list(MEASURED), help=", ".join(MEASURED)
    )
    arguments.add_argument("--size", type=int)
    options = arguments.parse_args()
    for name in options.names:
        measure, size = MEASURED[name]
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), options.size or size)
    print(f"processor cores: {os.cpu_count()}, load: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
