"""The LoRA adapters that a server has loaded, and which of them a request wants.

Knows: `/lora-adapters` of llama-server (`[{"id": 0, "path": "a.gguf", "scale": 1.0}]`), what names an adapter there.
Refuses to know: adapters on this device. Their files are the server's: a path here only names one of them.
"""

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from slmchat.endpoints import Endpoint
from slmchat.engine.remote import errors
from slmchat.engine.remote.client import Client
from slmchat.engine.requests import Adapter
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass

_MOST = 1000
_NO_STAMP = (0, 0)


@dataclass(frozen=True, slots=True)
class RemoteAdapter(Adapter):
    """One adapter of a server. `path`: the name of its file there, without directories; it has no `stamp` here."""

    number: int = 0

    def is_called(self, text: str) -> bool:
        """Whether this names it: its file, with or without `.gguf`, or its number."""
        return text in (self.path.name, self.path.name.removesuffix(".gguf"), str(self.number))


def list_adapters(client: Client) -> tuple[RemoteAdapter, ...]:
    """What the server has loaded. Raises `SlmError`: USAGE when it is not one that takes adapters, NETWORK."""
    try:
        found = _listed(client.get_beside("/lora-adapters"))
    except errors.Refusal as refusal:
        if refusal.status not in (404, 405, 501):
            raise
        found = None
    if not found:
        raise usage_error(
            f"{client.endpoint.address} has no LoRA adapters that can be asked for.",
            "llama-server has those of its own --lora FILE",
        )
    return found


def _listed(document: object) -> tuple[RemoteAdapter, ...] | None:
    if not isinstance(document, list):
        return None
    return tuple(
        RemoteAdapter(Path(_name(entry.get("path"), entry["id"])), 1.0, _NO_STAMP, entry["id"])
        for entry in document[:_MOST]
        if isinstance(entry, dict) and type(entry.get("id")) is int and 0 <= entry["id"] < 2**31
    )


def _name(path: object, number: int) -> str:
    name = PureWindowsPath(path).name if isinstance(path, str) else ""
    return name if name and name.isprintable() else str(number)


def joined(present: Sequence[Adapter], named: Sequence[RemoteAdapter]) -> tuple[Adapter, ...]:
    """`present` and those now named; one that is there already, by its number, gets the new scale."""
    by_number = {one.number: one for one in (*present, *named) if isinstance(one, RemoteAdapter)}
    return tuple(by_number.values())


def named(served: Sequence[RemoteAdapter], text: str, endpoint: Endpoint) -> RemoteAdapter:
    """The adapter of this name. Raises `SlmError` (NO_MODEL) with those that there are."""
    name = PureWindowsPath(text).name
    for adapter in served:
        if adapter.is_called(name):
            return adapter
    raise SlmError(
        f"{endpoint.address} has no adapter '{text}'.",
        hint=f"it has {', '.join(adapter.path.name for adapter in served[:10])}",
        exit_code=ExitCode.NO_MODEL,
    )
