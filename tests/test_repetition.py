"""A completion that goes round in circles is ended, unless somebody said how long it may become."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import run_slm
from gguf_thinking import PLAIN, SWITCHED, THINKS, write_planted
from terminal import Terminal

import slmchat
from slmchat.engine.repetition import LONGEST_PIECE, STRETCH, repeats_itself
from slmchat.engine.results import FinishReason
from slmchat.server.records import _REASONS

PIECE = list(range(LONGEST_PIECE))


@pytest.mark.parametrize("piece", [[7], [1, 2], [5, 5, 6], PIECE])
@pytest.mark.parametrize("before", [0, 1, 1000])
def test_a_short_piece_over_and_over_goes_round(piece: list[int], before: int) -> None:
    tokens = [*range(5000, 5000 + before), *(piece * STRETCH)[:STRETCH]]
    assert repeats_itself(tokens)
    assert not repeats_itself(tokens[-STRETCH + 1 :])  # not for long enough


@pytest.mark.parametrize(
    "tokens",
    [
        list(range(2 * STRETCH)),
        ([*PIECE, 999] * STRETCH)[:STRETCH],  # too long a piece
        [token for number in range(STRETCH) for token in (1, 2, 3, 1000 + number)],  # a list that counts
        [*[7] * STRETCH, 8],  # it has come out of it
        [*[7] * (STRETCH // 2), 8, *[7] * (STRETCH // 2)],
    ],
)
def test_what_goes_on_to_something_new_does_not(tokens: list[int]) -> None:
    assert not repeats_itself(tokens)


def test_every_way_to_end_has_a_word_of_the_openai_protocol() -> None:
    assert set(_REASONS) == set(FinishReason)


@pytest.fixture(scope="module")
def round_and_round(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planted") / "round.gguf"
    return write_planted(path, {"<|says|>": "▁look", "▁look": "▁at", "▁at": "▁look"}, PLAIN, context_length=2048)


@pytest.mark.real
class TestDoors:
    def _run(self, home: Path, *arguments: str | Path, stdin: str | None = None) -> tuple[dict[str, Any], str]:
        done = run_slm(*arguments, "--temp", "0", home=home, stdin=stdin)
        assert done.code == 0, done.err
        return json.loads(done.out), done.err

    def test_run_ends_it_and_says_so(self, round_and_round: Path, home: Path) -> None:
        record, err = self._run(home, "run", "-m", round_and_round, "--json", "word")
        assert record["finish_reason"] == "repetition"
        assert record["usage"]["completion_tokens"] == STRETCH
        assert err.startswith("slm: warning: the completion went round in circles, and was ended.\nhint: ")

    def test_run_lets_it_go_on_to_the_length_that_was_asked_for(self, round_and_round: Path, home: Path) -> None:
        record, err = self._run(home, "run", "-m", round_and_round, "--json", "-n", "600", "word")
        assert (record["finish_reason"], record["usage"]["completion_tokens"], err) == ("length", 600, "")

    def test_a_batch_counts_such_rows(self, round_and_round: Path, home: Path) -> None:
        record, err = self._run(home, "batch", "-m", round_and_round, stdin="word\n")
        assert record["finish_reason"] == "repetition"
        assert "1 row went round in circles and ended there (-n N lets a row go on)." in err

    def test_a_thought_that_goes_round_is_no_answer(self, tmp_path: Path, home: Path) -> None:
        path = write_planted(tmp_path / "thinks.gguf", THINKS, SWITCHED, context_length=2048)
        record, err = self._run(home, "run", "-m", path, "--json", "word")
        assert (record["finish_reason"], record["completion"]) == ("repetition", "")
        assert "there is no answer: the model thought (" in err and "and went round in circles." in err

    def test_python_hears_of_it(self, round_and_round: Path) -> None:
        with slmchat.load(round_and_round, ctx=1024) as model:
            assert model.complete("word", temperature=0.0).finish_reason == "repetition"

    def test_the_chat_says_so_and_goes_on_when_asked(self, round_and_round: Path, home: Path) -> None:
        with Terminal(["chat", round_and_round, "--temp", "0"], home=home) as terminal:
            terminal.wait_for(r"\n> ?(\n|$)")
            terminal.enter("word")
            terminal.wait_for(r"\(ended, since it went round in circles; /retry asks again, /continue goes on\)")
            terminal.enter("/continue")
            terminal.wait_for_count(r"went round in circles", 2)
            terminal.enter("/exit")
            assert terminal.end() == 0
