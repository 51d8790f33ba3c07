"""What the host is told: a tab that is a frame, and the route that the frame shows."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

from starlette.routing import Mount

from .gateway import PATH, Gateway
from .gui import Gui

FRAME = """<iframe src="{0}/" title="RLR" loading="lazy"
style="width: 100%; height: 88vh; border: 0"></iframe>
<p><a href="{0}/" target="_blank">RLR in a page of its own</a></p>"""


def prefix(options: Any) -> str:
    """The path of the GUI as browsers see it."""
    subpath = (getattr(options, "subpath", None) or "").strip("/")
    return f"/{subpath}{PATH}" if subpath else PATH


def tabs() -> list[tuple[Any, str, str]]:
    """For `on_ui_tabs`; written in what Gradio 3.41 and 4.40 share."""
    import gradio as gr
    from modules import shared  # pyright: ignore[reportMissingImports]

    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.HTML(FRAME.format(html.escape(prefix(shared.cmd_opts))))
    return [(blocks, "RLR", "rlr")]


def started(demo: Any, app: Any) -> None:
    """For `on_app_started`: comes again, with a new app, after "Reload UI"."""
    from modules import shared  # pyright: ignore[reportMissingImports]

    if demo is None:  # only the API is served
        return
    options = shared.cmd_opts
    gui = Gui(home(), prefix(options), folders(options))
    app.router.routes[:] = [route for route in app.router.routes if getattr(route, "name", "") != "rlr"]
    app.router.routes.insert(0, Mount(PATH, Gateway(gui, app, options), name="rlr"))


def home() -> Path:
    """Where this host's runs are: two hosts on one machine have two."""
    from modules import paths  # pyright: ignore[reportMissingImports]

    return Path(paths.data_path).resolve() / "rlr"


def folders(options: Any) -> dict[str, list[str]]:
    """The host's folders, as `rlr-ui.toml` names them."""
    from modules import paths  # pyright: ignore[reportMissingImports]

    models = Path(paths.models_path).resolve()
    checkpoints = getattr(options, "ckpt_dir", None) or models / "Stable-diffusion"
    loras = getattr(options, "lora_dir", None) or models / "Lora"
    return {"checkpoints": [str(checkpoints)], "loras": [str(loras)]}
