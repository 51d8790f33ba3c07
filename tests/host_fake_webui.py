"""A webui of stubs with its real Gradio: loads the extension as the host does, and prints what each request is answered.

python host_fake_webui.py HOME KIND, which is "A1111", "Forge" or "Forge Neo"
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import runpy
import sys
import threading
import time
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gradio as gr
import psutil
from fastapi import FastAPI
from fastapi.testclient import TestClient
from host_fake_life import copied, life, stop
from starlette.middleware.gzip import GZipMiddleware

HOME = Path(sys.argv[1])
SHIM = copied(HOME / "extensions" / "RLR für Tests") / "scripts" / "rlr_tab.py"
callbacks: dict[str, Any] = {}
NEO = sys.argv[2] == "Forge Neo"
FOLDERS = {"ckpt_dirs": ["/more"], "lora_dir": "/loras", "lora_dirs": ["/loras", "/more loras"]}
options = types.SimpleNamespace(
    subpath=None,
    api_auth=None,
    disable_extension_access=False,
    **(FOLDERS if NEO else {"ckpt_dir": None, "lora_dir": None}),
)
shim: dict[str, Any] = {}
done: list[Any] = []
"""What the extension did to the host."""
opts = types.SimpleNamespace(
    data={"sd_model_checkpoint": "a [1]", "sd_vae": "b.pt"}, add_option=lambda key, option: done.append(key)
)
homeless: list[str] = []
"""Files of frames that hosts look for in all modules, whenever they are told of a callback."""
imported: list[str] = []
"""What the host had not imported by itself."""
model = types.SimpleNamespace(sd_model=object() if NEO else None)
"""Neo has an empty one at its start."""


def unload() -> None:
    """Neo puts another empty one in the model's place; A1111 keeps it, on the processor."""
    done.append("lent")
    model.sd_model = object() if NEO else model.sd_model


