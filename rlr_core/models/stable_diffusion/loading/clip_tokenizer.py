"""CLIP's tokenizer, for single-file checkpoints, which hold none: made of the vocabulary that open_clip carries.

The vocabulary (Radford et al. 2021, `bpe_simple_vocab_16e6`) is a list of merges. The tokens are the 256 bytes, each alone and
at the end of a word, then what each merge makes, then start and end: 49408 together.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import tempfile
from pathlib import Path
from typing import Any

from rlr_core.errors import CheckpointError

FILE = "bpe_simple_vocab_16e6.txt.gz"
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2
"""Of the list's merges, those that CLIP was trained with."""
CONTEXT = 77


def clip_tokenizer() -> Any:
    """A `CLIPTokenizer` for 77 tokens, which fills up short texts with the end. Raises `CheckpointError` if open_clip is not
    installed.
    """
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory(prefix="rlr-tokenizer-") as name:
        for file, text in _files().items():
            Path(name, file).write_text(text, encoding="utf-8")
        return CLIPTokenizer.from_pretrained(name, local_files_only=True, model_max_length=CONTEXT)


@functools.cache
def _files() -> dict[str, str]:
    """What a CLIP tokenizer is read from: file name → content."""
    lines = gzip.decompress(_vocabulary_file().read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 1 + MERGES]
    letters = list(_letters_of_bytes())
    words = [
        *letters,
        *(f"{letter}</w>" for letter in letters),
        *("".join(merge.split()) for merge in merges),
    ]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return {
        "vocab.json": json.dumps(vocabulary),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "CLIPTokenizer", **special}),
    }


def _letters_of_bytes() -> list[str]:
    """A printable letter for each byte, in the vocabulary's order: printable ones stand for themselves, and come first."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in plain] + [chr(256 + k) for k in range(256 - len(plain))]


def _vocabulary_file() -> Path:
    """Inside the open_clip package, which is not imported."""
    found = importlib.util.find_spec("open_clip")
    for folder in (found.submodule_search_locations or ()) if found else ():
        if Path(folder, FILE).is_file():
            return Path(folder, FILE)
    raise CheckpointError(
        "open_clip, which carries CLIP's vocabulary, is not installed",
        "open-clip-torch",
        "pip install 'rlr[sd]'",
    )
