"""The index of documents: what is found, what is read again, and what may go wrong meanwhile."""

import contextlib
import io
import json
import math
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import ask_samples
import pytest
from ask_samples import folded, pdf, write_docx
from conftest import Outcome, call_slm

from slmchat import settings
from slmchat.commands import docs
from slmchat.engine.cancellable import CancelFlag
from slmchat.engine.quotations import QuotablePassages
from slmchat.engine.results import Embedding
from slmchat.errors import ExitCode, SlmError
from slmchat.reporting import LogReporter
from slmchat.retrieval import file_tree, words
from slmchat.retrieval.chunks import DocumentChunk, cut
from slmchat.retrieval.documents import Document, DocumentKind, Section
from slmchat.retrieval.index import DocumentIndex, IndexReport, Passage
from slmchat.retrieval.quotations import quotations_in
from slmchat.retrieval.vectors import Vectors, prefixes_of
from slmchat.terminal.console import Console

posix_only = pytest.mark.skipif(os.name != "posix", reason="names and signals of POSIX")


def count_tokens(text: str) -> int:
    """As a small vocabulary would: four characters are a token, a sign is one."""
    return sum(math.ceil(len(word) / 4) for word in words.words_of(text)) + text.count("\n")


def never() -> bool:
    return False


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "data" / "documents.db"


@pytest.fixture
def index(file: Path) -> Iterator[DocumentIndex]:
    made = DocumentIndex(file, count_tokens)
    yield made
    made.close()


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A directory with three documents."""
    directory = tmp_path / "notes"
    directory.mkdir()
    (directory / "tea.md").write_text("# Tea\n\nGreen tea is brewed at 80 degrees.\n\n# Coffee\n\nBoil it.\n")
    (directory / "boat.txt").write_text("The boat Skua has a new engine.\n")
    (directory / "prices.csv").write_text("article,price\nB-1041,41.60\nB-1042,9.85\n")
    return directory


Add = Callable[..., IndexReport]


@pytest.fixture
def add(index: DocumentIndex) -> Add:
    def call(*paths: Path, **options: bool) -> IndexReport:
        return index.add(paths, LogReporter(), never, **options)

    return call


def skipped(report: IndexReport) -> dict[str, int]:
    return {reason: files.n_files for reason, files in report.skipped.items()}


def found(index: DocumentIndex, question: str, within: Sequence[Path] = ()) -> list[str]:
    return [passage.chunk.path.name for passage in index.search(question, 5, within)]


class TestSearch:
    def test_words_numbers_codes_and_parts_of_words(self, index: DocumentIndex, add: Add, notes: Path) -> None:
        add(notes)
        (best, *_) = index.search("At how many degrees is green tea brewed?", 5)
        assert (best.chunk.text, best.chunk.heading) == ("# Tea\n\nGreen tea is brewed at 80 degrees.", ("Tea",))
        assert (best.chunk.first_line, best.chunk.last_line, best.word_rank) == (1, 3, 1)
        for question in ("B-1041", "what does b1041 cost", "1041?", "41.60"):
            assert found(index, question)[:1] == ["prices.csv"], question
        assert found(index, "engines of boats")[:1] == ["boat.txt"]  # inflected
        assert found(index, "gren tee")[:1] == ["tea.md"]  # slips of the finger

    def test_a_question_without_a_word_finds_nothing(self, index: DocumentIndex, add: Add, notes: Path) -> None:
        add(notes)
        assert index.search("¿?", 5) == index.search("", 5) == []

    def test_a_question_of_stop_words_is_searched_all_the_same(
        self, index: DocumentIndex, add: Add, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("To be or not to be.")
        add(tmp_path / "a.txt")
        assert found(index, "to be or not to be") == ["a.txt"]

    @pytest.mark.parametrize(
        ("text", "question"),
        [
            ("咖啡机的保修期是二十四个月。", "保修期多长?"),
            ("コーヒーメーカーの保証期間は24か月です。", "保証期間は?"),
            ("Гарантия на маршрутизатор: 36 месяцев.", "Какая гарантия на маршрутизаторы?"),
            ("Die Prüfgebühr beträgt 80 €.", "Pruefung gebuehr prüfgebühren"),
            ("La garantie dure trois années.", "Combien d'années dure la GARANTIE ?"),
            ("ضمان الجهاز سنتان", "ما هو الضمان"),
        ],
    )
    def test_other_languages_and_scripts(
        self, index: DocumentIndex, add: Add, notes: Path, text: str, question: str
    ) -> None:
        (notes / "other.txt").write_text(text, encoding="utf-8")
        add(notes)
        assert found(index, question)[:1] == ["other.txt"]

    @pytest.mark.parametrize(
        "question", ['"', "a AND (", "NEAR(x y)", "* ^ - :", "\0", "'; DROP TABLE chunks", "x" * 9_999]
    )
    def test_nothing_in_a_question_has_another_meaning(
        self, index: DocumentIndex, add: Add, notes: Path, question: str
    ) -> None:
        add(notes)
        index.search(question, 5)
        assert len(index.documents()) == 3

    def test_only_what_lies_below_the_paths(self, index: DocumentIndex, add: Add, notes: Path) -> None:
        (notes.parent / "notes2.txt").write_text("Green tea as well.")
        add(notes.parent / "notes2.txt")
        report = add(notes)
        assert report.roots == (notes,)
        assert set(found(index, "green tea", report.roots)) == {"tea.md"}
        assert found(index, "green tea", [notes / "boat.txt", notes.parent / "notes2.txt"]) == ["notes2.txt"]
        assert set(found(index, "green tea")) == {"tea.md", "notes2.txt"}

    @pytest.mark.slow
    def test_a_directory_is_searched_as_fast_as_all(self, index: DocumentIndex, add: Add, tmp_path: Path) -> None:
        """Processor time, the best of three; there were times when it was a hundred times as much."""
        for number in range(600):
            (tmp_path / f"{number}.txt").write_text(f"Part number P-{number} costs 5 dollars, and hall 7 has it.\n")
        add(tmp_path)
        question = "What does part number P-77 cost?"

        def seconds(*within: Path) -> float:
            begin = time.process_time()
            assert index.search(question, 3, within)[0].chunk.path.name == "77.txt"
            return time.process_time() - begin

        taken = [(seconds(), seconds(tmp_path)) for _ in range(3)]
        assert min(inside for _, inside in taken) < 12 * min(everywhere for everywhere, _ in taken)

    @pytest.mark.slow
    def test_the_questions_of_the_tests_are_answered_among_five(
        self, index: DocumentIndex, add: Add, tmp_path: Path
    ) -> None:
        """docs/ask.md has the figures; this is the floor below them."""
        add(ask_samples.write_documents(tmp_path / "documents"))
        asked = [question for question in ask_samples.questions() if question.span is not None]
        missed = [question for question in asked if not _is_among_five(index, question)]
        assert len(missed) / len(asked) <= 0.04, [question.question for question in missed]


def _is_among_five(index: DocumentIndex, asked: ask_samples.Question) -> bool:
    assert asked.span is not None
    return any(
        passage.chunk.path.name == asked.document and folded(asked.span) in folded(passage.chunk.text)
        for passage in index.search(asked.question, 5)
    )


PAGE = """<h1>Prices</h1>
<table>
<tr>
  <td>Basic plan</td>
  <td>12 EUR</td>
