"""Seeded damage to what users' files hold, and what is promised of all of it."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any

from rlr_core.errors import RLRError

MOMENT = 3.0
"""Seconds of processor time within which an answer has to come: less than one, but where coverage is measured beside
other work."""
MEMORY = 400 * 2**20
"""Bytes by which the process may grow beyond what it ever took before."""
STRANGE = (
    None, True, False, 0, 1, -1, 3, 10**9, 2**63, -(2**63), 10**40, 0.5, -0.5, 1e300, float("nan"), float("inf"), "",
    "x", "\x1b[31m",
    "a" * 10_000, [], {}, [1], [[1]], [10**9], ["x"], {"x": 1}, [None, None], [1, 2, 3, 4, 5, 6, 7, 8, 9],
)  # fmt: skip
"""What a file may have where something else was expected."""


def answered(call: Callable[[], Any]) -> str | None:
    """The message of the `RLRError` that `call` raises, None where it raises none; in time, and in bounded memory."""
    began, before = time.process_time(), peak()
    try:
        call()
        return None
    except RLRError as error:
        return str(error)
    finally:
        seconds, grown = time.process_time() - began, peak() - before
        assert seconds < MOMENT, f"{seconds:.1f} s of work"
        assert grown < MEMORY, f"{grown / 2**20:.0f} MB more"


def peak() -> int:
    """Bytes of memory that the process ever took; Linux counts in units of 1024."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def damaged_bytes(data: bytes, generator: random.Random) -> bytes:
    """A copy with some of: bits that flipped; a part that is lost, doubled, or overwritten; an end that was cut off."""
    spoiled = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(len(spoiled) + 1)
        stop = min(len(spoiled), start + generator.choice((1, 2, 4, 30)))
        match generator.randrange(8):
            case 0:
                del spoiled[start:stop]
            case 1:
                spoiled[start:start] = spoiled[start:stop]
            case 2:
                spoiled[start:stop] = generator.randbytes(stop - start)
            case 3:
                spoiled[start:stop] = generator.choice((b"\0", b"\xff")) * (stop - start)
            case 4 if generator.random() < 0.3:
                del spoiled[start:]
            case _ if start < len(spoiled):
                spoiled[start] ^= 1 << generator.randrange(8)
            case _:
                pass
    return bytes(spoiled)


def damaged_values(values: Any, generator: random.Random) -> Any:
    """A copy of nested tables and lists with another value somewhere, or without one."""
    spoiled = deepcopy(values)
    holder, key = generator.choice(_places(spoiled))
    if generator.random() < 0.1:
        del holder[key]
    else:
        holder[key] = deepcopy(generator.choice(STRANGE))
    return spoiled


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Each table or list with each of its keys, the outer ones first."""
    keys = (
        list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    )
    return [place for key in keys for place in ((values, key), *_places(values[key]))]
