"""The node that trains: MODEL, CLIP and VAE in, the MODEL with its LoRA and the LoRA out."""

from __future__ import annotations

from functools import partial
from typing import Any

from PIL import Image
from safetensors.torch import load_file

from rlr_core.config import RunConfig, Tables, from_dict, merged
from rlr_core.errors import ConfigError, PromptError, RewardError
from rlr_core.families import SD1
from rlr_core.runs import RunDirectory
from rlr_core.runs.pictures import tiles
from rlr_core.runs.summary import Summary

from .families import HostFamily, family_of
from .folders import runs
from .going_on import FRESH, ON, run_for
from .host import SCHEDULER_NAMES, Interrupted, with_lora
from .inputs import TRAINING, Input, setting_input, tables
from .live import Telling
from .pictures import as_image
from .snapshot import lora_file
from .sockets import CATEGORY, ESTIMATOR, PROMPTS, REWARD, RUN, SETTINGS, Inputs, socket
from .training import Given, train
from .wording import told_of_nodes

TOLD = {
    "iterations": "Steps of the optimizer.",
    "rank": "Of the LoRA.",
    "seed": "The same seed gives the same LoRA.",
    "learning_rate": "Of Adam; 0: what fits the checkpoint's family.",
}
"""Where the config's comment is not enough."""
FITTED = {"learning_rate": 0.0, "held_out_pairs": 16}
"""Defaults of the node alone."""
WHEN = (
    "After Cancel, an error or a restart: go on with the newest run of the same settings, or begin a new one."
)


class Train:
    """Trains a LoRA towards a reward, on the network that is wired to it."""

    CATEGORY, FUNCTION = CATEGORY, "train"
    RETURN_TYPES = ("MODEL", "LORA_MODEL", "LOSS_MAP", "IMAGE", RUN)
    RETURN_NAMES = ("model", "lora", "reward_history", "previews", "run")
    OUTPUT_TOOLTIPS = (
        "The MODEL with the LoRA.",
        "The LoRA, for Load LoRA Model or Save LoRA Weights.",
        "The reward of each iteration, for the core's graph of a loss: here up is good.",
        "The pictures of the last preview.",
        "The run's folder, for RLR: save LoRA, reward curve, before and after.",
    )
    DESCRIPTION = (
        "Trains a LoRA towards a reward: for Stable Diffusion 1.x, 2.x or XL, as an experiment for flow models, too. Cancel"
        " stops it and keeps what was learned; an unchanged graph does not train again."
    )
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """What ComfyUI draws."""
        side = {
            "default": 0,
            "min": 0,
            "max": 8192,
            "step": 8,
            "tooltip": "In pixels; both 0: the checkpoint's own size.",
        }
        return {
            "required": {
                "model": socket("MODEL", "What is trained; LoRAs that are on it already stay below."),
                "clip": socket("CLIP", "Encodes the prompts; it is not trained."),
                "vae": socket("VAE", "Decodes the pictures that are scored."),
                "reward": socket(REWARD, "What scores the pictures."),
                "prompts": socket(PROMPTS, "What is painted."),
                **{given: _input(given) for given in TRAINING},
                "width": ("INT", side),
                "height": ("INT", side),
                "scheduler": (SCHEDULER_NAMES, {"default": "normal", "tooltip": "How the noise levels lie."}),
                "when_queued_again": ([ON, FRESH], {"default": ON, "tooltip": WHEN}),
            },
            "optional": {
                "estimator": socket(
                    ESTIMATOR, "How the gradient is estimated; with none, the cheap default."
                ),
                "held_out_reward": socket(
                    REWARD, "Judges, and is never trained on; with none, one that is installed."
                ),
                "settings": socket(SETTINGS, "What most people leave as it is."),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @told_of_nodes()
    def train(
        self, model: Any, clip: Any, vae: Any, unique_id: str = "", extra_pnginfo: Any = None, **inputs: Any
    ) -> dict[str, Any]:
        """A run in a folder of its own, or the rest of one. Raises `RLRError`, or what ComfyUI raises on Cancel."""
        config = config_of(inputs, family_of(model))
        fresh = inputs["when_queued_again"] == FRESH
        listeners: list[Telling] = []
        workflow = str(((extra_pnginfo or {}).get("workflow") or {}).get("id", ""))

        def telling(directory: RunDirectory) -> Telling:
            listeners.append(Telling(unique_id, directory.folder, config.training.iterations, workflow))
            return listeners[0]

        place = partial(run_for, runs(), fresh=fresh)
        directory = train(Given(model, clip, vae), config, place, telling, inputs["scheduler"])
        if any(listener.cancelled for listener in listeners):
            raise Interrupted
        shown = {"rlr_run": [directory.folder.name], "rlr_workflow": [workflow]}
        return {"ui": shown, "result": results(model, directory)}


def results(model: Any, directory: RunDirectory) -> tuple[Any, ...]:
    """What comes out of a finished run."""
    file, summary = lora_file(directory), Summary.read(directory.events_file)
    assert file, "a finished run has written it"
    lora = load_file(file)
    preview = summary.of("preview")[-1]
    with Image.open(directory.folder / preview["file"]) as sheet:
        pictures = as_image(tiles(sheet.convert("RGB"), len(preview["prompts"])))
    history = {"loss": list(summary.taken.rewards)}
    return with_lora(model, None, lora, 1.0, 0.0)[0], lora, history, pictures, str(directory.folder)


def config_of(inputs: dict[str, Any], family: HostFamily) -> RunConfig:
    """What the inputs say. Raises `RLRError`."""
    if not inputs["prompts"]["prompts"]["train"]:
        raise PromptError(
            "no prompts", "one on each line", "write in RLR: prompts what the pictures are to show"
        )
    own = tables(TRAINING, inputs)
    own["training"]["prompts_per_batch"] = inputs["batch_size"]
    own["training"]["learning_rate"] = inputs["learning_rate"] or family.learning_rate
    own["lora"]["alpha"] = float(inputs["rank"])
    if size := _size(inputs["width"], inputs["height"]):
        own["sampling"]["size"] = size
    rest: Tables = {"memory": {"plan": "off"}, "output": {"checkpoint_every": 25}, "training": {"ema": 0.95}}
    if judge := inputs.get("held_out_reward"):
        rest["reward"] = {"held_out": _one(judge)}
    optional = [inputs.get(name) or {} for name in ("estimator", "settings")]
    return from_dict(merged(inputs["reward"], rest, own, inputs["prompts"], *optional), "the node")


def _size(width: int, height: int) -> list[int]:
    """[] where the checkpoint's own is asked for."""
    if bool(width) != bool(height):
        raise ConfigError(f"width {width} with height {height}", "both, or both 0", "set the other one, too")
    return [width, height] if width else []


def _one(judge: Tables) -> str:
    if "mix" in judge["reward"]:
        raise RewardError("a sum of rewards as the held-out reward", "a single one", "wire one of them")
    return judge["reward"]["name"]


def _input(given: str) -> Input:
    """A seed that changes by itself would train anew each time."""
    name = TRAINING[given]
    family = SD1.defaults.get(name)
    default = FITTED.get(given, family.value if family else None)
    kind, options = setting_input(name, default=default, tooltip=TOLD.get(given, ""))
    return kind, {**options, **({"control_after_generate": False} if given == "seed" else {})}


NODES: dict[str, type] = {"RLRTrain": Train}
