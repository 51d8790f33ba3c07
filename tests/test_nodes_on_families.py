"""SD 2.x, XL and experimental families, each trained whole in a real ComfyUI at a reduced size; where COMFYUI_DIR is set."""

from __future__ import annotations

from typing import Any

import comfy_bed
import comfy_server
import example_graphs
import pytest
from safetensors import safe_open

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
GENERIC = "diffusion_model."
KEYS = {"sd2": "lora_unet_", "sdxl": "lora_unet_", "sd3": GENERIC, "pixart": GENERIC, "flux": GENERIC}
SIDES = {"pixart": 288}
"""Pixels, where it is not 64: PixArt knows no smaller pictures."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    comfy_bed.node_file("pack")
    home = tmp_path_factory.mktemp("comfyui")
    for family in KEYS:
        comfy_server.put_checkpoint(home, family)
    with comfy_server.serving(home) as server:
        yield server


@pytest.mark.parametrize("family", KEYS)
def test_what_is_saved_paints_by_the_cores_loader_what_the_trained_model_paints(server, family):
    title = "SDXL" if family == "sdxl" else "Train and use a LoRA"
    side = SIDES.get(family, 64)
    size = {"width": side, "height": side}
    graph = comfy_server.reduced(
        example_graphs.graphs()[title], f"reduced-{family}.ckpt", iterations=3, **size
    )
    graph["latent"][1].update(size)
    if family in ("pixart", "flux"):
        with_texts_of_sd3(graph)
    graph["prompts"][1]["prompts"] = "a red fox in the snow"
    done = server.run(example_graphs.api(graph))
    assert done["status"]["status_str"] == "success", done["status"]
    saved = done["outputs"]["save"]["text"][0]
    with safe_open(server.home / "models" / "loras" / saved, "pt") as file:
        assert all(name.startswith(KEYS[family]) for name in file.keys())  # noqa: SIM118
    again = server.run(comfy_server.loading(graph, saved))
    without = server.run(comfy_server.loading(graph, saved, strength=0.0))
    pictures = [server.picture(each) for each in (done, again, without)]
    assert pictures[0] == pictures[1] != pictures[2]


def with_texts_of_sd3(graph: example_graphs.Graph) -> None:
    """As wide as those of the family's own text encoder, which no test can hold."""
    graph["texts"] = ("CheckpointLoaderSimple", {"ckpt_name": "reduced-sd3.ckpt"})
    for name in ("train", "positive", "negative"):
        graph[name][1]["clip"] = ("texts", 1)


def test_a_clip_of_another_family_is_refused_and_the_server_goes_on(server):
    graph = comfy_server.reduced(example_graphs.graphs()["Train and use a LoRA"])
    graph["other"] = ("CheckpointLoaderSimple", {"ckpt_name": "reduced-sdxl.ckpt"})
    graph["train"][1]["clip"] = ("other", 1)
    told = comfy_server.told(server.run(example_graphs.api(graph)))
    assert told["node_id"] == "train" and "2048 numbers wide" in told["exception_message"]
    assert server.ask("/system_stats")
