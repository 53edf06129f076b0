"""`slm run` as a script sees it: streams, pipes, exit codes, JSON. Real program, real weights, tiny models."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fork_server
import pytest
from conftest import Outcome, environment, run_slm
from fake_engine import FakeEngine
from gguf_samples import BROKEN_TEMPLATE, CHATML_TEMPLATE, hostile, write_tiny_llama

from slmchat.conversation.window import fits
from slmchat.generation.generator import window_for

pytestmark = pytest.mark.real

COLORS = "The primary colors are:\n\nRed (R)\nBlue (B)\nYellow (Y)\n"


# A pipe gets whole lines: this answer has a short one at once, and is long.
LINES = "Write a list of 50 animals, one on each line."


def _greedy(model: Path | str, *more: str) -> list[str]:
    return ["run", "-m", str(model), "--temp", "0", *more]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model with a chat template and random weights."""
    return write_tiny_llama(
        tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
    )


@pytest.mark.model
class TestRealWeights:
    def test_the_completion_alone_is_on_stdout(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m"), "Name three primary colors.", home=model_home)
        assert (done.code, done.out, done.err) == (0, COLORS, "")

    def test_piped_text_comes_first_and_the_instruction_last(self, model_home: Path) -> None:
        done = run_slm(
            *_greedy("smollm2:135m", "-n", "40"),
            "Repeat the main idea in one sentence.",
            home=model_home,
            stdin="The sky is blue because of Rayleigh scattering.\n",
        )
        assert (done.code, done.out) == (0, "The sky is blue because of Rayleigh scattering.\n")

    def test_stdin_alone_is_the_prompt(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m"), home=model_home, stdin="Name three primary colors.\n")
        assert done.out == COLORS

    def test_json_is_one_object_of_the_contract(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m", "--json", "--seed", "7"), "Name three primary colors.", home=model_home)
        answer = json.loads(done.out)
        assert done.err == ""
        assert set(answer) == {"model", "completion", "finish_reason", "usage", "timings", "seed"}
        assert answer["model"] == "smollm2:135m@Q4_1"
        assert answer["completion"] == COLORS.strip()
        assert answer["finish_reason"] == "stop"
        assert answer["seed"] == 7
        assert answer["usage"] == {
            "prompt_tokens": 35,
            "cached_tokens": 0,
            "completion_tokens": 21,
        }
        timings = answer["timings"]
        assert set(timings) == {"load_s", "prompt_s", "generation_s", "prompt_tps", "generation_tps", "ttft_s"}
        assert all(value > 0 for value in timings.values())
        assert timings["prompt_s"] <= timings["ttft_s"] < timings["prompt_s"] + timings["generation_s"]

    def test_max_tokens_ends_with_length_and_exit_0(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m", "-n", "3", "--json"), "Name three primary colors.", home=model_home)
        answer = json.loads(done.out)
        assert (done.code, answer["finish_reason"], answer["usage"]["completion_tokens"]) == (0, "length", 3)

    def test_a_stop_sequence(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m", "--stop", "Blue"), "Name three primary colors.", home=model_home)
        assert done.out == "The primary colors are:\n\nRed (R)\n"

    def test_the_end_of_the_window_is_exit_7_with_the_text_so_far(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m", "--ctx", "64"), "Tell me a long story.", home=model_home)
        assert done.code == 7
        assert len(done.out) > 20
        assert "64 tokens" in done.err

    def test_a_base_model_completes_raw_text_and_says_so_otherwise(self, model_home: Path) -> None:
        raw = run_slm(*_greedy("gemma3:270m-pt", "--raw", "-n", "6"), "One, two, three, four,", home=model_home)
        assert (raw.code, raw.out) == (0, " five, six, seven,\n")
        chat = run_slm(*_greedy("gemma3:270m-pt"), "hi", home=model_home)
        assert chat.code == 2
        assert chat.err.startswith("slm: this model has no chat template")
        assert "--raw" in chat.err

    def test_statistics_only_with_v(self, model_home: Path) -> None:
        done = run_slm(*_greedy("smollm2:135m", "-vv", "-n", "3"), "hi", home=model_home)
        assert "generation tok/s" in done.err
        assert "llama_model_loader" in done.err

    def test_a_second_model_drafts_and_v_tells_how_often_it_was_right(self, model_home: Path) -> None:
        drafted = run_slm(
            *_greedy("smollm2:135m", "-v", "--draft", "smollm2:135m"), "Name three primary colors.", home=model_home
        )
        assert (drafted.code, drafted.out) == (0, COLORS)
        assert re.search(r"[1-9]\d* of [1-9]\d* drafted tokens accepted \([1-9]\d*%\)", drafted.err)

    def test_a_draft_model_that_cannot_be_used_is_refused(self, model_home: Path, tmp_path: Path) -> None:
        (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 64)
        for draft, code, said in (
            ("gemma3:270m-pt", 2, "their vocabularies differ"),
            ("nosuch:1b", 3, "nosuch:1b"),
            (str(tmp_path / "broken.gguf"), 6, "broken.gguf"),
        ):
            done = run_slm(*_greedy("smollm2:135m", "--draft", draft), "hi", home=model_home)
            assert (done.code, done.out) == (code, "")
            assert said in done.err
        both = run_slm(*_greedy("smollm2:135m", "--draft", "smollm2:135m", "--speculation", "off"), home=model_home)
        assert both.code == 2

    def test_a_closed_pipe_ends_quietly(self, model_home: Path) -> None:
        program = fork_server.popen(
            [sys.executable, "-m", "slmchat", *_greedy("smollm2:135m"), LINES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(model_home),
        )
        assert program.stdout and program.stderr
        assert program.stdout.read(1)
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(300) == 0

    def test_ctrl_c_keeps_what_was_generated_and_exits_130(self, model_home: Path) -> None:
        program = fork_server.popen(
            [sys.executable, "-m", "slmchat", *_greedy("smollm2:135m"), LINES],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(model_home),
        )
        assert program.stdout and program.stderr
        first = program.stdout.read(12)  # it is generating now
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=300)
        assert program.returncode == 130
        assert (first + rest).endswith(b"\n")
        assert errors == b""

    def test_ctrl_c_in_the_prefill(self, model_home: Path, tmp_path: Path) -> None:
        program = fork_server.popen(
            [sys.executable, "-m", "slmchat", *_greedy("smollm2:135m", "--ctx", "8192", "-v"), "Sum up."],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(model_home),
        )
        assert program.stdin and program.stderr
        program.stdin.write(b"The river flows to the sea. " * 1000)
        program.stdin.close()
        program.stdin = None
        while b"context window:" not in (line := program.stderr.readline()):  # the prefill begins
            assert line
        program.send_signal(signal.SIGINT)
        rest, errors = program.communicate(timeout=300)
        assert program.returncode == 130
        assert rest == b""  # no line in a file where there is no answer
        assert b"Traceback" not in errors


class TestInput:
    def test_files_and_braces(self, slm: Callable[..., Outcome], tiny: Path, tmp_path: Path) -> None:
        notes = tmp_path / "notes.txt"
        notes.write_text("abc")
        for arguments in (["-f", notes, "Sum up."], ["-f", notes], ["-f", "-", "Say {} twice."]):
            done = slm(*_greedy(tiny, "-n", "4", "--json"), *arguments, stdin="from stdin")
            assert done.code == 0, done.err
            assert json.loads(done.out)["usage"]["completion_tokens"] == 4

    @pytest.mark.parametrize(
        ("stdin", "arguments", "says"),
        [
            (b"", [], "the prompt is empty"),
            (b" \n ", [], "the prompt is empty"),
            (b"caf\xe9", ["Translate."], "standard input is not UTF-8 text (byte 0xe9 at position 3)"),
            (b"a\0b", ["Translate."], "standard input is a binary file"),
            (b"", ["-f", "/nonexistent/file", "x"], "/nonexistent/file cannot be read: No such file or directory"),
            (b"", ["-s", "@/nonexistent/file", "x"], "/nonexistent/file cannot be read"),
            (b"", ["--kv-type", "f64", "x"], "--kv-type cannot be 'f64'"),
            (b"", ["--gpu-layers", "many", "x"], "--gpu-layers cannot be 'many'"),
            (b"", ["--on-overflow", "explode", "x"], "--on-overflow cannot be 'explode'"),
            (b"", ["--temp", "hot", "x"], "invalid value for '--temp'"),
            (b"", ["--top-p", "1.5", "x"], "invalid value for '--top-p'"),
            (b"", ["--nonsense", "x"], "there is no option --nonsense"),
        ],
    )
    def test_bad_input_is_one_sentence_and_exit_2(
        self, slm: Callable[..., Outcome], tiny: Path, stdin: bytes, arguments: list[str], says: str
    ) -> None:
        done = slm("run", "-m", tiny, *arguments, stdin=stdin)
        assert (done.code, done.out) == (2, "")
        first, *rest = done.err.splitlines()
        assert first.startswith("slm: ")
        assert says in first
        assert all(line.startswith("hint: ") for line in rest)

    def test_a_prompt_longer_than_the_window_is_exit_7_with_numbers(
        self, slm: Callable[..., Outcome], tiny: Path
    ) -> None:
        done = slm(*_greedy(tiny), "Sum up.", stdin="word " * 2000)
        assert (done.code, done.out) == (7, "")
        assert "this model was trained for 256" in done.err
        assert "--on-overflow trim" in done.err

    def test_a_window_beyond_the_training_is_warned_of(
        self, slm: Callable[..., Outcome], tiny: Path, home: Path
    ) -> None:
        warned = "is more than the 256 tokens for which this model was trained"
        asked = slm(*_greedy(tiny, "-n", "2", "--ctx", "512"), "Hi")
        assert (asked.code, f"--ctx 512 {warned}" in asked.err) == (0, True)
        assert warned not in slm(*_greedy(tiny, "-n", "2", "--ctx", "256"), "Hi").err
        (home / "config").mkdir(exist_ok=True)
        (home / "config" / "config.toml").write_text("ctx = 1024\n")
        assert f"ctx = 1024 in the config {warned}" in slm(*_greedy(tiny, "-n", "2"), "Hi").err

    def test_standard_input_is_not_read_with_no_input_unless_it_is_named(
        self, slm: Callable[..., Outcome], tiny: Path, home: Path
    ) -> None:
        def n_prompt(*more: str) -> int:
            done = slm(*_greedy(tiny, "-n", "1", "--json", *more), "Hi", stdin="a text that is not for slm")
            assert done.code == 0, done.err
            return int(json.loads(done.out)["usage"]["prompt_tokens"])

        assert n_prompt("--no-input") < n_prompt("--no-input", "-f", "-") == n_prompt()
        reader, writer = os.pipe()  # nobody writes into it and nobody closes it
        with os.fdopen(reader) as idle:
            ended = subprocess.run(
                [sys.executable, "-m", "slmchat", *_greedy(tiny, "-n", "1", "--no-input", "Hi")],
                stdin=idle, capture_output=True, env=environment(home), timeout=300, check=False,
            )  # fmt: skip
        os.close(writer)
        assert ended.returncode == 0

    def test_an_answer_longer_than_the_room_for_it_ends_at_the_trained_length(self, home: Path, tmp_path: Path) -> None:
        model = write_tiny_llama(tmp_path / "m.gguf", chat_template=None, context_length=1024)
        less_room = "import sys, slmchat.generation.generator as it, slmchat.cli as cli; it.COMPLETION_ROOM = 100"
        asked = _greedy(model, "--raw", "--json", "-v", "Hi")
        done = subprocess.run(
            [sys.executable, "-c", f"{less_room}; sys.exit(cli.run_program(sys.argv[1:]))", *asked],
            capture_output=True, text=True, env=environment(home), stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        usage = json.loads(done.stdout)["usage"]
        assert (done.returncode, usage["prompt_tokens"] + usage["completion_tokens"]) == (7, 1025)
        assert "context window: 256 tokens" in done.stderr
        assert "context window: grown to 1,024 tokens" in done.stderr
        assert "window of 1,024 tokens (the model was trained for 1,024; a shorter input leaves more)" in done.stderr

    def test_trim_says_what_was_left_out_and_keeps_the_instruction(
        self, slm: Callable[..., Outcome], tiny: Path
    ) -> None:
        done = slm(*_greedy(tiny, "--on-overflow", "trim", "--json", "-n", "4"), "Sum up.", stdin="word " * 2000)
        assert done.code == 0
        assert "characters of the input were left out" in done.err
        assert 200 < json.loads(done.out)["usage"]["prompt_tokens"] <= 256 - 4

    def test_trim_cannot_shorten_an_instruction(self, slm: Callable[..., Outcome], tiny: Path) -> None:
        done = slm(*_greedy(tiny, "--on-overflow", "trim"), "word " * 500)
        assert done.code == 7
        assert "no input to trim" in done.err


class TestModels:
    def test_nothing_installed(self, slm: Callable[..., Outcome]) -> None:
        done = slm("run", "hi")
        assert (done.code, done.out) == (3, "")
        assert "hint: slm pull" in done.err

    def test_not_installed_names_the_command(self, slm: Callable[..., Outcome]) -> None:
        done = slm("run", "-m", "gemma3:1b", "hi")
        assert done.code == 3
        assert done.err == "slm: gemma3:1b is not installed.\nhint: slm pull gemma3:1b\n"

    def test_unknown_names_the_nearest(self, slm: Callable[..., Outcome]) -> None:
        done = slm("run", "-m", "smolm2:135m", "hi")
        assert done.code == 3
        assert "smollm2:135m" in done.err

    def test_damaged_files_are_exit_6_and_one_sentence(self, slm: Callable[..., Outcome], tmp_path: Path) -> None:
        kinds = hostile(tmp_path)
        for kind in ("text", "html", "wrong_magic", "tensor_data_cut", "tensor_count", "overlapping_tensors"):
            done = slm("run", "-m", kinds[kind], "hi")
            assert (done.code, done.out) == (6, ""), kind
            assert done.err.startswith("slm: ")
            assert len(done.err.splitlines()) <= 2

    def test_a_broken_template_is_a_sentence(self, slm: Callable[..., Outcome], tmp_path: Path) -> None:
        model = write_tiny_llama(tmp_path / "broken.gguf", chat_template=BROKEN_TEMPLATE)
        done = slm("run", "-m", model, "hi")
        assert done.code == 6
        assert "chat template" in done.err
        assert slm("run", "-m", model, "--raw", "-n", "2", "hi").code == 0

    def test_model_text_cannot_reach_the_terminal_as_control_sequences(self) -> None:
        """The filter sits between every chunk and every stream; the model's text here is what an attacker would say."""
        import io

        from slmchat.engine.results import Chunk, Finish, FinishReason, Timings, Usage
        from slmchat.generation import response
        from slmchat.sanitize import Sanitizer
        from slmchat.terminal.console import Console
        from slmchat.terminal.plain_view import PlainView

        finish = Finish(FinishReason.STOP, Usage(1, 0, 3), Timings(1, 1, 1), 1, ())
        pieces = ["safe \x1b]0;own", "ed\x07 \x1b", "[31mred\x9b2J end"]
        for raw, expected in ((False, "safe  red end"), (True, "".join(pieces))):
            console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
            events = [*(Chunk(piece, ()) for piece in pieces), finish]
            response.consume_stream(
                events, PlainView(console), sanitizer=None if raw else Sanitizer(show_invisible=False)
            )
            assert isinstance(console.stdout, io.StringIO)
            assert console.stdout.getvalue() == expected

    def test_private_leaves_no_trace_of_the_model_used(self, home: Path, tiny: Path) -> None:
        done = run_slm("run", "-m", tiny, "--private", "-n", "2", "hi", home=home)
        assert done.code == 0
        assert not list(home.rglob("*")) if home.exists() else True
        assert run_slm("run", "-m", tiny, "-n", "2", "hi", home=home).code == 0
        modes = {path: path.stat().st_mode & 0o777 for path in home.rglob("*")}
        assert modes
        assert all(mode == (0o700 if path.is_dir() else 0o600) for path, mode in modes.items())
        assert os.stat(home).st_mode & 0o077 == 0


@pytest.mark.parametrize("n_prompt", [240, 250, 255, 256])
def test_a_short_completion_fits_the_window_that_is_made_for_it(n_prompt: int) -> None:
    assert fits(n_prompt, window_for(n_prompt, 1, FakeEngine().info))
