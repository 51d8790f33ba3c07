"""A run on the stand-in for ComfyUI, in an environment of its kind: what `HIDDEN` names is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

HIDDEN = {"diffusers", "peft", "open_clip", "matplotlib", "transformers"}


class Hidden:
    """Finds none of them."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in HIDDEN:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, Hidden())  # pyright: ignore[reportArgumentType]
    import comfy_bed
    import test_nodes

    training = comfy_bed.node_file("training")
    given = training.Given(*comfy_bed.objects())
    done = comfy_bed.train(given, test_nodes.config(), Path(sys.argv[1]), rewards=test_nodes.REWARDS)
    assert done.finished and (done.folder / "rlr-lora.safetensors").is_file()
    assert not set(sys.modules) & HIDDEN, sorted(set(sys.modules) & HIDDEN)
