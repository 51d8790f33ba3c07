r"""What people paste from A1111, Forge and ComfyUI: emphasis, LoRA tags, prompt editing. Training reads it without its weights.

`(word:1.3)`, `((word))` and `[word]` are the word itself, `\(` is a parenthesis, `<lora:name:1>` is no text at all. Prompt
editing and alternation, `[a:b:0.3]` and `[a|b]`, say what stage prompts say in another way; they are refused, since none of
their texts is that of the whole picture.
"""

from __future__ import annotations

import re

from rlr_core.errors import PromptError

_TAG = re.compile(r"<(?:lora|lyco|hypernet|embedding)\s*:[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*$")
_EDITING = re.compile(r"\[[^\[\]]*:[^\[\]]*:\s*\d*\.?\d+\s*\]|\[[^\[\]|]*\|[^\[\]]*\]")
_ESCAPED = re.compile(r"\\([()\[\]\\])")


def without_weights(text: str) -> tuple[str, list[str]]:
    """The text that an encoder is to read, and what was left out of it, in words. Raises `PromptError` for prompt editing."""
    if found := _EDITING.search(text):
        raise PromptError(
            f"prompt editing or alternation, '{found[0]}'",
            "a prompt per stage: coarse: … | mid: … | fine: …",
            "write it as stages, or set prompts.syntax = 'literal' to train on it letter by letter",
        )
    tags = _TAG.findall(text)
    plain, weights = _flattened(_TAG.sub("", text))
    plain = re.sub(r"\s+", " ", plain).strip(" ,") if tags else plain
    left_out = [f"the tag {tag}" for tag in tags] + (["the weights of (emphasis)"] if weights else [])
    return plain, left_out


def _flattened(text: str) -> tuple[str, bool]:
    """Without brackets that come in pairs and the weights in them, and whether there were any."""
    letters, open_at, found = list(_ESCAPED.sub(lambda match: _KEPT[match[1]], text)), [], False
    for place, letter in enumerate(letters):
        if letter in "([":
            open_at.append(place)
        elif letter in ")]" and open_at and letters[open_at[-1]] + letter in ("()", "[]"):
            start = open_at.pop()
            weight = _WEIGHT.search("".join(letters[start + 1 : place])) if letter == ")" else None
            cut = start + 1 + weight.start() if weight else place
            letters[start], letters[cut : place + 1] = _GONE, [_GONE] * (place + 1 - cut)
            found = True
    return "".join(letters).translate(_BACK), found


_GONE = "\ue000"
"""Stands where a letter was left out, so that the others keep their places."""
_KEPT = {letter: chr(0xE001 + number) for number, letter in enumerate("()[]\\")}
"""Stand for escaped letters, which are no brackets."""
_BACK = str.maketrans({_GONE: "", **{stand_in: letter for letter, stand_in in _KEPT.items()}})
