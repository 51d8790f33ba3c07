"""What the web extension asks ComfyUI's server for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from rlr_core.errors import RLRError, RunError
from rlr_core.runs import RunDirectory

from .fetching import fetch, fetched
from .folders import runs
from .host import server
from .live import LATEST
from .snapshot import snapshot


def add_routes() -> None:
    """To the server, before it starts; nothing where there is none."""
    if there := server():
        there.routes.get("/rlr/runs/{name}")(_answering(shown))
        there.routes.get("/rlr/nodes/{name}")(_answering(at_work))
        there.routes.get("/rlr/rewards/{name}")(_answering(fetched))
        there.routes.post("/rlr/rewards/{name}")(_answering(fetch))


def shown(name: str) -> dict[str, Any]:
    """A run in the nodes' folder. Raises `RunError` for any other."""
    folder = next((each for each in runs().glob("*") if each.name == name), None)
    if folder is None:
        raise RunError(
            f"no run {name[:60]!r}", f"one in {runs()}", "it was deleted, or is on another computer"
        )
    return snapshot(RunDirectory.open(folder))


def at_work(name: str) -> dict[str, Any]:
    """The run that a node trains now, {} where it trains none."""
    if name not in LATEST:
        return {}
    run, workflow = LATEST[name]
    return {**shown(run), "workflow": workflow}


def _answering(ask: Callable[[str], dict[str, Any]]) -> Any:
    """A handler that asks in a thread: reading a log or files must not hold up the server."""
    from aiohttp import web  # pyright: ignore[reportMissingImports]

    async def handle(request: Any) -> Any:
        try:
            return web.json_response(await asyncio.to_thread(ask, request.match_info["name"]))
        except RLRError as error:
            return web.json_response({"error": str(error)}, status=404)

    return handle
