"""Clients of slm serve that nobody here wrote. They are in no extra: what is not installed is skipped.

`pip install llm langchain-openai "pydantic-ai-slim[openai]"` before a release; docs/serve.md says when that was last done.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from pydantic import BaseModel
from serving import NAME, Serving, serving

pytestmark = [pytest.mark.real, pytest.mark.slow]

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'


class Pet(BaseModel):
    name: str
    age: int


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(replies=[["Hel", "lo"]])


@pytest.fixture
def server(engine: FakeEngine, tmp_path: Path) -> Iterator[Serving]:
    with serving(engine, tmp_path) as made:
        yield made


class TestLlm:
    def _llm(self, server: Serving, tmp_path: Path, *arguments: str) -> str:
        pytest.importorskip("llm")
        home = tmp_path / "llm"
        home.mkdir()
        model = f"- model_id: slm\n  model_name: {NAME}\n  api_base: {server.url}/v1\n"
        (home / "extra-openai-models.yaml").write_text(model)
        done = subprocess.run(
            [sys.executable, "-m", "llm", "-m", "slm", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, "LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"},
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_an_answer(self, server: Serving, tmp_path: Path, engine: FakeEngine) -> None:
        assert self._llm(server, tmp_path, "-s", "Be short", "Hi") == "Hello\n"
        assert "Be short" in engine.prompts[0]


class TestLangChain:
    @pytest.fixture
    def model(self, server: Serving) -> object:
        chat = pytest.importorskip("langchain_openai").ChatOpenAI
        return chat(model=NAME, base_url=f"{server.url}/v1", api_key="none", max_retries=0)

    def test_whole_and_streamed(self, model: Any, engine: FakeEngine) -> None:
        engine.replies = [["Hel", "lo"]] * 2
        assert model.invoke("Hi").content == "Hello"
        assert [piece.content for piece in model.stream("Hi") if piece.content] == ["Hel", "lo"]

    def test_a_shape(self, model: Any, engine: FakeEngine) -> None:
        engine.replies = [['{"name": "Rex", "age": 3}']]
        assert model.with_structured_output(Pet).invoke("A dog?") == Pet(name="Rex", age=3)

    def test_a_call_and_its_result(self, model: Any, engine: FakeEngine) -> None:
        from langchain_core.messages import HumanMessage, ToolMessage
        from langchain_core.tools import tool

        @tool
        def weather(city: str) -> str:
            """The weather of a city."""
            return f"sun in {city}"

        engine.replies = [[CALL], ["Sunny."]]
        asking = model.bind_tools([weather])
        said = asking.invoke([HumanMessage("Weather in Oslo?")])
        (call,) = said.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Oslo"})
        result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
        assert asking.invoke([HumanMessage("Weather in Oslo?"), said, result]).content == "Sunny."
        assert "sun in Oslo" in engine.prompts[1]


class TestPydanticAi:
    @pytest.fixture
    def model(self, server: Serving) -> object:
        pytest.importorskip("pydantic_ai")
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIChatModel(NAME, provider=OpenAIProvider(base_url=f"{server.url}/v1", api_key="none"))

    def test_a_tool_on_the_way_to_an_answer(self, model: object, engine: FakeEngine) -> None:
        from pydantic_ai import Agent

        agent = Agent(model, instructions="Be short.")
        asked: list[str] = []

        @agent.tool_plain
        def weather(city: str) -> str:
            asked.append(city)
            return "sun"

        engine.replies = [[CALL], ["Sunny."]]
        assert agent.run_sync("Weather in Oslo?").output == "Sunny."
        assert asked == ["Oslo"]

    def test_an_output_of_a_type(self, model: object, engine: FakeEngine) -> None:
        from pydantic_ai import Agent, NativeOutput

        engine.replies = [['{"name": "Rex", "age": 3}']]
        assert Agent(model, output_type=NativeOutput(Pet)).run_sync("A dog?").output == Pet(name="Rex", age=3)

    def test_an_output_of_a_type_beside_a_tool(self, model: object, engine: FakeEngine) -> None:
        from pydantic_ai import Agent, NativeOutput

        agent = Agent(model, output_type=NativeOutput(Pet))

        @agent.tool_plain
        def weather(city: str) -> str:
            return "sun"

        engine.replies = [[CALL], ['{"name": "Rex", "age": 3}']]
        assert agent.run_sync("A dog in Oslo?").output == Pet(name="Rex", age=3)


class TestCurl:
    def _curl(self, *arguments: str) -> str:
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        done = subprocess.run(
            ["curl", "-sS", "-N", "--max-time", "60", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_a_stream_and_a_large_body(self, server: Serving, engine: FakeEngine, tmp_path: Path) -> None:
        asked = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "stream": True})
        said = self._curl(f"{server.url}/v1/chat/completions", "-d", asked)
        assert '"content": "Hel"' in said and said.rstrip().endswith("data: [DONE]")
        large = tmp_path / "large.json"  # above 1 KiB curl asks first (Expect: 100-continue)
        large.write_text(json.dumps({"messages": [{"role": "user", "content": "x" * 3000}]}))
        engine.replies = [["yes"]]
        answer = self._curl(f"{server.url}/v1/chat/completions", "-H", "Expect: 100-continue", "-d", f"@{large}")
        assert json.loads(answer)["choices"][0]["message"]["content"] == "yes"

    def test_through_the_unix_socket(self, server: Serving) -> None:
        said = self._curl("--unix-socket", str(server.path), "http://localhost/v1/models")
        assert json.loads(said)["data"][0]["id"] == NAME
