"""A log's ends, damages and long histories: as a plain reading of the whole file tells them, with little of it read."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlr_core.errors import RunError
from rlr_core.runs import log
from rlr_core.runs.log import Ending, EventLog, Follower


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def line(number: int, kind: str = "preview", **facts: Any) -> bytes:
    return json.dumps({"seq": number, "type": kind, **facts}).encode() + b"\n"


# the end


def plainly(data: bytes) -> Ending:
    """The end of a log, by reading all of it."""
    whole = data[: data.rfind(b"\n") + 1]
    end, damaged, kind = 0, 0, ""
    for each in whole.splitlines(keepends=True):
        event = log.parsed(each, 0)
        kind = event["type"]
        damaged = damaged + 1 if kind == "unreadable" else 0
        end = end if damaged else event["seq"]
    return Ending(len(whole), end + damaged, kind)


@pytest.mark.parametrize("seed", range(40))
def test_the_end_is_found_from_behind(seed, path, monkeypatch):
    """Lines of any length, damaged ones among them, and a torn one, in blocks of a few bytes."""
    drawn = random.Random(seed)
    monkeypatch.setattr(log, "BLOCK", drawn.choice([1, 2, 7, 64]))
    lines = [
        drawn.choice([line(k, text="x" * drawn.randrange(90)), b"garbage\n", b"\n"]) for k in range(1, 9)
    ]
    data = b"".join(lines[: drawn.randrange(9)]) + drawn.choice([b"", b'{"seq": 9, "ty', b"{" * 99])
    path.write_bytes(data)
    assert log.ending(path) == plainly(data)
    events = EventLog(path)
    assert path.read_bytes() == data[: plainly(data).offset], "a torn line is cut off, and nothing else"
    assert events.append("preview") == plainly(data).sequence + 1


def test_a_log_that_is_opened_is_read_at_its_end_alone(path, bytes_read):
    path.write_bytes(b"".join(line(number, reward=0.5) for number in range(1, 20_001)))
    assert path.stat().st_size > 10 * log.BLOCK
    assert EventLog(path).sequence == 20_000
    assert sum(bytes_read) == log.BLOCK


# damage


@pytest.mark.parametrize(
    "damaged",
    [
        b"garbage\n",
        b"\n",
        b"\0" * 40 + b"\n",
        b"[1]\n",
        b'{"type": "preview"}\n',
        b'{"seq": "2", "type": "preview"}\n',
        b'{"seq": 2, "type": "iteration", "iteration": "two", "reward": 0.5}\n',
        b'{"seq": 2, "type": "resumed"}\n',
        b'{"seq": 2, "type": "evaluation", "when": "before"}\n',
        b"[" * 100_000 + b"\n",
        b'{"seq": ' + b"9" * 5000 + b', "type": "preview"}\n',
        b'{"seq": 2, "type": "preview"\xff}\n',
    ],
)
def test_a_damaged_line_hides_no_other(damaged, path):
    path.write_bytes(line(1) + damaged + line(3))
    told = log.read(path)
    assert [(event["seq"], event["type"]) for event in told] == [
        (1, "preview"),
        (2, "unreadable"),
        (3, "preview"),
    ]
    assert log.ending(path).sequence == 3


def test_what_a_log_has_lost_is_said_and_no_number_comes_twice(path):
    """The checkpoint says that 9 events count; the log was cut off after 2."""
    path.write_bytes(line(1) + line(2))
    EventLog(path).go_back(9)
    resumed, warning = Follower(path).new()[2:]
    assert (resumed["seq"], resumed["after"]) == (10, 9)
    assert "lost its events 3 to 9" in warning["message"]
    assert [event["type"] for event in log.read(path)] == ["preview", "preview", "warning"]


def test_a_log_that_is_none(path):
    path.mkdir()
    for look in (log.read, log.ending, EventLog, lambda path: Follower(path).new()):
        with pytest.raises(RunError, match="cannot be read: it is no file"):
            look(path)


# many resumes


def test_events_are_taken_away_once(monkeypatch):
    """3,000 times a run goes back a little: what is looked at grows with the log, not with its square."""
    looks = [0]

    class Event(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            looks[0] += 1
            return super().__getitem__(name)

    history, number = [], 0
    for _ in range(3000):
        for _ in range(3):
            number += 1
            history.append(Event(seq=number, type="preview"))
        number += 1
        history.append(Event(seq=number, type="resumed", after=number - 2))
    kept = log.counting([], history)
    assert len(kept) == 2 * 3000
    assert looks[0] < 8 * len(history)
