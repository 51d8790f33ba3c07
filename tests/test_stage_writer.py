"""A prompt's stages by rules, of which no word is lost, and by a language model on a server, which may answer anything."""

from __future__ import annotations

import functools
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from rlr_core.cli.main import main
from rlr_core.dcot import StagePrompts, format_line, parse_line
from rlr_core.dcot.texts import stripped
from rlr_core.dcot.wildcards import has_variants
from rlr_core.dcot.writer import Server, ask, by_rules, left_out, staged_answer
from rlr_core.dcot.writer.rules import library
from rlr_core.embedded import world
from rlr_core.errors import PromptError

LIBRARY = library()
WORDS = sorted(
    {
        *LIBRARY.places,
        *LIBRARY.attributes,
        *LIBRARY.small,
        *LIBRARY.degrees,
        *LIBRARY.joining,
        *LIBRARY.geometry,
    }
    | {*LIBRARY.detail, *(name for each in LIBRARY.subjects.values() for name in each.names)}
    | {
        "zebra's",
        "(red dress:1.3)",
        "[soft]",
        "<lora:a b:1>",
        "A,",
        ";",
        "1girl,",
        "\ue000",
        "(",
        "|",
        "Straße",
        "x",
    }
)
prompts = (
    some.lists(some.sampled_from(WORDS), min_size=1, max_size=14).map(" ".join)
    | some.text(
        some.characters(blacklist_categories=("Cs",), blacklist_characters="\r\n"), min_size=1, max_size=60
    )
).map(stripped)


@given(prompts.filter(bool).filter(lambda text: not has_variants(text)))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_no_word_is_lost(text: str) -> None:
    """The last stage has the prompt letter by letter; the others have words of it, in its order, and the templates' phrases."""
    staged = by_rules(StagePrompts((text,)))
    assert len(staged.prompts) == 3 and staged.prompts[2].startswith(text) and staged.scored == text
    assert not left_out(text, staged.prompts)
    assert parse_line(format_line(staged)) == staged
    added = [phrase for each in LIBRARY.subjects.values() for phrases in each.phrases for phrase in phrases]
    for stage in staged.prompts[:2]:
        own = functools.reduce(lambda said, phrase: said.replace(f", {phrase}", ""), added, stage)
        rest = iter(_words(text))
        assert all(word in rest for word in _words(own)), stage


def _words(text: str) -> list[str]:
    """Without articles, which agree with what follows, and without what parts phrases."""
    for sign in ",;":
        text = text.replace(sign, " ")
    return [word for word in text.split() if word.casefold() not in ("a", "an")]


@pytest.mark.parametrize(
    ("text", "coarse", "mid", "last"),
    [
        ("a striped red circle on sand", "a circle on sand", "a red circle on sand", "texture of the material"),
        ("A realistic open palm facing upward", "A palm facing upward", "An open palm facing upward", "creases of the skin"),
        (
            "an old woman with wrinkled skin and a red striped scarf, sitting in a dimly lit cafe, bokeh",
            "an old woman and a scarf, in a cafe",
            "an old woman and a red scarf, sitting in a cafe",
            "clear eyes",
        ),
        ("a dog running at sunset, wet fur, cinematic light", "a dog at sunset", "a dog running at sunset", "clear eyes"),
        ("a striped owl", "an owl", "an owl", "clear eyes"),
        ("a mountain lake", "a mountain lake, clear horizon", "a mountain lake, clear horizon", "ground and plants"),
        ("photorealistic", "photorealistic", "photorealistic", "photorealistic"),
        ("(red dress:1.3), standing <lora:x:1>", "(red dress:1.3), <lora:x:1>", "(red dress:1.3), standing <lora:x:1>", ""),
    ],
)  # fmt: skip
def test_what_each_stage_says(text: str, coarse: str, mid: str, last: str) -> None:
    found = by_rules(StagePrompts((text,))).prompts
    assert found[0] == coarse and found[1].startswith(mid) and found[2].endswith(last)


def test_the_first_subject_of_the_library_counts() -> None:
    """Who names a hand means the hand."""
    fine = by_rules(StagePrompts(("the hand of a woman on a table",))).prompts[2]
    assert "fingernails" in fine and "clear eyes" not in fine and "outline" not in fine
    assert "five fingers" not in by_rules(StagePrompts(("a hand with five fingers",))).prompts[2][25:], (
        "said already"
    )


def test_the_rules_split_captions_as_the_world_does() -> None:
    """What is drawn first is said first: the background coarse, colour and shape mid, the texture fine."""
    for text in world.TRAIN_PROMPTS[::17]:
        scene = world.parse(text)
        coarse, mid, fine = by_rules(StagePrompts((text,))).prompts
        assert scene.background in coarse and scene.colour not in coarse
        assert (scene.colour in mid and scene.texture not in mid.split()) or scene.texture == "plain"
        assert fine.startswith(text)


def test_what_else_a_line_says_stays() -> None:
    staged = by_rules(parse_line("a red circle | negative: blurry | prompt: red | times: 3"))
    assert staged.negatives == ("blurry",) * 3 and staged.intent == "red" and staged.count == 3


@pytest.mark.parametrize(
    "text", ["coarse: a | mid: b | fine: c", "a {red|blue} circle", "a __colour__ circle"]
)
def test_what_cannot_be_split(text: str) -> None:
    with pytest.raises(PromptError, match="plain prompt"):
        by_rules(parse_line(text))


# A server

ANSWER = {"coarse": "a beach", "mid": "a dog on a beach", "fine": "a wet dog on a beach"}


