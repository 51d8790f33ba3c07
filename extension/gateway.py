"""An ASGI app in the host that passes requests on to the GUI, and says why where it cannot."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.types import Receive, Scope, Send

from . import host
from .access import refusal
from .companion import Companion
from .gui import GuiError, State

PATH = "/rlr-gui"
HOPS = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "proxy-connection"}
OURS = HOPS | {
    "host",
    "origin",
    "referer",
    "cookie",
    "authorization",
    "x-forwarded-host",
    "x-forwarded-proto",
}
"""Headers of the browser that stay here: the host's cookies are none of the GUI's business."""
PAGE = """<!doctype html><meta charset="utf-8">{refresh}<title>RLR</title>
<style>:root {{ color-scheme: light dark }}
body {{ font: 16px system-ui, sans-serif; max-width: 44em; margin: 3em auto; padding: 0 1em }}
pre {{ max-height: 70vh; overflow: auto; white-space: pre-wrap; font-size: 13px }}
button {{ font: inherit; padding: .5em 1em }}</style>
<script>
if (parent !== window)
  document.documentElement.style.colorScheme = parent.document.body.classList.contains("dark") ? "dark" : "light";
</script><h1>RLR</h1><p>{words}</p>{more}"""
MAKE = '<form method="post" action="{}/make"><button>{} the environment</button></form>'
PAGES = ("/", "/make")
"""What a browser shows in the frame; all else is asked for by the GUI's scripts."""
LOOKED = ("/gradio_api/queue/join",)
"""Where the GUI asks what the host has chosen."""
AGAIN = "RLR was started again: reload the page."
MOMENT = 1.5
"""Seconds for which a page may stay empty."""
REFRESH = '<meta http-equiv="refresh" content="2">'


class Gateway:
    """What is mounted at `PATH` on the host's app."""

    def __init__(self, companion: Companion, app: Any, options: Any):
        self.gui, self.app, self.options = companion.gui, app, options
        self.client = httpx.AsyncClient(trust_env=False, timeout=None)
        self.state: State | None = None
        self.starting: asyncio.Future[State] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a websocket, of which the GUI has none, is closed."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        status, reason = refusal(request, self.app, self.options)
        headers = {"WWW-Authenticate": 'Basic realm="RLR"'} if status == 401 and self.options.api_auth else {}
        answer = await self._answer(request) if status == 200 else PlainTextResponse(reason, status, headers)
        answer.headers["Content-Security-Policy"] = "frame-ancestors 'self'"
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = inner_path(request.scope)
        if path == "/news":
            return JSONResponse(self.gui.news(), headers={"Cache-Control": "no-store"})
        try:
            if self.state is None:
                self.state = await run_in_threadpool(self.gui.found)
            if self.state is None and not await run_in_threadpool(self.gui.installed):
                return self._installation(request, path)
            return await self._passed_on(request, path)
        except (GuiError, OSError) as error:
            return told(path, f"RLR could not be shown: {error}", status=503)

    def _installation(self, request: Request, path: str) -> Response:
        if path == "/make" and request.method == "POST":
            self.gui.install()
            return RedirectResponse(self.gui.prefix + "/", 303)
        log, outdated = f"<pre>{html.escape(self.gui.told())}</pre>", self.gui.outdated()
        if self.gui.installing():
            return told(path, "RLR's environment is being made.", log, REFRESH)
        words = "RLR needs a Python environment of its own, in its own folder: a download of 3 GB. The webui's stays as it is."
        if outdated:
            words = "RLR was updated: its environment has to follow."
        elif self.gui.told() or self.gui.failed():
            words = "The environment is not complete. The reason is below, unless the disk is full; the button goes on."
        button = MAKE.format(html.escape(self.gui.prefix), "Update" if outdated else "Make")
        more = button + (log if self.gui.failed() or not outdated else "")  # else it is an old one
        return told(path, words, more)

    async def _passed_on(self, request: Request, path: str) -> Response:
        """The GUI's answer. One that is gone is started anew, but nothing is sent twice that changes something."""
        if self.state is None:
            await self._started()
        if self.state is None:
            return told(path, "RLR is starting …", refresh=REFRESH)
        try:
            if not self.state.is_there():
                raise httpx.ConnectError("its port may be another program's by now")
            return streamed(await self.client.send(self._request(request, path, self.state), stream=True))
        except httpx.ConnectError:
            self.state = None
        except httpx.HTTPError as error:
            raise GuiError(f"it did not answer ({error}): reload.") from error
        return (
            await self._answer(request)
            if request.method in ("GET", "HEAD")
            else told(path, AGAIN, status=503)
        )

    async def _started(self) -> None:
        """Wait a moment for the GUI; it goes on starting while the browser asks again. Raises `GuiError`."""
        if self.starting is None:
            self.starting = asyncio.ensure_future(run_in_threadpool(self.gui.running))
        done, _ = await asyncio.wait([self.starting], timeout=MOMENT)
        if done and self.starting is not None:
            starting, self.starting = self.starting, None
            self.state = starting.result()

    def _request(self, request: Request, path: str, state: State) -> httpx.Request:
        query = request.scope["query_string"]
        raw = quote(path).encode() + (b"?" + query if query else b"")
        url = httpx.URL(scheme="http", host="127.0.0.1", port=state.port, raw_path=raw)
        kept = [
            (k, v)
            for k, v in request.headers.items()
            if k not in OURS and not k.startswith(("sec-fetch", "rlr-"))
        ]
        chosen = (
            {f"RLR-{key}": quote(value) for key, value in host.chosen().items()} if path in LOOKED else {}
        )
        shown = {
            **chosen,
            "X-Forwarded-Host": request.headers.get("x-forwarded-host", request.headers.get("host", "")),
            "X-Forwarded-Proto": request.headers.get("x-forwarded-proto", request.url.scheme),
        }
        login = httpx.BasicAuth(*state.login)
        bodied = "content-length" in request.headers or "transfer-encoding" in request.headers
        content = request.stream() if bodied else None
        asked = httpx.Request(request.method, url, headers=[*kept, *shown.items()], content=content)
        return next(login.auth_flow(asked))


def inner_path(scope: Scope) -> str:
    """The path below `PATH`: Starlette before 0.33 takes the mount's part away, later ones leave it.

    With --subpath their `root_path` begins with it also where a proxy has taken it out of the path.
    """
    path, root = scope["path"], scope.get("root_path", "")
    for above in (root, PATH):
        if above and f"{path}/".startswith(f"{above}/"):
            return path[len(above) :] or "/"
    return path or "/"


def streamed(answer: httpx.Response) -> StreamingResponse:
    """The GUI's answer, byte by byte as it comes."""

    async def body() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_raw():
                yield part
        finally:
            await answer.aclose()

    passed = StreamingResponse(body(), answer.status_code)
    passed.raw_headers = [(k.lower(), v) for k, v in answer.headers.raw if k.lower().decode() not in HOPS]
    if "text/event-stream" in answer.headers.get(
        "content-type", ""
    ):  # else the host's gzip would hold events back
        passed.headers["Content-Encoding"] = "identity"
    return passed


def told(path: str, words: str, more: str = "", refresh: str = "", status: int = 200) -> Response:
    """A page of our own, while there is none of the GUI; its scripts get the words, which they show, and ask again."""
    if path not in PAGES:
        return PlainTextResponse(words, 503)
    return HTMLResponse(PAGE.format(words=html.escape(words), more=more, refresh=refresh), status)
