"""The command line at its door: standard streams that are closed or full, help, tables and the size of the window."""

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import environment
from gguf_samples import write_tiny_llama
from terminal import Terminal

from slmchat import cli, settings
from slmchat.commands import models
from slmchat.commands.examples import EXAMPLES
from slmchat.commands.help_pages import example, page
from slmchat.errors import SlmError
from slmchat.models import device_fit
from slmchat.terminal.console import Console
from slmchat.terminal.size import terminal_size
from slmchat.terminal.tables import Column, hanging, layout

LONG = "a-family-of-models-with-a-name:of-sixty-characters-in-all@Q4"

# One command line for each command, in an empty home; those that answer on stdout there with True.
LINES = {
    "--version": True,
    "": True,
    "help run": True,
    "run -h": True,
    "pull nonsense": False,
    "run hi": True,
    "batch hi": True,
    "chat": False,
    "list": True,
    "list --available": True,
    "show nonsense": True,
    "rm nonsense": False,
    "add a nonsense": False,
    "verify": True,
    "sessions list": True,
    "sessions show x": True,
    "sessions search x": True,
    "sessions export x": True,
    "sessions import -": False,
    "sessions rename x y": False,
    "sessions rm x": False,
    "bench": True,
    "doctor": True,
    "tune": True,
    "privacy": True,
    "completion bash": True,
    "__complete run --": True,
}
CASES = {"plain": "", "in and err": "02", "out": "1", "all": "012", "full out": "/1", "full err": "/2", "gone": "|1"}

# Every line in every case, in a fork each: Python starts once. What a shell does is done to the descriptors, and what
# Python makes of them at its start.
_ALL = """
import gc, json, os, sys
sys.path.insert(0, sys.argv[2])
import fork_server
fork_server.load()
lines, cases, place = json.loads(sys.argv[1])
found = {}
gc.freeze()
for line in lines:
    for name, case in cases.items():
        child = os.fork()
        if not child:
            empty = os.open(os.devnull, os.O_RDONLY)
            os.dup2(empty, 0)
            os.close(empty)
            for number, kind in ((1, "out"), (2, "err")):
                file = os.open(f"{place}/{kind}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(file, number)
                os.close(file)
            if case.startswith("/"):
                full = os.open("/dev/full", os.O_WRONLY)
                os.dup2(full, int(case[1]))
                os.close(full)
            elif case.startswith("|"):
                reader, writer = os.pipe()
                os.close(reader)
                os.dup2(writer, int(case[1]))
                os.close(writer)
            else:
                for number in map(int, case):
                    os.close(number)
                    setattr(sys, ("stdin", "stdout", "stderr")[number], None)
            sys.argv[1:] = line.split()
            from slmchat.__main__ import main
            code = main()
            for stream in (sys.stdout, sys.stderr):  # as Python does at its end, which takes a fork as long as all else
                try:
                    stream.flush()
                except OSError:
                    code = 120
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found[f"{line}|{name}"] = [code, *(open(f"{place}/{kind}").read() for kind in ("out", "err"))]
print(json.dumps(found))
"""


@pytest.mark.real
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_every_command_with_every_stream_closed_or_full(home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ALL, json.dumps([list(LINES), CASES, str(tmp_path)]), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env=environment(home),
        check=True,
    )
    found = json.loads(done.stdout)
    for line, is_answer in LINES.items():
        plain, out, _ = found[f"{line}|plain"]
        for name in CASES:
            code, _, err = found[f"{line}|{name}"]
            what = f"slm {line} ({name}): {code} {err}"
            assert "Traceback" not in err and "Exception ignored" not in err, what
            assert code not in (1, 120), what
            if name in ("in and err", "full err"):
                assert code == plain, what
            elif name == "out" and is_answer:
                assert (code, err.splitlines()[-2]) == (10, "slm: standard output is closed."), what
            elif name == "all" and is_answer:
                assert code == 10, what
            elif name == "gone":  # as `slm … | head -1` when head has ended
                assert code == (0 if out else plain) and err == found[f"{line}|plain"][2], what
            elif name == "full out" and out:
                assert (code, "standard output cannot be written: no space left" in err) == (10, True), what
        assert set(found[f"{line}|in and err"][1].splitlines()) >= set(out.splitlines()[:1]), line


@pytest.mark.real
@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "12", "02", "012"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        f"for number in map(int, {closed!r}):\n"
        "    os.close(number)\n"
        "    setattr(sys, ('stdin', 'stdout', 'stderr')[number], None)\n"
        "from slmchat.terminal import standard_streams\n"
        "standard_streams.open_missing()\n"
        "assert sys.stdin.fileno() == 0 and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2\n"
        "file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)\n"
        "os.write(file, str(file).encode())\n"
    )
    place = tmp_path / "number"
    subprocess.run([sys.executable, "-c", code, place], check=True)
    assert int(place.read_text()) > 2