</tr>
<tr>
  <td>Pro plan</td>
  <td>99 EUR</td>
</tr>
</table>
<p>The dog is called Bello.</p><p>The cat is called Minka.</p>
<pre>
BLANK
  first row
  second row
</pre>
"""
WRITTEN = "# Prices\n\nThe dog is called Bello.\n\n| Basic plan | 12 EUR |\n|--|--|\n| Pro plan | 99 EUR |\n\nThe end."


class TestPlaces:
    """Where a quotation stands, of each sentence of a document."""

    @pytest.fixture
    def places(self, index: DocumentIndex, add: Add, tmp_path: Path) -> dict[str, dict[str, tuple[int, int]]]:
        (tmp_path / "a.html").write_text(PAGE.replace("BLANK", "  "))
        write_docx(tmp_path / "b.docx", WRITTEN)
        add(tmp_path / "a.html", tmp_path / "b.docx")
        return {name: self.of(index, tmp_path / name) for name in ("a.html", "b.docx")}

    def of(self, index: DocumentIndex, path: Path) -> dict[str, tuple[int, int]]:
        made = {}
        for chunk in index.chunks(path):
            for sentence in QuotablePassages.of((chunk.text,)).sentences():
                for quoted in quotations_in(sentence, [Passage(chunk, 1.0)]):
                    made[quoted.text] = (quoted.first_line, quoted.last_line)
        return made

    def test_html_names_the_line_and_not_the_whole_passage(self, places: dict[str, dict[str, tuple[int, int]]]) -> None:
        assert places["a.html"] == {
            "| Basic plan | 12 EUR |": (4, 4),
            "| Pro plan | 99 EUR |": (8, 8),
            "The dog is called Bello.": (12, 12),
            "The cat is called Minka.": (12, 12),
            "first row": (15, 15),
            "second row": (16, 16),
        }

    def test_docx_names_the_paragraph(self, places: dict[str, dict[str, tuple[int, int]]]) -> None:
        assert places["b.docx"] == {
            "The dog is called Bello.": (2, 2),
            "| Basic plan | 12 EUR |": (3, 3),
            "| Pro plan | 99 EUR |": (5, 5),
            "The end.": (7, 7),
        }

    def test_what_an_earlier_slm_has_read_is_read_again(
        self, places: dict[str, dict[str, tuple[int, int]]], index: DocumentIndex, add: Add, file: Path, tmp_path: Path
    ) -> None:
        index.close()
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("ALTER TABLE chunks DROP COLUMN lines")
            connection.execute("PRAGMA user_version = 1")
            connection.commit()
        (tmp_path / "c.txt").write_text("Text.")
        report = add(tmp_path / "a.html", tmp_path / "b.docx", tmp_path / "c.txt")
        assert report.n_read == 3 and self.of(index, tmp_path / "a.html") == places["a.html"]
        assert found(index, "What is the dog called?")[0] in ("a.html", "b.docx")
        assert add(tmp_path / "a.html", tmp_path / "b.docx").n_read == 0

    def test_divided_words_are_found_whole_also_in_what_was_read_before(
        self, index: DocumentIndex, add: Add, file: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "a.txt").write_text("The dues for dredg-\ning rose.")
        (tmp_path / "b.txt").write_text("The ledger of edging.")
        add(tmp_path)
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA user_version = 3")
            connection.commit()
        index.close()
        assert add(tmp_path).n_read == 2
        for times in "two", "three":
            assert found(index, "dredging")[0] == "a.txt"
            (tmp_path / "a.txt").write_text(f"The dues for dredg-\ning fell {times} times.")
            assert add(tmp_path).n_read == 1  # its words are taken out by the same rules
        (tmp_path / "a.txt").unlink()
        add(tmp_path)
        assert "a.txt" not in found(index, "dredging")

    @pytest.mark.parametrize(
        ("kind", "lines", "heading", "where"),
        [
            (DocumentKind.EMAIL, (0, 0), ("Anna, 2026-03-03",), "header"),
            (DocumentKind.EMAIL, (0, 1), ("Anna, 2026-03-03",), "header, paragraph 1"),
            (DocumentKind.EMAIL, (2, 3), ("Anna, 2026-03-03",), "paragraphs 2-3"),
            (DocumentKind.EPUB, (4, 4), ("Part One", "The Cave", "| a | b |"), "Part One, The Cave, paragraph 4"),
            (DocumentKind.EPUB, (4, 4), (), "paragraph 4"),
            (DocumentKind.NOTEBOOK, (7, 7), ("Loss",), "cell 7"),
            (DocumentKind.ODT, (7, 7), ("Loss",), "paragraph 7"),
        ],
    )
    def test_places_are_told_in_the_words_of_each_kind(
        self, kind: DocumentKind, lines: tuple[int, int], heading: tuple[str, ...], where: str
    ) -> None:
        chunk = DocumentChunk("It leaves.", Path("a"), "a", kind, None, *lines, heading, 3)
        (quoted,) = quotations_in('[1] "It leaves."', [Passage(chunk, 1.0)])
        assert replace(quoted, first_line=lines[0], last_line=lines[1]).where == where


class TestReading:
    def test_a_file_is_read_once_until_it_changes(self, index: DocumentIndex, add: Add, notes: Path) -> None:
        for name in ("tea.md", "boat.txt", "prices.csv"):
            os.utime(notes / name, (1_000_000_000, 1_000_000_000))
        first = add(notes)
        assert (first.n_files, first.n_read, first.n_chunks) == (3, 3, 4)
        keys = [passage.chunk.key for passage in index.search("green tea", 1)]
        again = add(notes)
        assert (again.n_files, again.n_read, again.n_chunks) == (3, 0, 4)
        assert [passage.chunk.key for passage in index.search("green tea", 1)] == keys
        (notes / "tea.md").write_text("Black tea only.")
        (notes / "boat.txt").unlink()
        changed = add(notes)
        assert (changed.n_files, changed.n_read, changed.n_gone) == (2, 1, 1)
        assert found(index, "green tea") == ["tea.md"] and "Green" not in index.search("tea", 1)[0].chunk.text
        assert found(index, "boat engine") == []
        assert add(notes, is_fresh=True).n_read == 2

    def test_a_change_that_leaves_size_and_time_as_they_were_just_after_the_reading(
        self, index: DocumentIndex, add: Add, notes: Path
    ) -> None:
        path = notes / "boat.txt"
        add(path)
        before = path.stat()
        path.write_text("The boat Gull has a new engine.\n")
        os.utime(path, ns=(before.st_mtime_ns, before.st_mtime_ns))
        assert add(path).n_read == 1
        assert "Gull" in index.search("boat", 1)[0].chunk.text

    def test_what_is_left_out_is_counted(self, index: DocumentIndex, add: Add, notes: Path) -> None:
        (notes / ".git").mkdir()
        (notes / ".git" / "config").write_text("hidden")
        (notes / "node_modules").mkdir()
        (notes / "venv").mkdir()
        (notes / "venv" / "pyvenv.cfg").write_text("")
        (notes / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
        (notes / "scan.pdf").write_bytes(pdf([""]))
        (notes / "letter.docx").write_bytes(b"PK\x03\x04 cut off")
        (notes / "renamed.pdf").write_text("no PDF")
        report = add(notes)
        assert report.n_files == 3
        assert skipped(report) == {
            "is hidden": 1,
            "holds what a tool has made": 2,
            "is a picture, not text": 1,
            "is scanned: its pages are pictures, without text": 1,
            "is damaged": 1,
            "is called .pdf and is not one": 1,
        }
        assert report.skipped["is damaged"].examples == [notes / "letter.docx"]
        again = add(notes)
        assert skipped(again) == skipped(report)
        news = [[reason for reason, files in each.skipped.items() if files.is_news] for each in (report, again)]
        assert len(news[0]) == 3 and news[1] == []
        assert [document.path.name for document in index.documents()] == ["boat.txt", "prices.csv", "tea.md"]

    @posix_only
    def test_names_with_newlines_and_bytes_that_are_not_utf_8(
        self, index: DocumentIndex, add: Add, notes: Path
    ) -> None:
        odd = [
            notes / "two\nlines.txt",
            Path(os.fsdecode(os.fsencode(notes) + b"/caf\xe9.txt")),
            notes / "[a]'; --.txt",
        ]
        for number, path in enumerate(odd):
            path.write_text(f"zebra number {number}")
        assert add(notes).n_files == 6
        assert {passage.chunk.path for passage in index.search("zebra", 5)} == set(odd)
        assert index.remove(odd).n_documents == 3
        assert found(index, "zebra") == []

    @posix_only
    def test_links_are_not_followed_and_circles_do_no_harm(self, add: Add, notes: Path) -> None:
        (notes / "circle").symlink_to(notes, target_is_directory=True)
        (notes / "passwords.txt").symlink_to("/etc/passwd")
        report = add(notes)
        assert (report.n_files, skipped(report)) == (3, {"is a link": 2})
        (notes.parent / "link").symlink_to(notes)
        assert add(notes.parent / "link", notes, notes / "tea.md").roots == (notes,)
        (notes / "itself").symlink_to(notes / "itself")
        with pytest.raises(SlmError, match="cannot be read") as caught:
            add(notes / "itself")
        assert caught.value.exit_code is ExitCode.USAGE

    def test_a_path_that_does_not_exist(self, add: Add, notes: Path, file: Path) -> None:
        with pytest.raises(SlmError, match=r"none\.txt cannot be read: No such file") as caught:
            add(notes, notes / "none.txt")
        assert caught.value.exit_code is ExitCode.USAGE
        assert not file.exists()

    def test_too_many_files_end_with_a_warning(
        self, index: DocumentIndex, notes: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("slmchat.retrieval.index.MOST_FILES", 2)
        report = index.add([notes], LogReporter(), never)
        assert (report.n_files, report.is_cut) == (2, True)
        assert "more than 2 files" in caplog.text

    def test_what_was_read_before_a_cancellation_stays(self, index: DocumentIndex, notes: Path) -> None:
        flag = CancelFlag()

        def after_the_first() -> bool:
            if index.documents():
                flag.cancel()
            return flag()

        assert index.add([notes], LogReporter(), after_the_first).is_cut
        assert len(index.documents()) == 1
        assert not index.add([notes], LogReporter(), never).is_cut
        assert len(index.documents()) == 3


class TestFile:
    @posix_only
    def test_it_is_the_owners_alone(self, add: Add, notes: Path, file: Path) -> None:
        add(notes)
        for path in (file, file.parent, *file.parent.glob("documents.db-*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    def test_in_memory_nothing_reaches_the_disk(self, notes: Path, file: Path) -> None:
        index = DocumentIndex(None, count_tokens)
        index.add([notes], LogReporter(), never)
        assert set(found(index, "green tea")) == {"tea.md"}
        assert index.remove(None).n_documents == 3
        index.close()
        assert not file.parent.exists()

    def test_asking_an_index_that_does_not_exist_makes_none(self, index: DocumentIndex, file: Path) -> None:
        assert index.search("anything", 5) == index.documents() == []
        assert not file.parent.exists()

    def test_nothing_of_a_document_that_was_forgotten_is_left(
        self, index: DocumentIndex, add: Add, notes: Path, file: Path
    ) -> None:
        (notes / "secret.txt").write_text("xylophone " * 50)
        add(notes)
        index.close()
        assert b"xylophone" in file.read_bytes()
        assert index.remove([notes / "secret.txt"]).is_erased
        index.close()
        left = b"".join(path.read_bytes() for path in file.parent.iterdir())
        assert b"xylophone" not in left and b"xyl" not in left and b"skua" in left

    def test_two_indexers_at_once(self, tmp_path: Path, file: Path) -> None:
        directory = tmp_path / "many"
        directory.mkdir()
        for number in range(60):
            (directory / f"{number}.txt").write_text(f"word{number} shared")
        reports: list[IndexReport] = []

        def run() -> None:
            index = DocumentIndex(file, count_tokens)
            reports.append(index.add([directory], LogReporter(), never))
            index.close()

        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [report.n_files for report in reports] == [60] * 3
        connection = sqlite3.connect(file)
        for table in ("documents", "chunks"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (60,)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM words WHERE words MATCH 'shared'").fetchone() == (60,)
        connection.close()

    def test_a_full_disk_leaves_whole_documents(self, index: DocumentIndex, tmp_path: Path, file: Path) -> None:
        directory = tmp_path / "many"
        directory.mkdir()
        for number in range(40):
            (directory / f"{number:02}.md").write_text(
                "".join(f"# H{n}\n\nword{n * number} text\n\n" for n in range(40))
            )
        index.add([directory / "00.md"], LogReporter(), never)
        (pages,) = index._database.rows("PRAGMA page_count")[0]
        index._database.run(f"PRAGMA max_page_count = {pages + 40}")
        with pytest.raises(SlmError, match="disk is full") as caught:
            index.add([directory], LogReporter(), never)
        assert caught.value.exit_code is ExitCode.STORAGE
        there_are = index.documents()
        assert 1 <= len(there_are) < 40
        assert all(document.n_chunks == len(index.chunks(document.path)) == 40 for document in there_are)
        index._database.run("PRAGMA max_page_count = 1000000")
        assert index.add([directory], LogReporter(), never).n_files == 40

    @posix_only
    @pytest.mark.real
    def test_kill_9_leaves_whole_documents(self, tmp_path: Path, file: Path) -> None:
        directory = tmp_path / "many"
        directory.mkdir()
        for number in range(150):
            (directory / f"{number:03}.md").write_text(
                "".join(f"# H{n}\n\nword{n} text {number}\n\n" for n in range(30))
            )
        code = (
            "import sys; from pathlib import Path; from slmchat.reporting import LogReporter\n"
            "from slmchat.retrieval.index import DocumentIndex\n"
            "index = DocumentIndex(Path(sys.argv[1]), len)\n"
            "index.add([Path(sys.argv[2])], LogReporter(), lambda: print(len(index.documents()), flush=True))"
        )
        child = subprocess.Popen([sys.executable, "-c", code, file, directory], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 40:
                break
        child.send_signal(signal.SIGKILL)
        child.communicate()
        index = DocumentIndex(file, len)
        there_are = index.documents()
        assert 40 <= len(there_are) < 150
        assert all(len(index.chunks(document.path)) == document.n_chunks == 30 for document in there_are)
        report = index.add([directory], LogReporter(), never)
        assert (report.n_files, report.n_chunks) == (150, 4_500)
        assert index._database.rows("PRAGMA integrity_check") == [("ok",)]
        index.close()

    def test_a_damaged_file_is_named_with_the_way_out(self, index: DocumentIndex, notes: Path, file: Path) -> None:
        file.parent.mkdir(parents=True)
        file.write_bytes(b"no database" * 500)
        with pytest.raises(SlmError, match="is damaged") as caught:
            index.add([notes], LogReporter(), never)
        assert caught.value.exit_code is ExitCode.DAMAGED
        assert caught.value.hint is not None and "mv " in caught.value.hint

    def test_a_python_without_fts5_is_told(
        self, index: DocumentIndex, notes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("slmchat.database.Database.has_fts5", lambda self: False)
        with pytest.raises(SlmError, match="FTS5"):
            index.add([notes], LogReporter(), never)


class _Colours:
    """An embedder that knows what colours mean, and what blue things are."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def run(self, texts: Iterator[str | tuple[int, ...]]) -> Iterator[Embedding | SlmError]:
        for text in texts:
            assert isinstance(text, str)
            self.texts.append(text)
            is_blue = any(word in text.lower() for word in ("blue", "sky", "sea"))
            yield Embedding((0.6, 0.8) if is_blue else (1.0, 0.0), 3)

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


