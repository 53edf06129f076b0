"""Pictures for a model of an endpoint: how they are sent, and what comes of it where nobody sees them."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome
from endpoint_server import EndpointServer, Handler, status, stream

from slmchat import endpoints
from slmchat.conversation.layouts import TurnsOnly, raw_prompt
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture, decode
from slmchat.engine.remote import engine as engine_module
from slmchat.engine.remote.png import data_url
from slmchat.engine.remote.route import route_to
from slmchat.engine.requests import Image, Limits, Prompt, SessionSettings
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError

pytest.importorskip("PIL")

IMAGE = Image.of(3, 2, bytes(range(18)))
MESSAGES = [Message(Role.USER, "What is it?", pictures=(Picture.of("a.png", IMAGE),))]
PROMPT = TurnsOnly().render(MESSAGES)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with EndpointServer() as running:
        yield running


def _engine(server: EndpointServer) -> engine_module.RemoteEngine:
    endpoint = replace(endpoints.from_url(server.url, "test"), timeout_s=100.0)
    return engine_module.load(endpoint, None, None, route_to(endpoint, {}), print)


def _ask(engine: engine_module.RemoteEngine, prompt: Prompt = PROMPT) -> None:
    session = engine.open_session(SessionSettings(1, 1, 1))
    try:
        list(session.generate(prompt, SamplerSettings(), Limits()))
    finally:
        session.close()


def _pixels(url: str) -> bytes:
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    return decode(base64.b64decode(data, validate=True), "sent").rgb


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (257, 5)])
def test_the_pixels_arrive_as_they_are(size: tuple[int, int]) -> None:
    width, height = size
    rgb = bytes(n * 7 % 256 for n in range(3 * width * height))
    assert _pixels(data_url(Image.of(width, height, rgb))) == rgb


def test_a_picture_goes_before_the_text_of_its_message(server: EndpointServer) -> None:
    _ask(_engine(server))
    (message,) = server.posts[0].body["messages"]
    picture, text = message["content"]
    assert text == {"type": "text", "text": "What is it?"}
    assert picture["type"] == "image_url"
    assert _pixels(picture["image_url"]["url"]) == IMAGE.rgb


def test_a_picture_counts_before_it_is_sent(server: EndpointServer) -> None:
    large = Message(Role.USER, "x", pictures=(Picture.of("a.png", Image.of(280, 280, bytes(3 * 280 * 280))),))
    engine = _engine(server)
    bare = TurnsOnly().render([replace(large, pictures=())])
    assert engine.count(TurnsOnly().render([large])) - engine.count(bare) == 100


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (500, {"error": {"message": "image input is not supported - hint: you may need to provide the mmproj"}}),
        (400, {"error": {"message": "small is not a multimodal model"}}),
        (400, {"error": {"message": "This model does not support image input."}}),
        (400, {"error": {"message": "Model small: image input is not supported"}}),
        (404, {"error": {"message": "No endpoints found that support image input"}}),
        (500, {"error": "this model is missing data required for image input"}),
        (422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "Input should be a valid string"}]}),
    ],
)
def test_a_server_that_does_not_see_says_so_once(server: EndpointServer, code: int, body: dict[str, Any]) -> None:
    server.usual = status(code, body)
    engine = _engine(server)
    for _ in range(2):
        with pytest.raises(SlmError, match="does not see pictures") as raised:
            _ask(engine)
        assert raised.value.exit_code is ExitCode.USAGE
        assert "slm list --endpoint" in (raised.value.hint or "")
    assert len(server.posts) == 1  # neither tried again, nor sent once more


@pytest.mark.parametrize(
    "words", ["could not decode the image", "image is too large: 9 MB are not 5 MB", "out of memory"]
)
def test_a_picture_that_is_refused_says_nothing_of_the_model(server: EndpointServer, words: str) -> None:
    server.usual = status(400, {"error": {"message": words}})
    engine = _engine(server)
    with pytest.raises(SlmError, match="does not take this request"):
        _ask(engine)
    assert engine.model.sees is None


@pytest.mark.parametrize(
    ("entry", "sees"),
    [
        ({"capabilities": {"vision": False}}, False),
        ({"capabilities": {"vision": True}}, True),
        ({"architecture": {"input_modalities": ["text"]}}, False),
        ({"architecture": {"input_modalities": ["text", "image"]}}, True),
        ({"capabilities": ["vision"]}, None),
        ({"architecture": "transformer"}, None),
    ],
)
def test_what_the_list_tells_is_believed(server: EndpointServer, entry: dict[str, object], sees: bool | None) -> None:
    server.models[0].update(entry)
    engine = _engine(server)
    assert engine.model.sees is sees
    if sees is False:
        with pytest.raises(SlmError, match="does not see pictures"):
            _ask(engine)
        assert server.posts == []


def test_a_bare_completion_shows_no_pictures(server: EndpointServer) -> None:
    with pytest.raises(SlmError, match="not with --raw") as raised:
        _ask(_engine(server), raw_prompt(MESSAGES))
    assert raised.value.exit_code is ExitCode.USAGE
    assert server.posts == []


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "a.png"
    file.write_bytes(base64.b64decode(data_url(IMAGE).partition(",")[2]))
    return file


@pytest.mark.real
def test_run_shows_a_picture(server: EndpointServer, slm: Callable[..., Outcome], picture: Path) -> None:
    done = slm("run", "--endpoint", server.url, "-f", picture, "What is it?")
    assert (done.code, done.out) == (0, "Hello.\n"), done.err
    content = server.posts[0].body["messages"][-1]["content"]
    assert _pixels(content[0]["image_url"]["url"]) == IMAGE.rgb
    assert "a.png" in done.err


@pytest.mark.real
def test_a_batch_shows_pictures_side_by_side(
    server: EndpointServer, slm: Callable[..., Outcome], picture: Path
) -> None:
    gate = threading.Barrier(2, timeout=300)

    def together(handler: Handler) -> None:
        gate.wait()
        stream("seen")(handler)

    server.usual = together
    other = picture.with_name("b.png")
    other.write_bytes(picture.read_bytes())
    done = slm("batch", "--endpoint", server.url, "-f", picture, "-f", other, "What is it?")
    assert done.code == 0, done.err
    assert [json.loads(line)["completion"] for line in done.out.splitlines()] == ["seen"] * 2
    assert len(server.posts) == 2