def test_messages_that_nobody_can_read_do_not_stop_an_answer() -> None:
    out = io.StringIO()
    with open("/dev/full", "w") if os.path.exists("/dev/full") else pytest.skip("no /dev/full") as full:
        console = Console(io.StringIO(), out, full, {})
        console.note("a note")
        console.print("the answer")
        console.warn("a warning")
        console.flush()
    assert out.getvalue() == "the answer\n"


def test_a_warning_is_told_apart_from_an_error() -> None:
    err = io.StringIO()
    console = Console(io.StringIO(), io.StringIO(), err, {})
    console.warn("the window is small.", "a larger one: --ctx N")
    console.error(SlmError("there is no model.", exit_code=cli.ExitCode.NO_MODEL))
    assert (
        err.getvalue() == "slm: warning: the window is small.\nhint: a larger one: --ctx N\nslm: there is no model.\n"
    )


# Help


def _page(name: str, columns: int) -> list[str]:
    path, command = "slm", cli.whole_program()
    for word in name.split():
        path, command = f"{path} {word}", command.commands[word]
    with command.make_context(path, [], resilient_parsing=True) as context:
        return list(page(command, context, columns))


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_help_fits_the_window(columns: int) -> None:
    for name in ["", *EXAMPLES]:
        for line in _page(name, columns):
            assert len(line) <= columns, (name, line)


@pytest.mark.slow
def test_long_help_is_in_groups_and_short_help_is_not() -> None:
    run = _page("run", 80)
    order = ["Model:", "Input:", "Sampling:", "Response format:", "Output:", "Device:", "General:"]
    assert [line for line in run if line in order] == order and "Options:" not in run
    assert "Options:" in _page("show", 80) and "General:" not in _page("show", 80)
    for name in EXAMPLES:
        spelled = [line for line in _page(name, 100) if line.startswith("  -")]
        assert (len(spelled) > 10) == ("General:" in _page(name, 100)), name
    assert not [line for line in run if "range>" in line or "<=x" in line or "INTEGER" in line]
    assert any(line.startswith("  --top-p P ") for line in run) and any("[0 to 1]" in line for line in run)


def test_an_example_that_is_too_long_can_still_be_copied() -> None:
    lines = list(example('slm run --template-file review.txt --var tone=kind -f main.py "What is it?"', 40))
    assert max(map(len, lines)) <= 40 and len(lines) > 1
    assert " ".join(line.strip().removesuffix("\\").strip() for line in lines) == (
        'slm run --template-file review.txt --var tone=kind -f main.py "What is it?"'
    )


def test_help_of_a_command_is_that_of_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("", "run", "sessions", "sessions list"):
        assert cli.run_cli([*name.split(), "--help"]) == 0
        expected = capsys.readouterr().out
        assert cli.run_cli(["help", *name.split()]) == 0
        assert capsys.readouterr().out == expected
        assert "\x1b" not in expected
    assert cli.run_cli(["help", "rnu"]) == 2
    assert "did you mean slm run?" in capsys.readouterr().err


def test_verbose_is_counted_before_and_after_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def told(_settings: object, console: Console, **_: object) -> cli.ExitCode:
        seen.append((console.is_verbose, console.shows_engine_log))
        return cli.ExitCode.DONE

    monkeypatch.setattr("slmchat.commands.models.list_models", told)
    for words in ("list", "-v list", "list -v", "list -vv", "-v list -v", "-vv list"):
        assert cli.run_cli(words.split()) == 0
    assert seen == [(False, False), (True, False), (True, False), (True, True), (True, True), (True, True)]


# Tables

COLUMNS = (Column("NAME"), Column("QUANTIZATION", 1), Column("SIZE", 2), Column("TAGS", 4), Column("ABOUT", 3, True))
ROWS = [
    ("smollm2:135m", "Q4_1", "98.4 MB", "", "a small model that answers in short sentences"),
    ("gemma3:1b", "Q4_K_M", "806 MB", "", "another one"),
    (LONG, "Q4", "1 GB", "", "a long name"),
]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_table_fits_the_window_and_breaks_no_name(width: int) -> None:
    made = layout(COLUMNS, ROWS, width)
    text = "\n".join(made.lines)
    assert all(any(line.startswith(row[0]) for line in made.lines) for row in ROWS), text
    assert all(len(line) <= max(width, len(LONG)) for line in made.lines), text
    assert [line for line in made.lines if len(line) > width] in ([], [LONG])
    assert "TAGS" not in text and "TAGS" not in made.left_out  # nobody has any
    assert ("ABOUT" in made.left_out) == (width == 40)


