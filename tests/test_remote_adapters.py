"""LoRA adapters of a server: asked for by name where there are some, refused in a sentence elsewhere."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Outcome
from endpoint_server import EndpointServer, Handler

from slmchat import endpoints
from slmchat import settings as settings_module
from slmchat.engine.remote import engine as engine_module
from slmchat.engine.remote.adapters import RemoteAdapter, joined, named
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings, Turn
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.models.loader import LoadedBeside
from slmchat.models.remote_backend import RemoteBackend, RemoteModel
from slmchat.options import GenerationOptions
from slmchat.terminal.console import Console

SERVED: list[object] = [
    {"id": 0, "path": "/models/pirate.gguf", "scale": 1.0},
    {"id": 1, "path": "C:\\models\\haiku.gguf", "scale": 0.0},
    {"id": "2", "path": "x"},
    {"id": True},
    {"id": 3, "path": "\x1b]52;c;x"},
    7,
]
PROMPT = Prompt((Part("Hi"),), (Turn("user", "Hi"),))


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        yield running


def _serve(server: EndpointServer, adapters: object) -> None:
    def answer(handler: Handler) -> None:
        if handler.path == "/lora-adapters":
            handler.whole(200, json.dumps(adapters).encode())
        elif handler.path == "/v1/models":
            handler.whole(200, json.dumps({"data": server.models}).encode())
        else:
            handler.whole(404, b"{}")

    server.models_answer = answer


def _adapters(server: EndpointServer) -> tuple[RemoteAdapter, ...]:
    endpoint = endpoints.from_url(server.url, "test")
    return engine_module.served_adapters(endpoint, None, route_to(endpoint, {}), print)


def test_what_a_server_has_is_found_by_its_file_or_its_number(server: EndpointServer) -> None:
    _serve(server, SERVED)
    found = _adapters(server)
    endpoint = endpoints.from_url(server.url, "test")
    assert [adapter.number for adapter in found] == [0, 1, 3]
    assert [named(found, text, endpoint).number for text in ("pirate", "haiku.gguf", "1", "dir/pirate.gguf")] == [
        0,
        1,
        1,
        0,
    ]
    assert str(found[2].path) == "3"  # a name that would drive the terminal is none
    with pytest.raises(SlmError, match="has no adapter 'nosuch'") as raised:
        named(found, "nosuch", endpoint)
    assert raised.value.exit_code is ExitCode.NO_MODEL
    assert raised.value.hint == "it has pirate.gguf, haiku.gguf, 3"


@pytest.mark.parametrize("answer", [[], {}, {"data": []}, "x", None])
def test_a_server_without_adapters_is_a_sentence(server: EndpointServer, answer: object) -> None:
    if answer is not None:
        _serve(server, answer)  # None: 404
    with pytest.raises(SlmError, match="no LoRA adapters that can be asked for") as raised:
        _adapters(server)
    assert raised.value.exit_code is ExitCode.USAGE


def test_the_servers_own_count_until_some_are_named(server: EndpointServer) -> None:
    _serve(server, SERVED)
    endpoint = endpoints.from_url(server.url, "test")
    engine = engine_module.load(endpoint, None, None, route_to(endpoint, {}), print)
    session = engine.open_session(SessionSettings(1, 1, 1))
    for chosen in (None, _adapters(server)[:1], ()):
        if chosen is not None:
            session.set_adapters(chosen)
        list(session.generate(PROMPT, SamplerSettings(), Limits()))
    session.close()
    assert [post.body.get("lora") for post in server.posts] == [None, [{"id": 0, "scale": 1.0}], None]


def test_two_adapters_of_one_file_name_are_two(server: EndpointServer) -> None:
    _serve(server, [{"id": 0, "path": "/a/style.gguf"}, {"id": 1, "path": "/b/style.gguf"}])
    first, second = _adapters(server)
    assert joined((first, second), (replace(second, scale=0.5),)) == (first, replace(second, scale=0.5))


def test_none_holds_for_a_session_opened_later(server: EndpointServer, tmp_path: Path) -> None:
    # an empty list would mean those that the server applies by itself, and so would no list at all
    _serve(server, SERVED)
    endpoint = endpoints.from_url(server.url, "test")
    console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
    model = RemoteModel(RemoteBackend(endpoint, None, route_to(endpoint, {})), None, console)
    settings = settings_module.load({"SLM_HOME": str(tmp_path)})
    engine = model.start(GenerationOptions(), settings, LoadedBeside()).engine()
    none = model.without_adapters()
    for chosen in (none, none, model.with_adapters(["haiku"], settings, none)):
        session = engine.open_session(SessionSettings(1, 1, 1, adapters=chosen))
        list(session.generate(PROMPT, SamplerSettings(), Limits()))
        session.close()
    loras = [{entry["id"]: entry["scale"] for entry in post.body["lora"]} for post in server.posts]
    assert loras == [{0: 0.0, 1: 0.0, 3: 0.0}] * 2 + [{0: 0.0, 1: 1.0, 3: 0.0}]


@pytest.mark.real
def test_run_and_batch_ask_with_an_adapter(server: EndpointServer, slm: Callable[..., Outcome]) -> None:
    _serve(server, SERVED)
    done = slm("run", "--endpoint", server.url, "--lora", "pirate=0.5", "Hi")
    assert done.code == 0, done.err
    done = slm("batch", "--endpoint", server.url, "--lora", "haiku", "Hi", stdin="a\nb\n")
    assert done.code == 0, done.err
    half, *whole = [post.body["lora"] for post in server.posts]
    assert (half, whole) == ([{"id": 0, "scale": 0.5}], [[{"id": 1, "scale": 1.0}]] * 2)
