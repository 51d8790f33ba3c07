"""Prompts by stage: how they are written, which step belongs to which stage, and what a model is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from rlr_core.chain import PromptSchedule, Schedule, Text, flow_matching, variance_exploding
from rlr_core.config import PromptConfig
from rlr_core.dcot import (
    Boundaries,
    Shown,
    StagePrompts,
    StageSettings,
    format_line,
    parse_line,
    plain,
    together,
)
from rlr_core.dcot.files import from_table, parsed, read_lines
from rlr_core.dcot.host_syntax import without_weights
from rlr_core.dcot.texts import stripped
from rlr_core.dcot.wildcards import expanded
from rlr_core.errors import PromptError
from rlr_core.trainer.prompts import deal, self_contained_prompts, training_prompts, understood

quickly = settings(max_examples=200, deadline=None, derandomize=True)

words = (
    some.text(
        some.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), min_size=1, max_size=40
    )
    .map(stripped)
    .filter(bool)
)
nasty = some.sampled_from(
    [
        "a | b",
        "coarse: a",
        "\\coarse: a",
        "a | mid: b",
        "a \\| mid: b",
        "# a",
        "\\# a",
        "a|times: 3",
        "1: 2",
        "negative: x",
        "\\",
        "--w 512",
        "a --n b",
        "a \\--d 3",
        "a --l .5 | mid: b",
    ]
)
texts = words | nasty | some.tuples(words, nasty).map(" ".join)
counts = some.integers(1, 6)


def fractions(number: int, *, falling: bool = False) -> some.SearchStrategy[tuple[float, ...]]:
    inner = some.floats(0, 1, exclude_min=True, exclude_max=True)
    return some.lists(inner, min_size=number, max_size=number, unique=True).map(
        lambda values: tuple(sorted(values, reverse=falling))
    )


@some.composite
def shown(draw: Any) -> Shown:
    size = draw(some.none() | some.tuples(some.integers(1, 9000), some.integers(1, 9000))) or (None, None)
    return Shown(
        *size,
        steps=draw(some.none() | some.integers(1, 1000)),
        guidance_scale=draw(some.none() | some.floats(0, 1000).map(lambda value: round(value, 3))),
        seed=draw(some.none() | some.integers(0, 2**62 - 1)),
    )


@some.composite
def stage_prompts(draw: Any) -> StagePrompts:
    number = draw(counts)
    by_noise = draw(some.booleans())
    boundaries = Boundaries(draw(fractions(number - 1, falling=by_noise)), by_noise=by_noise)
    return StagePrompts(
        prompts=tuple(draw(texts) for _ in range(number)),
        negatives=draw(some.just(()) | some.tuples(*[texts | some.just("")] * number)),
        boundaries=boundaries if number > 1 and draw(some.booleans()) else None,
        intent=draw(some.just("") | texts),
        count=draw(some.integers(1, 9)),
        shown=draw(some.just(Shown()) | shown()),
    )


def to_table(prompts: StagePrompts) -> dict[str, Any]:
    """The inverse of `from_table`."""
    first, *more = prompts.prompts
    table: dict[str, Any] = {"stages": list(prompts.prompts)} if more else {"prompt": first}
    if prompts.intent:
        table |= {"stages": list(prompts.prompts), "prompt": prompts.intent}
    if prompts.negatives:
        table["negative"] = list(prompts.negatives)
    if prompts.boundaries and prompts.boundaries.values:
        table["noise" if prompts.boundaries.by_noise else "at"] = list(prompts.boundaries.values)
    return table | ({"times": prompts.count} if prompts.count > 1 else {}) | prompts.shown.given


# how they are written


@quickly
@given(texts)
def test_any_plain_prompt_round_trips(text: str) -> None:
    assert parse_line(format_line(StagePrompts((text,)))) == StagePrompts((text,))


def test_kohyas_switches() -> None:
    """As sd-scripts reads its own sample prompts, in any order and case."""
    said = parse_line("a cat, --sitting --N blurry, bad --w 512  --h 768 --s 28 --L .5 --d 42")
    assert said.prompts == ("a cat, --sitting",) and said.negatives == ("blurry, bad",)
    assert said.shown == Shown(512, 768, 28, 0.5, 42)
    assert parse_line("1: a | 2: b | at: 0.5 --n dark").negatives == ("dark", "dark")
    assert parse_line(r"a cat \--w 512").prompts == ("a cat --w 512",)


@quickly
@given(stage_prompts())
def test_any_prompts_round_trip_through_a_line(prompts: StagePrompts) -> None:
    line = format_line(prompts)
    assert parse_line(line) == prompts
    assert not line.startswith("#") and "\n" not in line


@quickly
@given(stage_prompts())
def test_any_prompts_round_trip_through_a_table(prompts: StagePrompts) -> None:
    assert from_table(json.loads(json.dumps(to_table(prompts)))) == prompts


@settings(max_examples=50, deadline=None, derandomize=True)
@given(some.lists(stage_prompts(), min_size=1, max_size=4))
def test_files_of_both_kinds_say_the_same(listed: list[StagePrompts]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        text, lines = Path(folder, "p.txt"), Path(folder, "p.jsonl")
        text.write_text(
            "# a comment\n\n" + "\r\n".join(map(format_line, listed)), encoding="utf-8-sig", newline=""
        )
        lines.write_text("\n".join(json.dumps(to_table(each)) for each in listed), encoding="utf-8")
        for file in (text, lines):
            assert parsed(read_lines(file), str(file)) == listed


def test_a_line_by_hand() -> None:
    said = parse_line(
        "coarse: a shape | mid: a hand|Fine : five fingers | negative fine: blurry | at: 0.2, 0.5 | times: 3"
    )
    assert said == StagePrompts(
        ("a shape", "a hand", "five fingers"), ("", "", "blurry"), Boundaries((0.2, 0.5)), count=3
    )
    assert parse_line("a cat | a dog") == StagePrompts(("a cat | a dog",)), "only a name makes a field"
    assert parse_line("a cat | negative: dark") == StagePrompts(("a cat",), ("dark",))
    assert parse_line("1: a beach | 2: a dog on a beach").prompts == ("a beach", "a dog on a beach")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("coarse: a | coarse: b", "column 13: 'coarse' twice"),
        ("coarse: a | mid: | fine: c", "a stage without words"),
        ("coarse: a | mid: b | at: 0.9, 0.1", "column 22"),
        ("coarse: a | mid: b | at: 1.5", "above 0 and below 1"),
        ("coarse: a | mid: b | at: nan", "above 0 and below 1"),
        ("coarse: a | mid: b | at: x", "column 22: 'x'"),
        ("coarse: a | mid: b | at: 0.1, 0.2", "2 boundaries between 2 stages"),
        ("a | times: 0", "column 5: '0'"),
        ("1: a | 3: b", "without a gap"),
        ("coarse: a | 2: b", "by name and by number"),
        ("a cat | mid: b", "a plain prompt beside stages"),
        ("negative: dark", "no prompt"),
        ("mid: a | negative fine: b", "without that stage"),
        ("x" * 10_001, "10001 letters"),
        ("a cat --w 512", "a width or a height alone"),
        ("a cat --w 512 --h 0", "height 0"),
        ("a cat --s 20 --s 30", "column 14: '--s 30'"),
        ("a cat --s 20.5", "column 7: '--s 20.5'"),
        ("coarse: a --s 3 | mid: b", "column 11: '--s 3 | mid: b'"),
        ("a cat | negative: x --n y", "'negative' and --n"),
        ("--n dogs", "an empty prompt"),
    ],
)
def test_a_line_that_cannot_be_read(line: str, message: str) -> None:
    with pytest.raises(PromptError) as caught:
        parse_line(line)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", "a\n\ncoarse: | mid: b", "line 3, column 1"),
        ("p.jsonl", '"a"\n{"prompt": 3}', "line 2: 3 is no text"),
        ("p.jsonl", '"a"\n{"promt": "b"}', "line 2"),
        ("p.jsonl", "{", "line 1: no JSON"),
        ("p.toml", "prompts = 3", "no list called prompts"),
        ("p.toml", "prompts = [", "no TOML"),
    ],
)
def test_a_file_that_cannot_be_read(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(PromptError) as caught:
        training_prompts(PromptConfig(file=str(tmp_path / name)), embedded=False)
    assert message in str(caught.value) and name in str(caught.value)


def test_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(
        'prompts = ["a cat", { stages = ["a", "b"], noise = [0.9], negative = "dark", times = 2 }]',
        encoding="utf-8",
    )
    assert training_prompts(PromptConfig(file=str(file)), embedded=False) == [
        StagePrompts(("a cat",)),
        StagePrompts(("a", "b"), ("dark", "dark"), Boundaries((0.9,), by_noise=True), count=2),
    ]


def test_a_prompt_is_dealt_as_often_as_it_says() -> None:
    prompts = [parse_line("a | times: 3"), parse_line("b")]
    dealt = deal(prompts, 8, 0, seed=1)
    assert sorted(each.prompts[0] for each in dealt[:4]) == ["a", "a", "a", "b"]
    assert sum(each.prompts == ("a",) for each in dealt) == 6


def test_the_reward_is_told_the_whole_intent() -> None:
    assert parse_line(
        "coarse: a hand | mid: an open hand, five fingers | fine: skin, five fingers"
    ).scored == ("a hand, an open hand, five fingers, skin")
    assert parse_line("coarse: a | mid: b | prompt: what it is").scored == "what it is"
    assert together(["a red circle on sand", "Sand", "a red  circle on sand"]) == "a red circle on sand"


# wildcards and emphasis


def test_wildcards_are_drawn_by_seed(tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    drawn = expanded("a __colours__ {cat|dog}", tmp_path, 6, 0)
    assert (
        drawn
        == expanded("a __colours__ {cat|dog}", tmp_path, 6, 0)
        != expanded("a __colours__ {cat|dog}", tmp_path, 6, 1)
    )
    assert 1 < len(set(drawn)) == len(drawn) <= 6
    assert all(
        text.split()[1] in ("red", "green", "blue") and text.split()[2] in ("cat", "dog") for text in drawn
    )
    assert expanded("no braces {here} at all", None, 6, 0) == ["no braces {here} at all"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a __colors__ cat", "did you mean __colours__"),
        ("a __shapes__", "without a file"),
        ("{a|{b}", "cannot be read"),
    ],
)
def test_wildcards_that_cannot_be_drawn(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "colours.txt").write_text("red\n", encoding="utf-8")
    if message == "cannot be read":
        assert expanded(text, tmp_path, 2, 0) == [text], "braces that do not close are letters"
        return
    with pytest.raises(PromptError, match=message):
        expanded(text, tmp_path, 2, 0)


def test_a_runs_config_needs_no_other_file(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("red\nblue\n", encoding="utf-8")
    config = self_contained_prompts(
        PromptConfig(train=["coarse: a __c__ cat | mid: b"], wildcards=str(tmp_path), variants=2)
    )
    assert (config.file, config.wildcards) == ("", "")
    assert set(config.train) == {"coarse: a red cat | mid: b", "coarse: a blue cat | mid: b"}
    assert self_contained_prompts(config) == config


@pytest.mark.parametrize(
    ("text", "plain_text"),
    [
        ("a (red:1.3) cat", "a red cat"),
        ("a ((red)) [old] cat", "a red old cat"),
        (r"a cat \(animal\)", "a cat (animal)"),
        ("a cat <lora:style:0.8>", "a cat"),
        ("a smile :) and a (half", "a smile :) and a (half"),
        ("12:30, a (clock:1.1)", "12:30, a clock"),
    ],
)
def test_emphasis_is_read_without_its_weights(text: str, plain_text: str) -> None:
    words_alone, left_out = without_weights(text)
    assert words_alone == plain_text
    assert bool(left_out) == (text not in (r"a cat \(animal\)", "a smile :) and a (half"))


def test_what_is_left_out_is_said_once() -> None:
    with pytest.warns(
        UserWarning, match=r"the weights of \(emphasis\) and 1 more, as in 'a \(b:1.2\)'"
    ) as told:
        prompts = understood(["a (b:1.2)", "c <lora:x:1>", "(d)"], PromptConfig())
    assert [each.prompts[0] for each in prompts] == ["a b", "c", "d"] and len(told) == 1
    assert understood(["a (b:1.2)"], PromptConfig(syntax="literal")) == plain(["a (b:1.2)"])


def test_prompt_editing_is_refused() -> None:
    for text in ("a [cat:dog:0.5]", "a [cat|dog]", "[:dog:3]"):
        with pytest.raises(PromptError, match="prompt editing"):
            understood([text], PromptConfig())


# which step belongs to which stage


def schedules(steps: int) -> list[Schedule]:
    sigma = torch.linspace(14.6, 0, steps + 1)
    return [flow_matching(torch.linspace(1, 0, steps + 1)), variance_exploding(sigma)]


@quickly
@given(some.data(), counts, some.integers(1, 60), some.booleans())
def test_any_boundaries_cover_every_step_exactly_once(
    data: Any, stages: int, steps: int, by_noise: bool
) -> None:
    boundaries = Boundaries(data.draw(fractions(stages - 1, falling=by_noise)), by_noise=by_noise)
    for schedule in schedules(steps):
        of_step = boundaries.stage_of_step(schedule)
        assert of_step.shape == (steps,)
        assert bool((of_step.diff() >= 0).all()), "stages come in their order"
        assert int(of_step.min()) >= 0 and int(of_step.max()) < stages
        progress = boundaries.progress(schedule)
        for stage, place in enumerate(boundaries.places):
            assert bool((of_step[progress < place - 1e-6] <= stage).all())
            assert bool((of_step[progress >= place] > stage).all())


def test_thirds_of_ten_steps() -> None:
    schedule = schedules(10)[0]
    assert Boundaries.even(3).stage_of_step(schedule).tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert Boundaries((0.3,)).stage_of_step(schedule).tolist() == [0] * 3 + [1] * 7, (
        "a step that begins there is beyond"
    )


def test_noise_levels_keep_their_meaning_when_steps_change() -> None:
    boundaries = Boundaries((0.8, 0.5), by_noise=True)
    for steps in (10, 40):
        schedule = schedules(steps)[0]
        share = schedule.sigma / (schedule.alpha**2 + schedule.sigma**2).sqrt()
        expected = [int(s <= 0.8) + int(s <= 0.5) for s in share[:-1].tolist()]
        assert boundaries.stage_of_step(schedule).tolist() == expected


@quickly
@given(counts.filter(lambda n: n > 1), some.integers(1, 40), some.floats(0.01, 0.15))
def test_blending_is_a_straight_line_across_each_boundary(stages: int, steps: int, blend: float) -> None:
    said = StagePrompts(tuple(f"stage {k}" for k in range(stages)))
    schedule = schedules(steps)[0]
    found = StageSettings(blend=blend).schedule(said, schedule)
    risen = found.stage_of_step + found.next_share
    progress = torch.arange(steps) / steps
    expected = sum(((progress - k / stages) / blend + 0.5).clamp(0, 1) for k in range(1, stages))
    torch.testing.assert_close(risen.float(), expected.float(), atol=1e-5, rtol=0)
    assert bool((found.next_share < 1).all()) and bool(
        (found.stage_of_step[found.next_share > 0] < stages - 1).all()
    )


def test_a_blend_that_is_longer_than_a_stage() -> None:
    with pytest.raises(PromptError, match=r"longer than what they blend over"):
        StageSettings(blend=0.5).schedule(parse_line("coarse: a | mid: b | fine: c"), schedules(10)[0])


def test_a_schedule_of_one_stage_is_constant() -> None:
    schedule = schedules(5)[0]
    (plain_prompt,) = plain(["a"])
    found, constant = (
        StageSettings(negative="n").schedule(plain_prompt, schedule),
        PromptSchedule.constant(Text("a", "n"), 5),
    )
    assert found.texts == constant.texts and found.entries[0] == constant.entries[0] == [(0, 0.0)]
    assert torch.equal(found.stage_of_step, constant.stage_of_step)


def test_the_steps_of_chosen_stages() -> None:
    schedule = schedules(9)[0]
    assert StageSettings().steps_of(["coarse"], schedule) == range(3)
    assert StageSettings().steps_of(["fine", "mid"], schedule) == range(3, 9)
    assert StageSettings(Boundaries((0.5,))).steps_of(["2"], schedule) == range(5, 9)
    for wrong in (["coarse", "fine"], ["middle"], ["coarse", "1"], ["mid", "mid"], []):
        with pytest.raises(PromptError, match=r"estimator\.stages"):
            StageSettings().steps_of(wrong, schedule)
    with pytest.raises(PromptError, match="no step"):
        StageSettings(Boundaries((0.01, 0.02))).steps_of(["mid"], schedule)