class Gui(BaseHTTPRequestHandler):
    """Tells what it was asked."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
        told = {
            "method": self.command,
            "path": self.path,
            "headers": dict(self.headers.items()),
            "body": body,
        }
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header(
            "Content-Type", "text/event-stream" if "gradio_api/events" in self.path else "application/json"
        )
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_PUT = do_DELETE = do_GET


def stub(name: str, **members: Any) -> Any:
    sys.modules[name] = types.ModuleType(name)
    vars(sys.modules[name]).update(members)
    return sys.modules[name]


def called_back(name: str, callback: Any) -> None:
    """As hosts keep a callback: whose it is they ask of the whole call stack."""
    callbacks[name] = callback
    homeless.extend(frame.filename for frame in inspect.stack(0) if inspect.getmodule(frame.frame) is None)


def host() -> Any:
    """The stubs of `modules`; the shim runs twice, as after "Reload UI"."""
    told = ("ui_tabs", "ui_settings", "app_started")
    names = {f"on_{name}": lambda f, name=name: called_back(name, f) for name in told}
    page = types.SimpleNamespace(title="Lora", refresh=lambda: done.append("refreshed"))
    members = {
        "script_callbacks": stub("modules.script_callbacks", **names),
        "scripts": stub("modules.scripts", Script=object, AlwaysVisible=object()),
        "shared": stub("modules.shared", cmd_opts=options, opts=opts, OptionInfo=lambda *_, **__: None),
        "call_queue": stub("modules.call_queue", queue_lock=threading.Lock()),
        "sd_vae": stub("modules.sd_vae", vae_dict={"b.pt": "/models/b.pt"}),
        "ui_extra_networks": stub("modules.ui_extra_networks", extra_pages=[page]),
        "sd_models": stub(
            "modules.sd_models",
            model_data=model,
            checkpoints_list={"first": types.SimpleNamespace(filename="/models/first")},
            get_closet_checkpoint_match=lambda title: (
                types.SimpleNamespace(filename=f"/models/ä {title}") if title else None
            ),
            unload_model_weights=unload,
            **({} if NEO else {"send_model_to_device": lambda m: done.append("taken back")}),
        ),
        "paths": stub("modules.paths", data_path=str(HOME), models_path=str(HOME / "models")),
    }
    stub("modules", **members)
    before = set(sys.modules)
    for _ in range(2):
        shim.update(runpy.run_path(str(SHIM)))
    imported.extend(sorted(name for name in set(sys.modules) - before if not name.startswith("rlr_")))
    return sys.modules["rlr_webui_extension.gui"]


def answers(gui: Any) -> dict[str, Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gui)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state = gui.State(server.server_address[1], "secret", os.getpid(), 1, 0.0)
    found: dict[str, Any] = {}

    app: Any = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=10)
    app.auth, app.tokens, app.cookie_id = None, {}, ""
    gui.Gui.installed = lambda self: False
    gui.Gui.install = lambda self: found.update(made=True)
    demo = types.SimpleNamespace(blocked_paths=[])
    for _ in range(2):
        callbacks["app_started"](demo, app)
    found["blocked"] = demo.blocked_paths[0] == str((HOME / "rlr").resolve())
    found["mounts"] = sum(getattr(route, "path", "") == "/rlr-gui" for route in app.router.routes)
    client = TestClient(app, base_url="http://localhost")

    def ask(path: str = "rlr/runs?a=%C3%A9", method: str = "GET", **more: Any) -> list[Any]:
        answer = client.request(method, f"/rlr-gui/{path}", **more)
        return [answer.status_code, answer.text, dict(answer.headers)]

    gui.Gui.found, gui.Gui.outdated = lambda self: None, lambda self: True
    gui.Gui.told, gui.Gui.failed = lambda self, *_: "what the last one said", lambda self: False
    found["updated"] = ask("")
    gui.Gui.failed = lambda self: True
    found["not updated"] = ask("")
    gui.Gui.failed, gui.Gui.told = lambda self: False, lambda self, *_: ""
    gui.Gui.outdated = lambda self: False
    found["not installed"] = ask("")
    found["foreign make"] = ask("make", "POST", headers={"Origin": "http://evil.example"})
    found["not made"] = "made" in found
    found["make"] = client.post("/rlr-gui/make", **NO_REDIRECT).status_code
    gui.Gui.found = lambda self: state
    found["live, not current"] = ask()
    gui.Gui.installed, gui.Gui.running = lambda self: True, lambda self: state
    found["get"] = ask(headers={"Cookie": "access-token=x", "Accept-Encoding": "gzip"})
    found["put"] = ask("rlr/a%20b", "PUT", content="ü".encode())
    found["join"] = ask("gradio_api/queue/join", "POST", headers={"RLR-Checkpoint": "/forged"})
    opts.data = {}
    found["nothing chosen"] = ask("gradio_api/queue/join", "POST")
    encoders, vaes = (str(HOME.resolve() / "models" / name / "a.pt") for name in ("text_encoder", "VAE"))
    opts.data = {"forge_additional_modules": [encoders, vaes]}
    found["Forge's VAE"] = [ask("gradio_api/queue/join", "POST"), vaes]
    opts.data = {}
    sys.modules["modules.sd_models"].checkpoints_list.clear()
    found["no checkpoint"] = ask("gradio_api/queue/join", "POST")
    found["news"] = ask("news")
    found["events"] = ask("gradio_api/events", headers={"Accept-Encoding": "gzip"})
    for site in ("cross-site", "same-site"):
        found[site] = ask(headers={"Sec-Fetch-Site": site})
    found["rebound"] = ask(headers={"Host": "evil.example:7860"})
    found["by number"] = ask(headers={"Host": "[::1]:7860"})
    options.subpath = "/sub/"
    callbacks["app_started"](demo, app)
    served = TestClient(app, base_url="http://localhost", root_path="/sub")  # as hosts have their app served
    below = [each.get(f"{path}/rlr-gui/rlr/runs") for each in (client, served) for path in ("", "/sub")]
    found["below a path"] = [json.loads(answer.text)["path"] for answer in below]
    options.subpath = None
    callbacks["app_started"](demo, app)
    options.disable_extension_access = True
    found["listening"] = ask()
    options.disable_extension_access = False
    app.auth, app.tokens = {"user": "password"}, {"known": "user"}
    found["stranger"] = [
        ask(path, method)[:2] for path in ("", "make", "rlr/runs") for method in ("GET", "POST")
    ]
    found["wrong cookie"] = ask(headers={"Cookie": "access-token=other"})
    found["logged in"] = ask(headers={"Cookie": "access-token=known"})
    app.cookie_id = "id"
    found["old cookie"] = ask(headers={"Cookie": "access-token=known"})
    found["logged in, 4"] = ask(headers={"Cookie": "access-token-unsecure-id=known"})
    app.auth, options.api_auth = None, "me:pass,you:word"
    found["no api login"] = ask()
    found["api login"] = ask(headers={"Authorization": "Basic " + base64.b64encode(b"you:word").decode()})
    options.api_auth = None
    server.shutdown()
    server.server_close()
    gui.Gui.found, gui.Gui.installed = lambda self: None, lambda self: False
    found["GUI and environment gone"] = [ask("", "POST"), ask("")]
    return found


def lending() -> dict[str, Any]:
    """What becomes of the card, and of the list of LoRAs, as the GUI's process tells its news."""
    companion = shim["tab"].companion()
    found: dict[str, Any] = {}

    def after(name: str, work: list[str], loras: list[str], age: float = 0.0) -> None:
        file = HOME / "rlr" / "news.json"
        file.write_text(json.dumps({"work": work, "loras": loras}))
        os.utime(file, times=(time.time() - age,) * 2)
        companion.look()
        found[name] = done.copy()
        done.clear()

    done.clear()
    companion.look()
    found["no home"] = (HOME / "rlr").exists()
    (HOME / "rlr").mkdir()
    after("no model", ["run-001"], [])
    model.sd_model = types.SimpleNamespace(sd_checkpoint_info=types.SimpleNamespace(filename="a"))
    after("a model comes", ["run-001"], [])
    after("it stays", ["run-001"], [])
    if not NEO:
        model.sd_model.sd_checkpoint_info.filename = (
            "b"  # A1111 puts other weights into the model that it has
        )
    after("another checkpoint", ["run-001"], [])
    after("ended", [], ["run-001"])
    after("begun", ["run-002"], ["run-001"])
    after("goes on", ["run-002"], ["run-001"])
    found["comments"] = comments = []
    shim["BeforePicture"]().before_process(types.SimpleNamespace(comment=comments.append))
    after("after a picture", ["run-002"], ["run-001"])
    after("old news", ["run-002"], ["run-001"], age=60)
    after("begun again", ["run-003"], ["run-001"])
    opts.data["rlr_lend_card"] = False
    after("no longer wanted", ["run-003"], ["run-001"])
    after("ended unlent", [], ["run-001"])
    after("not wanted", ["run-004"], ["run-001"])
    found["host"] = json.loads((HOME / "rlr" / "host.json").read_text())
    opts.data["rlr_bring_loras"] = False
    after("not to be brought", [], ["run-001"])
    file = HOME / "rlr" / "host.json"
    found["host, without LoRAs"] = json.loads(file.read_text())
    other = psutil.Process(os.getppid())  # as if it were a webui with the same folder
    for name, started in (("another", other.create_time()), ("another, gone", other.create_time() - 60)):
        file.write_text(json.dumps({"pid": other.pid, "started": started}))
        companion.look()
        found[name] = json.loads(file.read_text())["pid"] == os.getpid()
    return found


NO_REDIRECT: dict[str, Any] = {"follow_redirects": False}
gui_module = host()
tabs = callbacks["ui_tabs"]()
callbacks["ui_settings"]()
settings = done.copy()
result = {"lending": lending(), "settings": settings, "folders": shim["tab"].companion().gui.folders}
try:
    result["life"] = life(HOME / "rlr", shim["tab"], gui_module, SHIM, callbacks)
finally:
    stop(HOME / "rlr")
result.update(answers(gui_module))
result["tab"] = [tabs[0][1:], tabs[0][0].get_config_file()["components"][0]["props"]["value"]]
result["gradio"] = gr.__version__
result["heavy"] = sorted({"torch", "diffusers", "ui", "rlr_core"} & set(sys.modules))
result["homeless"], result["imported"] = homeless, imported
print(json.dumps(result))
