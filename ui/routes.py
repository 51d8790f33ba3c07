"""What the page of runs asks for and does, as JSON beside Gradio: light enough to be asked every second by every browser."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from rlr_core.errors import RLRError
from rlr_core.runs.killing import log_tail
from rlr_core.runs.queue import Queue
from ui import cards
from ui.doing import ACTIONS, start_demo
from ui.fetching import fetch, fetched
from ui.hardware import Cards
from ui.live import Live, Lives
from ui.pictures import tile
from ui.shelf import Shelf, lines
from ui.workspace import Workspace

log = logging.getLogger("rlr.ui")
WIDTHS = (300, 1400)


def router(workspace: Workspace) -> APIRouter:
    """The routes of the page of runs."""
    made, shelf, lives, hardware = APIRouter(), Shelf(), Lives(), Cards()

    @made.get("/runs/{name}")
    def page(name: str) -> Response:
        """A run's address, which a link or a bookmark has."""
        return RedirectResponse(f"../?view=runs&run={name}")

    @made.get("/rlr/runs")
    def runs(search: str = "") -> Response:
        """The list."""
        return answered(lambda: _list(workspace, shelf, search))

    @made.get("/rlr/run/{name}")
    def run(name: str, width: int = 800, seen: str = "") -> Response:
        """A run, without those of its pieces that the page has."""
        return answered(lambda: _run(workspace, lives, hardware, name, width, seen.split(",")))

    @made.get("/rlr/picture/{name}/{file:path}")
    def picture(
        name: str, file: str, request: Request, tile: int = 0, of: int = 1, side: int = 256
    ) -> Response:
        """A picture of a run."""
        return _picture(workspace, name, file, request.headers.get("if-none-match", ""), tile, of, side)

    @made.post("/rlr/run/{name}/{action}")
    def act(name: str, action: str, values: dict[str, Any] = Body(default={})) -> Response:  # noqa: B008
        """Do something to a run."""
        shelf.forget()
        return answered(lambda: ACTIONS[action](workspace, name, values), known=action in ACTIONS)

    @made.post("/rlr/reward/{name}/fetch")
    def fetching(name: str) -> Response:
        """Download a reward's weights."""
        return answered(lambda: fetch(workspace, name))

    @made.get("/rlr/reward/{name}")
    def reward(name: str) -> Response:
        """How far a download is."""
        return answered(lambda: fetched(workspace, name))

    @made.post("/rlr/demo")
    def demo() -> Response:
        """Train the embedded demo, or put it at the queue's end."""
        shelf.forget()
        return answered(lambda: start_demo(workspace))

    return made


def answered(answer: Callable[[], dict[str, Any]], known: bool = True) -> Response:
    """As JSON; an error of the user's with its message, which the page shows."""
    if not known:
        return JSONResponse({"error": "there is no such action"}, 404)
    try:
        return JSONResponse(answer(), headers={"Cache-Control": "no-store"})
    except RLRError as error:
        log.info("refused: %s", str(error).replace("\n", " "))
        return JSONResponse({"error": str(error)}, 400)


def _list(workspace: Workspace, shelf: Shelf, search: str) -> dict[str, Any]:
    Queue(workspace.runs).advance()
    states = shelf.states(workspace.runs)
    return {"lines": [dataclasses.asdict(line) for line in lines(states, search)], "total": len(states)}


def _run(
    workspace: Workspace, lives: Lives, hardware: Cards, name: str, width: int, seen: list[str]
) -> dict[str, Any]:
    directory = workspace.run(name)
    state, live = directory.state(), lives.of(directory)
    config = directory.config
    stopping = (
        state.state in ("starting", "running") and directory.stop_file.exists()
    )  # which stays until a resume
    wide = max(WIDTHS[0], min(width, WIDTHS[1]))
    busy = hardware.now() if state.state == "running" else []
    pieces: dict[str, Any] = {
        "head": cards.head(directory, state, live, stopping=stopping, hardware=busy),
        "pictures": _pictures(live),
        "better": live.drawn(wide, lambda: cards.better(config, state, live, wide)),
        "hood": cards.hood(directory, config, state, live, "\n".join(log_tail(directory.folder))),
    }
    marks = {
        key: hashlib.blake2s(repr(piece).encode(), digest_size=6).hexdigest() for key, piece in pieces.items()
    }
    return {
        "state": state.state,
        "pieces": {key: piece for key, piece in pieces.items() if marks[key] not in seen},
        "marks": marks,
    }


def _pictures(live: Live) -> dict[str, Any]:
    """A run may have a thousand previews: their prompts are told once."""
    prompts = live.previews[0]["prompts"] if live.previews else []
    return {"prompts": prompts, "iterations": [event["iteration"] for event in live.previews]}


def _picture(
    workspace: Workspace, name: str, file: str, known: str, number: int, count: int, side: int
) -> Response:
    try:
        folder = workspace.run(name).folder
        data = tile(folder, file, number, count, side)
    except RLRError as error:
        return JSONResponse({"error": str(error)}, 404)
    mark = f'"{hashlib.blake2s(data, digest_size=8).hexdigest()}"'
    headers = {
        "ETag": mark,
        "Cache-Control": "private, max-age=3600" if file.startswith("previews") else "no-cache",
    }
    return (
        Response(status_code=304, headers=headers)
        if known == mark
        else Response(data, 200, headers, "image/webp")
    )
