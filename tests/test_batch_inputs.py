"""The inputs of a batch: formats, what may be broken in them, which fields make the prompt."""

import io
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from slmchat.conversation.messages import Message
from slmchat.engine.requests import Part, Prompt
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.batch import rows as batch_inputs
from slmchat.generation.batch.lines import read_lines
from slmchat.generation.batch.prompts import PromptMaker, has_fields
from slmchat.generation.batch.rows import Row, RowSource, open_source


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., RowSource]:
    """Rows of these bytes, as if they were piped in."""

    def read(data: bytes, format: str | None = None, wants_fields: bool = False) -> RowSource:
        file = tmp_path / "input"
        file.write_bytes(data)
        with file.open() as stdin:
            source = open_source([], format, wants_fields, stdin)
            return replace(source, rows=iter(list(source.rows)))

    return read


def _texts(source: RowSource) -> list[tuple[str | int, str, str | None]]:
    return [(row.id, row.text, row.error) for row in source.rows]


class TestLines:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 65536])
    def test_lines_do_not_depend_on_how_they_arrive(self, size: int) -> None:
        stream = io.BytesIO(b"\xef\xbb\xbfone\r\ntwo\n\nfour")
        lines = list(read_lines(lambda _: stream.read(size)))
        assert [(line.number, line.data) for line in lines] == [(1, b"one"), (2, b"two"), (3, b""), (4, b"four")]
        assert [line.is_ended for line in lines] == [True, True, True, False]
        assert lines[-1].end == len(stream.getvalue())

    @pytest.mark.parametrize("size", [3, 65536])
    def test_a_line_that_is_too_long_is_not_kept(self, size: int) -> None:
        stream = io.BytesIO(b"a" * 100 + b"\nshort\n" + b"b" * 11 + b"\n" + b"c" * 10)
        lines = list(read_lines(lambda _: stream.read(size), most=10))
        assert [(line.data, line.is_too_long) for line in lines] == [
            (b"a" * 10, True),
            (b"short", False),
            (b"b" * 10, True),
            (b"c" * 10, False),
        ]

    def test_empty_lines_are_no_inputs_and_numbers_stay_those_of_the_file(
        self, source: Callable[..., RowSource]
    ) -> None:
        assert _texts(source(b"one\n\n  \r\nfour\r\n")) == [(1, "one", None), (4, "four", None)]

    def test_a_broken_line_is_a_row_with_its_number(self, source: Callable[..., RowSource]) -> None:
        rows = _texts(source(b"good\ncaf\xe9\nnul\0l\nlast\n"))
        assert rows[1] == (2, "caf\ufffd", "line 2 is not UTF-8 text (byte 0xe9 at position 3)")
        assert rows[2] == (3, "nul\0l", "line 3 is binary: it has a zero byte")
        assert [row[2] for row in rows][::3] == [None, None]

    def test_a_huge_line_is_a_row_with_an_error(self, source: Callable[..., RowSource]) -> None:
        rows = list(source(b"x" * (batch_inputs.MAX_BYTES + 1) + b"\nnext\n").rows)
        assert rows[0].error == "line 1 is longer than 4 MiB"
        assert (rows[1].id, rows[1].text, rows[1].error) == (2, "next", None)

    def test_how_much_there_is_is_known_of_a_file(self, source: Callable[..., RowSource]) -> None:
        found = source(b"one\ntwo\n")
        assert (found.total, [row.end for row in found.rows]) == (8, [4, 8])


class TestJson:
    def test_objects_and_strings(self, source: Callable[..., RowSource]) -> None:
        found = source(b'{"id": "a", "text": "one"}\n"two"\n\n{"text": "three"}\n')
        assert found.format == "jsonl"
        rows = list(found.rows)
        assert [(row.id, row.text, row.fields) for row in rows] == [
            ("a", "", {"id": "a", "text": "one"}),
            (2, "two", None),
            (4, "", {"text": "three"}),
        ]

    def test_broken_rows_keep_their_text(self, source: Callable[..., RowSource]) -> None:
        rows = _texts(source(b'{"a": 1}\n{"a": \n[1]\n{"a": "\xff"}\n' + b"[" * 100_000 + b"\n"))
        assert rows[0][2] is None
        assert rows[1][:2] == (2, '{"a": ')
        assert rows[1][2] and rows[1][2].startswith("line 2 is not JSON (Expecting value")
        assert rows[2] == (3, "[1]", "line 3 is neither a JSON object nor a string")
        assert rows[3][2] == "line 4 is not UTF-8 text (byte 0xff at position 7)"
        assert rows[4][2] and rows[4][2].startswith("line 5 is not JSON")
        assert len(rows[4][1]) == 1000

    @pytest.mark.parametrize(
        ("first", "wants_fields", "format"),
        [
            (b'{"text": "x"}', False, "jsonl"),
            (b'{"text": broken', False, "jsonl"),
            (b"{} is a dictionary", False, "lines"),
            (b"a,b,c", False, "lines"),
            (b"a,b,c", True, "csv"),
            (b'"quoted"', False, "lines"),
            (b"", False, "lines"),
        ],
    )
    def test_the_format_is_detected(
        self, source: Callable[..., RowSource], first: bytes, wants_fields: bool, format: str
    ) -> None:
        assert source(first + b"\n", wants_fields=wants_fields).format == format


