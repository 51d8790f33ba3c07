"""Who may pass through the host to the GUI: whoever the host has let in, from its own pages alone."""

from __future__ import annotations

import base64
import hmac
import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

OPEN = "RLR: this webui is open to other machines without a login. Start it with --gradio-auth USER:PASSWORD."


def refusal(connection: HTTPConnection, app: Any, options: Any) -> tuple[int, str]:
    """Status and reason; (200, "") for a request that may pass.

    Args:
        app: the host's FastAPI app, on which Gradio keeps who has logged in.
        options: the host's command line.
    """
    if _from_elsewhere(connection):
        return 403, "RLR: a page of another site asked for it."
    protected = has_login(app) or bool(getattr(options, "api_auth", None))
    if protected:
        if logged_in(connection, app) or _knows(connection.headers.get("authorization", ""), options):
            return 200, ""
        return 401, "RLR: log in to the webui first."
    if getattr(options, "disable_extension_access", False):
        return 403, OPEN
    named = not _is_address(connection.headers.get("host", ""))
    if named and not getattr(options, "enable_insecure_extension_access", False):  # DNS rebinding
        return 403, "RLR: without a login, open the webui as localhost or by its IP address."
    return 200, ""


def has_login(app: Any) -> bool:
    """Whether the host's pages ask for a login."""
    return getattr(app, "auth", None) is not None or getattr(app, "auth_dependency", None) is not None


def logged_in(connection: HTTPConnection, app: Any) -> bool:
    """Whether Gradio knows the cookie: 3.x names it "access-token", 4.x adds the app's own id."""
    if getattr(app, "auth", None) is None:
        return False
    cookie_id = getattr(app, "cookie_id", "")
    ending = f"-{cookie_id}" if cookie_id else ""
    names = ("access-token" + ending, "access-token-unsecure" + ending)
    return any(connection.cookies.get(name) in app.tokens for name in names if connection.cookies.get(name))


def _knows(authorization: str, options: Any) -> bool:
    """Whether it is a user and password of `--api-auth`, "user:password,…"."""
    kind, _, told = authorization.partition(" ")
    try:
        given = base64.b64decode(told, validate=True)
    except ValueError:
        return False
    known = [each for each in (getattr(options, "api_auth", None) or "").split(",") if ":" in each]
    return kind.lower() == "basic" and any(hmac.compare_digest(given, each.encode()) for each in known)


def _from_elsewhere(connection: HTTPConnection) -> bool:
    """Browsers tell the site over https and for localhost; otherwise, for what changes anything, the origin."""
    headers = connection.headers
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc not in (
        headers.get("host"),
        headers.get("x-forwarded-host"),
    )


def _is_address(host: str) -> bool:
    """Whether a Host header is this machine or a number, which no foreign name server can answer for."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ipaddress.ip_address(name))
    except ValueError:
        return False
