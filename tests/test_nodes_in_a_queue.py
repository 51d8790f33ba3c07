"""One run after another in a real ComfyUI, with what is painted between them; where COMFYUI_DIR is set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy_bed
import comfy_server
import example_graphs
import pytest
import torch
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(not comfy_bed.REAL, reason="COMFYUI_DIR is not set"),
]
TITLE = "Train and use a LoRA"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    comfy_bed.node_file("pack")
    with comfy_server.serving(tmp_path_factory.mktemp("comfyui")) as server:
        yield server


def trained(**training: Any) -> dict[str, Any]:
    """The example without what paints."""
    prompt = example_graphs.api(comfy_server.reduced(example_graphs.graphs()[TITLE], **training))
    painting = ("positive", "negative", "latent", "sampler", "decoded", "picture")
    return {name: node for name, node in prompt.items() if name not in painting}


def plain(number: int) -> dict[str, Any]:
    """A picture of the checkpoint as it is, and its weights in a file; blanks at a text's end, so that nothing is cached."""
    graph = comfy_server.reduced(example_graphs.graphs()[TITLE])
    prompt = example_graphs.api(graph)
    for name in (
        "train",
        "zeroth",
        "save",
        "curve",
        "curve shown",
        "compared",
        "compared shown",
        "prompts",
        "reward",
    ):
        del prompt[name]  # fmt: skip
    prompt["sampler"]["inputs"]["model"] = ["checkpoint", 0]
    prompt["positive"]["inputs"]["text"] += " " * number
    inputs = {"model": ["checkpoint", 0], "filename_prefix": f"weights-{number}"}
    return {**prompt, "weights": {"class_type": "ModelSave", "inputs": inputs}}


def weights(server: Any, number: int) -> dict[str, torch.Tensor]:
    return load_file(next(Path(server.home / "output").glob(f"weights-{number}_*")))


def as_before(server: Any, number: int) -> bool:
    """Weights and picture of the checkpoint, bit for bit what they were at the beginning."""
    done = server.run(plain(number))
    before, now = weights(server, 0), weights(server, number)
    same = before.keys() == now.keys() and all(torch.equal(before[name], now[name]) for name in before)
    return same and server.picture(done) == server.first


@pytest.fixture(scope="module", autouse=True)
def first(server: Any) -> None:
    """The picture before all."""
    server.first = server.picture(server.run(plain(0)))


def test_two_runs_wait_in_one_queue_and_the_model_paints_as_before_between_and_after(server):
    waiting = [server.queue(each) for each in (trained(seed=1), plain(1), trained(seed=2), plain(2))]
    done = [server.wait(number) for number in waiting]
    assert [each["status"]["status_str"] for each in done] == ["success"] * 4
    runs = [done[k]["outputs"]["train"]["rlr_run"][0] for k in (0, 2)]
    assert runs[0] != runs[1] and {server.ask(f"/rlr/runs/{run}")["state"] for run in runs} == {"finished"}
    assert server.picture(done[1]) == server.picture(done[3]) == server.first
    files = [load_file(server.home / "models" / "loras" / done[k]["outputs"]["save"]["text"][0]) for k in (0, 2)]  # fmt: skip
    assert any(not torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert as_before(server, 3)


def test_after_an_error_within_training_all_is_as_before_and_the_next_run_trains(server):
    own = server.home / "models" / "rewards" / "own"
    own.mkdir(parents=True, exist_ok=True)
    (own / "broken.py").write_text("def score(images, prompts):\n    raise ValueError('it broke')\n")
    broken = trained(seed=3)
    broken["reward"] = {"class_type": "RLRRewardOwn", "inputs": {"file": "broken.py", "function": ""}}
    message = comfy_server.told(server.run(broken))
    assert message["node_id"] == "train" and "it broke" in message["exception_message"]
    assert as_before(server, 4)
    assert server.run(trained(seed=4))["status"]["status_str"] == "success"


def test_after_cancel_all_is_as_before_and_the_next_run_trains(server):
    number = server.queue(trained(seed=5, iterations=300))
    comfy_server.at_work(server, "train", 2)
    server.ask("/interrupt", {})
    assert comfy_server.told(server.wait(number), "execution_interrupted")["node_id"] == "train"
    assert as_before(server, 5)
    assert server.run(trained(seed=6))["status"]["status_str"] == "success"


def test_runs_leave_no_memory_behind(server):
    used = []
    for seed in range(10, 16):
        assert server.run(trained(seed=seed))["status"]["status_str"] == "success"
        used.append(server.memory())
    print("MB in memory after each of six runs:", [round(each) for each in used])
    assert used[-1] - used[1] < LEAK, used


LEAK = 30
"""MB that four runs may add: a run that kept the LoRA's optimizer and a chain would add several each, the network 139."""
