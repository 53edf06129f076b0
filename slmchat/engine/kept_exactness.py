"""Which batches compute exactly what single tokens do, kept from one process to the next.

To find it out takes whole batches for nothing (speculation.py), which a command that answers once does not earn back.
It holds as long as the model, the kind of its KV cache, the library and the processor are the same.

Knows: the file, what an entry depends on, how many entries are worth keeping. Refuses to know: how it is found out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from slmchat import kept_json
from slmchat.engine import verdicts
from slmchat.engine.kvstore import StateKey
from slmchat.errors import SlmError
from slmchat.private_files import write_private

BatchKey = tuple[int, int]
"""Tokens of a batch, and the threads that its attention is split between (0: it is not split)."""

_FILE, _FORMAT = "exact-batches.json", 1
# Models and settings whose entries are kept: more than anybody uses in turns, in a file of a few kilobytes.
_MOST = 64


class KeptExactness:
    """What is kept for one model with one kind of KV cache."""

    def __init__(self, key: StateKey) -> None:
        self._name = key.folder

    def read(self) -> dict[BatchKey, int]:
        """Rows of logits that were equal, -1 where one was not; nothing where nothing is kept for this library."""
        place = verdicts.place_in_use()
        if place is None:
            return {}
        try:
            return {(int(size), int(threads)): int(rows) for size, threads, rows in _entries(place)[self._name]}
        except (ValueError, KeyError, TypeError):
            return {}

    def write(self, rows: Mapping[BatchKey, int]) -> None:
        """Keep this. Where nothing may be written (`--private`, a home that is read-only) it is found out again."""
        place = verdicts.place_in_use()
        if place is None or not verdicts.may_keep():
            return
        try:
            others = _entries(place)
        except (ValueError, KeyError, TypeError):
            others = {}
        others.pop(self._name, None)
        latest = dict([*others.items(), (self._name, [[*key, equal] for key, equal in rows.items()])][-_MOST:])
        content = {"format": _FORMAT, "key": verdicts.library_key(), "exact": latest}
        try:
            write_private(place / _FILE, json.dumps(content).encode())
        except SlmError:
            return


def _entries(place: Path) -> dict[str, Any]:
    """All entries of this library on this processor. Raises `ValueError`, `KeyError`, `TypeError` for another file."""
    found = kept_json.read(place / _FILE)
    if found is None or found["format"] != _FORMAT or found["key"] != verdicts.library_key():
        return {}
    return dict(found["exact"])
