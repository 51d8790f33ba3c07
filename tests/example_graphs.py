"""The example workflows, written once as plain graphs: `python tests/example_graphs.py` writes the files that ComfyUI shows.

A graph is name → (node, inputs); an input is a value, or (name, output's number). `api` gives it as ComfyUI's server takes it.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import comfy_bed

FOLDER = comfy_bed.ROOT / "example_workflows"
Graph = dict[str, tuple[str, dict[str, Any]]]

TEXT = ("STRING", {})
CORE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "CheckpointLoaderSimple": (
        {"ckpt_name": TEXT},
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
    ),
    "CLIPTextEncode": ({"text": TEXT, "clip": ("CLIP", {})}, [("CONDITIONING", "CONDITIONING")]),
    "EmptyLatentImage": (
        {"width": ("INT", {}), "height": ("INT", {}), "batch_size": ("INT", {})},
        [("LATENT", "LATENT")],
    ),
    "KSampler": (
        {
            "model": ("MODEL", {}), "positive": ("CONDITIONING", {}), "negative": ("CONDITIONING", {}),
            "latent_image": ("LATENT", {}), "seed": ("INT", {"control_after_generate": True}), "steps": ("INT", {}),
            "cfg": ("FLOAT", {}), "sampler_name": TEXT, "scheduler": TEXT, "denoise": ("FLOAT", {}),
        },
        [("LATENT", "LATENT")],
    ),
    "VAEDecode": ({"samples": ("LATENT", {}), "vae": ("VAE", {})}, [("IMAGE", "IMAGE")]),
    "PreviewImage": ({"images": ("IMAGE", {})}, []),
    "LossGraphNode": ({"loss": ("LOSS_MAP", {}), "filename_prefix": TEXT}, []),
}  # fmt: skip
"""ComfyUI's own nodes that the examples use: inputs in their order, and outputs."""
SOCKETS = {"MODEL", "CLIP", "VAE", "IMAGE", "LATENT", "CONDITIONING", "LOSS_MAP", "LORA_MODEL"}
PROMPTS = """\
a red fox in the snow
a wooden boat on a calm lake
a bowl of ripe oranges
an old lighthouse at dusk
a cat asleep on a windowsill
a mountain village in the fog
a field of sunflowers
a steam train on a bridge
a glass of iced tea with mint
a robin on a frosty branch
a narrow street after the rain
a portrait of a fisherman"""
HELD_OUT = (
    "a stone bridge over a river\na loaf of bread on a table\na hot-air balloon at dawn\na horse on a beach"
)
NEGATIVE = "blurry, low quality"


def _base(checkpoint: str) -> Graph:
    return {
        "checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": checkpoint}),
        "prompts": ("RLRPrompts", {"prompts": PROMPTS, "held_out": HELD_OUT, "negative": NEGATIVE}),
    }


def _train(reward: str = "reward", prompts: str = "prompts", **more: Any) -> Graph:
    wired = {
        "model": ("checkpoint", 0), "clip": ("checkpoint", 1), "vae": ("checkpoint", 2),
        "reward": (reward, 0), "prompts": (prompts, 0),
    }  # fmt: skip
    return {
        "train": ("RLRTrain", {**wired, **more}),
        "save": ("RLRSaveLora", {"run": ("train", 4)}),
        "curve": ("RLRRewardCurve", {"run": ("train", 4)}),
        "curve shown": ("PreviewImage", {"images": ("curve", 0)}),
        "compared": ("RLRBeforeAfter", {"run": ("train", 4)}),
        "compared shown": ("PreviewImage", {"images": ("compared", 0)}),
    }


def _paint(
    side: int, positive: Any = None, negative: Any = None, text: str = "a red fox in the snow"
) -> Graph:
    texts: Graph = {
        "positive": ("CLIPTextEncode", {"text": text, "clip": ("checkpoint", 1)}),
        "negative": ("CLIPTextEncode", {"text": NEGATIVE, "clip": ("checkpoint", 1)}),
    }
    sampler = {
        "model": ("train", 0), "positive": positive or ("positive", 0), "negative": negative or ("negative", 0),
        "latent_image": ("latent", 0), "seed": 1, "steps": 30, "cfg": 7.5, "sampler_name": "euler_ancestral",
        "scheduler": "normal", "denoise": 1.0,
    }  # fmt: skip
    return {
        **({} if positive else texts),
        "latent": ("EmptyLatentImage", {"width": side, "height": side, "batch_size": 1}),
        "sampler": ("KSampler", sampler),
        "decoded": ("VAEDecode", {"samples": ("sampler", 0), "vae": ("checkpoint", 2)}),
        "picture": ("PreviewImage", {"images": ("decoded", 0)}),
    }


