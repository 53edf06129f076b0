"""`/v1/embeddings`: an embedding model beside the model that chats, or alone, asked by a client nobody here wrote."""

import base64
import json
import math
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import run_slm
from fake_engine import FakeEngine
from gguf_surgery import with_keys
from gguf_thinking import PLAIN, THINKS, write_planted
from serving import NAME, Serving, serving

from slmchat import settings as settings_module
from slmchat.catalog import library
from slmchat.engine.requests import TextOrTokens
from slmchat.engine.results import Embedding
from slmchat.errors import SlmError
from slmchat.server import embedders
from slmchat.server.connection import Gone
from slmchat.server.embeddings import check_dimensions, embeddings_record, embeddings_request
from slmchat.server.fields import BadRequest
from slmchat.server.queue import Full
from slmchat.server.turns import ComputeTurns

if TYPE_CHECKING:
    import openai  # a second of imports, for the tests of a client

KEY = "tiny-embed@F32"


def _record(vectors: list[tuple[float, ...]], **fields: object) -> list[object]:
    asked = embeddings_request({"input": "a", **fields})
    made = [Embedding(vector, 3) for vector in vectors]
    return [each["embedding"] for each in embeddings_record("m", made, asked)["data"]]


class TestFields:
    @pytest.mark.parametrize(
        ("given", "texts"),
        [
            ("a", ("a",)),
            (["a", "b"], ("a", "b")),
            ([1, 2], ((1, 2),)),
            ([[1, 2], [3]], ((1, 2), (3,))),
            (["a", [1]], ("a", (1,))),
        ],
    )
    def test_texts_and_tokens(self, given: object, texts: tuple[object, ...]) -> None:
        assert embeddings_request({"input": given}).texts == texts

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({}, "input"),
            ({"input": []}, "input"),
            ({"input": {}}, "input"),
            ({"input": ["a"] * 2049}, "input"),
            ({"input": [True]}, "input[0]"),
            ({"input": ["a", []]}, "input[1]"),
            ({"input": [["a"]]}, "input[0]"),
            ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
            ({"input": "a", "dimensions": 0}, "dimensions"),
            ({"input": "a", "model": 1}, "model"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, fields: dict[str, object], param: str) -> None:
        with pytest.raises(BadRequest) as caught:
            embeddings_request(fields)
        assert caught.value.param == param

    def test_numbers_and_base64_say_the_same(self) -> None:
        vector = (0.6, -0.8)
        (numbers,), (coded,) = _record([vector]), _record([vector], encoding_format="base64")
        assert numbers == [0.6, -0.8]
        assert struct.unpack("<2f", base64.b64decode(str(coded))) == pytest.approx(vector)

    def test_a_shorter_vector_has_length_1(self) -> None:
        (shorter,) = _record([(0.6, 0.0, 0.8)], dimensions=2)
        assert shorter == [1.0, 0.0]

    @pytest.mark.parametrize(("wanted", "can_be_shortened", "is_fine"), [(4, False, True), (5, True, False), (3, True, True), (3, False, False)])  # fmt: skip
    def test_how_long_a_vector_may_be(self, wanted: int, can_be_shortened: bool, is_fine: bool) -> None:
        asked = embeddings_request({"input": "a", "dimensions": wanted})
        if is_fine:
            check_dimensions(asked, 4, can_be_shortened=can_be_shortened)
            return
        with pytest.raises(BadRequest, match="4 numbers"):
            check_dimensions(asked, 4, can_be_shortened=can_be_shortened)


def _weights(tmp_path: Path) -> Path:
    """A decoder with random weights that was made to embed."""
    plain = write_planted(tmp_path / "plain.gguf", THINKS, PLAIN)
    return with_keys(plain, tmp_path / "embeds.gguf", {"llama.pooling_type": 3})


def _install(tmp_path: Path, path: Path) -> None:
    settings = settings_module.load({"SLM_HOME": str(tmp_path / "home")})
    found = library.from_path(path)
    named = replace(found, name="tiny-embed", quantization="F32", admitted_at="2026-11-26T00:00:00Z")
    library.Library(settings.paths).admit(named)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Serving]:
    _install(tmp_path, _weights(tmp_path))
    with serving(FakeEngine(replies=[["Hello"]] * 3), tmp_path) as made:
        yield made


