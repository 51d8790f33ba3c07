"""How a picture was painted, as a graph of ComfyUI's stock nodes, in the form that its API takes (nodes.py)."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from rlr_core.dcot import StagePrompts, StageSettings
from rlr_core.dcot.hosts import encoders, node
from rlr_core.runs.painted import LEVELS, Painted, parameters

Nodes = dict[str, dict[str, Any]]


def texts(painted: Painted) -> dict[str, str]:
    """Key → text, for a PNG: what A1111 reads, and what ComfyUI reads."""
    return {"parameters": parameters(painted), "prompt": json.dumps(graph(painted))}


def graph(painted: Painted) -> Nodes:
    """Name → class and inputs."""
    nodes, model, clip, vae = _networks(painted)
    prompts, settings = _prompts(painted)
    encoding, positive, negative = encoders(prompts, settings, clip, painted.steps, LEVELS[1])
    width, height = painted.size
    nodes |= encoding
    nodes["latent"] = node("EmptyLatentImage", width=width, height=height, batch_size=1)
    nodes["sampler"] = node(
        "KSampler",
        model=model,
        positive=positive,
        negative=negative,
        latent_image=["latent", 0],
        seed=painted.seed,
        steps=painted.steps,
        cfg=painted.guidance_scale,
        sampler_name=painted.names[1],
        scheduler=LEVELS[1],
        denoise=1.0,
    )
    nodes["picture"] = node("VAEDecode", samples=["sampler", 0], vae=vae)
    nodes["file"] = node("SaveImage", images=["picture", 0], filename_prefix="RLR")
    return {name: {**each, "_meta": {"title": name}} for name, each in nodes.items()}


def _prompts(painted: Painted) -> tuple[StagePrompts, StageSettings]:
    """With brackets as letters, which are no weights."""
    said = painted.stages
    prompts = said.prompts if said else StagePrompts((painted.prompt,), (painted.negative,))
    settings = said.settings if said else StageSettings()
    texts = {name: tuple(map(_literal, getattr(prompts, name))) for name in ("prompts", "negatives")}
    return replace(prompts, **texts), replace(settings, negative=_literal(settings.negative))


def _literal(text: str) -> str:
    return re.sub(r"([\\()])", r"\\\1", text)


def _networks(painted: Painted) -> tuple[Nodes, list[Any], list[Any], list[Any]]:
    """What loads them, and the links to the denoiser, the text encoders and the VAE."""
    nodes: Nodes = {"checkpoint": node("CheckpointLoaderSimple", ckpt_name=painted.checkpoint)}
    model, clip, vae = (["checkpoint", number] for number in range(3))
    if painted.has_lora:
        strengths = {"strength_model": painted.strength, "strength_clip": painted.strength}
        nodes["LoRA"] = node("LoraLoader", model=model, clip=clip, lora_name=painted.lora, **strengths)
        model, clip = ["LoRA", 0], ["LoRA", 1]
    if painted.prediction in ("epsilon", "v_prediction"):
        sampling = "eps" if painted.prediction == "epsilon" else "v_prediction"
        nodes["prediction"] = node(
            "ModelSamplingDiscrete", model=model, sampling=sampling, zsnr=painted.zero_snr == "yes"
        )
        model = ["prediction", 0]
    if painted.clip_skip:
        nodes["clip skip"] = node("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-painted.clip_skip)
        clip = ["clip skip", 0]
    if painted.vae:
        nodes["VAE"] = node("VAELoader", vae_name=painted.vae)
        vae = ["VAE", 0]
    return nodes, model, clip, vae