class TestVectors:
    @pytest.fixture
    def colours(self) -> _Colours:
        return _Colours()

    def test_what_means_the_same_is_found_and_vectors_are_made_once(
        self, file: Path, notes: Path, colours: _Colours
    ) -> None:
        (notes / "sea.txt").write_text("The sea at noon.")
        index = DocumentIndex(file, count_tokens, Vectors("colours", colours))
        index.add([notes], LogReporter(), never)
        n_texts = len(colours.texts)
        assert n_texts == 5
        (best, *_) = index.search("blue", 5)
        assert best.chunk.path.name == "sea.txt"
        assert (best.word_rank, best.vector_rank) == (None, 1)
        assert best.similarity == pytest.approx(1.0, abs=1e-3)
        n_texts = len(colours.texts)  # with the question, and the sentences of what was found
        index.add([notes], LogReporter(), never)
        assert len(colours.texts) == n_texts
        index.close()
        other = _Colours()
        index = DocumentIndex(file, count_tokens, Vectors("other", other))
        assert index.search("blue", 5) == []  # vectors of another model are not compared
        index.add([notes], LogReporter(), never)
        assert found(index, "blue")[:1] == ["sea.txt"]
        index.close()

    def test_documents_of_an_index_by_words_get_their_vectors_later(
        self, add: Add, index: DocumentIndex, file: Path, notes: Path, colours: _Colours
    ) -> None:
        add(notes)
        with_vectors = DocumentIndex(file, count_tokens, Vectors("colours", colours))
        with_vectors.add([notes], LogReporter(), never)
        assert len(colours.texts) == 4
        with_vectors.remove([notes])
        assert with_vectors._database.rows("SELECT count(*) FROM vectors") == [(0,)]
        with_vectors.close()

    def test_what_there_is_no_time_for_is_found_by_its_words_and_done_later(
        self, file: Path, tmp_path: Path, colours: _Colours
    ) -> None:
        """No seconds at all: a few vectors are made at a time, and a question makes those of the best by their words."""
        notes = tmp_path / "many"
        notes.mkdir()
        for number in range(20):
            (notes / f"{number:02}.txt").write_text(f"The lamp number {number} is yellow.")
        (notes / "99.txt").write_text("The sea at noon.")
        index = DocumentIndex(file, count_tokens, Vectors("colours", colours))
        first = index.add([notes], LogReporter(), never, vectors_s=0)
        assert 0 < first.n_without_vector < 21 and len(colours.texts) == 21 - first.n_without_vector
        asked = index.search("blue lamp 19", 3)
        assert [passage.chunk.path.name for passage in asked][:1] == ["19.txt"]
        assert asked[0].similarity == pytest.approx(0.6, abs=1e-3)
        assert "sea.txt" not in [passage.chunk.path.name for passage in asked]  # has no vector, shares no word
        n_texts = len(colours.texts)
        assert index.search("blue lamp 19", 3) == asked and len(colours.texts) == n_texts  # nothing is made twice
        left = [index.add([notes], LogReporter(), never, vectors_s=0).n_without_vector for _ in range(3)]
        assert first.n_without_vector > left[0] > left[-1] == 0
        assert found(index, "blue")[:1] == ["99.txt"]
        index.close()

    def test_a_sentence_that_is_nearer_than_its_chunk_counts(self, notes: Path) -> None:
        class ByLength(_Colours):
            """Long texts are far from everything."""

            def run(self, texts: Iterator[str | tuple[int, ...]]) -> Iterator[Embedding | SlmError]:
                for text in texts:
                    yield Embedding((0.6, 0.8) if len(text) > 40 else (1.0, 0.0), 3)

        (notes / "long.txt").write_text("The harbour has two cranes. Nobody knows what a berth costs at night there.")
        index = DocumentIndex(None, count_tokens, Vectors("lengths", ByLength()))
        index.add([notes / "long.txt", notes / "boat.txt"], LogReporter(), never)
        similarity = {passage.chunk.path.name: passage.similarity for passage in index.search("cranes", 2)}
        assert similarity["long.txt"] == pytest.approx(1.0, abs=1e-3)
        index.close()

    def test_texts_have_the_prefixes_that_a_model_was_trained_with(self, notes: Path, colours: _Colours) -> None:
        prefixes = prefixes_of("nomic-embed@Q8_0 nomic-embed@Q8_0-3e243421.gguf")
        index = DocumentIndex(None, count_tokens, Vectors("a", colours, prefixes))
        index.add([notes / "boat.txt"], LogReporter(), never)
        index.search("blue", 1)
        assert colours.texts == ["search_document: boat.txt\nThe boat Skua has a new engine.", "search_query: blue"]
        index.close()

    @pytest.mark.parametrize(
        ("description", "of_question"),
        [
            ("mine own.gguf EmbeddingGemma 300M gemma-embedding", "task: search result | query: "),
            ("mine own.gguf gemma-embedding", "task: search result | query: "),
            ("mine own.gguf nomic-bert", "search_query: "),
            ("hf:a/multilingual-e5-small-GGUF@Q8_0 multilingual-e5-small.gguf bert", "query: "),
            ("all-minilm@F16 all-minilm@F16-79e5c4ed.gguf bert", ""),  # not a word of its own
            ("mine own.gguf llama", ""),
        ],
    )
    def test_a_model_is_known_by_what_its_file_says(self, description: str, of_question: str) -> None:
        assert prefixes_of(description)[0] == of_question


