"""The server: connections come in, each has a thread, each request finds its way and its answer.

Knows: paths, keys, which hosts and pages may ask, how many connections there may be, how it ends.
Refuses to know: HTTP on the wire (connection.py), the fields of requests (openai.py), the order of work (queue.py).

Nothing that is said is logged. A page in a browser can send requests to this device: so the name that it used for it
(`Host`) must be one of this server's own, and its origin must be allowed (DNS rebinding, cross-site requests).
"""

import hmac
import json
import os
import re
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import unquote

from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.reporting import Reporter
from slmchat.server import embeddings, openai, records, responses
from slmchat.server.completion_answer import CompletionAnswer
from slmchat.server.connection import Connection, Gone, HttpRequest, RefusedRequest
from slmchat.server.fields import BadRequest
from slmchat.server.listeners import Listener, descriptors
from slmchat.server.openai import ApiRequest
from slmchat.server.queue import Full
from slmchat.server.records import CompletionRecords
from slmchat.server.responses import ResponseRecords
from slmchat.server.served_models import ServedModels, is_called
from slmchat.server.warm import WarmDoor
from slmchat.settings import Settings

# Connections at once; the next one is told so and closed.
_MOST_CONNECTIONS = 256
# Descriptors that slm needs besides: weights, states on the disk, libraries.
_OTHER_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask. `hosts`: names of this server, in small letters, without a port; None: any. `key` None: none is
    needed."""

    hosts: frozenset[str] | None
    origins: tuple[str, ...] = ()
    key: str | None = None


class Server:
    """A server on its listeners, from `serve` until `stop`."""

    def __init__(
        self,
        listeners: Sequence[Listener],
        models: ServedModels,
        access: Access,
        reporter: Reporter,
        settings: Settings,
        options: tuple[str, ...] = (),
        *,
        ends_idle: bool = False,
    ) -> None:
        """`options`: what is computed with, as `WarmModel` has it. `ends_idle`: with the weights the server ends,
        too."""
        self._ends_idle = ends_idle
        self._listeners = listeners
        self._models = models
        self._name = models.name
        self._access = access
        self._reporter = reporter
        self._warm = WarmDoor(models.chatting, models.name, options, settings, self.status, self.stop)
        self._started = time.time()
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        self._changed = threading.Condition()
        self._connections: dict[Connection, bool] = {}  # whether it is being answered
        self._is_stopping = False

    def stop(self) -> None:
        """Take no more connections; `serve` returns when what is being answered has been. From a signal handler."""
        self._is_stopping = True
        with suppress(OSError):
            os.write(self._waking, b"x")

    def serve(self) -> None:
        """Answer until `stop`."""
        try:
            with selectors.DefaultSelector() as selector:
                for listener in self._listeners:
                    selector.register(listener.made, selectors.EVENT_READ, listener)
                selector.register(self._woken, selectors.EVENT_READ)
                while not self._is_stopping:
                    wait_s = self._models.unload_if_idle()
                    if self._ends_idle and not self._models.is_loaded:
                        break
                    for key, _events in selector.select(wait_s):
                        if isinstance(key.data, Listener):
                            self._accept(key.data)
        finally:
            for listener in self._listeners:
                listener.close()
            self._finish()

    def _accept(self, listener: Listener) -> None:
        made = listener.accept()
        if made is None:
            return
        connection = Connection(made)
        with self._changed:
            is_full = len(self._connections) >= min(_MOST_CONNECTIONS, descriptors() - _OTHER_DESCRIPTORS)
            if not is_full:
                self._connections[connection] = False
        if is_full:
            with suppress(Gone):
                connection.answer(503, records.error_of("too many connections.", 503), {"Retry-After": "1"})
            connection.close()
            return
        work = threading.Thread(target=self._talk, args=(connection, listener), name="connection", daemon=True)
        try:
            work.start()
        except RuntimeError:  # no more threads for this process: the others go on
            self._forget(connection)

    def _finish(self) -> None:
        """Let running answers end, then close everything."""
        with self._changed:
            for connection, is_answering in list(self._connections.items()):
                if not is_answering:
                    connection.close()
            self._changed.wait_for(lambda: not any(self._connections.values()))
        self._models.close()

    def status(self) -> dict[str, Any]:
        """What the server says of itself, without anything that was asked."""
        loaded = self._models.chat.loaded if self._models.chat is not None else None
        return {
            "model": self._name,
            "pid": os.getpid(),
            "addresses": [listener.address for listener in self._listeners],
            "started_at": int(self._started),
            "is_loaded": self._models.is_loaded,
            "n_ctx": loaded.queue.n_ctx if loaded is not None else None,
            "working": loaded.queue.n_open - loaded.queue.n_waiting if loaded is not None else 0,
            "waiting": loaded.queue.n_waiting if loaded is not None else 0,
        }

    # One connection

    def _talk(self, connection: Connection, listener: Listener) -> None:
        try:
            if listener.path is not None and connection.begins_with(b"{"):
                self._warm.talk(connection.socket, lambda: self._answering(connection))
                return
            while not self._is_stopping:
                try:
                    request = connection.receive()
                except RefusedRequest as refused:
                    connection.answer(refused.status, records.error_of(str(refused), refused.status))
                    return
                if request is None:
                    return
                with self._answering(connection):
                    self._respond(connection, request, listener)
        except (Gone, OSError):
            pass
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        connection.close()
        with self._changed:
            self._connections.pop(connection, None)
            self._changed.notify_all()

    @contextmanager
    def _answering(self, connection: Connection) -> Iterator[None]:
        """While this lasts, the connection is not closed when the server ends."""
        with self._changed:
            self._connections[connection] = True
        try:
            yield
        finally:
            with self._changed:
                self._connections[connection] = False
                self._changed.notify_all()

    def _respond(self, connection: Connection, request: HttpRequest, listener: Listener) -> None:
        start = time.monotonic()
        try:
            self._check(connection, request, listener)
            what = self._routed(connection, request, listener)
        except BadRequest as error:
            what = self._fail(connection, error.status, error.message, error.param, error.code)
        except Full as error:
            what = self._fail(connection, 429, error.message, headers={"Retry-After": str(error.retry_after)})
        except SlmError as error:
            status, code = records.status_of(error)
            what = self._fail(connection, status, records.message_of(error), code=code)
        except Gone:
            self._reporter.detail(f"{request.method} {request.path}: the client has gone")
            raise
        except Exception as error:  # noqa: BLE001 - the last net: a bug is an answer too, and the server goes on
            what = self._fail(connection, 500, f"an error of slm's own: {type(error).__name__}: {error}")
        self._reporter.detail(f"{request.method} {request.path}: {what} in {time.monotonic() - start:.2f} s")

    def _fail(
        self,
        connection: Connection,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        body = records.error_of(message, status, param, code)
        if connection.has_begun_answer:  # a stream: the error is its last event
            connection.event(body)
            connection.end()
        else:
            connection.answer(status, body, headers)
        return str(status)

    # Who may ask

    def _check(self, connection: Connection, request: HttpRequest, listener: Listener) -> None:
        """Raises `BadRequest` (401, 403) for who may not."""
        if listener.path is not None:  # the user's own, by the rights of the socket
            return
        host = _without_port(request.headers.get("host", "")).lower()
        if self._access.hosts is not None and host not in self._access.hosts:
            raise BadRequest(f"this server is not called {host[:100]!r}.", status=403)
        origin = request.headers.get("origin")
        is_cross_site = request.headers.get("sec-fetch-site") == "cross-site"
        if origin is not None and origin in self._access.origins:
            connection.allow_origin(origin)
        elif is_cross_site or (origin is not None and _without_port(origin.partition("://")[2]).lower() != host):
            raise BadRequest("pages of other sites may not ask (--allow-origin).", status=403)
        if request.method == "OPTIONS" or request.path == "/health" or self._access.key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._access.key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise BadRequest("the key is missing or wrong (Authorization: Bearer ...).", status=401)

    # What is asked

    def _routed(self, connection: Connection, request: HttpRequest, listener: Listener) -> str:
        """Answer; what it was, in words for the log."""
        path, method = request.path.rstrip("/") or "/", request.method
        if not path.startswith(_ONE_MODEL):  # names may be paths
            path = re.sub("/+", "/", path)  # a base URL that ends in a slash, and what a client puts behind it
        if method == "OPTIONS":
            # Whichever it asks for: clients have some of their own (x-stainless-os), and no header here is dangerous.
            named = request.headers.get("access-control-request-headers", "")
            cross_origin = {
                "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
                "Access-Control-Allow-Headers": named or "Authorization, Content-Type",
                "Access-Control-Max-Age": "600",
            }
            connection.answer(204, b"", cross_origin)
            return "204"
        routes: dict[str, tuple[str, Callable[[Connection, HttpRequest], str]]] = {
            "/": ("GET", self._hello),
            "/health": ("GET", self._health),
            "/v1/models": ("GET", self._list_models),
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/completions": ("POST", self._text),
            "/v1/responses": ("POST", self._response),
            "/v1/embeddings": ("POST", self._embeddings),
        }
        if path.startswith(_ONE_MODEL):
            routes[path] = ("GET", self._one_model)
        if path not in routes:
            hint = f" (it is at /v1{path})" if f"/v1{path}" in routes else ""
            raise BadRequest(f"there is nothing at {path[:200]}{hint}.", status=404)
        wanted, answer = routes[path]
        allowed = ["GET", "HEAD"] if wanted == "GET" else [wanted]
        if method not in allowed:
            return self._fail(connection, 405, f"{path} takes {wanted}.", headers={"Allow": ", ".join(allowed)})
        return answer(connection, request)

    def _hello(self, connection: Connection, _request: HttpRequest) -> str:
        connection.answer(200, f"slm serves {self._name}; the API of OpenAI is below /v1\n".encode())
        return "200"

    def _health(self, connection: Connection, _request: HttpRequest) -> str:
        connection.answer(200, {"status": "ok"})
        return "200"

    def _list_models(self, connection: Connection, _request: HttpRequest) -> str:
        connection.answer(200, {"object": "list", "data": self._model_records()})
        return "200"

    def _one_model(self, connection: Connection, request: HttpRequest) -> str:
        name = unquote(request.path.removeprefix(_ONE_MODEL))
        for record in self._model_records():
            if is_called(record["id"], name):  # also names with which an answer is asked
                connection.answer(200, record)
                return "200"
        raise self._no_such_model(name)

    def _model_records(self) -> list[dict[str, Any]]:
        """The model that was started with, then the embedding models that may be asked for."""
        loaded = self._models.chat.loaded if self._models.chat is not None else None
        told = {} if loaded is None else {"meta": {"n_ctx": loaded.queue.n_ctx}}
        names = dict.fromkeys([self._name, *self._models.embedders.keys()])
        usual = {"object": "model", "created": 0, "owned_by": "slm"}
        return [{"id": name, **usual, **(told if name == self._name else {})} for name in names]

    def _no_such_model(self, name: str) -> BadRequest:
        message = f"the model '{name[:200]}' is not served here; this server has {self._name}."
        return BadRequest(message, "model", "model_not_found", 404)

    def _chat(self, connection: Connection, request: HttpRequest) -> str:
        asked = openai.chat_request(_json(request))
        return self._complete(connection, asked, CompletionRecords(self._name, is_chat=True))

    def _text(self, connection: Connection, request: HttpRequest) -> str:
        asked = openai.text_request(_json(request))
        return self._complete(connection, asked, CompletionRecords(self._name, is_chat=False))

    def _response(self, connection: Connection, request: HttpRequest) -> str:
        body = _json(request)
        return self._complete(connection, responses.response_request(body), ResponseRecords(self._name, body))

    def _embeddings(self, connection: Connection, request: HttpRequest) -> str:
        asked = embeddings.embeddings_request(_json(request))
        if asked.ignored:
            self._reporter.detail(f"ignored: {', '.join(asked.ignored)}")
        chat = self._models.chat
        if chat is not None and asked.model == self._name:
            raise BadRequest(f"{self._name} is a chat model: it makes no vectors.", "model")
        with self._models.embedders.used(asked.model) as weights:
            made = weights.vectors(asked.texts, connection.is_gone)
            embeddings.check_dimensions(asked, len(made[0].vector), can_be_shortened=weights.can_be_shortened)
            connection.answer(200, embeddings.embeddings_record(weights.key, made, asked))
        return f"200, {len(made)} texts"

    def _complete(self, connection: Connection, asked: ApiRequest, written: responses.AnswerRecords) -> str:
        if asked.ignored:
            self._reporter.detail(f"ignored: {', '.join(asked.ignored)}")
        with self._models.chatting().used() as loaded:
            if asked.model and not is_called(self._name, asked.model):
                raise self._no_such_model(asked.model)
            with loaded.session_for(asked.request, connection.is_gone) as session:
                return CompletionAnswer(connection, asked, loaded, written).give(loaded.generator(session))


# Below this path each model has one of its own.
_ONE_MODEL = "/v1/models/"


def _json(request: HttpRequest) -> object:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise BadRequest(f"a body in {encoding[:40]!r} is not read: send it as it is.", status=415)
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not valid JSON.") from error


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
