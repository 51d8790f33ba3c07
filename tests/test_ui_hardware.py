"""What the page says of graphics cards, with a tool in the place of NVIDIA's."""

from __future__ import annotations

import os
import stat
import sys

import pytest

from ui import hardware
from ui.hardware import Card, Cards

ANSWERS = {
    "NVIDIA GeForce RTX 3060, 7421, 12288, 71, 168.42": "NVIDIA GeForce RTX 3060, 7.2 of 12.0 GB, 71 °C, 168 W",
    "Tesla, with a comma, 1024, 2048, [N/A], [Not Supported]": "Tesla, with a comma, 1.0 of 2.0 GB",
    "": None,
    "NVIDIA-SMI has failed": None,
}


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a tool on the path that answers with a text, and counts how often."""
    if os.name == "nt":
        pytest.skip("the tool is a shell script")

    def put(answer: str, code: int = 0) -> None:
        file = tmp_path / "nvidia-smi"
        file.write_text(
            f"#!/bin/sh\necho x >> '{tmp_path}/asked'\ncat << 'END'\n{answer}\nEND\nexit {code}\n"
        )
        file.chmod(file.stat().st_mode | stat.S_IEXEC)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(("answer", "told"), ANSWERS.items())
def test_a_card_in_words(tool, answer, told):
    tool(answer)
    assert [str(card) for card in hardware.read()] == ([told] if told else [])


def test_a_tool_that_fails_tells_of_no_card(tool):
    tool("NVIDIA X, 1, 2, 3, 4", code=9)
    assert hardware.read() == []


def test_without_the_tool(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert hardware.read() == [] and ("none found" in hardware.installed() or sys.platform == "darwin")


def test_browsers_that_ask_at_once_ask_the_card_once(tool, tmp_path):
    tool("A, 1, 2048, 3, 4")
    cards = Cards()
    assert [cards.now() for _ in range(5)] == [[Card("A", 1, 2048, 3, 4)]] * 5
    assert (tmp_path / "asked").read_text() == "x\n" and hardware.installed() == "A, 2 GB"
