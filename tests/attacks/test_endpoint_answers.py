"""Hostile endpoints: servers that ignore what they are asked for, drip, never end, or speak the API in an odd way.

To add one, add a row: what it does, and what must come of it: an answer (its text and its finish reason), or a sentence
and an exit code. A time limit of the endpoint that is short here stands for the five minutes of real ones.
"""

import gzip
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from endpoint_server import DONE, USAGE, Answer, EndpointServer, Handler, delta, event, events, raw, status, stream

from slmchat import endpoints
from slmchat.engine.remote import bounds
from slmchat.engine.remote import engine as engine_module
from slmchat.engine.remote.completion import CharacterJoiner
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.results import Chunk, Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError

STOP, LENGTH = FinishReason.STOP, FinishReason.LENGTH
QUESTION = Prompt((Part("Hi"),), (Turn("user", "Hi"),))
TIMEOUT_S = 0.4
WORD = event(delta("word "))


def endless(block: bytes, *before: object, pause_s: float = 0.0, begins: bool = True) -> Answer:
    """The same bytes again and again, until slm has gone."""

    def answer(handler: Handler) -> None:
        if begins:
            handler.begin()
        write = handler.block if begins else handler.wfile.write
        for item in events(*before, reason=None, is_done=False):
            handler.block(item)
        while not handler.server.owner.closed.wait(pause_s):
            write(block)

    return answer


def whole(content: object = "All.", **fields: object) -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return status(200, {"choices": [choice], **fields})


def labelled(kind: str, data: bytes, **headers: str) -> Answer:
    return status(200, data, Content_Type=kind, **headers)


def said(head: bytes, body: bytes) -> Answer:
    return raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head + b"\r\n" + body)


def chunked(*blocks: bytes, end: bytes = b"0\r\n\r\n") -> Answer:
    body = b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks)
    return said(b"Transfer-Encoding: chunked\r\n", body + end)


def _sse(*values: object) -> bytes:
    return b"".join(events(*values, usage=USAGE))


@dataclass(frozen=True)
class Case:
    """What an endpoint does and what must come of it; `words`: in the error, or in what is told beside the answer."""

    answer: Answer
    text: str | None = None
    reason: FinishReason = STOP
    words: str = ""
    code: ExitCode = ExitCode.NETWORK
    most: int | None = None
    told: bool = False  # `words` are told, and there is an answer


def fails(answer: Answer, words: str, code: ExitCode = ExitCode.NETWORK, most: int | None = None) -> Case:
    return Case(answer, None, STOP, words, code, most)


TWO = {"object": "x", "choices": [{"index": 1, "delta": {"content": "B"}}, {"index": 0, "delta": {"content": "A"}}]}
BAD_FIELD = {"detail": [{"type": "extra_forbidden", "loc": ["body", "frob"], "msg": "extra fields not permitted"}]}
PRINTED = "[{'type': 'extra_forbidden', 'loc': ('body', 'frob'), 'msg': 'Extra inputs are not permitted', 'input': 1}]"
HALVES = (
    b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\\ude00b"}}]}\n\n',
)
LONE = b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n'
TOOL = delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{}"}}])