def said(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


@contextmanager
def serving(
    answer: bytes, status: int = 200, pause: float = 0.0, drip: bool = False
) -> Iterator[tuple[str, list[Any]]]:
    """A server on this machine that answers so, and what it was asked: (path, body)."""
    asked: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, json.loads(body)))
            time.sleep(pause)
            self.send_response(status)
            self.end_headers()
            try:
                for part in (answer[k : k + 1] for k in range(len(answer))) if drip else [answer]:
                    self.wfile.write(part)
                    time.sleep(0.05 * drip)
            except OSError:  # who asked has gone
                pass

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("ending", ["", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_server_is_asked_for_stages(ending: str) -> None:
    with serving(said(json.dumps(ANSWER))) as (address, asked):
        answer = ask(Server(address + ending, "llama"), "a wet dog on a beach")
    ((path, body),) = asked
    assert path == "/v1/chat/completions" and body["model"] == "llama" and body["stream"] is False
    assert body["messages"][-1] == {"role": "user", "content": "a wet dog on a beach"}
    staged = staged_answer(answer, parse_line("a wet dog on a beach | negative: blurry"))
    assert staged.prompts == tuple(ANSWER.values()) and staged.negatives == ("blurry",) * 3
    assert staged.scored == "a wet dog on a beach", "the reward is told what the user wrote"


@pytest.mark.parametrize(
    "around", ["{}", "```json\n{}\n```", "Sure! Here it is: {} Enjoy.", "<think>Maybe {{1}}?</think>\n{}"]
)
def test_models_talk_around_their_answer(around: str) -> None:
    answer = around.format(json.dumps({**ANSWER, "mid": "a dog\n on a  beach"}))
    assert staged_answer(answer, StagePrompts(("a dog",))).prompts[1] == "a dog on a beach"


@pytest.mark.parametrize(
    "answer",
    ["", "no", "{", "{}", '{"coarse": "a", "mid": "b"}', '{"coarse": "a", "mid": "b", "fine": " "}',
     '{"coarse": "a", "mid": "b", "fine": ["c"]}', '["coarse", "mid", "fine"]', "{" * 5000, "[" * 100_000,
     json.dumps({**ANSWER, "fine": "a" * 1001})],
)  # fmt: skip
def test_answers_of_another_form(answer: str) -> None:
    with pytest.raises(PromptError, match="the model's answer has"):
        staged_answer(answer, StagePrompts(("a dog",)))


@pytest.mark.parametrize(
    ("answer", "status", "told"),
    [
        (b'{"error": "model \'llama\' not found"}', 404, "answered 404 Not Found.*llama"),
        (b"", 500, "answered 500.*nothing more"),
        (b"<html>", 200, "no JSON: <html>"),
        (b"", 200, "no JSON: nothing"),
        (b"\xff\xfe", 200, "no JSON"),
        (b"[" * 100_000, 200, "no JSON"),
        (b"[]", 200, "without choices"),
        (b'{"choices": []}', 200, "without choices"),
        (b'{"choices": [{"message": null}]}', 200, "without choices"),
        (said(None), 200, "without choices"),
        (b" " * (2**20 + 1), 200, "more than 1048576 bytes"),
    ],
)
def test_what_is_no_answer(answer: bytes, status: int, told: str) -> None:
    with serving(answer, status) as (address, _), pytest.raises(PromptError, match=told):
        ask(Server(address, "llama"), "a dog")


@pytest.mark.parametrize("late", [{"pause": 0.5}, {"drip": True}], ids=["silent", "slow"])
def test_a_late_answer(late: dict[str, Any]) -> None:
    with (
        serving(said(json.dumps(ANSWER)), **late) as (address, _),
        pytest.raises(PromptError, match=r"within 0\.2 s"),
    ):
        ask(Server(address, "llama", 0.2), "a dog")


def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(PromptError, match=r"cannot be reached.*refused"):
        ask(Server(address, "llama"), "a dog")


@pytest.mark.parametrize(
    ("address", "model", "timeout"),
    [("localhost:11434", "m", 1), ("file:///etc/passwd", "m", 1), ("http://", "m", 1), ("http://a:b", "m", 1),
     ("http://a b", "m", 1), ("", "m", 1), ("http://a", " ", 1), ("http://a", "m", 0), ("http://a", "m", float("nan"))],
)  # fmt: skip
def test_servers_that_are_none(address: str, model: str, timeout: float) -> None:
    with pytest.raises(PromptError):
        Server(address, model, timeout)


# The command


def test_lines_are_printed_and_written_only_where_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "prompts.txt"
    assert main(["stages", "--write", "a red circle", "雪の中の猫"]) == 0
    printed = capsys.readouterr().out
    assert "coarse: a circle | mid: a red circle" in printed and "every stage is the prompt itself" in printed
    assert not list(tmp_path.iterdir())
    assert main(["stages", "--write", "a red circle", "a dog", "--out", str(out)]) == 0
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [parse_line(line).scored for line in lines] == ["a red circle", "a dog"]
    assert (
        main(["stages", "--write", "a dog", "--out", str(out)]) == 2 and "--force" in capsys.readouterr().err
    )


def test_a_server_is_asked_where_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(said(json.dumps(ANSWER))) as (address, _):
        assert main(["stages", "--write", "a wet brown dog", "--server", address, "--model", "llama"]) == 0
    printed = capsys.readouterr().out
    assert printed.index('"coarse": "a beach"') < printed.index("coarse: a beach | "), (
        "the answer, then what is made of it"
    )
    assert "no stage says: brown" in printed
    for wrong in (["--server", address, "--model", "llama"], ["--server", address], ["--model", "llama"]):
        assert main(["stages", "--write", "a dog", *wrong, "--out", str(tmp_path / "a.txt")]) == 2
        assert "what to do" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
