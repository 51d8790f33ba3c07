"""What the README shows in Python runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import rlr_core

pytest.importorskip("diffusers")

README = Path(__file__).parent.parent / "README.md"


def test_the_python_example_trains(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (example,) = (block for block in blocks if "import rlr_core" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.split() == ["finished", str(Path("runs", "redder"))]
    assert (tmp_path / "runs" / "redder" / "rlr-lora.safetensors").is_file()


def test_the_public_names_are_there_and_loaded_late():
    assert all(getattr(rlr_core, name) is not None for name in rlr_core.__all__)
    assert set(rlr_core.__all__) <= set(dir(rlr_core))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = rlr_core.nothing
