"""The process that writes one file for a sealed one: it writes that file, whole, and nothing else."""

import json
import os
import signal
import struct
from pathlib import Path

import pytest
from sealed_process import in_python, needs_landlock, needs_seccomp, told

from slmchat.errors import SlmError
from slmchat.privacy.writer import FileWriter

pytestmark = [pytest.mark.real, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "answer"
    made.write_text("old")
    made.chmod(0o640)
    return made


def test_a_file_is_replaced_as_often_as_asked_and_keeps_its_mode(file: Path) -> None:
    writer = FileWriter(file)
    for content in (b"new", b"", bytes(1 << 20)):
        writer.replace(content)
        assert file.read_bytes() == content
    assert file.stat().st_mode & 0o777 == 0o640
    writer.close()
    assert list(file.parent.iterdir()) == [file]


def test_another_content_than_expected_is_left_alone(file: Path) -> None:
    writer = FileWriter(file)
    with pytest.raises(SlmError, match="has changed meanwhile"):
        writer.exchange(b"something else", b"new")
    assert file.read_text() == "old"
    writer.exchange(b"old", b"new")
    assert file.read_text() == "new"
    writer.close()


def test_a_disk_that_refuses_is_an_error_of_the_asking_process(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    writer = FileWriter(folder / "answer")
    folder.rmdir()
    with pytest.raises(OSError, match="No such file or directory"):
        writer.replace(b"new")
    writer.close()


def test_a_writer_that_was_ended_is_told_and_the_file_is_as_it_was(file: Path) -> None:
    writer = FileWriter(file)
    assert writer._child is not None
    os.kill(writer._child, signal.SIGKILL)
    with pytest.raises(OSError, match="was ended"):
        writer.replace(b"new")
    writer.close()
    assert (file.read_text(), list(file.parent.iterdir())) == ("old", [file])


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\0",
        struct.pack("=QQ", 2**64 - 1, 100) + b"half of it",
        struct.pack("=QQ", 10, 10) + b"old",
        struct.pack("=QQ", 2**63, 1),
        b"../../etc/passwd\n" * 2,
    ],
)
def test_half_a_wish_changes_nothing(file: Path, said: bytes) -> None:
    """As when slm is killed in the middle, or talks nonsense."""
    writer = FileWriter(file)
    writer._asking.write(said)
    writer.close()
    assert (file.read_text(), list(file.parent.iterdir())) == ("old", [file])


@needs_landlock
@needs_seccomp
def test_a_sealed_process_writes_the_file_and_nothing_beside_it(file: Path) -> None:
    code = """
    import json, os, socket
    from pathlib import Path
    from slmchat.privacy import forked
    from slmchat.privacy.seal import seal
    from slmchat.privacy.writer import FileWriter
    file = Path(sys.argv[1])
    writer = FileWriter(file)
    seal(is_required=True)
    found = {}
    for name in ("beside", "answer"):
        try:
            file.with_name(name).write_text("x")
            found[name] = "written"
        except OSError:
            found[name] = "refused"
    for what, attempt in {
        "memory": lambda: open(f"/proc/{writer._child}/mem", "r+b"),
        "signal": lambda: os.kill(writer._child, 9),
    }.items():
        try:
            attempt()
            found[what] = "out"
        except OSError:
            found[what] = "refused"
    writer.replace(b"new")
    print(json.dumps(found))
    """
    found = json.loads(told(in_python(code, file)))
    assert found.pop("signal") in ("refused", "out")  # Landlock from version 6 on
    assert found == {"beside": "refused", "answer": "refused", "memory": "refused"}
    assert file.read_text() == "new"


@needs_landlock
@needs_seccomp
def test_the_writer_is_sealed_itself(tmp_path: Path) -> None:
    """Forked as the writer is, it tries what a hostile asker would want of it."""
    (tmp_path / "in").mkdir()
    code = """
    import os, socket
    from pathlib import Path
    from slmchat.privacy import forked, writer
    root = Path(sys.argv[1])
    reader, end = os.pipe()
    def serve():
        writer._seal(root / "in" / "file")
        for attempt in (
            socket.socket,
            lambda: (root / "outside").write_text("x"),
            lambda: os.rename(root / "in" / "file", root / "outside"),
            lambda: (root / "in" / "file").write_text("x"),
            lambda: os.chmod(root / "in" / "file", 0o640),
        ):
            try:
                attempt()
                os.write(end, b"out ")
            except OSError:
                os.write(end, b"refused ")
    child = forked.start(serve, (end,))
    os.close(end)
    print(os.read(reader, 100).decode() if not os.waitpid(child, 0)[1] else "died")
    """
    assert told(in_python(code, tmp_path)) == "refused refused refused out out"