class TestCsv:
    def test_a_header_names_the_fields(self, source: Callable[..., RowSource]) -> None:
        data = b'\xef\xbb\xbfid,review\r\nx1,"good, really"\r\n,"two\r\nlines"\r\n\r\nx3,"say ""hi"""\r\n'
        rows = list(source(data, "csv").rows)
        assert [(row.id, row.fields and row.fields["review"]) for row in rows] == [
            ("x1", "good, really"),
            (3, "two\nlines"),
            ("x3", 'say "hi"'),
        ]

    @pytest.mark.parametrize("delimiter", [b",", b";", b"\t"])
    def test_the_delimiter_is_that_of_the_header(self, source: Callable[..., RowSource], delimiter: bytes) -> None:
        (row,) = source(b"a|b\n1|2\n".replace(b"|", delimiter), "csv").rows
        assert row.fields == {"a": "1", "b": "2"}

    def test_broken_rows_do_not_end_the_others(self, source: Callable[..., RowSource]) -> None:
        rows = list(source(b'a,b\n1,2\n1,2,3\n"x"y,2\n1,caf\xe9\n5,6\n"open,\nto the end\n', "csv").rows)
        assert [row.error for row in rows] == [
            None,
            "line 3: 3 values, the header names 2",
            "line 4: not CSV (',' expected after '\"')",
            "line 5: 'b' is not UTF-8 text (byte 0xe9 at position 3)",
            None,
            "lines 7 to 8: not CSV (unexpected end of data)",
        ]
        assert rows[1].text == "1,2,3"

    def test_a_header_with_a_name_twice_is_refused(self, source: Callable[..., RowSource]) -> None:
        with pytest.raises(SlmError, match="two columns named 'a'"):
            source(b"a,a\n1,2\n", "csv")


@pytest.mark.parametrize(
    ("line", "is_header"),
    [
        (b"id,text,label", True),
        (b"First name;City", True),
        (b"text", True),
        (b"\xef\xbb\xbfid\ttitle", True),
        (b"hello", False),
        (b"Hello, world", False),
        (b"Good, but dear.", False),
        (b"1,2,3", False),
        (b"a,a", False),
    ],
)
def test_lines_that_begin_like_a_csv(source: Callable[..., RowSource], line: bytes, is_header: bool) -> None:
    found = source(line + b"\nsecond\n")
    assert (found.format, found.suspected_header is not None) == ("lines", is_header)
    assert source(line + b"\n", "lines").suspected_header is None  # asked for


def test_a_blank_line_does_not_hide_the_format(source: Callable[..., RowSource]) -> None:
    assert source(b'\n\n{"text": "a"}\n').format == "jsonl"
    assert source(b"\n\na;b\n1;2\n", "csv").samples == [{"a": "\u2026", "b": "\u2026"}]


