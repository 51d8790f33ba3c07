"""What is kept of a log beside it tells what the log tells, however it was read, and is never believed over it."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlr_core.config import RunConfig, to_toml
from rlr_core.errors import RunError, StorageError
from rlr_core.runs import log, overview
from rlr_core.runs.directory import RunDirectory
from rlr_core.runs.overview import SEEN, Facts, Overview
from rlr_core.runs.summary import Summary


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(tmp_path / "run")
    made.folder.mkdir()
    made.config_file.write_text(to_toml(RunConfig(), comments=False), encoding="utf-8")
    return made


def line(number: int, kind: str, **facts: Any) -> dict[str, Any]:
    return {"seq": number, "type": kind, **facts, "clock": {"time": 1e9 + number}}


def write(path: Path, *events: dict[str, Any] | bytes) -> None:
    with path.open("ab") as file:
        for event in events:
            file.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")


# by whatever way


def plainly(path: Path) -> Overview:
    """What a log tells, from all that counts in it."""
    events, last = log.read(path), log.ending(path)
    told = log.Follower(path).new()

    def of(*kinds: str) -> list[dict[str, Any]]:
        return [event for event in events if event["type"] in kinds]

    rewards = [event["reward"] for event in of("iteration")]
    compared = Summary.read(path)
    facts = Facts(
        iteration=max((event["iteration"] for event in of("iteration", "skipped")), default=0),
        first=next((reward for reward in rewards if reward is not None), None),
        latest=rewards[-1] if rewards else None,
        held_out=compared.held_out,
        trained=compared.trained,
        alarm=next((event["message"] for event in reversed(of("alarm"))), ""),
        unreadable=len(of("unreadable")),
    )
    times = [event["clock"]["time"] for event in told if "clock" in event]
    return Overview(
        sequence=last.sequence,
        last=last.type,
        offset=last.offset,
        started=times[0] if times else None,
        updated=times[-1] if times else None,
        facts=facts,
    )


TOLD = "sequence", "last", "offset", "started", "updated"


def assert_tells(found: Overview, path: Path) -> None:
    expected = plainly(path)
    assert {name: getattr(found, name) for name in TOLD} == {name: getattr(expected, name) for name in TOLD}
    assert repr(dataclasses.replace(found.facts, since=0)) == repr(expected.facts), (
        "NaN is not equal to itself"
    )


def evaluation(number: int, when: str, drawn: random.Random) -> dict[str, Any]:
    scores = [drawn.choice([drawn.random(), drawn.random(), drawn.random(), None]) for _ in range(6)]
    none = {"parts": {}, "watched": {}, "statistics": {}}
    return line(number, "evaluation", when=when, iteration=0, scores=scores, rewards=scores[::-1], **none)


def history(drawn: random.Random) -> Iterator[dict[str, Any] | bytes]:
    """A run that stumbles from its start to its end, and goes back to its checkpoints, or to anywhere."""
    number, iteration, marks = 1, 0, [0]
    yield evaluation(1, "before", drawn)
    for _ in range(drawn.randrange(60)):
        number += 1
        match drawn.choice(["iteration"] * 5 + ["checkpoint", "checkpoint", "resumed", "other", "garbage"]):
            case "iteration":
                iteration += 1
                kind = drawn.choice(["iteration", "iteration", "skipped"])
                yield line(number, kind, iteration=iteration, reward=drawn.choice([None, drawn.random()]))
            case "checkpoint":
                marks.append(number)
                yield line(number, drawn.choice(["checkpoint", "stopped"]), iteration=iteration)
            case "resumed":
                after = drawn.choice([marks[-1], drawn.choice(marks), drawn.randrange(number)])
                marks = [mark for mark in marks if mark <= after]
                yield line(number, "resumed", after=after)
                if after == 0:
                    number += 1
                    yield evaluation(number, "before", drawn)
            case "garbage":
                yield b"garbage\n"
            case _:
                kind = drawn.choice(["alarm", "failed", "launched", "warning"])
                yield line(number, kind, message=f"message {number}")
    if drawn.random() < 0.5:
        yield evaluation(number + 1, "after", drawn)
        yield line(number + 2, "finished")


@pytest.mark.parametrize("seed", range(60))
def test_it_tells_what_the_log_tells(seed, directory):
    """Taken in bit by bit, kept and read again, and all at once."""
    drawn = random.Random(seed)
    for event in history(drawn):
        write(directory.events_file, event)
        if drawn.random() < 0.5:
            kept = directory.keep_overview()
            assert_tells(kept, directory.events_file)
            assert repr(Overview.read(directory.overview_file)) == repr(kept)
    assert_tells(directory.keep_overview(), directory.events_file)
    assert_tells(Overview().follow(directory.events_file), directory.events_file)


# what is read


def test_only_what_is_new_is_read(directory, bytes_read):
    numbers = range(1, 2001)
    write(directory.events_file, *(line(n, "iteration", iteration=n, reward=0.5) for n in numbers))
    first = directory.keep_overview()
    assert sum(bytes_read) >= directory.events_file.stat().st_size
    bytes_read.clear()
    assert directory.keep_overview().facts.iteration == 2000 and not bytes_read, "not even opened"
    more = line(2001, "iteration", iteration=2001, reward=0.5)
    write(directory.events_file, more)
    assert directory.keep_overview().facts.iteration == 2001
    assert sum(bytes_read) == 2 * SEEN + 1 + directory.events_file.stat().st_size - first.offset


def test_going_back_to_a_checkpoint_reads_nothing_again(directory, bytes_read):
    """However often: each time the new events are read, and no others."""
    number = iteration = 0
    largest = []
    for _ in range(200):
        for _ in range(5):
            number, iteration = number + 1, iteration + 1
            write(directory.events_file, line(number, "iteration", iteration=iteration, reward=0.5))
        number += 1
        write(directory.events_file, line(number, "checkpoint", iteration=iteration))
        write(directory.events_file, line(number + 1, "iteration", iteration=iteration + 1, reward=0.5))
        write(directory.events_file, line(number + 2, "resumed", after=number))
        number += 2
        bytes_read.clear()
        assert directory.keep_overview().facts.iteration == iteration
        largest.append(sum(bytes_read))
    assert max(largest[1:]) < 8 * 150 + 2 * SEEN, "of eight new lines"


# what is not believed


def rewritten(change: Any) -> Any:
    def damage(directory: RunDirectory) -> None:
        kept = json.loads(directory.overview_file.read_text("utf-8"))
        change(kept["overview"])
        text = json.dumps(kept)
        kept["check"] = overview._check(text.encode())
        directory.overview_file.write_text(json.dumps(kept), encoding="utf-8")

    return damage


def flipped(directory: RunDirectory) -> None:
    text = directory.overview_file.read_text("utf-8")
    directory.overview_file.write_text(text.replace('"iteration": 3', '"iteration": 7'), encoding="utf-8")


def another_log(directory: RunDirectory) -> None:
    lines = directory.events_file.read_bytes().replace(b'"time": 1000000003', b'"time": 2000000003')
    directory.events_file.write_bytes(lines + json.dumps(line(4, "warning", message="")).encode() + b"\n")


def shorter_log(directory: RunDirectory) -> None:
    lines = directory.events_file.read_bytes().splitlines(keepends=True)
    directory.events_file.write_bytes(b"".join(lines[:2]))


DAMAGES = {
    "nothing": lambda directory: directory.overview_file.write_bytes(b""),
    "no JSON": lambda directory: directory.overview_file.write_bytes(b"{"),
    "a list": lambda directory: directory.overview_file.write_bytes(b"[1]"),
    "nested": lambda directory: directory.overview_file.write_bytes(b"[" * 100_000),
    "no UTF-8": lambda directory: directory.overview_file.write_bytes(b"\xff\xfe"),
    "a folder": lambda directory: (directory.overview_file.unlink(), directory.overview_file.mkdir()),
    "a changed number": flipped,
    "of another version": rewritten(lambda told: told.update(version="0.0.0")),
    "with more in it": rewritten(lambda told: told.update(more=1)),
    "of another log": another_log,
    "of a log that was cut off": shorter_log,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_log_is_believed(name, directory):
    events = (line(n, "iteration", iteration=n, reward=0.5) for n in (1, 2, 3))
    write(directory.events_file, *events)
    directory.keep_overview()
    DAMAGES[name](directory)
    assert_tells(directory.keep_overview(), directory.events_file)
    state = directory.state()
    expected = plainly(directory.events_file).facts.iteration
    assert (state.state, state.iteration, state.iterations) == ("interrupted", expected, 40)


def test_a_config_that_was_edited_is_read_again(directory):
    write(directory.events_file, line(1, "launched"))
    assert directory.keep_overview().iterations == 40
    text = directory.config_file.read_text("utf-8")
    directory.config_file.write_text(text.replace("iterations = 40", "iterations = 9"), encoding="utf-8")
    assert directory.keep_overview().iterations == 9
    directory.config_file.write_text("[sampler]\nof_tomorrow = 1\n", encoding="utf-8")
    assert "sampler" in directory.keep_overview().problem and directory.state().state == "damaged"
    directory.config_file.write_text(text, encoding="utf-8")
    assert directory.keep_overview().problem == "" and directory.state().state == "interrupted"


# disks that are only read


def test_a_disk_that_is_only_read(directory, monkeypatch):
    """Whoever looks sees all the same, and nothing is left behind."""
    write(directory.events_file, line(1, "iteration", iteration=1, reward=0.5), line(2, "finished"))

    def refuse(path: Path, text: str, **_: Any) -> None:
        raise StorageError(
            f"{path} cannot be written: Read-only file system", "room to write", "choose another"
        )

    monkeypatch.setattr(overview, "write_text", refuse)
    state = directory.state()
    assert (state.state, state.iteration, state.message) == ("finished", 1, "")
    assert sorted(path.name for path in directory.folder.iterdir()) == ["config.toml", "events.jsonl"]


def test_a_run_that_was_deleted_stays_so(directory):
    found = Overview().follow(directory.events_file)
    directory.config_file.unlink()
    directory.folder.rmdir()
    found.save(directory.overview_file)
    assert not directory.folder.exists()


def test_a_log_that_cannot_be_read_is_an_error(directory):
    directory.events_file.mkdir()
    with pytest.raises(RunError, match="it is no file"):
        directory.keep_overview()
    assert not directory.overview_file.exists()


def test_looking_at_a_folder_in_which_no_run_has_begun_leaves_it_as_it_is(tmp_path):
    """Or the run that begins there would be refused."""
    RunDirectory(tmp_path).state()
    assert list(tmp_path.iterdir()) == []
    RunDirectory(tmp_path).refuse_if_taken()
