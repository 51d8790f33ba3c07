"""Nodes that explain themselves, where a package is missing that they need: workflows open, and say what to install."""

from __future__ import annotations

from typing import Any

from .names import TITLES


def explained(error: ModuleNotFoundError) -> dict[str, type]:
    """Every node's name → one that says what is missing."""
    told = (
        f"RLR needs the package '{error.name}'. Install it into ComfyUI's own Python, by `python -m pip install -r"
        " requirements.txt` in RLR's folder in custom_nodes, or by `Try fix` in the manager, and restart ComfyUI."
    )
    return {name: _node(name, told) for name in TITLES}


def _node(name: str, told: str) -> type:
    def say(self: Any, **inputs: Any) -> None:
        raise RuntimeError(told)

    facts = {
        "CATEGORY": "training/RLR",
        "FUNCTION": "say",
        "RETURN_TYPES": (),
        "OUTPUT_NODE": True,
        "DESCRIPTION": told,
        "INPUT_TYPES": classmethod(lambda cls: {"required": {}}),
        "say": say,
    }
    return type(name, (), facts)
