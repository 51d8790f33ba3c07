"""`python -m ui`: the GUI, on this machine alone unless told otherwise."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import threading
import webbrowser
from contextlib import closing
from pathlib import Path

from rlr_core.errors import ConfigError, RLRError
from rlr_core.storage import storing
from ui.guard import Rules
from ui.workspace import Workspace

PORT = 7866


def main(arguments: list[str] | None = None) -> int:
    """Serve; returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="RLR: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        rules = _rules(options)
        workspace = Workspace.open(options.home)
        port = options.port or _free_port(options.listen)
        with storing(workspace.home):
            workspace.home.mkdir(parents=True, exist_ok=True)
            os.chdir(workspace.home)  # where relative paths of configs are meant
        _serve(workspace, options, rules, port)
    except RLRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlr ui", description="The GUI, in a browser.")
    parser.add_argument(
        "--home", type=Path, default=Path(), help="folder of runs and settings (default: this one)"
    )
    parser.add_argument("--port", type=int, default=0, help=f"(default: {PORT}, or the next that is free)")
    parser.add_argument(
        "--listen",
        metavar="HOST",
        nargs="?",
        const="0.0.0.0",
        default="127.0.0.1",
        help="serve other machines, too; wants --auth",
    )
    parser.add_argument(
        "--auth",
        metavar="USER:PASSWORD",
        default=os.environ.get("RLR_UI_AUTH", ""),
        help="asked for in the browser (or the variable RLR_UI_AUTH)",
    )
    parser.add_argument("--root-path", default="", help="path prefix under which a proxy serves the GUI")
    parser.add_argument("--no-browser", action="store_true", help="open no page")
    return parser


def _rules(options: argparse.Namespace) -> Rules:
    """Who may use it. Raises `ConfigError` for a server that everybody could use."""
    local = options.listen in ("127.0.0.1", "localhost", "::1")
    user, colon, password = options.auth.partition(":")
    if options.auth and not (user and colon and password):
        raise ConfigError(f"--auth {user}", "USER:PASSWORD", "give both")
    if not local and not options.auth:
        raise ConfigError(
            f"--listen {options.listen} without --auth",
            "a password: whoever can reach the page can start programs and read pictures on this machine",
            "add --auth USER:PASSWORD",
        )
    return Rules(options.auth, () if local else ("*",))


def _free_port(host: str) -> int:
    for port in range(PORT, PORT + 50):
        with closing(socket.socket()) as attempt:
            if os.name != "nt":  # on Windows the option would let two servers have one port
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((host, port))
                return port
            except OSError:
                continue
    raise ConfigError(f"no port from {PORT} to {PORT + 49} is free", "a free port", "name one with --port")


def _serve(workspace: Workspace, options: argparse.Namespace, rules: Rules, port: int) -> None:
    from ui.server import Address, serve

    shown = "127.0.0.1" if options.listen in ("0.0.0.0", "127.0.0.1") else options.listen
    address = f"http://{shown}:{port}{options.root_path}/"
    print(f"RLR: the GUI is at {address} (Ctrl-C ends it; trainings go on)", flush=True)
    if not options.no_browser:
        threading.Timer(2.0, webbrowser.open, [address]).start()
    serve(workspace, Address(options.listen, port, options.root_path), rules)


if __name__ == "__main__":
    sys.exit(main())
