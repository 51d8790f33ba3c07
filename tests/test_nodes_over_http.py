"""The example workflows in a real ComfyUI, over HTTP; where COMFYUI_DIR is set."""

from __future__ import annotations

from typing import Any

import comfy_bed
import comfy_server
import example_graphs
import pytest
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    comfy_bed.node_file("pack")
    with comfy_server.serving(tmp_path_factory.mktemp("comfyui")) as server:
        yield server


def prompt(title: str, **training: Any) -> dict[str, Any]:
    return example_graphs.api(comfy_server.reduced(example_graphs.graphs()[title], **training))


@pytest.mark.parametrize("title", [title for title in example_graphs.TITLES if title != "SDXL"])
def test_each_example_runs(server, title):
    done = server.run(prompt(title))
    assert done["status"]["status_str"] == "success", done["status"]
    run = done["outputs"]["train"]["rlr_run"][0]
    shown = server.ask(f"/rlr/runs/{run}")
    reward, held_out, *parts = shown["curves"].values()
    assert shown["state"] == "finished" and len(reward) == 2 and held_out
    assert len(parts) == (2 if title.startswith("Mix") else 0)
    name = done["outputs"]["save"]["text"][0]
    assert any(key.endswith("lora_up.weight") for key in load_file(server.home / "models" / "loras" / name))
    listed = server.ask("/object_info/LoraLoader")["LoraLoader"]["input"]["required"]["lora_name"][0]
    assert name in listed


def test_the_preset_for_black_boxes_learns_once_it_knows_the_reward(server):
    graph = comfy_server.reduced(
        example_graphs.graphs()["Black-box reward"], iterations=16, batch_size=4, seed=4, held_out_pairs=0
    )
    graph["estimator"][1]["preset"] = "black-box"
    for name in ("compared", "compared shown"):
        del graph[name]
    done = server.run(example_graphs.api(graph))
    assert done["status"]["status_str"] == "success", done["status"]
    shown = server.ask(f"/rlr/runs/{done['outputs']['train']['rlr_run'][0]}")
    assert shown["state"] == "finished" and shown["lora"]


def test_the_saved_file_paints_the_picture_of_the_trained_model(server):
    graph = comfy_server.reduced(example_graphs.graphs()["Train and use a LoRA"], seed=3)
    done = server.run(example_graphs.api(graph))
    saved = done["outputs"]["save"]["text"][0]
    again = server.run(comfy_server.loading(graph, saved))
    without = server.run(comfy_server.loading(graph, saved, strength=0.0))
    pictures = [server.picture(each) for each in (done, again, without)]
    assert pictures[0] == pictures[1] != pictures[2]


def test_cancel_keeps_a_lora_and_the_same_graph_goes_on(server):
    long = prompt("Black-box reward", iterations=300, seed=4)
    number = server.queue(long)
    run = comfy_server.at_work(server, "train", 2)
    server.ask("/interrupt", {})
    done = server.wait(number)
    assert done["status"]["status_str"] == "error"
    assert "execution_interrupted" in [each[0] for each in done["status"]["messages"]]
    shown = server.ask(f"/rlr/runs/{run}")
    assert shown["state"] == "stopped" and shown["iteration"] >= 2 and shown["lora"]
    kept = server.home / "output" / "rlr" / run / shown["lora"]
    assert kept.is_file()
    short = prompt("Black-box reward", iterations=shown["iteration"] + 1, seed=4)
    done = server.run(short)
    assert done["outputs"]["train"]["rlr_run"] == [run]
    assert server.ask(f"/rlr/runs/{run}")["state"] == "finished"
    before = sorted((server.home / "output" / "rlr").iterdir())
    assert server.run(short)["status"]["status_str"] == "success"  # an unchanged graph does not train again
    assert sorted((server.home / "output" / "rlr").iterdir()) == before


def test_progress_previews_and_what_stays_below_arrive_on_the_websocket(server):
    saved = server.run(prompt("Train and use a LoRA", seed=6))["outputs"]["save"]["text"][0]
    stacked = prompt("Train and use a LoRA", seed=7, preview_every=1)
    inputs = {"model": ["checkpoint", 0], "lora_name": saved, "strength_model": 1.0}
    stacked["below"] = {"class_type": "LoraLoaderModelOnly", "inputs": inputs}
    stacked["train"]["inputs"]["model"] = ["below", 0]
    messages, pictures = comfy_server.heard(server, stacked)
    at_train = [data for kind, data in messages if kind == "progress" and data["node"] == "train"]
    assert [data["max"] for data in at_train[:1]] == [2] and at_train[-1]["value"] == 2
    assert pictures >= 2
    told = [data for kind, data in messages if kind == "rlr.run"]
    assert [data["state"] for data in told][-1] == "finished" and any(data["iteration"] == 1 for data in told)
    assert any("stays below" in data["note"] for data in told)


def test_what_cannot_be_is_told_on_the_node_and_the_server_goes_on(server):
    missing = prompt("Train and use a LoRA")
    missing["reward"]["class_type"] = "RLRRewardPickscore"
    missing["train"]["inputs"].pop("estimator")
    done = server.run(missing)
    told = comfy_server.told(done)
    assert told["node_id"] == "train" and "pickscore" in told["exception_message"]
    empty = prompt("Train and use a LoRA")
    empty["prompts"]["inputs"]["prompts"] = ""
    done = server.run(empty)
    assert "no prompts" in comfy_server.told(done)["exception_message"]
    for kind, output in (("CLIP", 1), ("VAE", 2)):
        bare = prompt("Train and use a LoRA")
        name = comfy_server.put_checkpoint(server.home, "bare")
        bare["bare"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
        bare["train"]["inputs"][kind.lower()] = ["bare", output]
        told = comfy_server.told(server.run(bare))
        assert told["node_id"] == "train" and f"without a {kind}" in told["exception_message"]
    assert server.ask("/system_stats")


@pytest.mark.parametrize("calls", [1, 12])
def test_a_device_without_memory_is_told_on_the_node_and_what_fits_afterwards_trains(server, calls):
    """In the first painting, or amid training."""
    short = prompt("Train and use a LoRA", seed=60 + calls)
    inputs = {"model": ["checkpoint", 0], "calls": calls}
    short["short"] = {"class_type": "RLRTestShortOfMemory", "inputs": inputs}
    short["train"]["inputs"]["model"] = ["short", 0]
    told = comfy_server.told(server.run(short))
    assert told["node_id"] == "train" and "memory of the device is not enough" in told["exception_message"]
    assert "checkpoint_denoiser" in told["exception_message"]
    done = server.run(prompt("Train and use a LoRA", seed=60 + calls))
    assert done["status"]["status_str"] == "success", done["status"]