CASES: dict[str, Case] = {
    # It does not keep to bounds.
    "ignores -n for ever": Case(endless(WORD), "word " * 5, LENGTH, "does not keep to -n", most=5, told=True),
    "thinks for ever": Case(endless(event(delta(reasoning_content="hm "))), "", LENGTH, "used up", most=5, told=True),
    "calls tools for ever": Case(endless(event(TOOL)), "", LENGTH, "a call of a tool", most=5, told=True),
    "calls tools without an end": fails(endless(event(TOOL)), "it has no end"),
    "ignores -n in one piece": Case(whole("word " * 900), "word " * 67 + "w", LENGTH, "does not keep", most=5, told=True),
    "ignores -n and counts": Case(whole("word " * 100, usage={"completion_tokens": 100}), "word " * 5, LENGTH, "does not keep", most=5, told=True),
    "keeps to -n, then hangs": Case(endless(b": x\n\n", *["w "] * 5, pause_s=0.05), "w " * 5, LENGTH, most=5),
    "never ends": fails(endless(WORD), "it has no end"),
    "one endless event": fails(endless(b"x" * 60_000, b"data: "), "line of the stream has no end"),
    # It does not keep to time.
    "drips comments": fails(endless(b": ping\n\n", "Hel", pause_s=0.05), "no word of its answer came for"),
    "drips comments before it answers": fails(endless(b": ping\n\n", pause_s=0.05), "no word of its answer"),
    "floods with comments": fails(endless(b": ping\n\n" * 200), "no word of its answer"),
    "floods with empty deltas": fails(endless(event(delta("")) * 200), "no word of its answer"),
    "drips an event": fails(endless(b"x", b"data: ", pause_s=0.05), "no word of its answer"),
    "drips its head": fails(endless(b"H", pause_s=0.05, begins=False), "has not answered for"),
    "drips words": fails(endless(WORD, pause_s=0.1), "answers too slowly to be waited for"),
    "drips one progress": fails(endless(event({"choices": [], "prompt_progress": {"total": 9, "processed": 1}}), pause_s=0.05), "no word of its answer"),
    # http.client of Python 3.14 counts them
    "says 100 Continue for ever": fails(endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 50, begins=False), "it is not HTTP as it should be" if sys.version_info >= (3, 14) else "has not answered for"),
    "never ends after its reason": Case(endless(b": x\n\n", "Hi", delta(reason="stop"), pause_s=0.05), "Hi"),
    "floods after its reason": Case(endless(b": x\n\n" * 99, "Hi", delta(reason="stop")), "Hi"),
    "never ends after [DONE]": Case(endless(DONE, "Hi", delta(reason="stop"), DONE), "Hi"),
    "trailers": Case(chunked(_sse("Hi"), end=b"0\r\nX-Sum: 1\r\n\r\n"), "Hi"),
    # Choices
    "choices: null": fails(stream("Hel", {"choices": None}), "an event has no list of choices"),
    "no choices": fails(stream("Hel", {"object": "x"}), "an event has no list of choices"),
    "choices that are an object": fails(stream({"choices": {"0": 1}}), "an event has no list of choices"),
    "a choice that is null": fails(stream({"choices": [None]}), "a choice of an event is not an object"),
    "only usage": Case(stream("Hi", {"choices": None, "usage": USAGE}), "Hi"),
    "usage without choices": Case(stream("Hi", {"usage": USAGE}), "Hi"),
    "a sign of life": Case(stream({"type": "ping"}, "Hi"), "Hi"),
    "only an error": fails(stream({"error": {"message": "ill"}, "choices": None}), "answers with an error: ill"),
    "several answers": Case(stream(TWO, TWO), "AA", words="slm takes the first", told=True),
    "only a second answer": fails(stream({"choices": [{"index": 1, "delta": {"content": "B"}}]}, reason=None), "no completion"),
    # Texts
    "a character in two events": Case(stream(*HALVES), "a\U0001f600b"),
    "half a character": Case(stream(LONE, "b"), "a\ufffdb"),
    "half a character at the end": Case(stream(LONE), "a\ufffd"),
    "delta: null": Case(stream({"choices": [{"delta": None}]}, "Hi"), "Hi"),
    "content: null": Case(stream(delta(content=None), "Hi"), "Hi"),
    "text: null": Case(stream({"choices": [{"text": None}]}, "Hi"), "Hi"),
    "only a role": Case(stream(delta(role="assistant"), "Hi"), "Hi"),
    "content in parts": Case(stream(delta(content=[{"type": "text", "text": "H"}, "i"])), "Hi"),
    "content that is a number": fails(stream(delta(content=7)), "the text of an event is not text"),
    "delta that is a text": fails(stream({"choices": [{"delta": "Hi"}]}), "is not an object"),
    "numbers as texts": Case(stream({"choices": [{"index": "0", "delta": {"content": "Hi"}}]}, usage={"prompt_tokens": "7", "completion_tokens": 2.0}), "Hi"),
    # Nothing to show
    "only thoughts": Case(stream(delta(reasoning_content="hm")), "", words="thought, and ended without", told=True),
    "only thoughts, cut": Case(stream(delta(reasoning_content="hm"), reason="length"), "", FinishReason.CONTEXT, "still thinking", told=True),
    "only a tool call": Case(stream(TOOL, reason="tool_calls"), "", words="a call of a tool", told=True),
    "nothing": Case(stream(), "", words="ended without an answer", told=True),
    # Streams
    "no finish_reason": Case(stream("Hi", reason=None), "Hi"),
    "two [DONE]": Case(chunked(_sse("Hi"), DONE, end=b"0\r\n\r\n"), "Hi"),
    "no space behind data:": Case(stream(_sse("Hi").replace(b"data: ", b"data:"), reason=None, is_done=False), "Hi"),
    "carriage returns": Case(stream(_sse("Hi").replace(b"\n", b"\r\n"), reason=None, is_done=False), "Hi"),
    "a mark of UTF-8": Case(chunked(b"\xef\xbb\xbf" + _sse("Hi")), "Hi"),
    "only comments": fails(stream(b": a\n\n: b\n\n", reason=None, is_done=False), "no completion in it"),
    "a length that is too short": fails(said(b"Content-Length: 60\r\n", _sse("Hi")), "broke off"),
    "a length that is too long": Case(said(b"Content-Length: 99999\r\n", _sse("Hi")), "Hi"),
    "events called JSON": Case(labelled("application/json", _sse("Hi")), "Hi"),
    "events called text": Case(labelled("text/plain", _sse("Hi")), "Hi"),
    "JSON called events": Case(labelled("text/event-stream", json.dumps({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}).encode()), "Hi"),
    "compressed": fails(labelled("text/event-stream", gzip.compress(_sse("Hi")), Content_Encoding="gzip"), "compressed (gzip)"),
    # Errors
    "200 with an error": fails(status(200, {"error": {"message": "no such thing"}}), "answers with an error: no such thing"),
    "200 with a status": fails(status(200, {"error": {"message": "daily limit", "code": 429}}), "answers 429 (Too Many Requests): daily limit"),
    "200 with object: error": fails(status(200, {"object": "error", "message": "ill"}), "answers with an error: ill"),
    "an error in a choice": fails(stream("Hel", {"choices": [{"error": {"message": "ill"}}]}), "broke off with an error: ill"),
    "422 of FastAPI": fails(status(422, BAD_FIELD), "(422: frob: extra fields not permitted)", ExitCode.USAGE),
    "400 of vLLM": fails(status(400, {"error": {"message": PRINTED}}), "(400: frob: Extra inputs are not permitted)", ExitCode.USAGE),
    "422 in a list of errors": fails(status(422, {"errors": [{"message": "a"}, {"msg": "b"}]}), "(422: a; b)", ExitCode.USAGE),
    "422 with a deep detail": fails(status(422, {"detail": {"error": {"message": "a"}}}), "(422: a)", ExitCode.USAGE),
    "a proxy that wants a login": fails(status(407), "a proxy before 127.0.0.1"),
}  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        yield running


