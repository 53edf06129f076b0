"""Low memory for real: real weights inside limits that the kernel enforces, and model files that change under a chat.

Whatever the limit, slm answers or says in numbers why it does not; it never crashes and is never killed.
"""

import os
import re
import sys
from pathlib import Path

import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = [pytest.mark.real, pytest.mark.slow]

if sys.platform != "linux":
    pytest.skip("limits of Linux", allow_module_level=True)

from memory_limits import MB, address_space, limited_slm, memory_group, uncached_copy  # noqa: E402

QUESTION = ("-n", "8", "--temp", "0", "--raw", "The capital of France is")


def told(error: str) -> None:
    """A refusal has numbers and what would do."""
    assert re.search(
        r"needs \d+\.\d [MG]B of (memory|address space), and .* \d+\.\d MB|needs .* and \d+\.\d MB", error
    ), error
    assert "hint: " in error


@pytest.mark.model
@pytest.mark.parametrize(
    ("model", "limit", "codes"),
    [
        ("smollm2", 250, {4}), ("smollm2", 320, {0, 4}), ("smollm2", 370, {0}), ("smollm2", 1000, {0}),
        ("gemma3_base", 500, {4}), ("gemma3_base", 750, {0, 4}),
    ],
)  # fmt: skip
def test_a_limit_of_the_address_space_is_refused_or_answered(
    model: str, limit: int, codes: set[int], home: Path, request: pytest.FixtureRequest
) -> None:
    file = request.getfixturevalue(model)
    done = limited_slm(home, address_space(limit * MB), "run", "-m", file, *QUESTION)
    assert done.code in codes, done
    if done.code == 4:
        told(done.err)
        assert "ulimit -v leaves" in done.err


@pytest.mark.model
@pytest.mark.parametrize(
    ("model", "limit", "code"),
    [
        ("smollm2", 130, 4), ("smollm2", 205, 0), ("gemma3_base", 320, 4), ("gemma3_base", 420, 0),
    ],
)  # fmt: skip
def test_a_control_group_that_a_model_barely_fits_or_does_not(
    model: str, limit: int, code: int, home: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = uncached_copy(request.getfixturevalue(model), tmp_path / "model.gguf")
    with memory_group(limit * MB) as group:
        done = limited_slm(home, group.enter, "run", "-m", file, *QUESTION)
        kills = group.kills
    file.unlink()
    assert (done.code, kills) == (code, 0), done
    if code == 4:
        told(done.err)
        assert "of memory, and " in done.err
    else:
        assert done.out.strip()


@pytest.mark.model
def test_a_window_that_does_not_fit_becomes_smaller_with_a_notice(smollm2: Path, home: Path, tmp_path: Path) -> None:
    file = uncached_copy(smollm2, tmp_path / "model.gguf")
    with memory_group(205 * MB) as group:
        done = limited_slm(home, group.enter, "run", "-m", file, "-n", "2000", "--stop", "e", "Hello")
        asked = limited_slm(home, group.enter, "run", "-m", file, "--ctx", "8192", "-n", "4", "Hello")
        kills = group.kills
    assert (done.code, kills) == (0, 0), done
    assert re.search(r"memory is short: a context window of [\d,]+ tokens instead of 2,\d+", done.err), done.err
    assert asked.code == 4
    assert "--ctx " in asked.err


# A model file that changes under a running chat


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(
        tmp_path / "tiny.gguf",
        chat_template=CHATML_TEMPLATE,
        extra_control_tokens=("<|im_start|>", "<|im_end|>"),
        context_length=2048,
    )


def asked(terminal: Terminal, text: str, count: int) -> None:
    """Say something and wait for the answer, the `count`th that is cut at its limit of tokens."""
    terminal.enter(text)
    terminal.wait_for_count("cut at the limit", count)


def test_a_file_that_is_removed_or_replaced_is_told_once_and_the_chat_goes_on(tiny: Path, home: Path) -> None:
    with Terminal(["chat", tiny, "-n", "3"], home=home, columns=200) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        asked(terminal, "hello", 1)
        tiny.unlink()
        asked(terminal, "are you there", 2)
        assert "was removed meanwhile; this chat goes on" in terminal.everything
        asked(terminal, "and now", 3)
        assert terminal.everything.count("was removed meanwhile") == 1
        terminal.enter("/exit")
        assert terminal.end() == 0


@pytest.mark.parametrize("how", ["cut", "written"])
def test_a_file_that_is_changed_in_place_ends_in_a_sentence_and_not_in_a_crash(
    how: str, tiny: Path, home: Path
) -> None:
    with Terminal(["chat", tiny, "-n", "3"], home=home, columns=200) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        asked(terminal, "hello", 1)
        with tiny.open("r+b") as file:
            if how == "cut":
                os.truncate(file.fileno(), 1000)
            else:
                file.seek(5000)
                file.write(b"other weights")
        terminal.enter("are you there")
        terminal.wait_for(r"was changed while it was in use[\s\S]*slm verify")
        terminal.type("\x15")  # the question stands in the line again
        terminal.enter("/exit")
        assert terminal.end() == 0


def test_a_file_that_is_another_one_now_is_told(tiny: Path, home: Path, tmp_path: Path) -> None:
    other = write_tiny_llama(tmp_path / "other.gguf", chat_template=CHATML_TEMPLATE)
    with Terminal(["chat", tiny, "-n", "3"], home=home, columns=200) as terminal:
        terminal.wait_for(r"\n> ?(\n|$)")
        asked(terminal, "hello", 1)
        os.replace(other, tiny)
        asked(terminal, "are you there", 2)
        assert "was replaced meanwhile; this chat goes on" in terminal.everything
        terminal.enter("/exit")
        assert terminal.end() == 0
