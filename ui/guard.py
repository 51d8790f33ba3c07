"""Who may use the server: this machine's user, or those with the password; never another site's page."""

from __future__ import annotations

import base64
import hmac
import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

LARGEST = 64 * 2**20
"""Bytes of a request."""
LONGEST = 255
"""Bytes between two slashes of an address: no file has a longer name."""
SERVED = (
    "/rlr/", "/runs/", "/config", "/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/robots.txt",
    "/manifest.json", "/pwa_icon", "/gradio_api/queue/", "/gradio_api/upload", "/gradio_api/file=", "/gradio_api/heartbeat/",
    "/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/startup-events", "/gradio_api/theme.css", "/gradio_api/app_id",
    "/gradio_api/info",
)  # fmt: skip
"""What addresses begin with that the page asks for. Gradio serves more: calls by name, and what it fetches from elsewhere."""
LOCAL = ("localhost", "127.0.0.1", "[::1]")

log = logging.getLogger("rlr.ui")


@dataclass(frozen=True)
class Rules:
    """Attributes:
    password: "user:password" that is asked for; "" for none.
    hosts: names under which the server may be asked, beside this machine's own; ("*",) with a password.
    """

    password: str = ""
    hosts: tuple[str, ...] = ()


class Guard:
    """ASGI middleware: refuses by the rules, and says so in the log."""

    def __init__(self, app: ASGIApp, rules: Rules):
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        status, reason = refusal(Headers(scope=scope), self.rules)
        if not reason:
            status, reason = misnamed(scope["path"])
        if not reason:
            await self.app(scope, receive, send)
            return
        log.warning("refused %s: %s", scope["path"][:200], reason)
        headers = {"WWW-Authenticate": 'Basic realm="RLR", charset="UTF-8"'} if status == 401 else {}
        await PlainTextResponse(reason, status, headers)(scope, receive, send)


def refusal(headers: Headers, rules: Rules) -> tuple[int, str]:
    """Status and reason; (200, "") for a request that may pass."""
    host = headers.get("host", "")
    if not _known(host, rules):  # else a page whose name is made to mean this machine could read along
        return 403, f"this server is not to be asked under the name {host[:100]!r}"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return 403, "a page of another site asked for it"
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return 403, "a page of another site asked for it"
    length = headers.get("content-length", "0")
    if not length.isascii() or not length.isdigit() or int(length) > LARGEST:
        return 413, f"more than {LARGEST >> 20} MB at once"
    if rules.password and not _knows(headers.get("authorization", ""), rules.password):
        return 401, "a user and a password are needed"
    return 200, ""


def misnamed(path: str) -> tuple[int, str]:
    """Status and reason, as of `refusal`, for an address that can name nothing here, and which Gradio would stumble over."""
    if "\0" in path:
        return 400, "an address with a zero in it"
    if not path.startswith(SERVED) and path != "/":
        return 404, "there is no such page"
    if any(len(part.encode(errors="replace")) > LONGEST for part in path.split("/")):
        return 414, f"more than {LONGEST} bytes in a name"
    return 200, ""


def _known(host: str, rules: Rules) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    return "*" in rules.hosts or name in (*LOCAL, *rules.hosts)


def _knows(authorization: str, password: str) -> bool:
    kind, _, told = authorization.partition(" ")
    try:
        given = base64.b64decode(told, validate=True)
    except ValueError:
        return False
    return kind.lower() == "basic" and hmac.compare_digest(given, password.encode())
