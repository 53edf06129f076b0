"""A server on the loopback interface, in this process: the fake engine or a tiny model behind the whole door.

with serving(FakeEngine(replies=[["yes"]])) as server:
    ... server.post("/v1/chat/completions", {...}), server.raw(b"GET / HTTP/1.1...")
"""

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fake_engine import FakeEngine, Ready
from gguf_samples import write_tiny_llama

from slmchat import settings as settings_module
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.models.backend import LocalBackend, LocalModel
from slmchat.models.embedding import installed_embedding_models, open_installed_embedding
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.server import listeners
from slmchat.server.app import Access, Server
from slmchat.server.embedders import Embedders
from slmchat.server.on_demand import OnDemand
from slmchat.server.served_model import ServedWeights, weights_of
from slmchat.server.served_models import ServedModels
from slmchat.server.turns import ComputeTurns

if TYPE_CHECKING:
    import openai

NAME = "fake:1b@Q4_K_M"


class _FakeModel(LocalModel):
    """An installed model whose weights are a fake engine."""

    made: FakeEngine

    def start(self, options: object, settings: object, beside: object = None) -> Any:
        return Ready(self.made)


def _fake_model(engine: FakeEngine, path: Path) -> LocalModel:
    file = InstalledFile(path / "m.gguf", None, 1, 1)
    model = _FakeModel(Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z"))
    object.__setattr__(model, "made", engine)
    return model


class Notes:
    """A reporter that keeps what it hears."""

    has_status_line = is_verbose = shows_engine_log = False

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    detail = warn = note

    def status(self, text: str) -> None: ...


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The events of a stream; comments are left out."""
        blocks = self.body.decode().split("\n\n")
        lines = [line[6:] for block in blocks for line in block.splitlines() if line.startswith("data: ")]
        return [json.loads(line) if line != "[DONE]" else line for line in lines]


@dataclass
class Serving:
    server: Server
    port: int
    path: Path
    notes: Notes
    model: OnDemand[ServedWeights]
    thread: threading.Thread
    opened: list[OpenModel] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        reply = Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        connection.close()
        return reply

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> Reply:
        return self.request("POST", path, body, **headers)

    def chat(self, text: str = "Hi", **fields: object) -> Reply:
        """A chat completion for one message of the user."""
        return self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **fields})

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def raw(self, data: bytes) -> bytes:
        """All that the server says to these bytes, until it closes the connection."""
        with self.connect() as made:
            made.sendall(data)
            return read_all(made)


@contextmanager
def random_weights(directory: Path, template: str) -> Iterator[tuple["openai.OpenAI", str]]:
    """A client of a server with random weights and this chat template, and the model's name."""
    import openai

    path = write_tiny_llama(directory / "tiny.gguf", chat_template=template, context_length=4096)
    settings = settings_module.load({"SLM_HOME": str(directory / "home")})
    model = LocalBackend().find(str(path), settings, Notes())  # type: ignore[arg-type]
    options = GenerationOptions(ctx=4096, threads=1)
    with (
        serving(FakeEngine(), directory, options=options, model=model) as server,  # type: ignore[arg-type]
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client, model.key


def read_all(made: socket.socket) -> bytes:
    said = bytearray()
    while piece := made.recv(65536):
        said += piece
    return bytes(said)


@contextmanager
def serving(
    engine: FakeEngine,
    tmp_path: Path,
    *,
    key: str | None = None,
    origins: tuple[str, ...] = (),
    parallel: int = 2,
    keep_alive_s: float | None = None,
    options: GenerationOptions | None = None,
    model: LocalModel | None = None,
) -> Iterator[Serving]:
    """A server of this engine (or of an installed `model`), until the end of the block."""
    environ = {"SLM_HOME": str(tmp_path / "home")}
    settings = settings_module.load(environ)
    options = options or GenerationOptions(ctx=4096)
    notes, opened = Notes(), []

    def open_model() -> OpenModel:
        chosen = model or _fake_model(engine, tmp_path)
        opened.append(OpenModel(chosen, options, settings, notes, is_remembered=False))  # type: ignore[arg-type]
        return opened[-1]

    turns = ComputeTurns()
    served = OnDemand(lambda: weights_of(open_model(), options.ctx, parallel, turns), keep_alive_s)
    embedders = Embedders(
        lambda installed: open_installed_embedding(installed, options, settings, notes),  # type: ignore[arg-type]
        lambda: installed_embedding_models(settings, notes),  # type: ignore[arg-type]
        keep_alive_s,
        turns=turns,
    )
    models = ServedModels(NAME if model is None else model.key, served, embedders)
    path = tmp_path / "s" / "socket"
    made = [listeners.on_tcp("127.0.0.1", 0), listeners.on_unix(path)]
    access = Access(frozenset(("localhost", "127.0.0.1")), origins, key)
    server = Server(made, models, access, notes, settings)  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield Serving(server, made[0].made.getsockname()[1], path, notes, served, thread, opened)
    finally:
        server.stop()
        thread.join(300)
        assert not thread.is_alive()