def _stages() -> Graph:
    texts = {
        "coarse": "a person who holds up one hand, simple shapes", "mid": "an open hand with five fingers",
        "fine": "detailed skin, fingernails, soft light", "reward_prompt": "a person who holds up an open hand",
        "negative": NEGATIVE,
    }  # fmt: skip
    second = {
        "coarse": "a table with a vase, simple shapes", "mid": "a vase with three tulips",
        "fine": "dewdrops, petals in fine detail", "reward_prompt": "three tulips in a vase on a table",
        "negative": NEGATIVE, "more": ("first", 0),
    }  # fmt: skip
    used = {
        "clip": ("checkpoint", 1),
        "prompts": ("second", 0),
        "number": 1,
        "steps": 30,
        "scheduler": "normal",
    }
    return {
        "checkpoint": ("CheckpointLoaderSimple", {"ckpt_name": SD}),
        "first": ("RLRStagePrompts", texts),
        "second": ("RLRStagePrompts", second),
        "reward": ("RLRRewardPickscore", {}),
        **_train(prompts="second"),
        "staged": ("RLRStageConditioning", used),
        **_paint(512, ("staged", 0), ("staged", 1)),
    }


SD, XL = "v1-5-pruned-emaonly-fp16.safetensors", "sd_xl_base_1.0.safetensors"


TITLES = ("Train and use a LoRA", "Prompts by stages (DCoT)", "Mix of rewards", "Black-box reward", "SDXL")


def graphs() -> dict[str, Graph]:
    """Title → graph."""
    mixed = {"reward_1": ("reward", 0), "weight_1": 1.0, "reward_2": ("second", 0), "weight_2": 0.5}
    return {
        "Train and use a LoRA": {
            **_base(SD),
            "reward": ("RLRRewardPickscore", {}),
            **_train(),
            **_paint(512),
        },
        "Prompts by stages (DCoT)": _stages(),
        "Mix of rewards": {
            **_base(SD),
            "reward": ("RLRRewardPickscore", {}),
            "second": ("RLRRewardAesthetic", {}),
            "mix": ("RLRRewardCombine", mixed),
            "judge": ("RLRRewardImagereward", {}),
            **_train("mix", held_out_reward=("judge", 0)),
            "history": ("LossGraphNode", {"loss": ("train", 2), "filename_prefix": "reward"}),
        },
        "Black-box reward": {
            **_base(SD),
            "reward": ("RLRRewardSharpness", {}),
            "estimator": ("RLREstimator", {"preset": "black-box"}),
            "settings": ("RLRSettings", {}),
            **_train(estimator=("estimator", 0), settings=("settings", 0)),
            "score": (
                "RLRScore",
                {"images": ("train", 3), "reward": ("reward", 0), "prompts": "a picture"},
            ),
        },
        "SDXL": {
            **_base(XL),
            "reward": ("RLRRewardPickscore", {}),
            "settings": ("RLRSettings", {"checkpoint_denoiser": True}),
            **_train(settings=("settings", 0), cfg=5.0),
            **_paint(1024),
        },
    }


def described(kind: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A node's inputs in their order, and its outputs as (name, kind)."""
    if kind in CORE:
        return CORE[kind]
    node = sys.modules[comfy_bed.PACK].NODE_CLASS_MAPPINGS[kind]
    kinds = node.INPUT_TYPES()
    inputs = {**kinds["required"], **kinds.get("optional", {})}
    return inputs, list(zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True))


def is_socket(kind: Any) -> bool:
    """Whether an input of that kind is wired."""
    return isinstance(kind, str) and (kind in SOCKETS or kind.startswith("RLR_"))


def value(inputs: dict[str, Any], given: dict[str, Any], name: str) -> Any:
    """Of a widget."""
    kind, options = inputs[name]
    first = kind[0] if isinstance(kind, list) and kind else ""
    return given.get(name, options.get("default", first))


