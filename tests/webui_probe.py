"""An extension of a real webui: tells its routes and what its start took, in the file that RLR_PROBE names.

It has to be the first that the webui loads.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from modules import script_callbacks, script_loading, timer  # pyright: ignore[reportMissingImports]

load_module, loaded = script_loading.load_module, {}


def measured(path: str) -> Any:
    """A script, while the processor time of its loading is taken: the machine may have other work, too."""
    begun = time.process_time()
    try:
        return load_module(path)
    finally:
        loaded[Path(path).name] = time.process_time() - begun


def tell(app: Any) -> None:
    """Methods and path of each route; the timer's records and the scripts' processor time, in seconds."""
    routes = [
        (method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ["GET"]
    ]
    told = {"routes": routes, "took": timer.startup_record["records"], "loaded": loaded}
    file = Path(os.environ["RLR_PROBE"])
    file.with_suffix(".new").write_text(json.dumps(told))
    file.with_suffix(".new").replace(file)


def later(_: Any, app: Any) -> None:
    """Other extensions add routes in the same callback, and the timer is read after it."""
    threading.Timer(3, tell, [app]).start()


script_loading.load_module = measured
script_callbacks.on_app_started(later)
