"""`slm chat` as its user sees it: the real program on a pty, real weights, a terminal emulator's screen."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = pytest.mark.real

COLORS = "Name three primary colors."
STORY = "Tell me a very long story about a fox, a river and a mountain."

Open = Callable[..., Terminal]


@pytest.fixture
def chat(home: Path, smollm2: Path) -> Iterator[Open]:
    """`chat(*options)` opens a chat with the real model, greedy; closed at the end of the test."""
    opened: list[Terminal] = []

    def call(*options: str | Path, model: Path | None = None, **more: object) -> Terminal:
        terminal = Terminal(["chat", model or smollm2, "--temp", "0", *options], home=home, **more)  # type: ignore[arg-type]
        opened.append(terminal)
        terminal.wait_for(r"^> ?$|\n> ?(\n|$)")
        return terminal

    yield call
    for terminal in opened:
        terminal.__exit__()


def _sessions(home: Path) -> list[dict[str, object]]:
    done = run_slm("sessions", "list", "--json", home=home)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert isinstance(found, list)
    return found


def _exported(home: Path) -> dict[str, object]:
    done = run_slm("sessions", "export", str(_sessions(home)[0]["id"]), "--format", "json", home=home)
    assert done.code == 0, done.err
    value = json.loads(done.out)
    assert isinstance(value, dict)
    return value


def _is_idle(terminal: Terminal) -> bool:
    """The prompt is open and empty, and nothing is being generated."""
    lines = terminal.text.splitlines()
    prompts = [line.strip() for line in lines if line.startswith(">")]
    return bool(lines) and "Ctrl-C stops" not in lines[-1] and prompts[-1:] == [">"]


def _ask_until_full(terminal: Terminal) -> None:
    """Exchange after exchange, until the window is full and the dialogue asks what to do."""
    for number in range(1, 16):
        terminal.enter(f"Question {number}: tell me something about the number {number}, please.")
        terminal.wait_for(f"Question {number}: ")
        terminal.wait_for(lambda: "drop the oldest" in terminal.everything or _is_idle(terminal))
        if "drop the oldest" in terminal.everything:
            return
    raise AssertionError(f"the window was never full:\n{terminal.everything}")


@pytest.mark.model
class TestConversation:
    def test_an_answer_streams_and_the_toolbar_counts(self, chat: Open, home: Path) -> None:
        terminal = chat()
        terminal.enter(COLORS)
        terminal.wait_for(r"Yellow \(Y\)[\s\S]*\d+/[\d,]+ \(\d %\)")
        terminal.type("\x04")
        assert terminal.end() == 0
        (session,) = _sessions(home)
        assert session["title"] == COLORS
        assert run_slm("sessions", "show", str(session["id"]), home=home).out.count("Yellow (Y)") == 1

    def test_ctrl_c_keeps_the_part_and_continue_goes_on(self, chat: Open, home: Path) -> None:
        terminal = chat("-n", "400")
        terminal.enter(STORY)
        terminal.wait_for(r"Ctrl-C stops")
        terminal.interrupt()
        terminal.wait_for(r"\(stopped; /continue goes on\)")
        before = len(terminal.everything)
        terminal.enter("/continue")
        terminal.wait_for(lambda: len(terminal.everything) > before + 150)
        terminal.interrupt()
        terminal.wait_for_count(r"\(stopped", 2)
        terminal.enter("/exit")
        assert terminal.end() == 0
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[1]["is_cut"] is True

    def test_continue_gives_the_text_that_would_have_come(self, chat: Open, home: Path, smollm2: Path) -> None:
        whole = run_slm("run", "-m", smollm2, "--temp", "0", "-n", "40", STORY, home=home)
        terminal = chat("-n", "20")
        terminal.enter(STORY)
        terminal.wait_for(r"cut at the limit of tokens")
        terminal.enter("/continue")
        terminal.wait_for_count(r"cut at the limit of tokens", 2)
        terminal.enter("/exit")
        terminal.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert messages[1]["text"].strip() == whole.out.strip()

    def test_kill_9_in_an_answer_keeps_what_was_said(self, chat: Open, home: Path) -> None:
        terminal = chat()
        terminal.enter(COLORS)
        terminal.wait_for(r"Yellow \(Y\)")
        terminal.enter(STORY)
        terminal.wait_for(r"fox[\s\S]{400}")
        shown = re.sub(r"\s+", " ", terminal.everything.partition(STORY)[2])
        terminal.kill()
        resumed = chat("-c")
        resumed.wait_for(r"\(cut; /continue goes on\)")
        resumed.enter("/exit")
        resumed.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
        saved = re.sub(r"\s+", " ", messages[3]["text"])
        assert messages[3]["is_cut"] is True
        assert len(saved) > 150  # the pauses between two writes are half a second, about 60 tokens here
        assert saved[:100].strip() in shown

    def test_retry_keeps_the_old_answer_and_branch_goes_back(self, chat: Open, home: Path) -> None:
        terminal = chat("--temp", "1.3", "--seed", "5", "-n", "12")
        terminal.enter("Say something about rivers.")
        terminal.wait_for(r"cut at the limit")
        terminal.enter("/retry")
        terminal.wait_for(r"\(answer 2 of 2; /branch shows the others\)")
        terminal.enter("/branch")
        terminal.wait_for(r"\* 2  2 messages")
        terminal.enter("/branch 1")
        terminal.wait_for_count(r"\(cut; /continue goes on\)", 1)
        terminal.enter("/exit")
        terminal.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert [message["parent"] for message in messages] == [None, 1, 1]
        assert messages[1]["text"] != messages[2]["text"]
        resumed = chat("-c")
        resumed.enter("/branch")
        resumed.wait_for(r"\* 1  2 messages")

    def test_undo_and_edit_make_branches(self, chat: Open, home: Path) -> None:
        terminal = chat("-n", "8")
        terminal.enter("What is a river?")
        terminal.wait_for(r"cut at the limit")
        terminal.enter("/edit")
        terminal.wait_for(r"edit> What is a river\?")
        terminal.type("\x15")
        terminal.enter("What is a mountain?")
        terminal.wait_for_count(r"cut at the limit", 2)
        terminal.enter("/undo")
        terminal.wait_for(r"Undone: What is a mountain\?")
        terminal.enter("What is a lake?")
        terminal.wait_for_count(r"cut at the limit", 3)
        terminal.enter("/exit")
        terminal.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        first = [message["text"] for message in messages if message["parent"] is None]
        assert first == ["What is a river?", "What is a mountain?", "What is a lake?"]

    def test_resizing_in_the_middle_of_an_answer_does_no_harm(self, chat: Open) -> None:
        terminal = chat("-n", "48")
        terminal.enter(STORY)
        terminal.wait_for("Ctrl-C stops")
        terminal.resize(60, 20)
        terminal.wait_for(lambda: _is_idle(terminal))
        terminal.enter("What is a river?")
        terminal.wait_for(r"> What is a river\?")
        terminal.wait_for(lambda: _is_idle(terminal))
        answer = terminal.text.partition("What is a river?")[2]
        assert "river" in answer.lower()
        assert all(len(line) <= 60 for line in terminal.text.splitlines())

    def test_ctrl_c_in_the_prefill_gives_the_message_back(self, chat: Open, home: Path, tmp_path: Path) -> None:
        long = tmp_path / "long.txt"
        long.write_text("The river flows to the sea. " * 900)
        terminal = chat("--ctx", "8192", "-f", long)
        terminal.wait_for(r"1 file attached")
        terminal.enter("Sum up.")
        terminal.wait_for(r"reading \d,\d+ tokens, \d+ s left")
        terminal.interrupt()
        terminal.wait_for(r"cancelled; your message is back in the line[\s\S]*> Sum up\.")

    def test_private_writes_nothing_at_all(self, chat: Open, home: Path) -> None:
        def disk() -> dict[str, bytes]:
            return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}

        before = disk()
        terminal = chat("--private", "-n", "12")
        terminal.enter("My secret is a purple elephant.")
        terminal.wait_for(r"[1-9]\d*/[\d,]+ .*private: nothing is written")
        terminal.enter("/exit")
        assert terminal.end() == 0
        assert disk() == before


class TestCommands:
    """On a tiny model: what the commands say, not what the model says."""

    @pytest.fixture
    def tiny(self, home: Path, tmp_path: Path) -> Iterator[Open]:
        model = write_tiny_llama(
            tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, extra_control_tokens=("<|im_start|>", "<|im_end|>")
        )
        opened: list[Terminal] = []

        def call(*options: str) -> Terminal:
            terminal = Terminal(["chat", model, "-n", "4", *options], home=home, cwd=tmp_path)
            opened.append(terminal)
            terminal.wait_for(r"\n> ?(\n|$)")
            return terminal

        yield call
        for terminal in opened:
            terminal.__exit__()

    def test_an_unknown_command_is_never_sent(self, tiny: Open, home: Path) -> None:
        terminal = tiny()
        terminal.enter("/hlep me")
        terminal.wait_for(r"there is no command /hlep; nothing was sent to the model[\s\S]*did you mean /help")
        terminal.enter("/clearly")
        terminal.wait_for(r"there is no command /clearly")
        terminal.enter("q")
        terminal.wait_for(r"cut at the limit")  # a one-letter message is a message
        terminal.enter("//usr/bin is a path")
        terminal.wait_for_count(r"cut at the limit", 2)
        terminal.enter("/exit")
        terminal.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert [m["text"] for m in messages if m["role"] == "user"] == ["q", "/usr/bin is a path"]

    def test_system_set_context_prompt_title_export(self, tiny: Open, home: Path) -> None:
        terminal = tiny()
        terminal.enter("/system Be brief.")
        terminal.wait_for("The system message is set")
        terminal.enter("/set temperature 99")
        terminal.wait_for(r"temperature must be a number from 0 to 10")
        terminal.enter("/set temperature 0.5")
        terminal.wait_for(r"temperature is now 0\.5")
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/context")
        terminal.wait_for(r"system +Be brief\.[\s\S]*user +hello[\s\S]*of \d+ tokens")
        terminal.enter("/prompt")
        terminal.wait_for(r"<\|im_start\|>system\s+Be brief\.<\|im_end\|>")
        terminal.enter("/title My talk")
        terminal.wait_for("The title is now: My talk")
        terminal.enter("/export")
        terminal.wait_for("Written to ")
        assert "hello" in (home / "data" / "exports" / "my-talk.md").read_text()
        terminal.enter("/export my-talk.md")
        terminal.wait_for(r"exports/my-talk-2\.md")

    def test_another_model_goes_on_with_the_conversation(self, tiny: Open, home: Path, tmp_path: Path) -> None:
        other = write_tiny_llama(
            tmp_path / "other.gguf",
            chat_template=CHATML_TEMPLATE,
            extra_control_tokens=("<|im_start|>", "<|im_end|>"),
            seed=7,
        )
        terminal = tiny()
        terminal.enter("the first question")
        terminal.wait_for("cut at the limit")
        terminal.enter("/model nosuch:1b")
        terminal.wait_for(r"there is no model 'nosuch:1b'")
        terminal.enter(f"/model {other}")
        terminal.wait_for(r"answers; the conversation goes on")
        terminal.enter("the second question")
        terminal.wait_for_count("cut at the limit", 2)
        terminal.enter("/prompt")
        terminal.wait_for(r"the first question[\s\S]*the second question[\s\S]*the first question")
        terminal.enter("/exit")
        terminal.end()
        messages = _exported(home)["messages"]
        assert isinstance(messages, list)
        assert len({message["model"] for message in messages if message["role"] == "assistant"}) == 2

    def test_the_meter_and_the_place_are_true_after_undo_and_on_resume(self, tiny: Open) -> None:
        terminal = tiny()
        terminal.wait_for(r"tiny\.gguf · 0/[\d,]+ \(0 %\)")
        terminal.enter("first\x1b\rsecond line")
        terminal.wait_for(r"cut at the limit[\s\S]*tiny\.gguf · [1-9]\d*/")
        terminal.enter("/exit")
        terminal.end()
        terminal = tiny("-c")
        terminal.wait_for(r"first \(2 messages\)\n> first\n[\s\S]*tiny\.gguf · [1-9]\d*/")
        assert "second line" not in terminal.everything  # the echo is short
        terminal.enter("/undo")
        terminal.wait_for(r"Undone: first[\s\S]*tiny\.gguf · 0/")
        terminal.enter("/exit")
        terminal.end()
        terminal = tiny("-c")
        terminal.wait_for(r"before the first message; /branch shows what was said[\s\S]*tiny\.gguf · 0/")

    def test_a_full_window_asks_and_dropping_is_said(self, tiny: Open) -> None:
        terminal = tiny("--ctx", "160", "-n", "8", "--temp", "0")
        _ask_until_full(terminal)
        assert re.search(r"is \d+ tokens(;\s+with| and)[\s\S]*\b160", terminal.everything)
        terminal.press("d")
        terminal.wait_for(r"the model no longer sees the oldest \d+ of \d+ messages")
        terminal.wait_for(lambda: _is_idle(terminal))
        terminal.enter("/context")
        terminal.wait_for(r"The model no longer sees the first \d+ messages")

    def test_a_full_window_can_be_summarised(self, tiny: Open, home: Path) -> None:
        terminal = tiny("--ctx", "160", "-n", "8", "--temp", "0")
        _ask_until_full(terminal)
        terminal.press("s")
        terminal.wait_for(r"let it stand for what was said before")
        terminal.press("y")
        terminal.wait_for(r"a summary stands for them")
        terminal.wait_for(lambda: _is_idle(terminal))
        terminal.enter("/exit")
        terminal.end()
        assert _exported(home)["summary"]

    def test_a_message_that_comes_back_stays_folded(self, tiny: Open) -> None:
        terminal = tiny("--ctx", "512")
        terminal.type("\x1b[200~" + "a long text\n" * 300 + "\x1b[201~")
        terminal.wait_for(r"\[pasted text: 300 lines, 3,600 characters\]")
        terminal.enter("")
        terminal.wait_for(r"this message has [\d,]+ tokens, and the context window of 512 has room for \d+")
        terminal.wait_for(r"hint: shorten it[\s\S]*> \[pasted text: 300 lines, 3,600 characters\]")

    def test_a_persona_gives_the_system_message(self, tiny: Open) -> None:
        terminal = tiny("-p", "translator", "--ctx", "512")
        terminal.enter("/system")
        terminal.wait_for(r"[Tt]ranslat")
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/persona nosuch")
        terminal.wait_for(r"no persona")

    def test_the_seal_is_named_when_it_refuses_an_export(
        self, tiny: Open, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        terminal = tiny()
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/export /usr/x.md")
        terminal.wait_for(r"/usr/x\.md is outside the places[\s\S]*--export-dir DIR")

    @pytest.mark.parametrize("private", [[], ["--private"]])
    def test_an_export_goes_where_the_user_has_said(self, tiny: Open, tmp_path: Path, private: list[str]) -> None:
        (tmp_path / "notes").mkdir()
        terminal = tiny("--export-dir", str(tmp_path / "notes"), *private)
        terminal.enter("hello")
        terminal.wait_for("cut at the limit")
        terminal.enter("/export talk.json")
        terminal.wait_for("Written to ")
        assert json.loads((tmp_path / "notes" / "talk.json").read_text())
        terminal.enter("/export none/talk.md")
        terminal.wait_for(r"notes/none/[\s\S]*directory\.")

    def test_a_saved_conversation_goes_out_and_in_again(self, tiny: Open, home: Path, tmp_path: Path) -> None:
        terminal = tiny()
        terminal.enter("about elephants")
        terminal.wait_for("cut at the limit")
        terminal.enter("/exit")
        terminal.end()
        first = _exported(home)
        file = tmp_path / "chat.json"
        done = run_slm("--offline", "sessions", "export", "about elephants", "--format", "json", "-o", file, home=home)
        assert done.code == 0, done.err
        assert file.stat().st_mode & 0o777 == 0o600
        assert run_slm("sessions", "rm", str(first["id"]), home=home).code == 0
        assert _sessions(home) == []
        assert run_slm("sessions", "import", file, home=home).code == 0
        assert _exported(home)["messages"] == first["messages"]
        found = run_slm("sessions", "search", "eleph", home=home)
        assert "about elephants" in found.out

    def test_files_are_counted_and_binary_ones_refused(self, tiny: Open, tmp_path: Path) -> None:
        (tmp_path / "a b.txt").write_text("some text")
        (tmp_path / "c.bin").write_bytes(b"a\0b")
        terminal = tiny()
        terminal.enter('/file "a b.txt"')
        terminal.wait_for(r"a b\.txt: 9 characters, \d+ tokens[\s\S]*1 file attached")
        terminal.enter("/file c.bin")
        terminal.wait_for("c.bin is a binary file")
        terminal.enter("/file *.nothing")
        terminal.wait_for(r"no file matches")

    def test_two_chats_at_once_do_not_harm_each_other(self, tiny: Open, home: Path) -> None:
        first, second = tiny(), tiny()
        for number in range(3):
            first.enter(f"first {number}")
            second.enter(f"second {number}")
            first.wait_for_count("cut at the limit", number + 1)
            second.wait_for_count("cut at the limit", number + 1)
        first.enter("/exit")
        second.enter("/exit")
        assert first.end() == second.end() == 0
        assert sorted(str(session["messages"]) for session in _sessions(home)) == ["6", "6"]

    def test_sessions_switches_and_search_finds(self, tiny: Open) -> None:
        terminal = tiny()
        terminal.enter("about elephants")
        terminal.wait_for("cut at the limit")
        terminal.enter("/clear")
        terminal.wait_for(r"A new conversation.*The old one is saved")
        terminal.enter("about giraffes")
        terminal.wait_for_count("cut at the limit", 2)
        terminal.enter("/search eleph")
        terminal.wait_for(r"2 found\.")
        terminal.enter("/sessions about elephants")
        terminal.wait_for(r"about elephants \(2 messages\)")

    def test_a_model_without_template_ends_with_the_sentence_and_its_code(self, home: Path, tmp_path: Path) -> None:
        model = write_tiny_llama(tmp_path / "base.gguf", chat_template=None)
        with Terminal(["chat", model], home=home) as terminal:
            terminal.wait_for(r"base\.gguf is a base model: [\s\S]*\n> ?(\n|$)")
            terminal.enter("hello")
            terminal.wait_for(r"this model has no chat template[\s\S]*> hello")
            terminal.type("\x15\x04")
            assert terminal.end() == 0

    def test_a_file_that_is_no_model_ends_the_chat(self, home: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.gguf").write_text("hello")
        with Terminal(["chat", tmp_path / "bad.gguf"], home=home) as terminal:
            assert terminal.end() == 6
            assert "is not a GGUF" in " ".join(terminal.everything.split())


@pytest.mark.model
def test_the_first_run_offers_a_model_pulls_it_and_the_chat_begins(home: Path) -> None:
    with Terminal([], home=home) as terminal:
        terminal.wait_for(r"Nothing is installed yet\. This device has .* of memory")
        terminal.wait_for(
            r"(\S+) is recommended: (?:the|it) .*\nPull which one\? \[1-(\d) or a name; Enter: \1; q leaves\]"
        )
        offered = re.findall(r"^[ *]+(\d)  (\S+) ", terminal.everything, flags=re.M)
        assert offered[-1][1] == "smollm2:135m"
        terminal.enter("9")
        terminal.wait_for(r"'9' is not one of them.*[\s\S]*Pull which one")
        terminal.enter("smollm2:135m")  # as it stands there
        terminal.wait_for(r"installed smollm2:135m[\s\S]*\n> ?(\n|$)", timeout=300)
        assert "next:" not in terminal.everything
        terminal.enter("/exit")
        assert terminal.end() == 0


def test_the_first_run_can_be_left(home: Path) -> None:
    with Terminal([], home=home) as terminal:
        terminal.wait_for(r"Pull which one\?")
        terminal.enter("q")
        assert terminal.end() == 3
        assert "hint: slm pull" in terminal.everything


@pytest.mark.parametrize(("key", "code"), [("\x03", 130), ("\x04", 3)], ids=["Ctrl-C", "Ctrl-D"])
def test_what_comes_behind_a_question_that_was_not_answered_begins_a_line(home: Path, key: str, code: int) -> None:
    """The question stays whole, and a shell's next prompt does not stand behind it."""
    with Terminal(
        ["-c", 'trap : INT; "$@"; echo "ended with $?"', "sh", sys.executable, "-m", "slmchat"],
        home=home,
        program=("sh",),
        echo=True,
    ) as terminal:
        terminal.wait_for(r"q leaves\] ?$")
        terminal.press(key)
        terminal.wait_for(rf"q leaves\].*\n(slm: .*\n.*\n)?ended with {code}")
        terminal.end()
