"""Stage prompts from a language model on a server that the user runs, as Ollama, LM Studio and vLLM do.

They speak OpenAI's chat completions: POST …/chat/completions with messages, and the answer is choices[0].message.content. It is
asked for JSON with a text for each stage. No proxy is used, since such a server is on this machine or near it, and nothing of
this module is called unless an address is given.
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from rlr_core.dcot.stages import NAMES, StagePrompts
from rlr_core.dcot.writer.rules import refuse_unfit
from rlr_core.errors import PromptError

MOST_BYTES = 2**20
"""Of what a server sends."""
MOST_LETTERS = 1000
"""Of a stage's text."""
TASK = (
    "A picture is painted in three stages: coarse (the layout: what is where, seen as if blurred), mid (the geometry: shapes,"
    " poses, numbers, colours) and fine (the detail: textures, light, style). Rewrite the user's prompt as a prompt for each"
    " stage. Each stage names the subject; every word of the user's is in at least one stage; add little. Answer with a JSON"
    ' object alone: {"coarse": "...", "mid": "...", "fine": "..."}'
)
START = "start the server, and check its address, as http://localhost:11434/v1 for Ollama"


@dataclass(frozen=True)
class Server:
    """Who is asked.

    Attributes:
        address: as http://localhost:11434/v1.
        model: the name that the server knows it by.
        timeout: seconds for the whole answer.
    """

    address: str
    model: str
    timeout: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.address)
            known = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:  # of a port that is none
            known = False
        if not known or not self.address.isprintable() or " " in self.address:
            raise PromptError(
                f"the server '{self.address}'", "an address as http://localhost:11434/v1", "correct it"
            )
        if not self.model.strip():
            raise PromptError(
                f"no model for the server {self.address}",
                "the name of one that it has",
                "name it (--model NAME)",
            )
        if not 0 < self.timeout <= 3600:
            raise PromptError(f"a timeout of {self.timeout:g} s", "above 0 and at most 3600 s", "correct it")

    @property
    def endpoint(self) -> str:
        """Where it answers; the parts of the path that everybody has may be left out."""
        address = self.address.rstrip("/")
        if address.endswith("/chat/completions"):
            return address
        return f"{address}{'' if urlsplit(address).path else '/v1'}/chat/completions"


def ask(server: Server, text: str) -> str:
    """What the model answers. Raises `PromptError` for whatever is no answer."""
    messages = [{"role": "system", "content": TASK}, {"role": "user", "content": text}]
    body = {"model": server.model, "messages": messages, "temperature": 0, "stream": False}
    return _content(server, _sent(server, json.dumps(body).encode()))


def _sent(server: Server, body: bytes) -> bytes:
    request = Request(server.endpoint, body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + server.timeout
    try:
        with build_opener(ProxyHandler({})).open(request, timeout=server.timeout) as response:
            return _read(server, response, deadline)
    except HTTPError as error:
        raise _no_answer(server, f"answered {error.code} {error.reason}: {_beginning(error)}") from None
    except TimeoutError:
        raise _late(server) from None
    except (URLError, HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, TimeoutError):
            raise _late(server) from None
        raise PromptError(
            f"{server.endpoint} cannot be reached ({reason or type(reason).__name__})", "a server", START
        ) from None


def _read(server: Server, response: HTTPResponse, deadline: float) -> bytes:
    """A server that sends a little now and then is given no longer than one that sends nothing."""
    received = b""
    while part := response.read1(2**16):
        received += part
        if len(received) > MOST_BYTES:
            raise _no_answer(server, f"sent more than {MOST_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return received


def _beginning(error: HTTPError) -> str:
    """Of what came with an error."""
    with suppress(OSError, HTTPException):
        return error.read(300).decode("utf-8", "replace").strip() or "nothing more"
    return "nothing more"


def _late(server: Server) -> PromptError:
    return PromptError(
        f"no answer of {server.endpoint} within {server.timeout:g} s",
        "an answer in time",
        "raise --timeout, or name a smaller model; the first answer of a model that is not loaded takes longest",
    )


def _no_answer(server: Server, what: str) -> PromptError:
    return PromptError(
        f"{server.endpoint} {what}",
        "an answer of the model",
        "check --server and --model, and the server's own messages",
    )


def _content(server: Server, received: bytes) -> str:
    """Of the first choice's message."""
    try:
        answer: Any = json.loads(received)
    except (ValueError, RecursionError):
        shown = received[:200].decode("utf-8", "replace")
        raise _no_answer(server, f"sent what is no JSON: {shown or 'nothing'}") from None
    try:
        content = answer["choices"][0]["message"]["content"]
    except (LookupError, TypeError):
        content = None
    if not isinstance(content, str):
        raise _no_answer(server, f"sent JSON without choices[0].message.content: {json.dumps(answer)[:200]}")
    return content


def staged_answer(answer: str, prompt: StagePrompts) -> StagePrompts:
    """The stages of a model's answer, instead of a plain prompt's text. Raises `PromptError` for an answer of another form."""
    refuse_unfit(prompt)
    table = _object(answer)
    texts = [table.get(name) for name in NAMES] if isinstance(table, dict) else []
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise _unusable(f"no texts for {', '.join(NAMES)}: {answer[:300]}")
    stages = tuple(" ".join(str(text).split()) for text in texts)
    if (longest := max(map(len, stages))) > MOST_LETTERS:
        raise _unusable(f"{longest} letters for a stage, where {MOST_LETTERS} are the most")
    return replace(
        prompt,
        prompts=stages,
        negatives=prompt.negatives * len(NAMES),
        intent=prompt.intent or prompt.prompts[0],
    )


def _object(answer: str) -> Any:
    """The first JSON object of an answer; models think aloud before it, and put fences around it."""
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    with suppress(ValueError, RecursionError):
        return json.JSONDecoder().raw_decode(answer, answer.index("{"))[0]
    return None


def _unusable(what: str) -> PromptError:
    return PromptError(
        f"the model's answer has {what}",
        'JSON as {"coarse": "…", "mid": "…", "fine": "…"}',
        "ask again, name another --model, or leave --server out, for the rules",
    )
