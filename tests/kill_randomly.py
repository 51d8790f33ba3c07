"""Kill runs at random (SIGKILL), and see that nothing is lost: python tests/kill_randomly.py --kills 200

A run is carried out in a process of its own. That is killed at a random moment, or at one of its file operations, just before
it or within the next milliseconds; then the run is taken up, and killed again, until it is left alone. It must then be the run
that was never killed, to the bit. Says how many kills there were, in what, and how many runs were not the same.

Every process is forked from this one, which has loaded the libraries: a second for each kill. POSIX only.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import foreign
import runs
import torch

from rlr_core.config import RunConfig
from rlr_core.rewards import FunctionReward
from rlr_core.runs import list_runs, recorder, runner
from rlr_core.runs.checkpoints import Checkpoints
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.gallery import Gallery
from rlr_core.trainer import Materials, Rewards, Trainer, prepare

ESTIMATORS: dict[str, dict[str, Any]] = {
    "lookahead": {"training__ema": 0.5, "output__lora": "best"},
    "rlr": {
        "estimator__first_order_steps": 1,
        "estimator__sub_chains": "learned",
        "estimator__chunk": 2,
        "alarm__action": "rollback",
    },
    "ddpo": {
        "estimator__batch_reuse": 2,
        "estimator__baseline": "running_mean",
        "output__keep_checkpoints": 1,
    },
    "zeroth": {"training__schedule": "cosine"},
}
PHASES = ("start", "resume", "training", "checkpoint", "export", "score at the end", "report")
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir"}
"""Python's audit events of what changes a folder, beside opening a file to write."""

now = mmap.mmap(-1, 3)
"""The phase that the child is in, and how many file operations it has made, as its parent can read when it is dead."""


@dataclass(frozen=True)
class Kill:
    """When a process dies: `seconds` after its file operation number `operation`, 0 being its start.

    Lines that are added to the log are no operations: they would be nearly all.
    """

    operation: int
    seconds: float


NEVER = Kill(-1, 0)
EARLY = 12
"""File operations within which a run is begun or taken up: a third of all kills are there."""


def settings(name: str) -> RunConfig:
    return foreign.foreign_config("red", estimator__name=name, **ESTIMATORS[name])


def materials() -> Materials:
    trained = FunctionReward("red", True, lambda images, prompts: images[:, 0].mean((1, 2)))
    watching = FunctionReward("contrast", False, lambda images, prompts: images.flatten(1).std(1))
    return Materials(model=foreign.ForeignModel(), rewards=Rewards(trained, watching))


# in the child


def work(name: str, folder: Path) -> None:
    """Begin the run, or go on with it."""
    directory = RunDirectory(folder)
    now[0] = PHASES.index("resume" if directory.config_file.exists() else "start")
    if not directory.config_file.exists():
        runner.start(settings(name), folder, materials=materials())
    elif not directory.finished:
        runner.resume(folder, materials=materials())


def tell_phases() -> None:
    """Note what the process is doing."""
    for owner, function, phase in (
        (Trainer, "train", "training"),
        (Trainer, "evaluate", "score at the end"),
        (Checkpoints, "save", "checkpoint"),
        (recorder, "export", "export"),
        (Gallery, "finish", "report"),
    ):
        setattr(owner, function, noting(phase, getattr(owner, function)))


