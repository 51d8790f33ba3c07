"""Results by the hash of what they are the result of: a JSON Lines file, one job a line, appended as jobs finish."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlr_core.bench.methods import relevant
from rlr_core.errors import ConfigError
from rlr_core.storage import storing


def fingerprint(settings: dict[str, Any]) -> str:
    """16 hexadecimal digits of the settings, whatever their order.

    A config counts with every setting there is today that its estimator reads; those that it does not name have their default.
    Names that begin with "_" do not count.
    """
    counted = {name: value for name, value in settings.items() if not name.startswith("_")}
    if "config" in counted:
        counted["config"] = relevant(counted["config"])
    text = json.dumps(counted, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


class Store:
    """The results in one file. A line torn by a crash counts as absent."""

    def __init__(self, path: Path):
        self.path = path
        self._results: dict[str, dict[str, Any]] = {}
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            whole, _, torn = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
            if torn:
                os.truncate(path, len(whole) + bool(whole))
        for line in whole.splitlines():
            row = json.loads(line)
            with suppress(ConfigError):  # of settings that there are no more
                self._results[fingerprint(row["settings"])] = row["result"]

    def get(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """The result for these settings."""
        return self._results.get(fingerprint(settings))

    def put(self, settings: dict[str, Any], result: dict[str, Any]) -> None:
        """Append a result and push it to the disk."""
        row = {"settings": settings, "result": result}
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        with storing(self.path), self.path.open("ab") as file:
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        self._results[fingerprint(settings)] = result