@pytest.fixture
def ask(server: EndpointServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, Finish, list[str]]]:
    monkeypatch.setattr(bounds, "MOST_PIECES", 300)
    monkeypatch.setattr(bounds, "_AFTER_THE_END_S", 0.2)

    def asked(answer: Answer, most: int | None = None, timeout_s: float = TIMEOUT_S) -> tuple[str, Finish, list[str]]:
        told: list[str] = []
        endpoint = replace(endpoints.from_url(server.url, "test"), timeout_s=timeout_s)
        engine = engine_module.load(endpoint, None, None, route_to(endpoint, {}), told.append)
        session = engine.open_session(SessionSettings(1, 1, 1))
        server.script.clear()
        server.script.append(answer)
        try:
            *found, finish = session.generate(QUESTION, SamplerSettings(), Limits(most))
        finally:
            session.close()
        assert isinstance(finish, Finish)
        return "".join(item.text for item in found if isinstance(item, Chunk) and not item.is_thinking), finish, told

    return asked


@pytest.mark.slow
@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", CASES)
def test_what_an_endpoint_does_ends_in_an_answer_or_a_sentence(
    ask: Callable[..., tuple[str, Finish, list[str]]], name: str
) -> None:
    case = CASES[name]
    if case.text is None:
        with pytest.raises(SlmError) as raised:
            ask(case.answer, case.most)
        assert case.words in raised.value.message
        assert raised.value.exit_code is case.code
        assert "\n" not in raised.value.message and raised.value.message.endswith(".")
        return
    text, finish, told = ask(case.answer, case.most)
    assert (text, finish.reason) == (case.text, case.reason)
    assert finish.usage.completion_tokens <= (case.most or 1000) or not finish.usage.is_estimate
    assert not case.told or case.words in "".join(told)
    assert case.told or not told


def test_a_server_that_cannot_stream_is_asked_again_without(
    server: EndpointServer, ask: Callable[..., tuple[str, Finish, list[str]]]
) -> None:
    for refusal in (
        status(400, {"error": {"message": "Streaming is not supported for this model", "param": "stream"}}),
        status(501, {"error": "streaming unsupported"}),
        status(200, {"error": {"message": "stream: not supported"}}),
    ):
        server.requests.clear()
        server.usual = whole()
        text, finish, _ = ask(refusal, timeout_s=60)  # nobody is given up here, on a busy machine either
        assert (text, finish.reason) == ("All.", STOP)
        assert [post.body["stream"] for post in server.posts] == [True, False]
        assert "stream_options" not in server.posts[1].body


def test_what_a_reader_takes_is_not_the_endpoints_time() -> None:
    held = bounds.Bounds(None, 10.0)
    for _ in range(3):
        held.admit("x", None)
        assert held.patience(5.0) == ("rest", 10.0)
    assert held.patience(15.0)[0] == "drip"


def test_characters_do_not_depend_on_where_they_are_cut() -> None:
    halves = "a\ud83d\ude00\ud83d\ud83d\ude00\ude00b"
    for cut in itertools.product((False, True), repeat=len(halves) - 1):
        pieces = [halves[0]]
        for character, is_cut in zip(halves[1:], cut, strict=True):
            pieces[len(pieces) - 1 :] = [pieces[-1], character] if is_cut else [pieces[-1] + character]
        joiner = CharacterJoiner()
        assert "".join(map(joiner.feed, pieces)) + joiner.flush() == "a\U0001f600\ufffd\U0001f600\ufffdb"
