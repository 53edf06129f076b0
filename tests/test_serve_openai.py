"""`slm serve` asked by a client that nobody here wrote (the `openai` package), and by slm's own `--endpoint`."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
import pytest
from conftest import run_slm
from fake_engine import FakeEngine
from gguf_samples import PHI3_TEMPLATE, write_tiny_llama
from serving import NAME, Notes, Serving, serving

from slmchat import settings as settings_module
from slmchat.models.backend import LocalBackend, LocalModel
from slmchat.options import GenerationOptions

if TYPE_CHECKING:
    import openai  # a second of imports: not for a worker that runs none of these tests

pytestmark = pytest.mark.real


class Pet(pydantic.BaseModel):
    name: str
    legs: int


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(replies=[["Hel", "lo"]])


@pytest.fixture
def server(engine: FakeEngine, tmp_path: Path) -> Iterator[Serving]:
    with serving(engine, tmp_path, key="secret") as made:
        yield made


SAID = [{"role": "user", "content": "Hi"}]


class TestClient:
    def test_models(self, client: "openai.OpenAI") -> None:
        assert [model.id for model in client.models.list()] == [NAME]
        assert client.models.retrieve(NAME).id == NAME

    def test_a_completion(self, client: "openai.OpenAI") -> None:
        done = client.chat.completions.create(model=NAME, messages=SAID)
        assert done.choices[0].message.content == "Hello"
        assert done.usage is not None and done.usage.completion_tokens == 2
        assert done.usage.prompt_tokens_details is not None and done.usage.prompt_tokens_details.cached_tokens == 0

    def test_a_stream(self, client: "openai.OpenAI") -> None:
        chunks = list(
            client.chat.completions.create(
                model=NAME, messages=SAID, stream=True, stream_options={"include_usage": True}
            )
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello"
        assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 2

    def test_the_helper_for_streams(self, client: "openai.OpenAI") -> None:
        with client.chat.completions.stream(model=NAME, messages=SAID) as stream:
            for _event in stream:
                pass
            assert stream.get_final_completion().choices[0].message.content == "Hello"

    def test_async(self, server: Serving, engine: FakeEngine) -> None:
        import openai

        engine.replies = [["one"], ["two"]]

        async def ask() -> list[str | None]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
                done = await asyncio.gather(
                    *(client.chat.completions.create(model=NAME, messages=SAID) for _ in range(2))
                )
                return [each.choices[0].message.content for each in done]

        assert sorted(text or "" for text in asyncio.run(ask())) == ["one", "two"]

    def test_a_class_is_a_schema(self, client: "openai.OpenAI", engine: FakeEngine) -> None:
        engine.replies = [['{"name": "Rex", ', '"legs": 4}']]
        done = client.chat.completions.parse(model=NAME, messages=SAID, response_format=Pet)
        assert done.choices[0].message.parsed == Pet(name="Rex", legs=4)
        assert engine.limits[0].constraint is not None

    def test_a_completion_of_text(self, client: "openai.OpenAI") -> None:
        assert client.completions.create(model=NAME, prompt="Once").choices[0].text == "Hello"

    def test_errors_are_the_clients_own(self, client: "openai.OpenAI", server: Serving) -> None:
        import openai

        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="gpt-4", messages=SAID)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as wrong:
            client.chat.completions.create(model=NAME, messages=SAID, temperature=-1)
        assert wrong.value.param == "temperature"
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()

    def test_an_error_in_a_stream(self, client: "openai.OpenAI", engine: FakeEngine) -> None:
        import openai

        from slmchat.errors import ExitCode, SlmError

        def broken() -> Iterator[str]:
            yield "a"
            raise SlmError("llama.cpp failed.", exit_code=ExitCode.BUG)

        engine.replies = [broken()]
        with pytest.raises(openai.APIError, match="failed"):
            list(client.chat.completions.create(model=NAME, messages=SAID, stream=True))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Serving, LocalModel]]:
    place = tmp_path_factory.mktemp("tiny")
    path = write_tiny_llama(place / "tiny.gguf", chat_template=PHI3_TEMPLATE, context_length=512)
    settings = settings_module.load({"SLM_HOME": str(place / "home")})
    model = LocalBackend().find(str(path), settings, Notes())  # type: ignore[arg-type]
    assert isinstance(model, LocalModel)
    with serving(FakeEngine(), place, options=GenerationOptions(ctx=512, threads=1), model=model) as made:
        yield made, model


class TestTinyModel:
    """llama.cpp itself, with a model so small that it knows nothing."""

    @pytest.fixture
    def client(self, tiny: tuple[Serving, LocalModel]) -> Iterator["openai.OpenAI"]:
        import openai

        with openai.OpenAI(base_url=f"{tiny[0].url}/v1", api_key="none", max_retries=0) as made:
            yield made

    @pytest.fixture
    def name(self, tiny: tuple[Serving, LocalModel]) -> str:
        return tiny[1].key

    def _text(self, client: "openai.OpenAI", name: str, **fields: object) -> str:
        asked = {"max_tokens": 12, "temperature": 0, **fields}
        done = client.chat.completions.create(model=name, messages=SAID, **asked)  # type: ignore[call-overload]
        return str(done.choices[0].message.content)

    def test_streamed_and_whole_are_the_same_text(self, client: "openai.OpenAI", name: str) -> None:
        stream = client.chat.completions.create(model=name, messages=SAID, max_tokens=12, temperature=0, stream=True)
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert streamed == self._text(client, name) != ""

    def test_a_stop_sequence_is_left_out(self, client: "openai.OpenAI", name: str) -> None:
        whole = self._text(client, name)
        stop = whole[len(whole) // 2 :][:3]
        done = client.chat.completions.create(
            model=name, messages=SAID, max_tokens=12, temperature=0, stop=["no such thing", stop]
        )
        assert done.choices[0].message.content == whole[: whole.index(stop)]
        assert done.choices[0].finish_reason == "stop"

    def test_a_seed_repeats(self, client: "openai.OpenAI", name: str) -> None:
        texts = [self._text(client, name, seed=seed, temperature=1.5) for seed in (3, 3, 4)]
        assert texts[0] == texts[1] != texts[2]

    def test_logprobs(self, client: "openai.OpenAI", name: str) -> None:
        done = client.chat.completions.create(
            model=name, messages=SAID, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
        )
        assert done.choices[0].logprobs is not None and done.choices[0].logprobs.content is not None
        content = done.choices[0].logprobs.content
        assert len(content) == 4
        for each in content:
            assert each.logprob <= 0 and len(each.top_logprobs) == 3
            assert each.top_logprobs[0].token == each.token  # temperature 0
        text = client.completions.create(model=name, prompt="the", max_tokens=3, temperature=0, logprobs=2)
        assert text.choices[0].logprobs is not None and len(text.choices[0].logprobs.token_logprobs or ()) == 3

    def test_a_prompt_is_not_read_twice(self, client: "openai.OpenAI", name: str) -> None:
        messages = [{"role": "user", "content": "the people said that it was the first time " * 4}]
        asked = lambda: client.chat.completions.create(model=name, messages=messages, max_tokens=2)  # noqa: E731
        asked()
        usage = asked().usage
        assert usage is not None and usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1

    def test_json_keeps_to_its_schema(self, client: "openai.OpenAI", name: str) -> None:
        done = client.chat.completions.parse(model=name, messages=SAID, response_format=Pet, temperature=0, seed=1)
        assert isinstance(done.choices[0].message.parsed, Pet)

    def test_slm_itself_as_the_client(self, tiny: tuple[Serving, LocalModel], tmp_path: Path) -> None:
        server, model = tiny
        asked = ("run", "Hi", "--temp", "0", "-n", "12")
        there = run_slm(*asked, "--endpoint", f"{server.url}/v1", home=tmp_path)
        here = run_slm(*asked, "-m", str(model.files[0]), "--threads", "1", home=tmp_path)
        assert (there.code, here.code) == (0, 0), there.err
        assert there.out == here.out