def test_a_pipe_gets_every_column_in_one_line_a_row() -> None:
    made = layout(COLUMNS, ROWS, None)
    assert len(made.lines) == 4 and not made.left_out
    assert made.lines[0].split() == ["NAME", "QUANTIZATION", "SIZE", "TAGS", "ABOUT"]


def test_columns_go_by_rank_and_prose_is_folded_between_words() -> None:
    assert layout(COLUMNS, ROWS[:2], 34).left_out == ["SIZE", "ABOUT"]
    lines = layout(
        (Column("WHAT", is_prose=True), Column("SO", is_prose=True)), [("a b c " * 9, "d e f " * 9)], 40
    ).lines
    assert all(len(line) <= 40 for line in lines) and len(lines) > 2
    narrow = layout(
        (Column("WHAT"), Column("SIZE"), Column("WHERE")), [("models", "1 GB", "/some/where/else")], 20
    ).lines
    assert narrow == ["models", "  SIZE: 1 GB", "  WHERE: /some/where/else"]


@pytest.mark.parametrize("width", [30, 40, 80])
def test_a_name_in_prose_is_not_cut(width: int) -> None:
    columns = (Column("NAME"), Column("SIZE", rank=2), Column("HERE", rank=1, is_prose=True))
    rows = [("gemma4:e2b", "3.1 GB", "fits (UD-Q4_K_XL-QAT)"), ("a:1b", "1.0 GB", "fits with 4,096 tokens of context")]
    lines = layout(columns, rows, width).lines
    assert any("(UD-Q4_K_XL-QAT)" in line for line in lines) and all(len(line) <= width for line in lines), lines


def test_a_label_keeps_its_text_beside_it_and_paths_whole() -> None:
    path = "/home/someone/with/a/long/path/model.gguf"
    assert hanging("why:  ", "it is not there", None) == ["why:  it is not there"]
    assert hanging("why:  ", f"see {path} for it", 30) == ["why:  see", f"      {path}", "      for it"]


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_facts_of_a_model_are_folded_beside_their_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_fit.ForDevice, "measure_more", lambda self: None)
    file = write_tiny_llama(tmp_path / "tiny.gguf", chat_template="{% if true %}\n  {{ bos_token }}{% endif %}")
    out = _Tty()
    console = Console(io.StringIO(), out, io.StringIO(), {"COLUMNS": "50", "TERM": "dumb"})
    models.show(str(file), settings.load({"SLM_HOME": str(tmp_path / "home")}), console)
    lines = out.getvalue().splitlines()
    label = " " * 17
    fit = next(number for number, line in enumerate(lines) if line.startswith("fit: "))
    assert lines[fit + 1].startswith(label) and not lines[fit + 1].startswith(label + " ")
    assert f"{label}  {{{{ bos_token }}}}{{% endif %}}" in lines  # a line of the template, as it is
    assert [line for line in lines if len(line) > 50 and " " in line[17:]] == []  # what is too long is one word


# The size of the window


def test_a_terminal_is_asked_before_the_environment() -> None:
    import fcntl
    import struct
    import termios

    leader, follower = pty.openpty()
    try:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
        assert terminal_size(follower, {"COLUMNS": "200", "LINES": "9"}) == (60, 20)
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
        assert terminal_size(follower, {"COLUMNS": "200"}) == (200, 24)
    finally:
        os.close(leader)
        os.close(follower)
    assert terminal_size(io.StringIO(), {"COLUMNS": "50", "LINES": "x"}) == (50, 24)
    assert terminal_size(io.StringIO(), {"COLUMNS": "0"}) == (80, 24)


@pytest.mark.real
@pytest.mark.parametrize("columns", [40, 80])
def test_the_program_lays_out_for_the_terminal_and_not_for_columns(columns: int, home: Path) -> None:
    wide = {"COLUMNS": "200", "LINES": "9"}
    with Terminal(["list", "--available"], home=home, columns=columns, env=wide) as shown:
        shown.wait_for("no room here for")
        rows = [line for line in shown.everything.splitlines() if ":" in line]
        assert any(re.match(r"qwen2\.5-coder:1\.5b +", line) for line in rows)
        assert any(re.match(r"smollm2:135m .* 98|smollm2:135m .*fits|smollm2:135m .*memory", line) for line in rows)


@pytest.mark.real
@pytest.mark.parametrize(("env", "is_bold"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_help_has_bold_headings_on_a_terminal_in_colour_alone(env: dict[str, str], is_bold: bool, home: Path) -> None:
    with Terminal(["show", "--help"], home=home, env=env) as shown:
        shown.wait_for("Examples:(.|\n)*json")
        assert ("\x1b[1mOptions:" in shown.raw) == is_bold
