"""ComfyUI finds its nodes here; for everyone else this file does nothing."""

import sys

if "comfy" in sys.modules or "folder_paths" in sys.modules:
    from .nodes.own_core import use_own_core

    use_own_core()
    from .nodes.train_node import RLRTrain

    NODE_CLASS_MAPPINGS = {"RLRTrain": RLRTrain}
    NODE_DISPLAY_NAME_MAPPINGS = {"RLRTrain": "RLR: train a LoRA towards a reward"}