@pytest.mark.real
class TestBesideAChatModel:
    def test_vectors_of_texts(self, client: "openai.OpenAI", tmp_path: Path) -> None:
        texts = ["water look", "look", "water"]
        done = client.embeddings.create(model="tiny-embed", input=texts)
        vectors = [each.embedding for each in done.data]
        assert [each.index for each in done.data] == [0, 1, 2]
        assert all(math.isclose(sum(value * value for value in vector), 1, abs_tol=1e-5) for vector in vectors)
        assert vectors[0] == pytest.approx(vectors[1], abs=1e-5)  # only the last token counts in this model
        assert (done.model, done.usage.prompt_tokens > 3, done.usage.total_tokens) == (
            KEY,
            True,
            done.usage.prompt_tokens,
        )
        alone = run_slm("embed", "-m", tmp_path / "embeds.gguf", "--json", "water look", home=tmp_path / "home")
        assert json.loads(alone.out)["embeddings"][0]["embedding"] == pytest.approx(vectors[0], abs=1e-6)

    def test_the_only_one_needs_no_name_and_chat_goes_on(self, client: "openai.OpenAI", server: Serving) -> None:
        reply = server.post("/v1/embeddings", {"input": "water", "wonder": 1})
        assert (reply.status, reply.json["model"], len(reply.json["data"])) == (200, KEY, 1)
        assert "ignored: wonder" in server.notes.lines
        assert server.chat().status == 200
        assert [each.id for each in client.models.list()] == [NAME, KEY]
        assert client.models.retrieve(KEY).id == KEY

    def test_tokens_are_taken_as_they_are(self, client: "openai.OpenAI") -> None:
        by_tokens = client.embeddings.create(model=KEY, input=[[3, 4], [4]], encoding_format="float")
        one = client.embeddings.create(model=KEY, input=[4], encoding_format="float")
        vectors = [each.embedding for each in by_tokens.data]
        assert float(np.dot(vectors[1], one.data[0].embedding)) > 0.9999
        assert by_tokens.usage.prompt_tokens == 3

    @pytest.mark.parametrize(
        ("fields", "status", "param"),
        [
            ({"input": ["water", " "]}, 400, "input[1]"),
            ({"input": "water " * 5000}, 400, "input[0]"),
            ({"input": [[10_000_000]]}, 400, "input[0]"),
            ({"input": "water", "dimensions": 2}, 400, "dimensions"),
            ({"input": "water", "model": "text-embedding-3-small"}, 404, "model"),
            ({"input": "water", "model": NAME}, 400, "model"),
            ({"input": "water", "model": "/etc/passwd"}, 404, "model"),
        ],
    )
    def test_what_cannot_be_used_is_named(
        self, server: Serving, fields: dict[str, object], status: int, param: str
    ) -> None:
        reply = server.post("/v1/embeddings", fields)
        assert (reply.status, reply.json["error"]["param"]) == (status, param)

    def test_one_that_can_be_cut_is(self, client: "openai.OpenAI", monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedders, "_SHORTENED", frozenset(("llama",)))
        done = client.embeddings.create(model=KEY, input="water", dimensions=4)
        assert len(done.data[0].embedding) == 4

    def test_asked_by_many_at_once(self, server: Serving) -> None:
        from concurrent.futures import ThreadPoolExecutor

        texts = ["water", "look"] * 8
        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(lambda text: server.post("/v1/embeddings", {"input": text}), texts))
        vectors = [reply.json["data"][0]["embedding"] for reply in replies]
        for text, vector in zip(texts, vectors, strict=True):
            assert vector == pytest.approx(vectors[texts.index(text)], abs=1e-5)


class _Slow:
    """An embedding model whose groups are let go one by one."""

    def __init__(self) -> None:
        self.groups: list[list[TextOrTokens]] = []
        self.began, self.goes = threading.Semaphore(0), threading.Semaphore(0)

    def run(self, texts: Iterator[TextOrTokens]) -> Iterator[Embedding | SlmError]:
        group = list(texts)
        self.groups.append(group)
        self.began.release()
        assert self.goes.acquire(timeout=300)
        yield from [Embedding((1.0,), 1)] * len(group)

    def cancel(self) -> None: ...


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> tuple[embedders.EmbedderWeights, _Slow, ComputeTurns]:
    made, turns = _Slow(), ComputeTurns()
    monkeypatch.setattr(embedders, "embedder", lambda _opened, is_cut: made)
    opened = SimpleNamespace(model=SimpleNamespace(key=KEY), reporter=None)
    return embedders.EmbedderWeights(opened, turns), made, turns  # type: ignore[arg-type]


def _asked(weights: embedders.EmbedderWeights, texts: list[str]) -> threading.Thread:
    thread = threading.Thread(target=weights.vectors, args=(texts, lambda: False))
    thread.start()
    return thread


def _until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 300
    while not is_so():
        assert time.monotonic() < end


class TestTurns:
    def test_a_long_request_lets_others_in_between(
        self, slow: tuple[embedders.EmbedderWeights, _Slow, ComputeTurns]
    ) -> None:
        weights, model, turns = slow
        texts = ["x" * 1500, "y" * 1500, "z" * 1500]
        threads = [_asked(weights, texts)]
        assert model.began.acquire(timeout=300)
        threads.append(_asked(weights, ["short"]))
        _until(lambda: weights._own_turns.n_waiting == 1)
        chatted: list[int] = []

        def chat() -> None:
            with turns.turn():
                chatted.append(len(model.groups))

        threads.append(threading.Thread(target=chat))
        threads[-1].start()
        _until(lambda: turns.n_waiting == 1)
        for _ in range(4):
            model.goes.release()
        for thread in threads:
            thread.join(300)
        assert model.groups == [texts[:1], ["short"], texts[1:2], texts[2:]]
        assert chatted == [1]  # behind the group that was being made, before the next one

    def test_too_many_are_told_to_come_back(
        self, slow: tuple[embedders.EmbedderWeights, _Slow, ComputeTurns], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights, model, _ = slow
        monkeypatch.setattr(embedders, "MOST_WAITING", 1)
        threads = [_asked(weights, ["a"]), _asked(weights, ["b"])]
        _until(lambda: weights._own_turns.n_waiting == 1)
        with pytest.raises(Full):
            weights.vectors(["c"], lambda: False)
        model.goes.release(2)
        for thread in threads:
            thread.join(300)
        assert len(model.groups) == 2

    def test_who_has_gone_waits_no_longer(self) -> None:
        turns = ComputeTurns()
        with turns.turn(), pytest.raises(Gone), turns.turn(lambda: True):
            pass
        with turns.turn():
            assert turns.n_waiting == 0


def test_without_one_it_is_said(tmp_path: Path) -> None:
    with serving(FakeEngine(), tmp_path) as server:
        reply = server.post("/v1/embeddings", {"input": "a"})
        assert (reply.status, "none is installed" in reply.json["error"]["message"]) == (400, True)
