"""The GUI's process: found again by its state file, started where there is none, never twice for one home."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parents[1]
UNWANTED = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "GRADIO_")
"""Variables of the host that would lead another Python astray begin with these."""
PATIENCE = 90.0
"""Seconds in which the GUI has to answer: a cold disk takes half a minute to read torch."""
ATTEMPTS = 3
STALE = 20.0
"""Seconds after which news are old: their writer is gone, or its machine slept."""


class GuiError(Exception):
    """What the user can put right; the message says how."""


@dataclass(frozen=True)
class State:
    """A GUI that was started, and by which process of a host: what is kept in `gui.json`."""

    port: int
    secret: str
    pid: int
    host: int
    host_started: float

    @property
    def login(self) -> tuple[str, str]:
        """User and password of the GUI."""
        return "rlr", self.secret

    def is_there(self) -> bool:
        """Whether its process is: another program may have its port since."""
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def answers(self) -> bool:
        """Whether our GUI, which knows the secret, is at the port."""
        if not self.is_there():
            return False
        try:
            with httpx.Client(trust_env=False, timeout=5) as client:
                return (
                    client.get(f"http://127.0.0.1:{self.port}/rlr/settings", auth=self.login).status_code
                    == 200
                )
        except httpx.HTTPError:
            return False


@dataclass
class Gui:
    """The GUI of a host.

    Attributes:
        home: folder of its runs, settings and state.
        prefix: path under which the host shows it.
        folders: the host's own, for the first start: "checkpoints" and "loras".
    """

    home: Path
    prefix: str
    folders: dict[str, list[str]]
    _installing: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def installed(self) -> bool:
        """Whether the environment is whole."""
        return installer().is_current(developer=False)

    def outdated(self) -> bool:
        """Whether it was whole, before an update of the extension."""
        return installer().STAMP.is_file()

    def installing(self) -> bool:
        """Whether it is being made, also by another webui with this folder, or for one that has ended since."""
        if self._installing is not None and self._installing.poll() is None:
            return True
        return is_there(self._read("install.json"))

    def install(self) -> None:
        """Begin to make the environment, or go on; what it says is in `install.log`. Raises `GuiError`."""
        if self.installing():
            return
        with self._writing():
            self.home.mkdir(parents=True, exist_ok=True)
            out = (self.home / "install.log").open("wb")
        with out:
            command = [sys.executable, str(ROOT / "install.py"), "install"]
            self._installing = subprocess.Popen(command, stdout=out, stderr=out, cwd=ROOT, env=environment())
        with self._writing():
            made_by = {
                "pid": self._installing.pid,
                "started": psutil.Process(self._installing.pid).create_time(),
            }
            (self.home / "install.json").write_text(json.dumps(made_by), encoding="utf-8")

    def failed(self) -> bool:
        """Whether making it has ended without success, while this host runs."""
        return self._installing is not None and bool(self._installing.poll())

    def told(self, name: str = "install.log", last: int = 4000) -> str:
        """The end of a log; "" where there is none."""
        file = self.home / name
        return file.read_text(encoding="utf-8", errors="replace")[-last:] if file.is_file() else ""

    def found(self) -> State | None:
        """The GUI that answers, if there is one that may go on."""
        state = self._kept()
        return state if state and state.answers() and not self._is_left_over(state) else None

    def _is_left_over(self, state: State) -> bool:
        """Whether its host is gone and it has no run at work: its code may be that of before an update."""
        return not lives(state.host, state.host_started) and not self.news()["work"]

    def news(self) -> dict[str, Any]:
        """What the GUI's process says: names of runs at `work`, `loras` that were put into the host's folder."""
        try:
            file = self.home / "news.json"
            told = json.loads(file.read_text(encoding="utf-8"))
            return {**told, "work": told["work"] if time.time() - file.stat().st_mtime < STALE else []}
        except (OSError, ValueError, KeyError, TypeError):  # none yet
            return {"work": [], "loras": []}

    def running(self) -> State:
        """The GUI that answers, started if need be. Raises `GuiError`."""
        try:
            with self._writing():
                self.home.mkdir(parents=True, exist_ok=True)
                with FileLock(str(self.home / "gui.lock"), timeout=PATIENCE):
                    state = self._kept()
                    if state and state.answers():
                        if not self._is_left_over(state):
                            return state
                        psutil.Process(state.pid).kill()
                    return self._start()
        except Timeout as error:
            raise GuiError(
                "another webui is starting RLR in this folder: wait a minute, then reload."
            ) from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Says what a disk that is full, or a folder of others, means."""
        try:
            yield
        except Timeout:  # which is an OSError, too
            raise
        except OSError as error:
            raise GuiError(f"{self.home} cannot be written ({error}): make room, or allow it.") from error

    def _kept(self) -> State | None:
        try:
            return State(**self._read("gui.json"))
        except TypeError:  # none yet, or a damaged one: a new GUI is started
            return None

    def _read(self, name: str) -> dict[str, Any]:
        """What a file of the home says; {} where it is missing or damaged."""
        try:
            return dict(json.loads((self.home / name).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _start(self) -> State:
        self._write_settings()
        for _ in range(ATTEMPTS):
            state, process = self._begun()
            if self._came(state, process):
                return state
            process.kill()
            if not _is_taken(state.port):
                break  # else another program was faster to take the port
        raise GuiError(
            f"the GUI did not start. If its environment is damaged, delete {installer().VENV} and reload this page: "
            f"the button to make it comes back. What it said: {self.told('gui.log', 1500)}"
        )

    def _begun(self) -> tuple[State, subprocess.Popen[bytes]]:
        port, secret = _free_port(), secrets.token_urlsafe(24)
        process = self._spawn(port, secret)
        state = State(port, secret, process.pid, os.getpid(), psutil.Process().create_time())
        try:
            _write_private(self.home / "gui.json", json.dumps(asdict(state)))
        except OSError:
            process.kill()  # nobody would find it again
            raise
        return state, process

    def _came(self, state: State, process: subprocess.Popen[bytes]) -> bool:
        """Whether it answers in time."""
        begun = time.monotonic()
        while process.poll() is None and time.monotonic() - begun < PATIENCE:
            if state.answers():
                return True
            time.sleep(0.3)
        return False

    def _spawn(self, port: int, secret: str) -> subprocess.Popen[bytes]:
        """In a session of its own: Ctrl-C in the host's terminal is not meant for it."""
        command = [str(installer().PYTHON), "-m", "extension.serving", str(self.home), str(port), self.prefix]
        kept = {**environment(), "RLR_UI_AUTH": f"rlr:{secret}"}
        with (self.home / "gui.log").open("wb") as out:
            return subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=kept,
                start_new_session=True,
            )

    def _write_settings(self) -> None:
        """The host's folders, unless the user has set others by now."""
        file = self.home / "rlr-ui.toml"
        if not file.exists():
            lines = (
                f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in self.folders.items()
            )
            file.write_text("\n".join(["[folders]", *lines, ""]), encoding="utf-8")


def lives(pid: int, started: float) -> bool:
    """Whether a process is there and at work, and not another one with its number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def is_there(told: dict[str, Any]) -> bool:
    """Whether the process is there of which a file says so, such as the webui's `host.json`."""
    try:
        return lives(told["pid"], told["started"])
    except (KeyError, TypeError):
        return False


def installer() -> Any:
    """`install.py` as a module, under a name that no other extension has."""
    if "rlr_installer" not in sys.modules:
        spec = importlib.util.spec_from_file_location("rlr_installer", ROOT / "install.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["rlr_installer"] = module
    return sys.modules["rlr_installer"]


def environment() -> dict[str, str]:
    """Our variables without those that are meant for the host's Python and Gradio."""
    return {name: value for name, value in os.environ.items() if not name.startswith(UNWANTED)}


def _free_port() -> int:
    try:
        with socket.socket() as attempt:
            attempt.bind(("127.0.0.1", 0))
            return attempt.getsockname()[1]
    except OSError as error:
        raise GuiError(
            f"no port of this machine is free ({error}): end a program that holds many, then reload."
        ) from error


def _is_taken(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def _write_private(file: Path, text: str) -> None:
    """Readable by this user alone: it holds the secret."""
    unfinished = file.with_name(file.name + ".new")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
        out.write(text)
    unfinished.replace(file)
