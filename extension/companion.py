"""Follows the GUI's runs for the host: lends them the card, and shows the LoRAs that came of them.

The GUI's process writes `news.json` every second (`serving`). A thread of the host reads it: nothing is asked over the network,
and a GUI that is not there costs nothing.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import psutil

from . import host
from .gui import Gui, is_there

PERIOD = 0.5
BUSY = "RLR is training on this card ({}): both are slow, and its memory may not be enough for both."


@dataclass
class Companion:
    """The thread of one GUI.

    Attributes:
        gui: whose runs are followed.
        lent: which of the host's models was taken off the card for a run.
    """

    gui: Gui
    lent: tuple[int, str] | None = field(default=None, init=False)
    _told: dict[str, Any] = field(default_factory=dict, init=False)
    _seen: Any = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._seen = self.gui.news().get("loras")

    def start(self) -> None:
        """Begin to follow; a second call changes nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, daemon=True, name="rlr-companion")
            self._thread.start()

    def tell(self) -> None:
        """Say in `host.json` which process the host is, and what its user has set; not before there is a GUI.

        Of two webuis with one folder the last one is heard, and the other again once that is gone.
        """
        started = psutil.Process().create_time()
        told = {"pid": os.getpid(), "started": started, "bring": host.setting(host.BRING)}
        if (told != self._told or not is_there(self._heard())) and self.gui.home.is_dir():
            (self.gui.home / "host.json.new").write_text(json.dumps(told), encoding="utf-8")
            (self.gui.home / "host.json.new").replace(self.gui.home / "host.json")
            self._told = told

    def _heard(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.gui.home / "host.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def look(self) -> None:
        """Do what is due."""
        self.tell()
        news = self.gui.news()
        wanted = bool(news["work"]) and host.setting(host.LEND)
        if wanted and host.loaded() != self.lent:  # or one has come since, as A1111's first does
            self.lent = host.lend_card()
            print(f"RLR: the model is off the card while {news['work'][0]} trains.")
        elif self.lent and not wanted:
            with host.queue():
                self.take_back()
        if news.get("loras") != self._seen:
            self._seen = news.get("loras")
            host.refresh_loras()

    def take_back(self) -> None:
        """Put the host's model on the card; the caller has the queue."""
        if self.lent:
            host.take_card_back()
            self.lent = None

    def before_picture(self, processing: Any) -> None:
        """A picture is wanted while a run is at work: it gets the card, and says so below itself."""
        if work := self.gui.news()["work"]:
            processing.comment(BUSY.format(work[0]))
        self.take_back()

    def _follow(self) -> None:
        while True:
            try:
                self.look()
            except Exception as error:  # a host that differs: its pictures and our runs go on
                print(f"RLR: {error!r}")
                time.sleep(60)
            time.sleep(PERIOD)
