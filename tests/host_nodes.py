"""A node for tests in the real ComfyUI: a MODEL whose memory is used up after some evaluations."""

from __future__ import annotations

from typing import Any

import torch


class ShortOfMemory:
    """Only what the device would say is simulated; all else is as it is."""

    CATEGORY, FUNCTION, RETURN_TYPES = "testing", "shortened", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "calls": ("INT", {"default": 1})}}

    def shortened(self, model: Any, calls: int) -> tuple[Any]:
        left = [calls]

        def evaluated(apply: Any, given: dict[str, Any]) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return apply(given["input"], given["timestep"], **given["c"])

        model = model.clone()
        model.set_model_unet_function_wrapper(evaluated)
        return (model,)


NODE_CLASS_MAPPINGS = {"RLRTestShortOfMemory": ShortOfMemory}
