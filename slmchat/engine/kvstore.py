"""KV states on disk: keyed, bounded, safe to delete.

Knows: which file holds which tokens, how the longest usable one is found, that a file is whole, what goes first when
the limit is reached. Refuses to know: llama.cpp (memory.py writes and reads the states), conversations, models.

A state is one file of llama.cpp's own format (`llama_state_seq_save_file`: magic, version, tokens, cells), which it
writes and reads piece by piece, so that no second copy of the KV cache is ever in memory. What else must be known is in
the names, and becomes visible with the rename that admits a finished file:

    KEY/OWNER.TOKENS.CHECKSUM.HASHES.kv

KEY stands for everything a state depends on, the model's path first. OWNER is the conversation whose words are in the
file, or `SHARED`. HASHES are of the first 64, 256, 1,024 ... tokens: a directory listing tells which files can match,
and only those are opened. States are caches: nothing is fsynced, and what a crash leaves behind fails its checksum.
"""

import os
import re
import struct
import time
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from slmchat.lazy_dataclasses import dataclass
from slmchat.private_files import create_private

# The owner of prefixes that belong to no conversation: documents, long system messages, few-shot blocks.
SHARED = "shared"

# States of fewer tokens are not worth a file, nor is reading one that saves fewer: a look costs 1-2 ms, loading 30 ms
# for 60 MB; evaluating 64 tokens takes 0.1 to 0.3 s where the smallest models run (docs/decisions.md).
MIN_TOKENS = 64

# What two prompts share is taken to end this many tokens earlier: how a text's last token is spelled may depend on what
# follows it.
MARGIN = 2

# A state of a growing conversation is written again when it has grown so much: all these files together then stay
# within a few times the last one.
REWRITING_GROWTH = 1.25

# Lengths whose hashes stand in a file's name.
_LEVELS = (64, 256, 1024, 4096, 16384)

# Files opened at most in one search, the most promising first.
_MOST_OPENED = 16

_DEFAULT_LIMIT = 4 * 1024**3
_SHARE_OF_FREE_DISK = 0.1
# Prefixes of single runs come and go; they may not push the conversations out.
_SHARE_OF_SHARED = 0.5

# A file that is still being written after this many seconds was left behind.
_STALE_S = 3600.0

# File format of llama_state_seq_save_file (llama.h): uint32 magic 'ggsq', version, token count; then int32 tokens.
_HEADER = struct.Struct("<III")
_MAGIC = 0x67677371
_CHUNK = 1 << 20

_NAME = re.compile(r"(?P<owner>[0-9a-z]+)\.(?P<n>[0-9]+)\.(?P<crc>[0-9a-f]{8})\.(?P<hashes>(?:[0-9a-f]{8})*)\.kv")
_OWNER = re.compile(r"[0-9a-z]{1,64}")


@dataclass(frozen=True, slots=True)
class StateKey:
    """All that a state depends on. `model`: the path of its file; `rest`: a text of everything else."""

    model: Path
    rest: str

    def with_more(self, rest: str) -> "StateKey":
        """The key of states that depend on `rest` as well."""
        return StateKey(self.model, self.rest + rest)

    @property
    def folder(self) -> str:
        """The name of the key's directory; it begins with the same letters for every key of a model."""
        return _model_prefix(self.model) + _digest(self.rest)


@dataclass(frozen=True, slots=True)
class Stored:
    """A state on the disk: where it is, whose words are in it, the tokens it holds."""

    path: Path
    owner: str
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class _Name:
    """What a file's name tells."""

    path: Path
    owner: str
    n_tokens: int
    checksum: int
    hashes: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> "_Name | None":
        match = _NAME.fullmatch(path.name)
        if match is None:
            return None
        hashes = tuple(match["hashes"][place : place + 8] for place in range(0, len(match["hashes"]), 8))
        return cls(path, match["owner"], int(match["n"]), int(match["crc"], 16), hashes)

    def most_shared(self, hashes: Sequence[str], n_tokens: int) -> int:
        """The most tokens this state can have in common with a prompt of these hashes and this length."""
        for level, mine, theirs in zip(_LEVELS, self.hashes, hashes, strict=False):
            if mine != theirs:
                return level - 1
        return min(self.n_tokens, n_tokens)