class TestChunks:
    @staticmethod
    def cut(text: str, kind: DocumentKind = DocumentKind.TEXT, most: int = 20) -> list[str]:
        document = Document(Path("a"), "a", kind, (Section(text, heading=("head",)),))
        chunks = list(cut(document, count_tokens, most))
        assert all(chunk.text in text and chunk.n_tokens == count_tokens(chunk.text) <= most for chunk in chunks)
        assert [chunk.place for chunk in chunks] == list(range(len(chunks)))
        lines = text.split("\n")
        for chunk in chunks:
            assert chunk.text.split("\n")[0] in lines[chunk.first_line - 1]
            assert chunk.text.split("\n")[-1] in lines[chunk.last_line - 1]
        assert "".join("".join(chunk.text for chunk in chunks).split()) == "".join(text.split())
        return [chunk.text for chunk in chunks]

    def test_paragraphs_then_sentences_then_words(self) -> None:
        paragraphs = "One two three four.\n\nFive six seven. Eight nine ten, eleven and twelve.\n\nEnd here."
        assert self.cut(paragraphs, most=11) == [
            "One two three four.\n\nFive six seven.",
            "Eight nine ten, eleven and twelve.",
            "End here.",
        ]
        assert self.cut("one two three four five six", most=4) == ["one two", "three four", "five six"]
        assert len(self.cut("x" * 100, most=10)) > 2

    def test_tables_are_cut_between_rows_and_keep_their_head_row(self) -> None:
        rows = "".join(f"| name {n}. Nice | {n} |\n" for n in range(8))
        text = f"| Name | Number |\n|---|---|\n{rows}"
        document = Document(Path("a"), "a", DocumentKind.MARKDOWN, (Section(text, heading=("T",)),))
        chunks = list(cut(document, count_tokens, 20))
        assert len(chunks) > 2
        assert all(line.startswith("|") and line.endswith("|") for chunk in chunks for line in chunk.text.splitlines())
        assert [chunk.heading for chunk in chunks] == [("T",), *[("T", "| Name | Number |")] * (len(chunks) - 1)]

    def test_code_is_cut_between_definitions(self) -> None:
        text = "import a\n\ndef one():\n    x = 1\n\n    return x\n\ndef two():\n    return 2\n"
        assert self.cut(text, DocumentKind.CODE, 14) == [
            "import a",
            "def one():\n    x = 1\n\n    return x",
            "def two():\n    return 2",
        ]

    @pytest.mark.parametrize("text", ["word " * 20_000, "x" * 100_000, "a" + "\n" * 100_000 + "b", "a,b,c\n" * 20_000])
    def test_a_file_without_a_place_to_cut_it_is_not_counted_again_and_again(self, text: str) -> None:
        counted: list[int] = []

        def count(part: str) -> int:
            counted.append(len(part))
            return len(part) // 4

        document = Document(Path("a"), "a", DocumentKind.TEXT, (Section(text),))
        assert sum(len(chunk.text) for chunk in cut(document, count, 200)) <= len(text)
        assert sum(counted) <= 4 * len(text)

    def test_a_small_end_takes_a_part_of_the_one_before_it(self) -> None:
        sizes = [count_tokens(text) for text in self.cut("\n\n".join(["one two three four five"] * 5), most=20)]
        assert max(sizes) - min(sizes) <= count_tokens("one two three four five\n\n")

    def test_a_heading_without_text_is_no_chunk_of_its_own(self) -> None:
        sections = (Section("# A\n", 1, heading=("A",)), Section("## B\n\ntext", 2, heading=("A", "B")))
        document = Document(Path("a"), "a", DocumentKind.MARKDOWN, sections)
        assert [chunk.text for chunk in cut(document, count_tokens, 20)] == ["## B\n\ntext"]


