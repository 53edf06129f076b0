"""Files that are written whole or not at all: what the disk refuses is said of the file that the user knows."""

import os
import stat
from pathlib import Path

import pytest

from slmchat import private_files
from slmchat.errors import ExitCode, SlmError
from slmchat.private_files import make_private, replace_content, replace_file, write_private


def test_an_error_names_the_file_and_not_the_new_one_that_takes_its_place(tmp_path: Path) -> None:
    place = tmp_path / "config.toml"
    place.mkdir()
    with pytest.raises(SlmError) as caught:
        write_private(place, b"x")
    assert caught.value.message.startswith(f"{place} cannot be used: ")
    assert caught.value.exit_code is ExitCode.STORAGE
    for file in (place, tmp_path / "none" / "a.txt"):  # the new file takes no place, or cannot be made
        with pytest.raises(OSError, match=str(file.name)) as refused:
            replace_file(file, b"x")
        assert refused.value.filename == str(file) and ".new-" not in str(refused.value)
    assert list(tmp_path.iterdir()) == [place]


def test_a_full_disk_names_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"before")

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28), "/somewhere/.new-1")

    monkeypatch.setattr(private_files.os, "fsync", full)
    with pytest.raises(SlmError, match="the disk is full") as caught:
        write_private(file, b"after")
    assert caught.value.message.startswith(f"{file} ")
    with pytest.raises(SlmError, match="it was left as it is") as caught:
        replace_content(file, b"before", b"after")
    assert ".new-" not in caught.value.message
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == b"before"


def test_a_directory_that_somebody_else_has_made_keeps_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made between the look and the making, or not to be looked at: root would narrow /tmp, or the root itself."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    theirs.chmod(0o755)
    monkeypatch.setattr(Path, "exists", lambda _path: False)
    make_private(theirs / "ours")
    assert stat.S_IMODE(theirs.stat().st_mode) == 0o755
    assert stat.S_IMODE((theirs / "ours").stat().st_mode) == 0o700