class KvStore:
    """The states below one directory, 0600 in 0700. Any number of processes may use it at once.

    Nothing here raises for a disk that refuses: a state that cannot be stored or read is evaluated again, that is all.
    Only what the user asked for (`forget_*`) raises `OSError`.
    """

    def __init__(self, directory: Path, limit: int | None = None) -> None:
        """`limit` in bytes; None: the smaller of 4 GiB and a tenth of what the disk has left without the states."""
        self._directory = directory
        self._limit = limit
        self._is_open = True

    def close(self) -> None:
        """From now on nothing is found and nothing is written (a chat that goes private)."""
        self._is_open = False

    def find(
        self, key: StateKey, tokens: Sequence[int], usable: Callable[[int, int], int], at_least: int
    ) -> Stored | None:
        """The whole state that saves the most of evaluating `tokens`; None when none saves `at_least` tokens.

        `usable(n, same)`: how many tokens can be used of a state of `n` tokens when the first `same` are equal.
        What is found is marked as used. A damaged file is removed.
        """
        if not self._is_open:
            return None
        hashes = _hashes(tokens)
        names = _names(self._directory / key.folder)
        ranked = [(usable(name.n_tokens, name.most_shared(hashes, len(tokens))), name) for name in names]
        ranked = sorted((item for item in ranked if item[0] >= at_least), key=lambda item: -item[0])
        best: tuple[int, _Name, list[int]] | None = None
        for most, name in ranked[:_MOST_OPENED]:
            if best is not None and most <= best[0]:
                break
            held = _read_tokens(name)
            saved = usable(len(held), shared_length(held, tokens)) if held else 0
            if saved >= max(at_least, best[0] + 1 if best else 0):
                best = (saved, name, held)
        if best is None:
            return None
        _saved, name, held = best
        if _checksum(name.path) != name.checksum:
            _remove(name.path)
            return self.find(key, tokens, usable, at_least)
        _mark_as_used(name.path)
        return Stored(name.path, name.owner, held)

    def put(
        self, key: StateKey, owner: str, tokens: Sequence[int], size: int, write: Callable[[Path], bool]
    ) -> Path | None:
        """Store a state of about `size` bytes; the file, or None when there is no place for it or the disk refuses.

        `write` fills an existing, empty file. A conversation has one state for each key: the older one goes. What was
        used least recently goes when the limit is reached.
        """
        if not self._is_open or len(tokens) < MIN_TOKENS or not _OWNER.fullmatch(owner):
            return None
        folder = self._directory / key.folder
        if folder.is_symlink():  # it would lead out of the directory
            return None
        new = folder / f".new-{os.urandom(8).hex()}"
        try:
            if not self._make_room(owner, size):
                return None
            create_private(new)
            if not write(new):
                return None
            made = folder / f"{owner}.{len(tokens)}.{_checksum(new):08x}.{''.join(_hashes(tokens))}.kv"
            os.replace(new, made)
        except OSError:
            return None
        finally:
            _remove(new)
        for name in _names(folder):
            if name.owner == owner != SHARED and name.path != made:
                _remove(name.path)
        return made

    def remove(self, stored: Stored) -> None:
        """A state that cannot be used after all."""
        _remove(stored.path)

    def forget_owners(self, owners: Sequence[str]) -> None:
        """Delete what was said in these conversations. Raises `OSError` when something stays."""
        wanted = set(owners)
        for path in self._files():
            name = _Name.of(path)
            if name is not None and name.owner in wanted:
                path.unlink(missing_ok=True)

    def forget_model(self, model: Path) -> int:
        """Delete every state of a model; the bytes that are free again. Raises `OSError`."""
        freed = 0
        for folder in _entries(self._directory):
            if folder.name.startswith(_model_prefix(model)):
                freed += sum(entry.stat().st_size for entry in _states_in(Path(folder.path)))
                _remove_entry(folder)
        return freed

    def without_model(self, models: Sequence[Path]) -> dict[Path, int]:
        """Directories with states of no model among these, and the bytes in each."""
        known = {_model_prefix(model) for model in models}
        found: dict[Path, int] = {}
        for folder in _entries(self._directory):
            if not any(folder.name.startswith(prefix) for prefix in known):
                with suppress(OSError):
                    found[Path(folder.path)] = sum(entry.stat().st_size for entry in _states_in(Path(folder.path)))
        return found

    def forget_all(self) -> None:
        """Delete every state. Raises `OSError`."""
        with suppress(FileNotFoundError), os.scandir(self._directory) as found:
            for entry in list(found):
                _remove_entry(entry)

    def _files(self) -> Iterator[Path]:
        for folder in _entries(self._directory):
            yield from (Path(entry.path) for entry in _states_in(Path(folder.path)))

    def _make_room(self, owner: str, size: int) -> bool:
        """Remove what was used least recently until `size` more bytes are within the limit; False: they never are."""
        present: list[tuple[float, int, Path, bool]] = []
        for path in self._files():
            with suppress(OSError):
                found = path.stat()
                name = _Name.of(path)
                if name is None:
                    if time.time() - found.st_mtime > _STALE_S:
                        _remove(path)
                    continue
                present.append((found.st_mtime, found.st_size, path, name.owner == SHARED))
        total = sum(item[1] for item in present)
        limit = self._limit if self._limit is not None else self._default_limit(total)
        is_shared = owner == SHARED
        if size > (limit * _SHARE_OF_SHARED if is_shared else limit):
            return False
        used = sum(item[1] for item in present if item[3])
        for _time, bytes_, path, is_of_shared in sorted(present):
            is_over_share = is_shared and used + size > limit * _SHARE_OF_SHARED
            if total + size <= limit and not is_over_share:
                break
            if is_over_share and not is_of_shared:
                continue
            _remove(path)
            total -= bytes_
            used -= bytes_ if is_of_shared else 0
        return total + size <= limit

    def _default_limit(self, present: int) -> int:
        import shutil  # here and below: 8 ms of a start that finds no state (with bz2, lzma, OpenSSL)

        place = next(path for path in (self._directory, *self._directory.parents) if path.exists())
        return min(_DEFAULT_LIMIT, int((shutil.disk_usage(place).free + present) * _SHARE_OF_FREE_DISK))


