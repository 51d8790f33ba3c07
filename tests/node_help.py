"""The help pages of the nodes, from what the nodes say of themselves: `python tests/node_help.py` writes them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import comfy_bed

FOLDER = comfy_bed.ROOT / "nodes" / "web" / "docs"


def pages() -> dict[str, str]:
    """Node → its page, in Markdown."""
    comfy_bed.node_file("pack")
    module = sys.modules[comfy_bed.PACK]
    titles = module.NODE_DISPLAY_NAME_MAPPINGS
    return {name: _page(titles[name], node) for name, node in module.NODE_CLASS_MAPPINGS.items()}


def _page(title: str, node: Any) -> str:
    kinds = node.INPUT_TYPES()
    parts = [f"# {title}", node.DESCRIPTION]
    for heading, key in (("Inputs", "required"), ("Inputs that may be left open", "optional")):
        if given := kinds.get(key):
            parts.append(f"## {heading}\n\n" + "\n".join(_input(name, kind) for name, kind in given.items()))
    outputs = zip(node.RETURN_NAMES, node.OUTPUT_TOOLTIPS, strict=True)
    parts.append("## Outputs\n\n" + "\n".join(f"- **{name}**: {told}" for name, told in outputs))
    return "\n\n".join(parts) + "\n"


def _input(name: str, kind: Any) -> str:
    default = kind[1].get("default", "")
    shown = f" Default: {default}." if default not in ("", None) else ""
    return f"- **{name}**: {kind[1]['tooltip']}{shown}"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in pages().items():
        (FOLDER / f"{name}.md").write_text(page, encoding="utf-8")
    print(f"{len(list(Path(FOLDER).iterdir()))} pages in {FOLDER}")
