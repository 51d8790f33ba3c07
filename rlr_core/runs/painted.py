"""What a picture's file says of how it was painted, so that A1111, Forge, Civitai and ComfyUI read it.

A1111 reads one text, "parameters": the prompt, then a line "Negative prompt: …", then "Steps: …, Sampler: …, …", its values in
quotes where they have a comma or a colon (modules/infotext_utils.py, modules/processing.py). ComfyUI reads "prompt", a graph of
its nodes as JSON, in the form that its API takes (nodes.py); here of stock nodes alone.

Both name the picture's settings; neither program draws the same random numbers, so its picture is another of the same kind.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rlr_core import __version__

SAMPLERS = {
    "ddim": ("DDIM", "ddim"),
    "euler": ("Euler", "euler"),
    "euler_a": ("Euler a", "euler_ancestral"),
    "dpmpp_2m": ("DPM++ 2M", "dpmpp_2m"),
}
"""`inference.sampler` → what A1111 and what ComfyUI calls it."""
LEVELS = ("DDIM", "ddim_uniform")
"""What they call noise levels at equal distances of the timestep, which all of ours have."""


@dataclass(frozen=True)
class Painted:
    """How a picture was painted.

    Attributes:
        prompt, negative: texts.
        seed: of this picture alone.
        steps, guidance_scale: of the sampler.
        sampler: "chain", or a key of `SAMPLERS`.
        eta: noise that each step of the chain adds.
        size: width and height in pixels.
        checkpoint: name of its file with the ending, or of its folder.
        checkpoint_hash: ten digits, as A1111 has them; "" where that is not known.
        prediction: what the checkpoint was told to predict, "auto" where it says so itself.
        zero_snr: whether its last noise level is nothing but noise, as it was told: "yes", "no" or "auto".
        clip_skip: 0 for the checkpoint's own.
        vae: file name of another VAE than the checkpoint's own, or "".
        lora: name of the LoRA's file with the ending, or "".
        lora_hash: twelve digits, as A1111 has them.
        strength: of the LoRA.
    """

    prompt: str
    negative: str
    seed: int
    steps: int
    guidance_scale: float
    sampler: str
    eta: float
    size: tuple[int, int]
    checkpoint: str
    checkpoint_hash: str = ""
    prediction: str = "auto"
    zero_snr: str = "auto"
    clip_skip: int = 0
    vae: str = ""
    lora: str = ""
    lora_hash: str = ""
    strength: float = 1.0

    @property
    def has_lora(self) -> bool:
        """Whether a LoRA had any effect."""
        return bool(self.lora and self.strength)

    @property
    def names(self) -> tuple[str, str]:
        """The sampler's in A1111 and in ComfyUI. A chain with noise is Euler's ancestral one, as far as η is 1."""
        return SAMPLERS[("euler_a" if self.eta else "euler") if self.sampler == "chain" else self.sampler]


def texts(painted: Painted) -> dict[str, str]:
    """Key → text, for a PNG."""
    return {"parameters": parameters(painted), "prompt": json.dumps(graph(painted))}


def parameters(painted: Painted) -> str:
    """A1111's text."""
    prompt = painted.prompt
    if painted.has_lora:
        prompt += f" <lora:{_stem(painted.lora)}:{painted.strength:g}>"
    negative = f"\nNegative prompt: {painted.negative}" if painted.negative else ""
    told = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in _facts(painted).items())
    return f"{prompt}{negative}\n{told}"


def _facts(painted: Painted) -> dict[str, Any]:
    """In A1111's order."""
    partly = painted.sampler == "chain" and 0 < painted.eta < 1
    facts = {
        "Steps": painted.steps,
        "Sampler": painted.names[0],
        "Schedule type": LEVELS[0],
        "CFG scale": f"{painted.guidance_scale:g}",
        "Seed": painted.seed,
        "Size": f"{painted.size[0]}x{painted.size[1]}",
        "Model hash": painted.checkpoint_hash,
        "Model": _stem(painted.checkpoint),
        "VAE": painted.vae,
        "Clip skip": painted.clip_skip if painted.clip_skip > 1 else "",
        "Eta": f"{painted.eta:g}" if partly else "",
        "Lora hashes": f"{_stem(painted.lora)}: {painted.lora_hash}" if painted.has_lora else "",
        "Version": f"RLR {__version__}",
    }
    return {name: value for name, value in facts.items() if value != ""}


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def _stem(file: str) -> str:
    """A1111 leaves out the ending of a file."""
    for ending in (".safetensors", ".ckpt"):
        file = file.removesuffix(ending)
    return file


def graph(painted: Painted) -> dict[str, Any]:
    """ComfyUI's nodes, by their numbers: class, inputs, and a title for people."""
    nodes = {"1": _node("CheckpointLoaderSimple", ckpt_name=painted.checkpoint)}
    model, clip, vae = ["1", 0], ["1", 1], ["1", 2]
    if painted.has_lora:
        nodes["2"] = _node(
            "LoraLoader",
            model=model,
            clip=clip,
            lora_name=painted.lora,
            strength_model=painted.strength,
            strength_clip=painted.strength,
        )
        model, clip = ["2", 0], ["2", 1]
    if painted.prediction in ("epsilon", "v_prediction"):
        sampling = "eps" if painted.prediction == "epsilon" else "v_prediction"
        nodes["3"] = _node(
            "ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=painted.zero_snr == "yes"
        )
        model = ["3", 0]
    if painted.clip_skip:
        nodes["4"] = _node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-painted.clip_skip)
        clip = ["4", 0]
    if painted.vae:
        nodes["5"] = _node("VAELoader", vae_name=painted.vae)
        vae = ["5", 0]
    width, height = painted.size
    nodes["6"] = _node("CLIPTextEncode", "Prompt", clip=clip, text=painted.prompt)
    nodes["7"] = _node("CLIPTextEncode", "Negative prompt", clip=clip, text=painted.negative)
    nodes["8"] = _node("EmptyLatentImage", width=width, height=height, batch_size=1)
    nodes["9"] = _node(
        "KSampler",
        model=model,
        positive=["6", 0],
        negative=["7", 0],
        latent_image=["8", 0],
        seed=painted.seed,
        steps=painted.steps,
        cfg=painted.guidance_scale,
        sampler_name=painted.names[1],
        scheduler=LEVELS[1],
        denoise=1.0,
    )
    nodes["10"] = _node("VAEDecode", samples=["9", 0], vae=vae)
    nodes["11"] = _node("SaveImage", images=["10", 0], filename_prefix="RLR")
    return nodes


def _node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}