def shared_length(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens, or characters, two sequences have in common from their beginning."""
    length = min(len(one), len(other))
    if list(one[:length]) == list(other[:length]):
        return length
    return next(place for place in range(length) if one[place] != other[place])


def _model_prefix(model: Path) -> str:
    return _digest(str(model.absolute()))[:12] + "-"


def _digest(text: str) -> str:
    import hashlib

    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()


def _hashes(tokens: "Sequence[int] | array[int]") -> list[str]:
    """CRC-32 of the first tokens, for every level that they reach. They only rank files; the tokens decide."""
    data = array("i", tokens).tobytes()
    return [f"{zlib.crc32(data[: level * 4]):08x}" for level in _LEVELS if level <= len(tokens)]


def _entries(directory: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:  # not there yet, or a file
        return []


def _states_in(folder: Path) -> list["os.DirEntry[str]"]:
    """The files of a key's directory. A link in place of it, or of a file, would lead to what is not slm's."""
    found = [] if folder.is_symlink() else _entries(folder)
    return [entry for entry in found if entry.is_file(follow_symlinks=False)]


def _remove_entry(entry: "os.DirEntry[str]") -> None:
    """Delete a file, a link (not what it stands for), or a directory with all that is in it. Raises `OSError`."""
    if entry.is_dir(follow_symlinks=False):
        import shutil

        shutil.rmtree(entry.path)
    else:
        os.unlink(entry.path)


def _names(folder: Path) -> Iterator[_Name]:
    for entry in _states_in(folder):
        name = _Name.of(Path(entry.path))
        if name is not None:
            yield name


def _read_tokens(name: _Name) -> list[int]:
    """The tokens that a state file says it holds; none when the file is not what its name says, and then it goes."""
    tokens = array("i")
    try:
        with name.path.open("rb") as file:
            magic, _version, count = _HEADER.unpack(file.read(_HEADER.size))
            has_all = _HEADER.size + 4 * count <= os.fstat(file.fileno()).st_size
            if magic == _MAGIC and count == name.n_tokens and has_all:
                tokens.frombytes(file.read(4 * count))
    except FileNotFoundError:  # another slm made room
        return []
    except (OSError, struct.error, ValueError):
        tokens = array("i")
    if len(tokens) != name.n_tokens or tuple(_hashes(tokens)) != name.hashes:
        _remove(name.path)
        return []
    return tokens.tolist()


def _checksum(path: Path) -> int:
    """CRC-32 of a file, -1 when it cannot be read. 3 GB/s where it was measured; blake2b 0.8 GB/s."""
    checksum = 0
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while read := file.readinto(buffer):
                checksum = zlib.crc32(view[:read], checksum)
    except OSError:
        return -1
    return checksum


def _mark_as_used(path: Path) -> None:
    """The file's time becomes now. By a change of length that is none: a sealed process may not set times."""
    with suppress(OSError), path.open("r+b") as stream:
        stream.truncate(path.stat().st_size)


def _remove(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)
