"""Run by A1111, Forge and their relatives: the tab RLR. All else is in `extension/`, loaded under a unique name."""

import importlib.util
import sys
from pathlib import Path

from modules import scripts  # pyright: ignore[reportMissingImports]

NAME = "rlr_webui_extension"
FOLDER = Path(__file__).resolve().parents[1] / "extension"

if NAME not in sys.modules:
    spec = importlib.util.spec_from_file_location(
        NAME, FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec and spec.loader
    sys.modules[NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[NAME])
tab = importlib.import_module(f"{NAME}.tab")
host = importlib.import_module(f"{NAME}.host")


class BeforePicture(scripts.Script):
    """Gives the host its card before it makes a picture while a run is training."""

    def title(self) -> str:
        return "RLR"

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def before_process(self, p: object, *_: object) -> None:
        tab.companion().before_picture(p)


host.register(tab.tabs, tab.started)
