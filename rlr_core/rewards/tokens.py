"""Prompts as numbers, without a network: CLIP's vocabulary comes with open_clip, BERT's is a file among the weights."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CLIP_LENGTH = 77
"""Tokens that CLIP's text towers read, with the first and the last one."""
START, END = "<|startoftext|>", "<|endoftext|>"
MERGES = 49152 - 256 - 2
"""Lines of open_clip's file that are CLIP's merges, after the first."""


class Tokens:
    """Prompts → token numbers; what is too long is cut before its last token, and the first time a warning says so.

    Args:
        reward: name, for the warning.
        encode: a prompt → all its numbers, with the first and the last one.
        limit: most numbers.
    """

    def __init__(self, reward: str, encode: Callable[[str], list[int]], limit: int):
        self._reward, self._encode, self.limit = reward, encode, limit
        self._warned = False

    def __call__(self, prompt: str) -> Tensor:
        """(1, L), L at most the limit."""
        numbers = self._encode(prompt)
        if len(numbers) > self.limit:
            self._warn(prompt, len(numbers))
            numbers = [*numbers[: self.limit - 1], numbers[-1]]
        return torch.tensor([numbers])

    def _warn(self, prompt: str, length: int) -> None:
        if not self._warned:
            self._warned = True
            text = f"'{prompt[:40]}…' is {length} tokens long; '{self._reward}' reads {self.limit} of it"
            warnings.warn(f"{text}, and of other long prompts (this is said once)", stacklevel=2)


def clip_tokens(reward: str) -> Tokens:
    """As transformers' CLIPProcessor makes them, from the vocabulary file in open_clip."""
    from open_clip.tokenizer import bytes_to_unicode, default_bpe
    from transformers import CLIPTokenizer

    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        merges = file.read().split("\n")[1 : MERGES + 1]
    letters = list(bytes_to_unicode().values())
    pieces = [*letters, *(letter + "</w>" for letter in letters)]
    pieces += [merge.replace(" ", "") for merge in merges] + [START, END]
    tokenizer = CLIPTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)},
        merges=[tuple(merge.split()) for merge in merges],  # pyright: ignore[reportArgumentType]
    )
    return Tokens(reward, _all_numbers(tokenizer), CLIP_LENGTH)


def open_clip_tokens(reward: str) -> Tokens:
    """As open_clip makes them; unlike transformers it also mends broken Unicode and reads HTML's `&amp;`."""
    from open_clip import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    first, last = tokenizer.sot_token_id, tokenizer.eot_token_id
    return Tokens(reward, lambda prompt: [first, *tokenizer.encode(prompt), last], CLIP_LENGTH)


def bert_tokens(reward: str, vocabulary: Path, limit: int) -> Tokens:
    """As BERT's uncased tokenizer makes them, with vocab.txt, one piece a line."""
    from transformers import BertTokenizer

    pieces = vocabulary.read_text(encoding="utf-8").split("\n")
    numbers = {piece: number for number, piece in enumerate(pieces) if piece}
    return Tokens(reward, _all_numbers(BertTokenizer(vocab=numbers)), limit)


def _all_numbers(tokenizer: Any) -> Callable[[str], list[int]]:
    return lambda prompt: tokenizer(prompt).input_ids
