"""Stage prompts by rules: which of a prompt's words the layout needs, which the geometry, and which only the detail.

A prompt is read in phrases, which commas part, and a phrase in clauses, which words such as "on" and "with" begin. The lists in
`templates.toml` say of words in which stage they begin to matter; others go with their clause. Each stage says the words of
those before it and its own, in the order of the prompt, so that the last one has the whole prompt letter by letter. Then come
phrases that are worth saying of the subject. The reward is told the prompt as it was.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from rlr_core.dcot.stages import NAMES, StagePrompts
from rlr_core.dcot.wildcards import has_variants
from rlr_core.errors import PromptError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TEMPLATES = Path(__file__).with_name("templates.toml")
LAYOUT, GEOMETRY, DETAIL = range(3)

_TOKEN = re.compile(r"(?:\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|[^\s,;])+|[,;]")
"""A word, where emphasis and tags are one word and are not taken apart; or what parts phrases."""
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Subject:
    """What a prompt may be about.

    Attributes:
        names: words that name it.
        phrases: that are added for layout, geometry and detail.
    """

    names: frozenset[str]
    phrases: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Library:
    """What is in `templates.toml`."""

    places: frozenset[str]
    attributes: frozenset[str]
    small: frozenset[str]
    degrees: frozenset[str]
    joining: frozenset[str]
    geometry: frozenset[str]
    detail: frozenset[str]
    subjects: dict[str, Subject]

    def level(self, word: str, subject: Subject | None) -> int | None:
        """The stage in which a word begins to matter; None if no list has it, or if it names what the prompt is about."""
        if subject and _listed(word, subject.names):
            return None
        if _listed(word, self.detail):
            return DETAIL
        return GEOMETRY if _listed(word, self.geometry) else None

    def subject(self, text: str) -> Subject | None:
        """The first that a prompt names."""
        words = [_bare(word) for word in text.split()]
        found = (each for each in self.subjects.values() if any(_listed(word, each.names) for word in words))
        return next(found, None)


@cache
def library() -> Library:
    """The shipped one."""
    table = tomllib.loads(TEMPLATES.read_text(encoding="utf-8"))
    lists = {name: frozenset(words.split()) for name, words in table["words"].items()}
    subjects = {
        name: Subject(
            frozenset(entry["names"].split()),
            tuple(tuple(entry[stage]) for stage in ("layout", "geometry", "detail")),
        )
        for name, entry in table["subjects"].items()
    }
    return Library(**lists, subjects=subjects)


def by_rules(prompt: StagePrompts) -> StagePrompts:
    """A plain prompt as three stages; negative prompt, weight and what the reward is told stay.

    Raises `PromptError` for one that has stages already, or whose variants would be drawn apart in each stage.
    """
    refuse_unfit(prompt)
    text, words = prompt.prompts[0], library()
    subject = words.subject(text)
    phrases = [_levels(phrase, words, subject) for phrase in _phrases(text)]
    stages = [*(_until(stage, phrases) or text for stage in (LAYOUT, GEOMETRY)), text]
    for stage in range(len(NAMES)):
        added = [phrase for each in subject.phrases[: stage + 1] for phrase in each] if subject else []
        stages[stage] = ", ".join([stages[stage], *(phrase for phrase in added if not _said(phrase, text))])
    return replace(
        prompt,
        prompts=tuple(stages),
        negatives=prompt.negatives * len(NAMES),
        intent=prompt.intent or text,
    )


def refuse_unfit(prompt: StagePrompts) -> None:
    """Raise `PromptError` for a prompt that has stages, or that stands for several."""
    text, *more = prompt.prompts
    if more:
        raise PromptError(
            f"a prompt of {1 + len(more)} stages", "a plain prompt, to be split", "use it as it is"
        )
    if has_variants(text):
        raise PromptError(
            f"wildcards or variants in '{text}', which each stage would draw for itself",
            "a plain prompt",
            "write one line for each variant",
        )


def left_out(text: str, stages: Sequence[str]) -> list[str]:
    """The words of a prompt that none of the stages says."""
    said = {_bare(word) for stage in stages for word in stage.split()}
    words = dict.fromkeys(_bare(word) for word in text.split())
    return [word for word in words if word and word not in said and word not in library().small]


def _phrases(text: str) -> list[list[str]]:
    """The words between commas."""
    phrases: list[list[str]] = [[]]
    for token in _TOKEN.findall(text):
        if token in ",;":
            phrases.append([])
        else:
            phrases[-1].append(token)
    return [phrase for phrase in phrases if phrase]


Levelled = Sequence[tuple[str, int]]
"""The words of a phrase, each with the stage in which it begins to be said."""


def _until(stage: int, phrases: Sequence[Levelled]) -> str:
    """The words that are said by then; where there are none, those of the first stage that has any."""
    lowest = min((level for phrase in phrases for _, level in phrase), default=stage)
    said = [" ".join(_agreeing(phrase, max(stage, lowest))) for phrase in phrases]
    return ", ".join(filter(None, said))


def _agreeing(phrase: Levelled, stage: int) -> Iterator[str]:
    """The words said by a stage; an article before a gap agrees with what follows there."""
    kept = [number for number, (_, level) in enumerate(phrase) if level <= stage]
    for number, after in itertools.zip_longest(kept, kept[1:]):
        word = phrase[number][0]
        if after and after > number + 1 and word.casefold() in ("a", "an"):
            word = word[0] + "n" * (phrase[after][0][0].casefold() in "aeiou")
        yield word


def _levels(phrase: Sequence[str], words: Library, subject: Subject | None) -> Levelled:
    """Clause by clause."""
    starts = [number for number in range(1, len(phrase)) if _begins(phrase, number, words)]
    edges = [0, *starts, len(phrase)]
    clauses = [phrase[a:b] for a, b in itertools.pairwise(edges)]
    return [pair for clause in clauses for pair in _clause(clause, words, subject)]


def _begins(phrase: Sequence[str], number: int, words: Library) -> bool:
    """Whether a clause begins there: on a beach; with a hat; and a dog."""
    word, after = (_bare(each) for each in (phrase[number], *phrase[number + 1 : number + 2], "")[:2])
    return (
        word in words.places or word in words.attributes or (word in words.joining and after in words.small)
    )


def _clause(clause: Sequence[str], words: Library, subject: Subject | None) -> Levelled:
    """A clause begins to be said with the earliest of its words; what is listed for later waits."""
    bare = [_bare(word) for word in clause]
    least = GEOMETRY if bare[0] in words.attributes else LAYOUT
    own = [words.level(word, subject) for word in bare]
    weak = words.places | words.attributes | words.small | words.degrees | words.joining
    content = [number for number, word in enumerate(bare) if word not in weak]
    least = max(least, min((own[number] or LAYOUT for number in content), default=LAYOUT))
    levels = [max(level or least, least) for level in own]
    for number in reversed(range(len(bare) - 1)):
        if bare[number] in words.degrees:
            levels[number] = levels[number + 1]
        elif number and bare[number] in words.joining:
            levels[number] = max(levels[number - 1], levels[number + 1])
    return list(zip(clause, levels, strict=True))


def _bare(word: str) -> str:
    """Without what stands around its letters, in small ones."""
    return _EDGES.sub("", word).casefold()


def _listed(word: str, known: frozenset[str]) -> bool:
    """Itself, or what it is the plural or the genitive of."""
    return any(word.removesuffix(ending) in known for ending in ("", "s", "es", "'s", "’s"))


def _said(phrase: str, text: str) -> bool:
    """Whether a prompt says one of the phrase's words already, small ones aside."""
    words = library()
    said = {_bare(word) for word in text.split()}
    mine = {_bare(word) for word in phrase.split()} - words.small - words.places
    return bool(mine & said)
