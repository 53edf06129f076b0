"""KV states as their user meets them: the same document again, a conversation that goes on, what is on the disk."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Outcome, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

pytestmark = pytest.mark.real

DOCUMENT = "the people see the water and the people write the number\n" * 40


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    control = ("<|im_start|>", "<|im_end|>")
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=4096)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.txt"
    path.write_text(DOCUMENT)
    return path


def _states(home: Path) -> list[Path]:
    return [path for path in (home / "cache" / "kv").rglob("*") if path.is_file()]


def _ask(*arguments: str | Path, home: Path, model: Path, private: str = "") -> tuple[int, str]:
    """A run; how many prompt tokens were cached, and the completion. A fixed number of threads: what else computes here
    decides about it otherwise, and about the rounding."""
    done = run_slm(
        "run",
        "-m",
        model,
        "--temp",
        "0",
        "-n",
        "8",
        "--threads",
        "1",
        "--json",
        *arguments,
        home=home,
        env={"SLM_PRIVATE": private},
    )
    assert done.code == 0, done.err
    value = json.loads(done.out)
    return value["usage"]["cached_tokens"], value["completion"]


def test_the_second_question_about_a_document_does_not_evaluate_it_again(
    home: Path, model: Path, document: Path
) -> None:
    first, text = _ask("-f", document, "who sees it?", home=home, model=model)
    assert first == 0
    cached, _other = _ask("-f", document, "what is the number?", home=home, model=model)
    assert cached > 400
    again, same = _ask("-f", document, "who sees it?", home=home, model=model)
    assert (again, same) == (cached, text)
    assert len(_states(home)) == 1


def test_a_long_system_message_is_shared_by_all_questions(home: Path, model: Path) -> None:
    system = "-s", "you are a world of water " * 30
    _ask(*system, "who are you?", home=home, model=model)
    assert _ask(*system, "what is water?", home=home, model=model)[0] > 120
    assert _ask("-s", "be brief", "what is water?", home=home, model=model)[0] == 0


def test_a_short_question_leaves_nothing(home: Path, model: Path) -> None:
    _ask("what is water?" * 30, home=home, model=model)
    assert _states(home) == []


def test_private_runs_neither_write_nor_read_states(home: Path, model: Path, document: Path) -> None:
    _ask("-f", document, "who?", home=home, model=model, private="1")
    assert _states(home) == []
    _ask("-f", document, "who?", home=home, model=model)
    (state,) = _states(home)
    before = state.stat()
    assert _ask("-f", document, "who?", home=home, model=model, private="1")[0] == 0
    assert state.stat() == before


def test_states_can_be_switched_off_and_limited(home: Path, model: Path, document: Path) -> None:
    config = home / "config" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("kv-cache = false\n")
    _ask("-f", document, "who?", home=home, model=model)
    assert _states(home) == []
    config.write_text('kv-cache-limit = "1 KB"\n')
    _ask("-f", document, "who?", home=home, model=model)
    assert _states(home) == []
    config.write_text('kv-cache-limit = "1 MiB"\n')
    _ask("-f", document, "who?", home=home, model=model)
    assert len(_states(home)) == 1
    config.write_text('kv-cache-limit = "much"\n')
    done = run_slm("run", "-m", model, "hi", home=home)
    assert done.code == 2
    assert "kv-cache-limit" in done.err


def test_a_damaged_state_is_evaluated_again_in_silence(home: Path, model: Path, document: Path) -> None:
    _cached, text = _ask("-f", document, "who?", home=home, model=model)
    (state,) = _states(home)
    data = bytearray(state.read_bytes())
    data[-100] ^= 0xFF
    state.write_bytes(data)
    assert _ask("-f", document, "who?", home=home, model=model) == (0, text)
    assert _ask("-f", document, "who?", home=home, model=model)[0] > 400  # whole again


def test_a_model_that_has_changed_does_not_get_the_states_of_the_old_one(
    home: Path, tmp_path: Path, model: Path, document: Path
) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(model.read_bytes())
    _ask("-f", document, "who?", home=home, model=own)
    other = tmp_path / "other.gguf"
    control = ("<|im_start|>", "<|im_end|>")
    write_tiny_llama(
        other, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=4096, seed=2
    ).rename(own)
    assert _ask("-f", document, "who?", home=home, model=own)[0] == 0


def test_privacy_names_the_place_and_its_size(home: Path, model: Path, document: Path) -> None:
    _ask("-f", document, "who?", home=home, model=model)
    shown: Outcome = run_slm("privacy", "--json", home=home)
    places = {place["path"]: place for place in json.loads(shown.out)["places"]}
    place = places[str(home / "cache" / "kv")]
    assert place["size"] == sum(path.stat().st_size for path in _states(home)) > 0
    assert place["with_private"] == "not written, not read"
    kept = sum(path.stat().st_size for path in (home / "cache").rglob("*") if path.is_file())
    assert places[str(home / "cache")]["size"] == kept - place["size"]  # counted once


class TestChat:
    """On a pty, with a model that answers nonsense of real states."""

    @pytest.fixture
    def chat(self, home: Path, model: Path) -> Iterator["list[Terminal]"]:
        opened: list[Terminal] = []
        yield opened
        for terminal in opened:
            terminal.__exit__()

    @staticmethod
    def _open(opened: list[Terminal], home: Path, model: Path, *options: str | Path) -> Terminal:
        terminal = Terminal(["chat", model, "--temp", "0", "-n", "20", "-v", *options], home=home)
        opened.append(terminal)
        terminal.wait_for(r"^> ?$|\n> ?(\n|$)")
        return terminal

    def _talked(self, opened: list[Terminal], home: Path, model: Path, *options: str | Path) -> None:
        terminal = self._open(opened, home, model, *options)
        terminal.enter("who are the people? " * 20)
        terminal.wait_for(r"finish reason")
        terminal.type("\x04")
        assert terminal.end() == 0

    def test_a_resumed_conversation_is_not_evaluated_again(self, chat: list[Terminal], home: Path, model: Path) -> None:
        self._talked(chat, home, model)
        terminal = self._open(chat, home, model, "-c")
        terminal.enter("and?")
        terminal.wait_for(r"\((\d{3}) cached\)")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert len(_states(home)) == 1

    def test_a_removed_conversation_takes_its_state_along(self, chat: list[Terminal], home: Path, model: Path) -> None:
        self._talked(chat, home, model)
        self._talked(chat, home, model)
        assert len(_states(home)) == 2
        sessions = json.loads(run_slm("sessions", "list", "--json", home=home).out)
        assert run_slm("sessions", "rm", sessions[0]["id"], home=home).code == 0
        (left,) = _states(home)
        assert left.name.startswith(sessions[1]["id"])
        assert run_slm("sessions", "rm", "--all", "--yes", home=home).code == 0
        assert _states(home) == []

    def test_private_chats_leave_no_state(self, chat: list[Terminal], home: Path, model: Path) -> None:
        self._talked(chat, home, model, "--private")
        assert _states(home) == []

    def test_a_chat_that_goes_private_writes_no_state_any_more(
        self, chat: list[Terminal], home: Path, model: Path
    ) -> None:
        terminal = self._open(chat, home, model)
        terminal.enter("/private")
        terminal.wait_for("nothing more of this chat")
        terminal.enter("who are the people? " * 20)
        terminal.wait_for(r"finish reason")
        terminal.type("\x04")
        assert terminal.end() == 0
        assert _states(home) == []

    def test_what_one_conversation_said_is_not_stored_with_another(
        self, chat: list[Terminal], home: Path, model: Path
    ) -> None:
        """/clear begins a new conversation, and the KV cache still holds the old one."""
        terminal = self._open(chat, home, model)
        terminal.enter("who are the people? " * 20)
        terminal.wait_for(r"finish reason")
        terminal.enter("/clear")
        terminal.wait_for("A new conversation")
        terminal.type("\x04")
        assert terminal.end() == 0
        (session,) = json.loads(run_slm("sessions", "list", "--json", home=home).out)
        assert [path.name.partition(".")[0] for path in _states(home)] == [session["id"]]