class TestFiles:
    def test_each_file_is_one_input(self, tmp_path: Path) -> None:
        (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\nfile\n")
        (tmp_path / "b.bin").write_bytes(b"\0\1")
        names = [str(tmp_path / name) for name in ("a.txt", "b.bin", "none.txt")] + [str(tmp_path)]
        found = open_source(names, None, False, io.StringIO())
        rows = list(found.rows)
        assert (rows[0].id, rows[0].text, rows[0].name, rows[0].error) == (names[0], "first\nfile\n", "a.txt", None)
        assert [row.error for row in rows[1:]] == [
            "b.bin is binary: it has a zero byte",
            f"{names[2]} cannot be read: No such file or directory",
            f"{names[3]} cannot be read: Is a directory",
        ]
        assert (found.total, [row.end for row in rows]) == (4, [1, 2, 3, 4])

    def test_with_a_format_a_file_holds_rows(self, tmp_path: Path) -> None:
        file = tmp_path / "rows.csv"
        file.write_text("a\n1\n2\n")
        found = open_source([str(file)], "csv", False, io.StringIO())
        assert [row.fields for row in found.rows] == [{"a": "1"}, {"a": "2"}]
        with pytest.raises(SlmError, match="one file"):
            open_source([str(file), str(file)], "csv", False, io.StringIO())

    @pytest.mark.parametrize("data", [b"[", b'[\n {"a": 1}\n]\n', b'\xef\xbb\xbf\n [ {"a": 1},\n{"a": 2}]'])
    @pytest.mark.parametrize(("format", "wants_fields"), [(None, False), (None, True), ("jsonl", False)])
    def test_an_array_of_json_is_named_as_what_it_is(
        self, source: Callable[..., RowSource], data: bytes, format: str | None, wants_fields: bool
    ) -> None:
        with pytest.raises(SlmError, match="the input is one JSON array") as caught:
            source(data, format, wants_fields)
        assert caught.value.exit_code is ExitCode.USAGE
        assert source(data, "lines").format == "lines"

    @pytest.mark.parametrize("line", [b"[1, 2]", b"[Bob] hello", b'["a"]'])
    def test_a_line_that_only_begins_with_a_bracket_is_a_line(
        self, source: Callable[..., RowSource], line: bytes
    ) -> None:
        assert _texts(source(line)) == [(1, line.decode(), None)]


def _bare(messages: Sequence[Message]) -> Prompt:
    return Prompt(tuple(Part(message.text) for message in messages))


def _asked(instruction: str, row: Row, field: str | None = None) -> str:
    return PromptMaker(instruction, field, [], _bare, None).make(row).prompt.parts[-1].text


def _json(**fields: object) -> Row:
    return Row(1, "", 0, fields=fields)


class TestPrompts:
    def test_the_input_comes_first_in_a_fence_and_the_instruction_last(self) -> None:
        assert _asked("Sum up.", Row(1, "a text", 0)) == '"""\na text\n"""\n\nSum up.'
        assert _asked("", Row(1, "a text", 0)) == "a text"
        assert _asked("Say {} twice.", Row(1, "{} {x}", 0)) == "Say {} {x} twice."

    def test_fields_go_where_they_are_named(self) -> None:
        row = _json(title="A {body}", body="B {title}", n=3, more=[1, {"a": None}])
        assert _asked("{title}: {body} ({n}, {more})", row) == 'A {body}: B {title} (3, [1, {"a": null}])'
        assert _asked('{{title}} as {"a": 1} of {title}', row) == '{title} as {"a": 1} of A {body}'
        assert _asked("{title} and {}", _json(title="T", text="I")) == "T and I"

    def test_which_field_is_the_input(self) -> None:
        assert _asked("", _json(id=1, only="the one")) == "the one"
        assert _asked("", _json(title="no", text="yes")) == "yes"
        assert _asked("", _json(title="no", text="yes"), "title") == "no"
        with pytest.raises(SlmError, match=r"not clear which field is the input \(fields: a, b\)"):
            _asked("", _json(a="1", b="2"))
        with pytest.raises(SlmError, match="there is no field 'c'"):
            _asked("", _json(a="1", b="2"), "c")
        with pytest.raises(SlmError, match="there is no field 'c'"):
            _asked("{c}", _json(a="1", b="2"))

    def test_braces_in_an_instruction_for_lines_are_text(self) -> None:
        assert _asked("Answer as {label}.", Row(1, "x", 0)) == '"""\nx\n"""\n\nAnswer as {label}.'
        assert has_fields("{label}")
        assert not has_fields('{} {{label}} {"a": 1}')

    def test_empty_and_broken_rows_say_so(self) -> None:
        with pytest.raises(SlmError, match="the input is empty"):
            _asked("x", _json(text=" "))
        with pytest.raises(SlmError, match=r"line 3 is not JSON\."):
            _asked("x", Row(3, "{", 0, error="line 3 is not JSON"))

    def test_what_does_not_fit_loses_the_end_of_the_input(self) -> None:
        maker = PromptMaker("Sum up.", None, [], _bare, lambda prompt: len(prompt.parts[0].text) <= 30)
        asked = maker.make(Row(1, "0123456789" * 5, 0))
        assert asked.prompt.parts[0].text == '"""\n0123456789012\n"""\n\nSum up.'
        assert asked.n_trimmed == 37
        assert maker.make(Row(1, "short", 0)).n_trimmed == 0
        with pytest.raises(SlmError) as caught:
            PromptMaker("x" * 40, None, [], _bare, lambda prompt: len(prompt.parts[0].text) <= 30).make(Row(1, "a", 0))
        assert caught.value.exit_code is ExitCode.CONTEXT

    def test_what_stands_as_input_in_a_record(self) -> None:
        maker = PromptMaker("{b} {a} {b}", None, [], _bare, None)
        assert maker.shown_input(_json(a=1, b="x", c=2)) == {"b": "x", "a": 1}
        assert PromptMaker("", None, [], _bare, None).shown_input(_json(text="t", c=2)) == "t"