class TestWords:
    def test_codes_are_there_whole_and_in_parts(self) -> None:
        assert words.words_of("dredg-\ning, a -\nb") == ["dredg", "ing", "dredging", "a", "b"]
        assert words.words_of("E-17 KEEP_WEEKLY camelCase Straße Café 1,250.40") == [
            *("e", "17", "e17", "keep", "weekly", "keepweekly", "camel", "case", "camelcase"),
            *("strasse", "cafe", "1", "250", "40", "125040"),
        ]

    def test_stop_words_are_those_of_one_language(self) -> None:
        assert words.terms_of("When did the war end?") == ["war", "end"]
        assert words.terms_of("Wann war die Ernte?") == ["ernte"]

    def test_pieces_of_scripts_without_spaces_have_two_characters(self) -> None:
        assert words.pieces_of(["保修期2年"]) == ["保修", "修期", "2", "年"]
        assert words.pieces_of(["router"]) == ["rou", "out", "ute", "ter"]


class _Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_in_terminal(home: Path, width: int) -> Outcome:
    """`slm docs list` on a terminal of this width."""
    streams = (io.StringIO(), _Tty(), io.StringIO())
    console = Console(*streams, environ={"COLUMNS": str(width), "TERM": "dumb"})
    code = docs.list_documents(settings.load({"SLM_HOME": str(home)}), console)
    return Outcome(code, streams[1].getvalue(), streams[2].getvalue())


