"""`slm ask` as a program: weights of noise and real ones, documents on the disk, streams and exit codes."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ask_samples import write_documents
from conftest import SMOLLM2, Outcome, run_slm
from endpoint_server import EndpointServer, stream
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from gguf_surgery import with_keys

from slmchat import settings as settings_module

MANUAL = """# Pump P-7

## Care

The filter of the pump is cleaned every six weeks with warm water. Never use soap.

The pump must not run dry. If it does, switch it off and wait for 20 minutes.

## Warranty

The warranty lasts three years and ends when the housing is opened.
"""
QUOTED = "The filter of the pump is cleaned every six weeks with warm water."
QUESTION = "How often is the filter of the pump cleaned?"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    control = ("<|im_start|>", "<|im_end|>")
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return write_tiny_llama(path, chat_template=CHATML_TEMPLATE, extra_control_tokens=control, context_length=4096)


@pytest.fixture
def manual(tmp_path: Path) -> Path:
    path = tmp_path / "docs" / "manual.md"
    path.parent.mkdir()
    path.write_text(MANUAL)
    return path


Ask = Callable[..., Outcome]


@pytest.fixture
def ask(slm: Ask, tiny: Path) -> Ask:
    def call(*arguments: str | Path, stdin: str = "") -> Outcome:
        return slm("ask", "-m", tiny, "-n", "5", *arguments, stdin=stdin)

    return call


@pytest.mark.real
class TestNoise:
    """Weights of noise answer nonsense; what they quote is in the document all the same."""

    def test_sources_stand_below_the_answer(self, ask: Ask, manual: Path) -> None:
        done = ask(QUESTION, "-d", manual, "-v")
        assert done.code == 0, done.err
        answer, _, sources = done.out.rpartition("\n\n")
        assert answer
        for line in sources.splitlines():
            found = re.fullmatch(r'\[\d\] (.+), lines? (\d+).*: "(.+)"', line)
            assert found and found[1] == str(manual) and found[3] in MANUAL.splitlines()[int(found[2]) - 1]
        assert "in the context window" in done.err and "very small model" in done.err

    def test_quotations_alone_are_verbatim_in_any_temperature(self, ask: Ask, manual: Path) -> None:
        done = ask(QUESTION, "-d", manual.parent, "--quotes-only", "--json", "--temp", "3", "--seed", "1")
        record = json.loads(done.out)
        assert done.code == 0 and record["answer"] is None and record["quotations"]
        for quotation in record["quotations"]:
            assert quotation["text"] in MANUAL and quotation["file"] == str(manual)
            assert quotation["text"] in record["passages"][quotation["passage"]]["text"]

    def test_what_is_not_in_the_documents(self, ask: Ask, manual: Path) -> None:
        done = ask("What is the capital of Mongolia?", "-d", manual)
        assert (done.code, done.out) == (11, "")
        assert "slm: nothing in the documents is about this.\nhint: " in done.err
        done = ask("What is the capital of Mongolia?", "-d", manual, "--json")
        assert done.code == 11 and json.loads(done.out)["refusal"] and done.err.count("slm:") == 0

    def test_lines_of_stdin_are_questions_and_passages_are_read_once(self, ask: Ask, manual: Path) -> None:
        questions = f"{QUESTION}\n\nMay the pump run dry?\nWhat is the capital of Mongolia?\n"
        done = ask("-d", manual, "--json", stdin=questions)
        first, second, third = map(json.loads, done.out.splitlines())
        assert done.code == 11 and third["answer"] is None and first["quotations"] and second["quotations"]
        assert second["usage"]["cached_tokens"] > second["usage"]["prompt_tokens"] / 3
        done = ask("-", "-d", manual, "--quotes-only", stdin=questions)
        assert [line for line in done.out.splitlines() if line.startswith("> ")] == [
            f"> {line}" for line in questions.splitlines() if line
        ]

    def test_a_log_in_colours_is_quoted(self, ask: Ask, tmp_path: Path) -> None:
        (tmp_path / "a.log").write_text("Start.\n\nThe pump of unit seven is \x1b[31mbroken today\x1b[0m.\n")
        done = ask("What of the pump of unit seven?", "-d", tmp_path / "a.log", "--quotes-only", "--json")
        assert done.code == 0, done.err
        (told,) = json.loads(done.out)["quotations"]
        assert "The pump of unit seven is broken today.".endswith(told["text"]) and told["lines"] == [3, 3]

    def test_a_question_ends_where_its_line_does(self, ask: Ask, manual: Path) -> None:
        question = "How often is\x0cthe filter\u2028of the pump cleaned?"
        done = ask("-d", manual, "--quotes-only", "--json", stdin=f"{question}\r\n{QUESTION}\n")
        assert [json.loads(line)["question"] for line in done.out.split("\n") if line] == [question, QUESTION]

    def test_the_index_is_asked_without_documents(self, ask: Ask, manual: Path, home: Path) -> None:
        nothing = ask(QUESTION)
        assert nothing.code == 2 and "there are no documents" in nothing.err
        assert ask(QUESTION, "-d", manual, "--private").code == 0
        assert ask(QUESTION).code == 2  # nothing was written
        assert ask(QUESTION, "-d", manual).code == 0
        assert ask(QUESTION, "--quotes-only").code == 0

    def test_an_embedding_model_of_ones_own_is_used_by_its_name(
        self, ask: Ask, slm: Ask, tiny: Path, manual: Path, tmp_path: Path
    ) -> None:
        """Its file says that it makes vectors; nothing was pulled, and the catalog does not know it."""
        assert json.loads(ask(QUESTION, "-d", manual, "--json").out)["passages"][0]["similarity"] is None
        own = with_keys(tiny, tmp_path / "own.gguf", {"llama.pooling_type": 1})
        assert slm("add", "answers", tiny).code == slm("add", "mine", own).code == 0
        done = ask(QUESTION, "-d", manual, "--json", "-v")
        assert "searched by meaning, with mine" in done.err
        assert json.loads(done.out)["passages"][0]["similarity"] is not None
        assert slm("embed", "water").code == 0  # the only one there is
        own.unlink()
        done = ask(QUESTION, "-d", manual, "--json", "-v")
        assert done.code == 0 and "by their words; an embedding model also" in done.err

    def test_a_file_that_cannot_be_read_is_told_of_once(self, ask: Ask, manual: Path) -> None:
        (manual.parent / ".git").mkdir()
        (manual.parent / "a.docx").write_bytes(b"PK\x03\x04 and no archive")
        (manual.parent / "a.png").write_bytes(b"\x89PNG\0")
        first, second, aloud = (
            ask(QUESTION, "-d", manual.parent, "--quotes-only", *more) for more in ((), (), ("-v",))
        )
        assert "a.docx: it is damaged." in first.err and "a.png: it is" in first.err and ".git" not in first.err
        assert "skipped" not in second.err and second.code == 0
        assert all(told in aloud.err for told in ("a.docx: it is damaged.", "a.png: it is", ".git: it is hidden."))
        (manual.parent / "b.docx").write_bytes(b"PK\x03\x04 and no archive either")
        more = ask(QUESTION, "-d", manual.parent, "--quotes-only")
        assert "skipped 2 files, each is damaged: " in more.err and "a.png" not in more.err
        alone = ask(QUESTION, "-d", manual.parent / "a.docx")
        assert alone.code == 2 and "it is damaged" in alone.err  # nothing else is there: the reason again

    def test_what_is_forgotten_leaves_nothing(self, ask: Ask, slm: Ask, manual: Path, home: Path) -> None:
        """The index is all that is kept of a document: no state of the model, no question, no answer."""
        assert ask(QUESTION, "-d", manual).code == 0
        assert slm("docs", "rm", manual).code == 0
        kept = [file for file in home.rglob("*") if file.is_file()]
        assert kept and not [file for file in kept if re.search(b"six weeks|How often", file.read_bytes())]
        states = settings_module.load({"SLM_HOME": str(home)}).paths.kv_states
        assert not [file for file in states.rglob("*") if file.is_file()]

    def test_a_document_that_changed_is_read_again(self, ask: Ask, manual: Path) -> None:
        assert ask(QUESTION, "-d", manual, "--quotes-only").code == 0
        manual.write_text(MANUAL.replace("six weeks", "nine days"))
        done = ask(QUESTION, "-d", manual, "--quotes-only")
        assert "six weeks" not in done.out and done.code == 0

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("What?", "-d", "nowhere"), "nowhere"),
            (("-d", "DOCS"), "there is no question"),
            ((" ", "-d", "DOCS"), "there is no question"),
            (("What is it?", "DOCS/manual.md", "-d", "DOCS"), "is a file"),
            (("What is it?", "-d", "EMPTY"), "nothing in these documents can be read"),
            (("What is it?", "-d", "DOCS", "--top", "0"), "--top"),
        ],
    )
    def test_what_cannot_be_asked(self, ask: Ask, manual: Path, arguments: tuple[str, ...], said: str) -> None:
        (manual.parent.parent / "empty").mkdir()
        places = {"DOCS": str(manual.parent), "EMPTY": str(manual.parent.parent / "empty")}
        words = [re.sub("DOCS|EMPTY", lambda found: places[found[0]], word) for word in arguments]
        done = ask(*words)
        assert done.code == 2 and said in done.err and done.out == "" and "Traceback" not in done.err


@pytest.mark.real
class TestEndpoint:
    """A server elsewhere quotes as it likes; what is not in a passage does not count."""

    @pytest.fixture
    def server(self) -> Iterator[EndpointServer]:
        with EndpointServer() as running:
            yield running

    def test_what_is_made_up_is_left_out(self, server: EndpointServer, slm: Ask, manual: Path) -> None:
        free = f'- "{QUOTED}"\n- "The filter is cleaned every day."'
        server.script += [stream(free), stream("Every six weeks [1], says ", '"the filter is never cleaned" [2].')]
        done = slm("ask", "--endpoint", server.url, QUESTION, "-d", manual)
        assert done.code == 0, done.err
        answer, _, sources = done.out.partition("\n\n")
        assert answer == "Every six weeks [1], says the filter is never cleaned."
        assert sources == f'[1] {manual}, line 5: "{QUOTED}"\n'
        assert "grammar" not in server.posts[0].body and server.posts[0].body["temperature"] == 0

    def test_nothing_that_is_there_is_no_answer(self, server: EndpointServer, slm: Ask, manual: Path) -> None:
        server.script.append(stream('"The filter is cleaned every day."'))
        done = slm("ask", "--endpoint", server.url, QUESTION, "-d", manual)
        assert (done.code, done.out, len(server.posts)) == (11, "", 1)


@pytest.mark.model
def test_a_real_model_quotes_and_answers(model_home: Path, tmp_path: Path) -> None:
    """Twelve documents of seven kinds, a PDF and a DOCX among them."""
    documents = write_documents(tmp_path / "documents")
    question = "How many satellites can one base unit have?"
    done = run_slm(
        "ask",
        "-m",
        SMOLLM2,
        question,
        "-d",
        documents,
        "--json",
        "--top",
        "2",
        "-n",
        "40",
        "--private",
        home=model_home,
    )
    assert done.code == 0, done.err
    record = json.loads(done.out)
    assert record["answer"] and record["quotations"]
    assert record["quotations"][0]["text"] == "Up to 6 satellites can be paired with one base unit."
    assert Path(record["quotations"][0]["file"]).name == "halden-r3.md"