def noting(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        before = now[0]
        now[0] = PHASES.index(phase)
        made = function(*arguments, **options)
        if not hasattr(made, "__next__"):  # what goes on for a while lasts until the next phase
            now[0] = before
        return made

    return noted


def arm(kill: Kill, folder: Path) -> None:
    """Count, and die as planned."""
    now[1:3] = bytes(2)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if is_write(event, arguments) and str(arguments[0]).startswith(str(folder)):
            now[1:3] = (operations() + 1).to_bytes(2, "big")
            if operations() == kill.operation:
                die_in(kill.seconds)

    sys.addaudithook(hook)
    if kill.operation == 0:
        die_in(kill.seconds)


def operations() -> int:
    return int.from_bytes(now[1:3], "big")


def is_write(event: str, arguments: tuple[Any, ...]) -> bool:
    if event != "open":
        return event in WRITES
    mode = arguments[1] or ""
    return any(letter in mode for letter in "w+x")


def die_in(seconds: float) -> None:
    if not seconds:
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


# in the parent


def attempt(name: str, folder: Path, kill: Kill = NEVER) -> int:
    """Of a child: its exit code, or minus the signal that killed it."""
    child = os.fork()
    if not child:
        code = 1
        try:
            tell_phases()
            arm(kill, folder)
            work(name, folder)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@dataclass
class Reference:
    """The run of an estimator that was never killed.

    Attributes:
        seconds: that it took.
        operations: how often it changed a file.
    """

    folder: Path
    seconds: float
    operations: int

    @classmethod
    def made(cls, name: str, root: Path) -> Reference:
        folder, began = root / "reference" / name, time.monotonic()
        if attempt(name, folder):
            raise SystemExit(f"the run of {name} ends in an error by itself")
        return cls(folder, time.monotonic() - began, operations())

    def kill(self, chance: random.Random) -> Kill:
        """A random one: at any moment, before a file operation, or a little after it began."""
        if chance.random() < 0.3:
            return Kill(0, chance.uniform(0, self.seconds))
        after = 0.0 if chance.random() < 0.5 else chance.uniform(0, 0.005)
        last = EARLY if chance.random() < 0.3 else self.operations
        return Kill(chance.randint(1, last), after)


def survive(name: str, folder: Path, reference: Reference, chance: random.Random, most: int) -> Counter[str]:
    """Kill one run up to `most` times, then let it finish; returns the phases. Raises `AssertionError` for another run."""
    phases: Counter[str] = Counter()
    for _ in range(most):
        code = attempt(name, folder, reference.kill(chance))
        if code != -signal.SIGKILL:
            assert code == 0, f"a run that was taken up after {dict(phases)} ends in an error"
            break
        phases[PHASES[now[0]]] += 1
        assert_told_as_it_is(folder)
    assert attempt(name, folder) == 0, f"a run that was killed in {dict(phases)} ends in an error"
    runs.assert_same_run(folder, reference.folder)
    # What a kill leaves half written after the last event is cleared when the run is taken up again, and is nothing of it.
    left = [
        file
        for file in folder.rglob(".*.tmp")
        if not file.name.startswith((".worker.json.", ".overview.json."))
    ]
    assert not left and not list(folder.rglob("*.refused*"))
    return phases


def assert_told_as_it_is(folder: Path) -> None:
    """Whoever looks is told that it was interrupted, or had just finished."""
    told = [state.state for state in list_runs(folder.parent) if state.folder == folder]
    assert told in ([], ["interrupted"], ["finished"]), told


def load_libraries() -> None:
    """What children would all load by themselves."""
    import matplotlib.figure  # noqa: F401

    torch.set_num_threads(1)
    prepare(settings("lookahead"), materials=materials()).close()


def kill_randomly(kills: int, seed: int, names: list[str], root: Path) -> int:
    """Returns the number of runs that were not the same."""
    load_libraries()
    chance, phases, killed, failures = random.Random(seed), Counter(), Counter(), 0
    references = {name: Reference.made(name, root) for name in names}
    for number in range(1, 10 * kills):
        name, folder = names[number % len(names)], root / f"{number:04d}" / "run"
        most = min(chance.randint(1, 5), kills - phases.total())
        try:
            found = survive(name, folder, references[name], chance, most)
        except AssertionError:
            failures, found = failures + 1, Counter({"unknown": 1})
            print(f"FAILED: {name}, in {folder}", flush=True)
            traceback.print_exc()
        phases, killed = phases + found, killed + Counter({name: found.total()})
        print(f"{phases.total():4d} kills, {number} runs, {failures} failures", flush=True)
        if phases.total() >= kills:
            break
    told = ", ".join(f"{phase} {phases[phase]}" for phase in PHASES)
    print(f"\n{phases.total()} kills of {number} runs ({', '.join(f'{k} {n}' for k, n in killed.items())})")
    print(f"  killed in: {told}\n  failures: {failures}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--folder", type=Path, help="a new one, which is kept; with none, a temporary one")
    options = parser.parse_args()
    if options.folder:
        return min(
            1, kill_randomly(options.kills, options.seed, options.estimators, options.folder.absolute())
        )
    with tempfile.TemporaryDirectory() as folder:
        return min(1, kill_randomly(options.kills, options.seed, options.estimators, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