def _gone() -> Path:
    raise FileNotFoundError("the directory has been deleted")


class TestCommands:
    def test_list_show_and_rm(self, add: Add, index: DocumentIndex, notes: Path, tmp_path: Path) -> None:
        home = tmp_path / "home"
        assert call_slm("docs", "list", home=home).err == (
            'no document has been read.\nnext: slm ask "What does it say?" -d PATH\n'
        )
        add(notes)
        index.close()
        listed = call_slm("docs", "list", home=home)
        assert [line.split("\t")[:3] for line in listed.out.splitlines()] == [
            [str(notes / "boat.txt"), "text", "1"],
            [str(notes / "prices.csv"), "csv", "1"],
            [str(notes / "tea.md"), "markdown", "2"],
        ]
        shown = call_slm("docs", "show", notes / "tea.md", home=home)
        assert "2 passages" in shown.out and "lines 1-3 · Tea\n# Tea\n\nGreen tea" in shown.out
        assert call_slm("docs", "rm", notes / "none", home=home).code == ExitCode.USAGE
        removed = call_slm("docs", "rm", notes / "tea.md", notes / "boat.txt", home=home)
        assert (removed.code, removed.err) == (0, "forgot 2 documents; the files are as they were.\n")
        assert call_slm("docs", "rm", "--all", home=home).code == ExitCode.USAGE
        assert call_slm("docs", "rm", "--all", "--yes", home=home).code == 0
        assert call_slm("docs", "list", "--json", home=home).out == "[]\n"
        assert call_slm("docs", "show", notes / "tea.md", home=home).code == ExitCode.USAGE
        assert (notes / "tea.md").exists()

    def test_a_list_in_a_terminal_is_short_and_fits(
        self, add: Add, index: DocumentIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Paths from here or from home, the first fifty, whatever the width; a pipe gets all of it, whole."""
        here = tmp_path / "here"
        (here / "sub").mkdir(parents=True)
        for number in range(60):
            (here / "sub" / f"note-{number:02}.md").write_text(f"# Note\n\nThis is number {number}.\n")
        add(here)
        index.close()
        monkeypatch.chdir(here)
        wide = shown_in_terminal(tmp_path / "home", 100)
        rows = [line for line in wide.out.splitlines() if "note-" in line]
        assert len(rows) == 50 and rows[0].split()[:3] == ["sub/note-00.md".replace("/", os.sep), "markdown", "1"]
        assert "READ" in wide.out and wide.err == "10 documents more: slm docs list | less\n"
        narrow = shown_in_terminal(tmp_path / "home", 24)
        assert all(len(line) <= 24 for line in narrow.out.splitlines()) and "note-00.md" in narrow.out
        piped = call_slm("docs", "list", home=tmp_path / "home").out.splitlines()
        assert len(piped) == 60 and piped[0].startswith(f"{here / 'sub' / 'note-00.md'}\tmarkdown\t1\t")

    def test_a_list_says_home_from_elsewhere_and_survives_a_directory_that_is_gone(
        self, add: Add, index: DocumentIndex, tmp_path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add(notes)
        index.close()
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        assert f"~{os.sep}notes{os.sep}tea.md" in shown_in_terminal(tmp_path / "home", 100).out
        monkeypatch.setattr(Path, "cwd", _gone)
        assert f"~{os.sep}notes{os.sep}tea.md" in shown_in_terminal(tmp_path / "home", 100).out

    def test_a_list_in_json_has_what_is_known_of_each(self, add: Add, index: DocumentIndex, tmp_path: Path) -> None:
        (tmp_path / "two.pdf").write_bytes(pdf(["One page of text.", "Another page of text."], title="Two pages"))
        (tmp_path / "scan.pdf").write_bytes(pdf(["", ""]))
        assert skipped(add(tmp_path / "two.pdf", tmp_path / "scan.pdf"))
        index.close()
        (told,) = json.loads(call_slm("docs", "list", "--json", home=tmp_path / "home").out)
        read_at = datetime.fromisoformat(told.pop("indexed_at"))
        assert abs(datetime.now(UTC) - read_at) < timedelta(hours=1)
        assert told == {
            "path": str(tmp_path / "two.pdf"),
            "title": "Two pages",
            "kind": "pdf",
            "size": (tmp_path / "two.pdf").stat().st_size,
            "pages": 2,
            "passages": 2,
        }

    @posix_only
    def test_a_list_keeps_a_line_for_each_whatever_its_name(
        self, add: Add, index: DocumentIndex, tmp_path: Path
    ) -> None:
        (tmp_path / "in").mkdir()
        for name in ("two\nlines.txt", "tab\there.txt", "\x1b[31mred.txt"):
            (tmp_path / "in" / name).write_text("text")
        add(tmp_path / "in")
        index.close()
        out = call_slm("docs", "list", home=tmp_path / "home").out
        assert len(out.splitlines()) == 3 and "\x1b" not in out
        assert all(line.count("\t") == 4 for line in out.splitlines())

    def test_a_document_cannot_write_to_the_terminal(self, add: Add, index: DocumentIndex, tmp_path: Path) -> None:
        path = write_docx(tmp_path / "a.docx", "harmless", title="red\x85 title")
        (tmp_path / "b.txt").write_text("\x1b]0;owned\x07 text \u202e")
        add(path, tmp_path / "b.txt")
        index.close()
        for name in (path, tmp_path / "b.txt"):
            out = call_slm("docs", "show", name, home=tmp_path / "home").out
            assert "\x1b" not in out and "\u202e" not in out and "\x85" not in out


def test_the_files_of_a_large_tree_are_walked_without_keeping_them(tmp_path: Path) -> None:
    for number in range(300):
        directory = tmp_path / str(number % 20) / str(number)
        directory.mkdir(parents=True)
        (directory / "a.txt").write_text("a")
    walk = file_tree.files_below(tmp_path)
    assert next(walk).path == tmp_path / "0" / "0" / "a.txt"
    assert sum(1 for _ in walk) == 299