def api(graph: Graph) -> dict[str, Any]:
    """As ComfyUI's server takes it."""
    prompt = {}
    for name, (kind, given) in graph.items():
        inputs, _ = described(kind)
        widgets = {
            each: value(inputs, given, each) for each, (sort, _) in inputs.items() if not is_socket(sort)
        }
        wires = {each: [source[0], source[1]] for each, source in given.items() if is_socket(inputs[each][0])}
        prompt[name] = {"class_type": kind, "inputs": {**widgets, **wires}}
    return prompt


def workflow(graph: Graph) -> dict[str, Any]:
    """As ComfyUI's browser saves it."""
    numbers = {name: number for number, name in enumerate(graph, 1)}
    links: list[list[Any]] = []
    nodes = [_node(name, graph, numbers, links) for name in graph]
    for link in links:
        source = next(node for node in nodes if node["id"] == link[1])
        source["outputs"][link[2]]["links"].append(link[0])
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [],
        "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def _node(name: str, graph: Graph, numbers: dict[str, int], links: list[list[Any]]) -> dict[str, Any]:
    kind, given = graph[name]
    inputs, outputs = described(kind)
    sockets = []
    for place, (each, (sort, _)) in enumerate((k, v) for k, v in inputs.items() if is_socket(v[0])):
        link = None
        if each in given:
            source, output = given[each]
            link = len(links) + 1
            links.append([link, numbers[source], output, numbers[name], place, sort])
        sockets.append({"name": each, "type": sort, "link": link})
    widgets: list[Any] = []
    for each, (sort, options) in inputs.items():
        if not is_socket(sort):
            widgets.append(value(inputs, given, each))
            widgets += ["fixed"] if options.get("control_after_generate") else []
    place, size = _place(name, graph)
    return {
        "id": numbers[name], "type": kind, "pos": place, "size": size, "flags": {}, "order": numbers[name] - 1, "mode": 0,
        "inputs": sockets, "outputs": [{"name": n, "type": t, "links": []} for n, t in outputs],
        "properties": {"Node name for S&R": kind}, "widgets_values": widgets,
    }  # fmt: skip


def _depth(name: str, graph: Graph) -> int:
    """How far a node is from the left. Training has a column of its own, after all that it can do without: it is long, and
    grows when ComfyUI shows a preview on it."""
    if graph[name][0] == "RLRTrain":
        sources = {other for other in graph if name not in _above(other, graph) | {other}}
    else:
        sources = _sources(name, graph)
    return 1 + max((_depth(source, graph) for source in sources), default=-1)


def _sources(name: str, graph: Graph) -> set[str]:
    return {each[0] for each in graph[name][1].values() if isinstance(each, tuple)}


def _above(name: str, graph: Graph) -> set[str]:
    """All nodes that a node waits for."""
    sources = _sources(name, graph)
    return sources.union(*(_above(source, graph) for source in sources))


WIDTH, GAP = 380, 60
WEIGHTS = dict.fromkeys(("RLRRewardPickscore", "RLRRewardImagereward", "RLRRewardAesthetic"), 70)
"""Nodes that say whether their weights are installed → pixels for that."""


def _height(kind: str) -> int:
    inputs, outputs = described(kind)
    wired = sum(is_socket(sort) for sort, _ in inputs.values())
    long = sum(bool(options.get("multiline")) for _, options in inputs.values())
    room = {
        "RLRTrain": 520,
        "RLRSaveLora": 40,
        "RLRSettings": 70,  # Nodes 2.0 has taller rows, of which these are many
        "RLRScore": 60,
        "PreviewImage": 280,
        "CLIPTextEncode": 80,
        **WEIGHTS,
    }.get(kind, 0)
    return 60 + 24 * (max(wired, len(outputs)) + len(inputs) - wired) + 90 * long + room


def _place(name: str, graph: Graph) -> tuple[list[int], list[int]]:
    depth, above = _depth(name, graph), 0
    for other in graph:
        if other == name:
            break
        if _depth(other, graph) == depth:
            above += _height(graph[other][0]) + GAP
    return [depth * (WIDTH + 80), above], [WIDTH, _height(graph[name][0])]


def files() -> dict[str, str]:
    """File name → content."""
    comfy_bed.node_file("pack")
    return {
        f"{title}.json": json.dumps(workflow(graph), ensure_ascii=False, indent=1) + "\n"
        for title, graph in graphs().items()
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in files().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
