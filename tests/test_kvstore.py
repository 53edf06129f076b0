"""KV states on disk: found by what they hold, bounded, checked, deleted with what they belong to."""

import os
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from slmchat.engine import kvstore
from slmchat.engine.kvstore import SHARED, KvStore, StateKey, Stored

KEY = StateKey(Path("/models/m.gguf"), "f16")
SESSION = "0123456789abcdef" * 2


def _put(store: KvStore, owner: str, tokens: Sequence[int], *, size: int = 1000, key: StateKey = KEY) -> Path | None:
    """A state as llama.cpp writes it, with `size` bytes behind the tokens."""

    def write(path: Path) -> bool:
        path.write_bytes(struct.pack(f"<III{len(tokens)}i", 0x67677371, 3, len(tokens), *tokens) + os.urandom(size))
        return True

    return store.put(key, owner, tokens, size, write)


def _find(store: KvStore, tokens: Sequence[int], *, key: StateKey = KEY, can_cut: bool = True) -> Stored | None:
    def usable(n_stored: int, n_same: int) -> int:
        return n_same if can_cut or n_same == n_stored else 0

    return store.find(key, tokens, usable, kvstore.MIN_TOKENS)


def _files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_longest_matching_beginning_is_found(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    _put(store, "a", [*range(100)])
    wanted = _put(store, "b", [*range(300), 7, 7])
    _put(store, "c", [*range(50), *[9] * 400])
    found = _find(store, [*range(1000)])
    assert found and found.path == wanted
    assert found.owner == "b"
    assert found.tokens == [*range(300), 7, 7]


def test_a_memory_that_cannot_be_cut_gets_a_whole_beginning(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    _put(store, "a", [*range(100)])
    _put(store, "b", [*range(300), 7, 7])
    found = _find(store, [*range(1000)], can_cut=False)
    assert found and found.owner == "a"


def test_what_saves_little_is_not_worth_a_file(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    assert _put(store, "a", [*range(kvstore.MIN_TOKENS - 1)]) is None
    _put(store, "b", [*range(kvstore.MIN_TOKENS + 20)])
    assert _find(store, [*range(kvstore.MIN_TOKENS - 1)]) is None
    assert _find(store, [*range(kvstore.MIN_TOKENS)])


def test_another_key_sees_nothing(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    _put(store, "a", [*range(100)])
    assert _find(store, [*range(200)], key=StateKey(KEY.model, "q8_0")) is None
    assert _find(store, [*range(200)], key=StateKey(Path("/models/other.gguf"), "f16")) is None


@pytest.mark.parametrize("place", [0, 8, 40, -1])
def test_a_damaged_file_is_removed_and_not_used(tmp_path: Path, place: int) -> None:
    store = KvStore(tmp_path)
    intact = _put(store, "a", [*range(100)])
    damaged = _put(store, "b", [*range(300)])
    assert damaged
    data = bytearray(damaged.read_bytes())
    data[place] ^= 1
    damaged.write_bytes(data)
    found = _find(store, [*range(1000)])
    assert found and found.path == intact
    assert not damaged.exists()


@pytest.mark.parametrize("length", [0, 5, 200, 1500])
def test_a_file_that_was_cut_short_is_removed_and_not_used(tmp_path: Path, length: int) -> None:
    store = KvStore(tmp_path)
    made = _put(store, "a", [*range(300)])
    assert made
    os.truncate(made, length)
    assert _find(store, [*range(1000)]) is None
    assert not made.exists()


def test_files_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = _put(KvStore(tmp_path / "cache" / "kv"), "a", [*range(100)])
    finally:
        os.umask(before)
    assert made
    assert made.stat().st_mode & 0o777 == 0o600
    assert [path.stat().st_mode & 0o777 for path in (made.parent, made.parent.parent)] == [0o700, 0o700]


def test_a_conversation_has_one_state_for_each_model(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    other = StateKey(Path("/models/other.gguf"), "f16")
    _put(store, SESSION, [*range(100)])
    _put(store, SESSION, [*range(100)], key=other)
    last = _put(store, SESSION, [*range(200)])
    assert {path.parent.name for path in _files(tmp_path)} == {KEY.folder, other.folder}
    assert [path for path in _files(tmp_path) if path.parent.name == KEY.folder] == [last]


def test_what_was_used_least_recently_goes_first(tmp_path: Path) -> None:
    store = KvStore(tmp_path, limit=4 * 1500)
    made = [_put(store, f"s{n}", [n, *range(99)]) for n in range(4)]
    for age, path in enumerate(made):
        assert path
        os.utime(path, (1e9 + age, 1e9 + age))
    assert _find(store, [0, *range(500)])  # the oldest one is used again
    _put(store, "new", [*range(100)])
    assert {path.name.partition(".")[0] for path in _files(tmp_path)} == {"s0", "s2", "s3", "new"}


def test_shared_beginnings_do_not_push_conversations_out(tmp_path: Path) -> None:
    store = KvStore(tmp_path, limit=10_000)
    kept = [_put(store, f"s{n}", [n, *range(99)]) for n in range(3)]
    for path in kept:
        assert path
        os.utime(path, (1e9, 1e9))  # older than all that comes
    for n in range(20):
        _put(store, SHARED, [n, *range(200)])
    assert all(path and path.exists() for path in kept)
    assert sum(path.stat().st_size for path in _files(tmp_path)) <= 10_000


def test_what_is_larger_than_the_limit_is_not_written(tmp_path: Path) -> None:
    store = KvStore(tmp_path, limit=500)
    assert _put(store, "a", [*range(100)]) is None
    assert _files(tmp_path) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    store = KvStore(tmp_path)

    def fail(path: Path) -> bool:
        path.write_bytes(b"half")
        return False

    def refuse(_path: Path) -> bool:
        raise OSError(28, "No space left on device")

    assert store.put(KEY, "a", [*range(100)], 10, fail) is None
    assert store.put(KEY, "a", [*range(100)], 10, refuse) is None
    assert _files(tmp_path) == []


def test_what_a_killed_slm_left_behind_goes(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    made = _put(store, "a", [*range(100)])
    assert made
    left, growing = made.with_name(".new-0"), made.with_name(".new-1")
    left.write_bytes(b"half")
    growing.write_bytes(b"another slm is at it")
    os.utime(left, (1e9, 1e9))
    _put(store, "b", [*range(200)])
    assert not left.exists()
    assert growing.exists()


def test_a_disk_that_refuses_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "kv").write_text("a file where the directory should be")
    store = KvStore(tmp_path / "kv")
    assert _put(store, "a", [*range(100)]) is None
    assert _find(store, [*range(100)]) is None


def test_forgetting_conversations_and_models(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    other = StateKey(Path("/models/other.gguf"), "f16")
    for owner in (SESSION, "b" * 32, SHARED):
        for key in (KEY, StateKey(KEY.model, "q8_0"), other):
            _put(store, owner, [*range(100)], key=key)
    store.forget_owners([SESSION])
    assert {path.name.partition(".")[0] for path in _files(tmp_path)} == {"b" * 32, SHARED}
    assert store.forget_model(KEY.model) > 4000
    assert {path.parent.name for path in _files(tmp_path)} == {other.folder}
    store.forget_all()
    assert _files(tmp_path) == []
    store.forget_all()  # nothing there is no error


def test_a_closed_store_neither_finds_nor_writes(tmp_path: Path) -> None:
    store = KvStore(tmp_path)
    made = _put(store, "a", [*range(100)])
    assert made
    os.utime(made, (1e9, 1e9))
    store.close()
    assert _find(store, [*range(200)]) is None
    assert _put(store, "b", [*range(100)]) is None
    assert _files(tmp_path) == [made]
    assert made.stat().st_mtime == 1e9  # not even touched


def test_an_owner_cannot_lead_out_of_the_directory(tmp_path: Path) -> None:
    assert _put(KvStore(tmp_path / "kv"), "../../x", [*range(100)]) is None
    assert _files(tmp_path) == []


@pytest.mark.slow
def test_a_thousand_states_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All with the same system message of 70 tokens, as chats have it."""
    store = KvStore(tmp_path, limit=10**9)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_make_room", lambda owner, size: True)  # quadratic in this loop
        patch.setattr(kvstore, "_names", lambda folder: iter(()))
        for n in range(1000):
            _put(store, f"{n:032x}", [*range(70), *[n] * 300], size=10)
    opened: list[object] = []
    read = kvstore._read_tokens
    monkeypatch.setattr(kvstore, "_read_tokens", lambda name: opened.append(name) or read(name))
    found = _find(store, [*range(70), *[123] * 300, 1, 2, 3])
    assert found and found.owner == f"{123:032x}"
    assert len(opened) == 1
    opened.clear()
    assert _find(store, [*range(70), *range(5000, 5400)])
    assert len(opened) <= 16
