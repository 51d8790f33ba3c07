"""ComfyUI finds its nodes here; for everyone else this file does nothing."""

import sys

if "comfy" in sys.modules or "folder_paths" in sys.modules:
    from .nodes.names import TITLES
    from .nodes.own_core import use_own_core

    use_own_core()
    try:
        from .nodes.pack import NODE_CLASS_MAPPINGS
    except ModuleNotFoundError as error:
        from .nodes.missing import explained

        NODE_CLASS_MAPPINGS = explained(error)
    NODE_DISPLAY_NAME_MAPPINGS = TITLES
    WEB_DIRECTORY = "./nodes/web"
