"""Texts to vectors: real weights against the model as its makers describe it, and what `slm embed` says of bad texts."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import minilm
import numpy as np
import pytest
from conftest import _cache, environment, run_slm
from endpoint_server import Answer, EndpointServer, raw
from gguf_surgery import with_keys
from gguf_thinking import PLAIN, THINKS, write_planted

import slmchat
from slmchat import endpoints
from slmchat.engine import llama
from slmchat.engine.remote import engine as remote_engine
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import SessionSettings
from slmchat.engine.results import Embedding
from slmchat.errors import ExitCode, SlmError

SETTINGS = SessionSettings(n_ctx=512, threads=1, threads_batch=1)

TEXTS = [
    "Hello world",
    "The cat sits outside.",
    "A cat is sitting in the garden.",
    "Ça va? Über-façade naïve!",
    "state-of-the-art models (2026), e.g. slm's <b>tags</b> & [SEP] marks",
    "word " * 300,
    "x",
    "中文 mixed with english",
]


@pytest.fixture(scope="module")
def weights() -> minilm.MiniLm:
    return minilm.fetch(_cache())


@pytest.fixture(scope="module")
def mini(weights: minilm.MiniLm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return minilm.write_gguf(weights, tmp_path_factory.mktemp("minilm") / "all-minilm.gguf")


@pytest.fixture(scope="module")
def engine(mini: Path) -> Iterator[llama.LlamaEngine]:
    made = llama.load(mini)
    yield made
    made.close()


@pytest.mark.model
class TestRealWeights:
    def test_the_vectors_are_those_of_the_published_model(
        self, engine: llama.LlamaEngine, weights: minilm.MiniLm
    ) -> None:
        made = list(engine.embedder(SETTINGS).run(iter(TEXTS)))
        for text, one in zip(TEXTS, made, strict=True):
            assert isinstance(one, Embedding)
            assert one.n_tokens == len(minilm.tokens_of(weights, text))
            assert float(np.dot(one.vector, minilm.vector_of(weights, text))) > 0.9999, text
            assert math.isclose(math.fsum(value * value for value in one.vector), 1, abs_tol=1e-6)

    def test_llama_embedding_of_the_same_build_says_the_same(
        self, engine: llama.LlamaEngine, mini: Path, tmp_path: Path
    ) -> None:
        tool = shutil.which("llama-embedding")
        if tool is None:
            pytest.skip("llama.cpp's own llama-embedding is not on the PATH")
        # it takes a text for each line, and what looks like a special token for one
        texts = [text for text in TEXTS if text.strip() and not {"\n", "["} & set(text)]
        (tmp_path / "texts").write_text("\n".join(texts), encoding="utf-8")
        told = subprocess.run(
            [tool, "-m", mini, "-f", tmp_path / "texts", "--embd-output-format", "json", "-t", "2", "--no-repack"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        theirs = [one["embedding"] for one in json.loads(told.stdout)["data"]]
        for text, one, vector in zip(texts, engine.embedder(SETTINGS).run(iter(texts)), theirs, strict=True):
            assert isinstance(one, Embedding)
            assert np.abs(np.array(one.vector) - np.array(vector)).max() < 1e-6, text  # printed with 7 digits

    def test_a_vector_does_not_depend_on_its_neighbours(self, engine: llama.LlamaEngine) -> None:
        many = [*TEXTS, *(f"sentence number {number}" for number in range(100)), *TEXTS]
        together = list(engine.embedder(SETTINGS).run(iter(many)))
        (alone,) = engine.embedder(SETTINGS).run(iter(TEXTS[1:2]))
        assert isinstance(alone, Embedding)
        for place in (1, len(TEXTS) + 101):
            one = together[place]
            assert isinstance(one, Embedding)
            assert float(np.dot(one.vector, alone.vector)) > 0.99999

    def test_what_means_the_same_is_closer(self, engine: llama.LlamaEngine) -> None:
        hello, cat, garden = (
            one.vector for one in engine.embedder(SETTINGS).run(iter(TEXTS[:3])) if isinstance(one, Embedding)
        )
        assert np.dot(cat, garden) > 0.6 > np.dot(cat, hello)

    def test_an_empty_text_and_one_that_is_too_long_stop_no_other(self, engine: llama.LlamaEngine) -> None:
        made = list(engine.embedder(SETTINGS).run(iter(["a", "", " \n", "word " * 600, "b"])))
        assert [isinstance(one, Embedding) for one in made] == [True, False, False, False, True]
        assert [one.exit_code for one in made if isinstance(one, SlmError)] == [
            ExitCode.USAGE,
            ExitCode.USAGE,
            ExitCode.CONTEXT,
        ]
        (cut,) = engine.embedder(SETTINGS, is_cut=True).run(iter(["word " * 600]))
        assert isinstance(cut, Embedding)
        assert cut.n_tokens == 512

    def test_a_cancelled_run_ends(self, engine: llama.LlamaEngine) -> None:
        made = engine.embedder(SETTINGS)
        results = made.run(iter(f"sentence number {number}" for number in range(10_000)))
        next(results)
        made.cancel()
        assert sum(1 for _ in results) < 300

    def test_the_command(self, mini: Path, home: Path) -> None:
        rows = '{"id": "a", "text": "Hello world"}\nnot json\n{"id": "c", "text": ""}\n'
        done = run_slm("embed", "-m", mini, "--format", "jsonl", home=home, stdin=rows)
        records = [json.loads(line) for line in done.out.splitlines()]
        assert done.code == ExitCode.ROWS_FAILED
        assert [record["id"] for record in records] == ["a", 2, "c"]
        assert [record["error"] is None for record in records] == [True, False, False]
        assert (len(records[0]["embedding"]), records[0]["tokens"]) == (384, 4)
        assert "2 of 3 texts failed" in done.err
        done = run_slm("embed", "-m", mini, "--json", "Hello world", home=home)
        whole = json.loads(done.out)
        assert (done.code, whole["dimensions"], whole["usage"]) == (0, 384, {"prompt_tokens": 4})
        assert whole["embeddings"][0]["embedding"] == records[0]["embedding"]
        done = run_slm("run", "-m", mini, "Hello", home=home)
        assert (done.code, "slm embed -m MODEL" in done.err) == (ExitCode.USAGE, True)

    def test_a_python_program(self, mini: Path) -> None:
        with slmchat.load(mini) as model:
            vectors = model.embed(["The cat sits outside.", "A cat is sitting in the garden."])
            assert (len(vectors), len(vectors[0])) == (2, 384)
            assert model.embed("The cat sits outside.")[0] == pytest.approx(vectors[0], abs=1e-5)
            with pytest.raises(SlmError, match=r"texts\[1\]: the text is empty"):
                model.embed(["a", ""])
            for ask in (model.complete, model.chat, model.stream):
                with pytest.raises(SlmError, match="it makes vectors and answers nothing"):
                    ask("hi") if ask != model.chat else ask()


@pytest.mark.real
def test_a_chat_model_makes_no_vectors(tmp_path: Path, home: Path) -> None:
    path = write_planted(tmp_path / "chat.gguf", THINKS, PLAIN)
    done = run_slm("embed", "-m", path, "a", home=home)
    assert done.code == ExitCode.USAGE
    assert "is a chat model: it makes no vectors" in done.err
    done = run_slm("embed", "a", home=home)
    assert (done.code, done.err) == (
        ExitCode.NO_MODEL,
        "slm: no embedding model is installed.\nhint: slm pull all-minilm\n",
    )


def _vectors(*vectors: object, **facts: object) -> bytes:
    data = [{"index": number, "embedding": vector} for number, vector in enumerate(vectors)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 9}, **facts}).encode()


def _document(data: bytes) -> Answer:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    return raw(head.encode() + data)


def _remote(server: EndpointServer) -> remote_engine.RemoteEngine:
    endpoint = endpoints.from_url(server.url, "test")
    return remote_engine.load(endpoint, None, None, route_to(endpoint, {}), lambda _: None)


def test_an_endpoint_makes_vectors() -> None:
    with EndpointServer() as server:
        server.script.append(_document(_vectors([3, 4], [0, 2.0])))
        made = list(_remote(server).embedder(SETTINGS).run(iter(["a", "", "b"])))
        assert server.posts[0].path == "/v1/embeddings"
        assert server.posts[0].body["input"] == ["a", "b"]
    assert isinstance(made[1], SlmError)
    assert [one.vector for one in made if isinstance(one, Embedding)] == [(0.6, 0.8), (0.0, 1.0)]


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"{", b'{"data": 1}', _vectors([1.0]), _vectors([1.0], [0.0]), _vectors([1.0], ["x"]), _vectors([1.0], None),
     _vectors([1.0], [1.0, 2.0]), _vectors([1.0], [1e999]), b'{"data": [1, 2]}'],
)  # fmt: skip
def test_an_endpoint_that_answers_something_else_is_one_sentence(answer: bytes) -> None:
    with EndpointServer() as server:
        server.script.append(_document(answer))
        with pytest.raises(SlmError) as caught:
            list(_remote(server).embedder(SETTINGS).run(iter(["a", "b"])))
    assert caught.value.exit_code is ExitCode.NETWORK


@pytest.mark.real
def test_a_decoder_that_was_made_to_embed(tmp_path: Path, home: Path) -> None:
    """As Qwen3-Embedding: it has a KV cache, and the last token counts."""
    plain = write_planted(tmp_path / "plain.gguf", THINKS, PLAIN)
    path = with_keys(plain, tmp_path / "embeds.gguf", {"llama.pooling_type": 3})
    done = run_slm("embed", "-m", path, home=home, stdin="water look\nlook\nwater\nlook at the water\n")
    first, look, water, last = (json.loads(line)["embedding"] for line in done.out.splitlines())
    assert done.code == 0, done.err
    # only the last token counts in this model
    assert first == pytest.approx(look, abs=1e-5)
    assert last == pytest.approx(water, abs=1e-5)
    assert look != pytest.approx(water, abs=0.1)


@pytest.mark.real
def test_a_text_does_not_wait_for_the_next(tmp_path: Path, home: Path) -> None:
    """A program that writes a line and reads its vector before it writes another."""
    plain = write_planted(tmp_path / "plain.gguf", THINKS, PLAIN)
    path = with_keys(plain, tmp_path / "embeds.gguf", {"llama.pooling_type": 3})
    command = [sys.executable, "-m", "slmchat", "embed", "-m", str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(home)
    ) as running:
        assert running.stdin
        assert running.stdout
        for number in (1, 2, 3):
            running.stdin.write(b"water\n")
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["id"] == number
        running.stdin.close()
        assert running.wait(timeout=300) == 0


@pytest.mark.real
def test_what_the_texts_raise_is_raised(tmp_path: Path) -> None:
    plain = write_planted(tmp_path / "plain.gguf", THINKS, PLAIN)
    engine = llama.load(with_keys(plain, tmp_path / "embeds.gguf", {"llama.pooling_type": 3}))

    def texts() -> Iterator[str]:
        yield "water"
        raise SlmError("no more.", exit_code=ExitCode.STORAGE)

    with pytest.raises(SlmError, match="no more"):
        list(engine.embedder(SETTINGS).run(texts()))
    engine.close()
