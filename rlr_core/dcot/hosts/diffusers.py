"""A few lines of Python that paint with diffusers stage by stage."""

from __future__ import annotations

import json

from rlr_core.chain import Schedule
from rlr_core.dcot.stages import StagePrompts, StageSettings

TEMPLATE = '''"""Paints with diffusers, a prompt for each stage of denoising: python {name} CHECKPOINT"""

import sys

import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline, StableDiffusionXLPipeline

LORA = {lora}
STAGES = {stages}
NEGATIVES = {negatives}
STARTS = {starts}  # where each stage begins: 0 is noise, 1 the finished picture
STEPS, GUIDANCE, WIDTH, HEIGHT = {steps}, {guidance}, {width}, {height}
EMBEDDINGS = "prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"


def load(checkpoint):
    """A folder or a hub's name, or a file of Stable Diffusion 1, 2 or XL."""
    if not checkpoint.endswith(".safetensors"):
        return AutoPipelineForText2Image.from_pretrained(checkpoint)
    try:
        return StableDiffusionXLPipeline.from_single_file(checkpoint)
    except Exception:
        return StableDiffusionPipeline.from_single_file(checkpoint)


def encoded(pipe):
    """The keywords that tell the pipeline of each stage."""
    found = []
    for prompt, negative in zip(STAGES, NEGATIVES):
        guided = {{"do_classifier_free_guidance": GUIDANCE > 1, "negative_prompt": negative}}
        parts = pipe.encode_prompt(prompt, device=pipe.device, num_images_per_prompt=1, **guided)
        found.append({{name: part for name, part in zip(EMBEDDINGS, parts) if part is not None}})
    return found


def paint(pipe, **options):
    """A picture; `options` go to the pipeline, as `generator`."""
    stages = encoded(pipe)

    def change(pipe, step, time, values):
        following = sum((step + 1) / pipe.num_timesteps >= start - 1e-9 for start in STARTS) - 1
        stage = stages[max(following, 0)]
        pairs = {{"prompt_embeds": EMBEDDINGS[:2], "add_text_embeds": EMBEDDINGS[2:]}}
        for value in values:
            positive, negative = pairs[value]
            both = [stage[name] for name in (negative, positive) if name in stage]
            values[value] = torch.cat(both) if GUIDANCE > 1 else stage[positive]
        return values

    changed = ["prompt_embeds"] + ["add_text_embeds"] * ("pooled_prompt_embeds" in stages[0])
    size = {{"width": WIDTH, "height": HEIGHT, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}}
    at_each_step = {{"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": changed}}
    return pipe(**stages[0], **size, **at_each_step, **options).images[0]


if __name__ == "__main__":
    pipe = load(sys.argv[1]).to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.load_lora_weights(LORA)
    paint(pipe).save("stages.png")
'''


def snippet(
    prompts: StagePrompts,
    settings: StageSettings,
    *,
    lora: str,
    size: tuple[int, int],
    schedule: Schedule,
    guidance: float,
    name: str = "stages.py",
) -> str:
    """A program for a prompt, with as many steps as `schedule`; `size` is width and height in pixels."""
    negatives = prompts.negatives or (settings.negative,) * len(prompts.prompts)
    literal = {
        "lora": json.dumps(lora),
        "stages": json.dumps(list(prompts.prompts)),
        "negatives": json.dumps(list(negatives)),
        "starts": repr([0.0, *settings.boundaries_of(prompts).starts(schedule)]),
    }
    return TEMPLATE.format(
        name=name, steps=schedule.steps, guidance=float(guidance), width=size[0], height=size[1], **literal
    )
