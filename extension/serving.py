"""`python -m extension.serving HOME PORT PREFIX`, in RLR's environment: the GUI, until its host is gone and no run is live."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from extension.bringing import News
from extension.gui import is_there
from rlr_core.errors import RLRError
from rlr_core.storage import read_bytes
from ui.__main__ import main

PERIOD = 1.0
GRACE = 30.0
"""Seconds that a webui which restarts may take until it says that it is here."""

log = logging.getLogger("rlr.extension")


def told_by_host(home: Path) -> dict[str, Any]:
    """What the host says of itself in `host.json`; {} where it says nothing."""
    try:
        return dict(json.loads(read_bytes(home / "host.json", 2**16)))
    except (OSError, ValueError, TypeError):
        return {}


def watch(home: Path) -> None:
    """Tell the host what the runs do; end this process once nobody needs it."""
    news, needed = News.of(home), time.monotonic()
    while time.monotonic() - needed < GRACE:
        time.sleep(PERIOD)
        host = told_by_host(home)
        try:
            live = news.look(host.get("bring") is True)
        except RLRError as error:  # a run that cannot be told may be live
            log.warning("%s", error)
            live = True
        if live or is_there(host):
            needed = time.monotonic()
    os._exit(0)


if __name__ == "__main__":
    home, port, prefix = sys.argv[1:]
    threading.Thread(target=watch, args=[Path(home)], daemon=True).start()
    sys.exit(main(["--home", home, "--port", port, "--root-path", prefix, "--no-browser"]))
