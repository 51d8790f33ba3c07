"""The server: our routes and Gradio's app behind one guard."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

import gradio as gr
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.routing import Mount

from ui.app import LOOK, build, theme
from ui.form_routes import form_router
from ui.guard import Guard, Rules
from ui.routes import router
from ui.workspace import Workspace

UPLOAD = "32mb"
"""Of one file, at most."""

log = logging.getLogger("rlr.ui")


@dataclass(frozen=True)
class Address:
    """Where the server listens: host, port, and the path prefix that a proxy in front of it takes away."""

    host: str = "127.0.0.1"
    port: int = 7866
    prefix: str = ""


def application(workspace: Workspace, rules: Rules, prefix: str = "") -> Guard:
    """All that is served."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router(workspace))
    app.include_router(form_router(workspace))
    gr.mount_gradio_app(
        app,
        build(workspace),
        path="/",
        root_path=prefix,
        allowed_paths=[],
        max_file_size=UPLOAD,
        show_error=True,
        theme=theme(),
        css=_joined("style.css", "*.css"),
        head=f"<script>{_joined('script.js', '*.js')}</script>",
        footer_links=[],
        ssr_mode=False,
    )
    mounted = [route.app for route in app.routes if isinstance(route, Mount)]
    for each in (app, *mounted):
        if isinstance(each, FastAPI):
            each.add_exception_handler(RequestValidationError, _not_understood)
    return Guard(app, rules)


def _not_understood(request: Request, error: Exception) -> Response:
    """Without what came: it may be what no JSON can hold, as an infinite number."""
    return JSONResponse({"error": "what came is not what is expected here"}, 422)


def _joined(first: str, pattern: str) -> str:
    """The files of the look, the general one first: the others rest on it."""
    files = sorted(LOOK.glob(pattern), key=lambda file: (file.name != first, file.name))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def serve(workspace: Workspace, address: Address, rules: Rules) -> None:
    """Serve until told to end; runs go on without us."""
    import uvicorn

    threading.Thread(target=_warm_up, daemon=True).start()
    uvicorn.run(
        application(workspace, rules, address.prefix),
        host=address.host,
        port=address.port,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


def _warm_up() -> None:
    """Load what the first click would wait for."""
    import rlr_core.runs.launching
    import rlr_core.trainer.deciding  # noqa: F401
