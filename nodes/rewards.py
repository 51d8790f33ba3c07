"""Rewards: a node for each, one for a file of one's own, and one that adds several up."""

from __future__ import annotations

from typing import Any

from rlr_core.config import Tables
from rlr_core.errors import RewardError
from rlr_core.rewards.library import PUBLISHED, REWARDS

from .folders import own_rewards, weights
from .inputs import setting_input
from .sockets import CATEGORY, REWARD, Inputs, socket, text

TITLES = {
    "pickscore": "PickScore",
    "hpsv2": "HPSv2",
    "hpsv2.1": "HPSv2.1",
    "aesthetic": "Aesthetic",
    "imagereward": "ImageReward",
    "clipscore": "CLIPScore",
    "jpeg-compressibility": "JPEG compressibility",
    "jpeg-incompressibility": "JPEG incompressibility",
    "sharpness": "Sharpness",
}
"""Rewards for any picture → how people call them; those of the embedded world know nothing else."""
PLACES = 4
"""Rewards that one node adds up."""


class Named:
    """A reward that has a name; the classes of the nodes are made of this one.

    Attributes:
        reward: its name.
    """

    CATEGORY, FUNCTION = f"{CATEGORY}/rewards", "chosen"
    RETURN_TYPES, RETURN_NAMES = (REWARD,), ("reward",)
    OUTPUT_TOOLTIPS = ("For RLR: train, combine or score.",)
    reward: str

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """None: a name says all."""
        return {"required": {}}

    def chosen(self) -> tuple[Tables]:
        """The part of a config."""
        return (named(self.reward),)


class OwnReward:
    """A black box: a Python function of the user, from the folder where the nodes look for them."""

    CATEGORY, FUNCTION = f"{CATEGORY}/rewards", "chosen"
    RETURN_TYPES, RETURN_NAMES = (REWARD,), ("reward",)
    OUTPUT_TOOLTIPS = ("For RLR: train, combine or score.",)
    DESCRIPTION = (
        "A Python file with score(images, prompts), from models/rewards/own in ComfyUI's folder. A workflow names the file and"
        " cannot bring one, so that a shared workflow runs no code of others."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The files that are there."""
        file = [path.name for path in sorted(own_rewards().glob("*.py"))]
        tooltip = "A file in models/rewards/own; press R for files that came since."
        return {
            "required": {
                "file": (file, {"tooltip": tooltip}),
                "function": text(
                    "Its function; none is needed where the file defines only one.", lines=False
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, file: str, function: str) -> float:
        """An edited file is another reward."""
        return _own(file).stat().st_mtime

    def chosen(self, file: str, function: str) -> tuple[Tables]:
        """The part of a config. Raises `RewardError` for what is not in the folder."""
        return (named(f"{_own(file)}:{function}" if function else str(_own(file))),)


def _own(file: str) -> Any:
    known = {path.name: path for path in own_rewards().glob("*.py")}
    if file not in known:
        raise RewardError(
            f"the reward's file '{file}'", f"a file in {own_rewards()}", "put it there, or choose another"
        )
    return known[file]


class Combine:
    """A weighted sum of rewards, each brought to a common scale."""

    CATEGORY, FUNCTION = f"{CATEGORY}/rewards", "combined"
    RETURN_TYPES, RETURN_NAMES = (REWARD,), ("reward",)
    OUTPUT_TOOLTIPS = ("Their sum.",)
    DESCRIPTION = (
        "Adds rewards up. Each is divided by its spread on pictures painted at the start: a weight counts standard"
        " deviations."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Rewards with their weights."""
        weight = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.05}
        places: dict[str, Any] = {}
        for place in range(1, PLACES + 1):
            places[f"reward_{place}"] = socket(REWARD, "A reward, or a sum of rewards.")
            tooltip = "How much it counts; below 0 the LoRA is trained away from it."
            places[f"weight_{place}"] = ("FLOAT", {**weight, "tooltip": tooltip})
        first = {name: places.pop(name) for name in list(places)[:4]}
        return {"required": first, "optional": {**places, "mix_scale": setting_input("reward.mix_scale")}}

    def combined(self, **inputs: Any) -> tuple[Tables]:
        """The part of a config."""
        mix: dict[str, float] = {}
        for place in range(1, PLACES + 1):
            if reward := inputs.get(f"reward_{place}"):
                weight = inputs.get(f"weight_{place}", 1.0)
                for name, share in parts(reward).items():
                    mix[name] = mix.get(name, 0.0) + weight * share
        scale = {key: inputs[key] for key in ("mix_scale",) if key in inputs}
        return ({"reward": {**named("mix")["reward"], "mix": mix, **scale}},)


def named(name: str) -> Tables:
    """The part of a config that asks for a reward; its weights are not downloaded by a run."""
    return {"reward": {"name": name, "folder": str(weights()), "download": False}}


def parts(reward: Tables) -> dict[str, float]:
    """Name → weight, of one or several."""
    return reward["reward"].get("mix") or {reward["reward"]["name"]: 1.0}


def _node(name: str, title: str) -> type[Named]:
    made = PUBLISHED.get(name)
    facts = {
        "reward": name,
        "DESCRIPTION": f"{title}: {made.measures}." if made else f"{title}, a black box.",
    }
    return type(node_id(name), (Named,), {**facts, "__doc__": f"The reward {title}."})


def node_id(name: str) -> str:
    """Of the node of a reward with a name."""
    return "RLRReward" + "".join(part.capitalize() for part in name.replace(".", "-").split("-"))


NODES: dict[str, type] = {
    **{node_id(name): _node(name, title) for name, title in TITLES.items()},
    "RLRRewardOwn": OwnReward,
    "RLRRewardCombine": Combine,
}
assert set(TITLES) == {*PUBLISHED, *(name for name in REWARDS if not name.startswith("embedded"))}
