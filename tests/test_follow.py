"""Following a run's log: every byte is read once, whatever happens to the file meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlr_core import runs
from rlr_core.runs import Follower, counting, log


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def line(number: int, kind: str = "preview", **facts: Any) -> bytes:
    return json.dumps({"seq": number, "type": kind, **facts}, ensure_ascii=False).encode() + b"\n"


def numbers(events: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in events]


def test_a_file_that_is_not_there_yet(path: Path) -> None:
    follower = Follower(path)
    assert follower.new() == []
    path.write_bytes(line(1))
    assert numbers(follower.new()) == [1] and follower.new() == []


def test_a_torn_line_comes_when_it_is_whole(path: Path) -> None:
    first, second = line(1), line(2, text="ä" * 9)
    follower = Follower(path)
    for cut in (1, len(second) - 1, second.index("ä".encode()) + 1):  # within a character, too
        path.write_bytes(first + second[:cut])
        assert numbers(follower.new()) == ([1] if cut == 1 else [])
    path.write_bytes(first + second + line(3)[:5])
    (event,) = follower.new()
    assert (event["seq"], event["text"]) == (2, "ä" * 9)


def test_a_line_torn_by_a_crash_is_cut_off_and_another_one_follows(path: Path) -> None:
    log.EventLog(path).append("one")
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "type": "a long line that was torn by a crash')
    follower = Follower(path)
    assert numbers(follower.new()) == [1]
    log.EventLog(path).append("two")
    assert [(event["seq"], event["type"]) for event in follower.new()] == [(2, "two")]


def test_events_that_a_resumed_run_makes_void(path: Path) -> None:
    events, follower = log.EventLog(path), Follower(path)
    for kind in ("a", "b", "c"):
        events.append(kind)
    known = counting([], follower.new())
    assert [event["type"] for event in known] == ["a", "b", "c"]
    events.append("resumed", after=1)
    events.append("d")
    new = follower.new()
    assert [event["type"] for event in new] == ["resumed", "d"], "a view is told what is void"
    assert counting(known, new) == log.read(path)
    assert [event["type"] for event in counting(known, new)] == ["a", "d"]


def test_a_follower_is_kept_as_two_numbers(path: Path, bytes_read: list[int]) -> None:
    path.write_bytes(line(1) + line(2))
    first = runs.follow(path.parent)
    assert numbers(first.new()) == [1, 2]
    with open(path, "ab") as file:
        file.write(line(3))
    bytes_read.clear()
    second = runs.follow(path.parent, after=first.sequence, offset=first.offset)
    assert numbers(second.new()) == [3]
    assert sum(bytes_read) == len(line(3)) + 1
    assert numbers(runs.follow(path.parent, after=2).new()) == [3], "a number alone will do"


@pytest.mark.parametrize("offset", [5, 10_000])
def test_a_place_that_is_none_is_not_believed(path: Path, offset: int) -> None:
    """A log that was mended by hand has its lines elsewhere."""
    path.write_bytes(b"".join(line(number) for number in range(1, 9)))
    assert numbers(Follower(path, offset, sequence=6).new()) == [7, 8]


def test_a_damaged_line_comes_as_what_it_is(path: Path) -> None:
    path.write_bytes(line(1) + line(2))
    follower = Follower(path)
    follower.new()
    path.write_bytes(line(1) + line(2) + line(3) + b"garbage\n" + line(5))
    assert [event["type"] for event in follower.new()] == ["preview", "unreadable", "preview"]


def test_polling_costs_what_is_new(path: Path, bytes_read: list[int]) -> None:
    """After 100,000 events."""
    path.write_bytes(b"".join(line(number, reward=0.5) for number in range(1, 100_001)))
    follower = Follower(path)
    assert len(follower.new()) == 100_000 and sum(bytes_read) >= path.stat().st_size
    bytes_read.clear()
    polls = 20
    for number in range(100_001, 100_001 + polls):
        with open(path, "ab") as file:
            file.write(line(number))
        assert numbers(follower.new()) == [number] and follower.new() == []
    looks = 2 * polls  # each looks at the byte before, to see that a line begins there
    assert sum(bytes_read) == polls * len(line(100_001)) + looks
