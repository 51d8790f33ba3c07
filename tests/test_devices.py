"""A device has a name, "cuda:1" among them, and whatever is asked of a card is asked of that one."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import rlr_core
from rlr_core.cli.main import main
from rlr_core.config import load
from rlr_core.errors import ConfigError
from rlr_core.planner import check, machine
from rlr_core.rewards.published import _precision
from rlr_core.trainer.devices import choose_device, devices_here

OF_ALL_CARDS = {"is_available", "is_initialized", "device_count", "empty_cache", "get_rng_state_all"}
"""What torch.cuda tells or does of all cards."""
OF_THE_CURRENT_CARD = {"is_bf16_supported"}
"""What it tells of the current one alone: called inside `torch.cuda.device`."""


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """A machine that says it has two, of which the second is the older; the cards that something was asked of."""
    asked: list[torch.device] = []

    def of(first: object, second: object):
        def tell(device: torch.device) -> object:
            asked.append(device)
            return second if torch.device(device).index == 1 else first

        return tell

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", of("new", "old"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", of((8, 0), (7, 5)))
    monkeypatch.setattr(torch.cuda, "mem_get_info", of((24, 24), (8, 8)))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", of(20, 4))
    return asked


def test_the_devices_of_this_machine() -> None:
    assert choose_device("cpu").type == "cpu" and str(choose_device("auto")) in devices_here()


def test_a_card_by_its_number(two_cards: list[torch.device]) -> None:
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")
    with pytest.raises(ConfigError, match=r"'cuda:2'(.|\n)*one of auto, cpu, cuda, cuda:0, cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:11"])
def test_names_that_a_config_takes(name: str) -> None:
    assert load(None, [f"model.device={name}"]).model.device == name


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0", "cuda:1 "])
def test_names_that_it_refuses(name: str) -> None:
    with pytest.raises(ConfigError, match=r"auto, cpu, mps, cuda, or a card by its number, as cuda:1"):
        load(None, [{"model": {"device": name}}])


@pytest.mark.parametrize(
    "command",
    [
        ["score", "a.png", "--prompt", "a", "--device"],
        ["plan", "--device"],
        ["bench", "learn", "--device"],
        ["bench", "rewards", "--device"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["tpu", "cuda:x"])
def test_a_device_that_is_not_there_is_refused_with_those_that_are(
    command: list[str], name: str, capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("a.png")
    assert main([*command, name]) == 2
    assert f"one of auto, {', '.join(devices_here())}" in capsys.readouterr().err


def test_what_is_known_of_a_card_is_that_card(two_cards: list[torch.device]) -> None:
    second = torch.device("cuda", 1)
    assert (machine.this_machine(second).name, machine.this_machine(second).half) == ("cuda: old", "float16")
    assert machine.free_bytes(second) == 8
    assert machine.peak_bytes(second) == 4 + machine.ITSELF["cuda"]
    assert machine.machine_to_plan_for("cuda:1").name == "cuda: old"
    with pytest.raises(ConfigError, match="'cuda:7'"):
        machine.machine_to_plan_for("cuda:7")
    assert set(two_cards) == {second}


def test_a_run_is_fitted_to_the_card_that_it_runs_on(
    two_cards: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[float] = []

    def first_that_fits(config: object, machine: object, budget: float) -> None:
        budgets.append(budget)

    monkeypatch.setattr(check, "first_that_fits", first_that_fits)
    check.fitted(load(None, ["model.device=cuda:1", "memory.plan=auto"]))
    assert budgets == [8] and set(two_cards) == {torch.device("cuda", 1)}


def test_a_card_that_this_machine_lacks_can_be_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    planned = machine.machine_to_plan_for("cuda:1")
    assert (planned.kind, planned.name, planned.half) == ("cuda", "cuda: any", "bfloat16")


def test_the_precision_of_a_reward_is_that_of_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[torch.device] = []

    class Current:
        def __init__(self, device: torch.device):
            self.device = device

        def __enter__(self) -> None:
            inside.append(self.device)

        def __exit__(self, *_: object) -> None:
            inside.pop()

    monkeypatch.setattr(torch.cuda, "device", Current)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: [each.index for each in inside] == [0])
    assert _precision("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert _precision("auto", torch.device("cuda", 1)) is torch.float16


def test_whatever_is_asked_of_a_card_names_it() -> None:
    """A call without a device would be answered for torch's current card."""
    for file in Path(rlr_core.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.cuda."):
                name = ast.unparse(node.func).removeprefix("torch.cuda.")
                known = name in OF_ALL_CARDS | OF_THE_CURRENT_CARD
                assert node.args or known, f"{file}:{node.lineno}: {ast.unparse(node)}"
