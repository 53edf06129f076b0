"""The one reader of text: encodings, and what is said of bytes that are no text."""

import io
from pathlib import Path

import pytest

from slmchat import text_files
from slmchat.errors import ExitCode, SlmError

TEXT = "caf\u00e9 \U0001f600\r\nsecond\n"
MARKED = [
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
]


@pytest.mark.parametrize(("mark", "codec"), MARKED)
def test_a_byte_order_mark_decides_and_is_kept_when_written(mark: bytes, codec: str) -> None:
    data = mark + TEXT.encode(codec)
    assert text_files.decode(data) == TEXT
    assert text_files.encode_like(data, TEXT) == data


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(("mark", "codec"), [*MARKED, (b"", "utf-8")])
def test_a_stream_is_decoded_however_it_arrives(mark: bytes, codec: str, size: int) -> None:
    stream = io.BytesIO(mark + TEXT.encode(codec))
    read = text_files.utf8_reader(lambda _: stream.read(size), "the input")
    found = b"".join(iter(lambda: read(9), b""))
    assert found.decode("utf-8-sig") == TEXT


def test_a_stream_that_is_cut_is_no_text() -> None:
    stream = io.BytesIO(b"\xff\xfea\0b")
    read = text_files.utf8_reader(stream.read, "the input")
    with pytest.raises(SlmError, match="the input is not whole: its UTF-16 text"):
        list(iter(lambda: read(100), b""))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"caf\xe9", r"is not UTF-8 text \(byte 0xe9 at position 3\)"),
        (b"\xef\xbb\xbfcaf\xe9", r"is not UTF-8 text \(byte 0xe9 at position 6\)"),
        (b"\xff\xfea", "is not whole: its UTF-16 text is cut or damaged at byte 2"),
        ("text\n".encode("utf-16-le"), "is UTF-16LE text without a byte order mark"),
        ("text\n".encode("utf-16-be"), "is UTF-16BE text without a byte order mark"),
        (b"a\0b", "is a binary file, not text"),
        (b"%PDF-1.7\n\xe2\xe3", "is a PDF, not text"),
        (b"PK\x03\x04\x14\0", "is a ZIP archive"),
        (b"\x1f\x8b\x08\0", "is a gzip archive"),
        (b"GGUF\x03\0\0\0", "is a model, not text"),
    ],
)
def test_other_bytes_are_named(tmp_path: Path, data: bytes, reason: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    with pytest.raises(SlmError, match=f"a.txt {reason}") as caught:
        text_files.read(str(file))
    assert caught.value.exit_code is ExitCode.USAGE
    assert ("iconv" in (caught.value.hint or "")) == ("UTF-8" in reason or "mark" in reason)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for name in (str(tmp_path), str(tmp_path / "none"), "a\0b", "~nobody-of-that-name/a"):
        with pytest.raises(SlmError, match="cannot be read"):
            text_files.read(name)


def test_a_tilde_that_is_nobodys_home_is_a_file_that_is_not_there() -> None:
    with pytest.raises(SlmError, match="~nobody-here/x cannot be read") as caught:
        text_files.read("~nobody-here/x")
    assert caught.value.exit_code is ExitCode.USAGE
