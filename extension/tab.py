"""What the host is told: a tab that is a frame, its settings, and the route that the frame shows."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from starlette.routing import Mount

from . import host
from .companion import Companion
from .gateway import PATH, Gateway
from .gui import Gui

FRAME = """<div id="rlr_bar" data-root="{0}" role="status" hidden></div>
<iframe src="{0}/" title="RLR" loading="lazy" style="width: 100%; height: 88vh; border: 0"></iframe>
<p><a href="{0}/" target="_blank">RLR in a page of its own</a></p>"""
COMPANIONS: dict[Path, Companion] = {}
"""Of this process: "Reload UI" makes a new app, not a new thread."""


def prefix() -> str:
    """The path of the GUI as browsers see it."""
    subpath = (getattr(host.options(), "subpath", None) or "").strip("/")
    return f"/{subpath}{PATH}" if subpath else PATH


def companion() -> Companion:
    """Of this host's home."""
    home = host.home()
    if home not in COMPANIONS:
        COMPANIONS[home] = Companion(Gui(home, prefix(), host.folders()))
    return COMPANIONS[home]


def tabs() -> list[tuple[Any, str, str]]:
    """For `on_ui_tabs`; written in what Gradio 3.41 and 4.40 share."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.HTML(FRAME.format(html.escape(prefix())))
    return [(blocks, "RLR", "rlr")]


def started(demo: Any, app: Any) -> None:
    """For `on_app_started`: comes again, with a new app, after "Reload UI"."""
    if demo is None:  # only the API is served
        return
    demo.blocked_paths = [
        *demo.blocked_paths,
        str(host.home()),
    ]  # else /file= serves the GUI's secret and pictures
    gateway = Gateway(companion(), app, host.options())
    paths = {PATH, prefix()}  # with --subpath, whether or not a proxy has taken it away
    others = [route for route in app.router.routes if getattr(route, "name", "") != "rlr"]
    app.router.routes[:] = [*(Mount(path, gateway, name="rlr") for path in paths), *others]
    companion().start()
