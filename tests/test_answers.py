"""From ranked passages to an answer: prompts, quotations that are checked, references that are mended, refusals."""

import io
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from ask_injections import INJECTIONS
from fake_engine import CHATML, FakeEngine, Ready

from slmchat import settings as settings_module
from slmchat.catalog.records import Installed, InstalledFile
from slmchat.commands.sources import source_lines
from slmchat.conversation.messages import Message, Role
from slmchat.engine.quotations import QuotationRules
from slmchat.engine.requests import ConstraintKind
from slmchat.engine.results import FinishReason, TokenLogprob
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.generator import Generator
from slmchat.generation.priors import Priors
from slmchat.models import loader
from slmchat.models.backend import LocalModel
from slmchat.models.open import OpenModel
from slmchat.options import GenerationOptions
from slmchat.retrieval import thresholds
from slmchat.retrieval.answer_record import answer_record
from slmchat.retrieval.answers import Answer, DocumentAnswers
from slmchat.retrieval.chunks import DocumentChunk
from slmchat.retrieval.citations import CitationFilter
from slmchat.retrieval.documents import DocumentKind
from slmchat.retrieval.index import Passage
from slmchat.retrieval.quotations import Quotation, quotations_in, quotations_of
from slmchat.retrieval.reader_check import is_reader
from slmchat.retrieval.steps import SilentDelegate
from slmchat.retrieval.whole_sentences import in_whole_sentences
from slmchat.terminal.console import Console

PUMP = "The filter is cleaned every\nsix weeks. The pump must not run dry."
FERRY = "The ferry leaves at 07:40. Bicycles travel free of charge."


def passage(text: str, name: str = "manual.md", *, share: float = 0.9, page: int | None = None) -> Passage:
    lines = text.count("\n")
    kind = DocumentKind.PDF if page else DocumentKind.MARKDOWN
    chunk = DocumentChunk(text, Path("/docs", name), name, kind, page, 10, 10 + lines, ("Care",), len(text) // 4)
    return Passage(chunk, share, word_rank=1)


class Asked:
    """Documents, a fake engine, and what is asked of both."""

    def __init__(self, home: Path, engine: FakeEngine, parameters: int | None = None) -> None:
        self.engine = engine
        settings = settings_module.load({"SLM_HOME": str(home)})
        self.console = Console(io.StringIO(), io.StringIO(), io.StringIO(), {})
        self.console.is_verbose = True
        file = InstalledFile(home / "m.gguf", None, 1, 1)
        installed = Installed("fake:1b", "Q4_K_M", (file,), "test", "2026-01-01T00:00:00Z", parameters=parameters)
        self.model = LocalModel(installed)
        self.options = GenerationOptions(ctx=4000)
        self.opened = OpenModel(self.model, self.options, settings, self.console)
        self.found: list[Passage] = [passage(PUMP), passage(FERRY, "ferry.pdf", page=3)]

    def answers(self, **more: object) -> DocumentAnswers:
        return DocumentAnswers(Generator(self.opened), lambda _question, top: self.found[:top], self.options, **more)  # type: ignore[arg-type]

    def __call__(self, question: str, *replies: str, **more: object) -> Answer:
        self.engine.replies += [[reply] for reply in replies]
        return self.answers(**more).answer(question, SilentDelegate(lambda _session: nullcontext()))


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    engine = FakeEngine([])
    monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
    monkeypatch.setattr(Priors, "said", lambda *_: (0.9, 0.1, 0.9, 0.1))  # right about the texts that are known
    return Asked(tmp_path, engine)


@pytest.fixture
def small(tmp_path: Path, asked: Asked) -> Asked:
    """The same with a model of 135 million parameters."""
    return Asked(tmp_path, asked.engine, 135_000_000)


QUOTED = '[1] "The filter is cleaned every\nsix weeks."'


class TestSteps:
    def test_an_answer_with_its_sources(self, asked: Asked) -> None:
        answer = asked("Is the filter cleaned every six weeks?", QUOTED, "Every six weeks [1].")
        assert (answer.text, answer.refusal, answer.finish_reason) == ("Every six weeks [1].", "", FinishReason.STOP)
        (quotation,) = answer.quotations
        assert quotation.text in PUMP and (quotation.first_line, quotation.last_line) == (10, 11)
        assert list(source_lines(answer.quotations)) == [f'[1] /docs/manual.md, lines 10-11: "{quotation.text}"']

    def test_the_model_can_only_copy(self, asked: Asked) -> None:
        """The first generation is held to the passages, the second is free."""
        asked("Is the filter cleaned every six weeks?", QUOTED, "So.")
        constraint = asked.engine.limits[0].constraint
        assert constraint is not None and constraint.kind is ConstraintKind.QUOTATIONS
        assert sorted(QuotationRules.of(constraint).passages) == sorted([PUMP, FERRY])
        assert asked.engine.limits[1].constraint is None

    def test_the_passages_stand_first_in_every_prompt(self, asked: Asked) -> None:
        """So that they are read once: for both steps, and for the next question about them."""
        answers = asked.answers()
        asked.engine.replies += [[QUOTED], ["So [1]."], [QUOTED], ["So."]]
        for question in ("Is the filter cleaned every six weeks?", "May the pump run dry?"):
            answers.answer(question, SilentDelegate(lambda _session: nullcontext()))
            asked.found.reverse()  # another passage is the best one now
        heads = {prompt[: prompt.index("Question: ")] for prompt in asked.engine.prompts}
        assert len(asked.engine.prompts) == 4 and len(heads) == 1
        assert PUMP in heads.pop()

    def test_the_best_passage_is_next_to_the_question(self, asked: Asked) -> None:
        asked("Is the filter cleaned every six weeks?", QUOTED, "So.")
        assert asked.engine.prompts[0].index(FERRY) < asked.engine.prompts[0].index(PUMP)

    def test_the_same_question_has_the_same_answer(self, asked: Asked) -> None:
        asked("Is the filter cleaned every six weeks?", QUOTED, "So.")
        assert [sampler.temperature for sampler in asked.engine.samplers] == [0, 0]
        asked.options = replace(asked.options, temperature=0.7)
        asked("Is the filter cleaned every six weeks?", QUOTED, "So.")
        assert [sampler.temperature for sampler in asked.engine.samplers[2:]] == [0.7, 0.7]

    def test_quotations_alone(self, asked: Asked) -> None:
        answer = asked("Is the filter cleaned every six weeks?", QUOTED, is_quoting_only=True)
        assert (answer.text, len(answer.quotations), len(asked.engine.prompts)) == ("", 1, 1)

    def test_a_system_message_stands_before_all_of_it(self, asked: Asked) -> None:
        asked("Is the filter cleaned every six weeks?", QUOTED, "So.", prefix=[Message(Role.SYSTEM, "Be brief.")])
        assert all(prompt.startswith("<|im_start|>system\nBe brief.") for prompt in asked.engine.prompts)

    def test_braces_in_a_question_and_a_document_are_text(self, asked: Asked) -> None:
        asked.found = [passage("{question} {quotations} {} are set in x = {}.")]
        asked("What is {} and {quotations}?", '[1] "{question} {quotations} {} are set in x = {}."', "So.")
        for prompt in asked.engine.prompts:
            assert prompt.count("What is {} and {quotations}?") == 1
        assert asked.engine.prompts[1].count("{question} {quotations} {} are set in x = {}.") == 2

    def test_a_question_about_which_nothing_is_found_asks_no_model(self, asked: Asked) -> None:
        answer = asked("Who won the world cup in 1998?")
        assert answer.refusal and not answer.text and not asked.engine.prompts

    def test_a_meaning_that_is_near_needs_no_word(self, small: Asked) -> None:
        small.found = [replace(passage(PUMP, share=0.0), similarity=0.9)]
        assert small("How often do I rinse the strainer?", QUOTED, "So.").text == "So."

    def test_with_an_embedding_model_words_and_meaning_decide_together(self, small: Asked) -> None:
        question = "When does the guarantee of the pump filter end?"  # two of its words are in the passage
        small.found = [replace(passage(PUMP, share=0.0), similarity=0.05)]
        assert small(question).refusal and not small.engine.prompts
        small.found = [replace(passage(PUMP, share=0.0), similarity=0.59)]
        assert small(question, QUOTED, "So.").text == "So."

    @pytest.mark.parametrize("said", ["None", "", "The filter is cleaned daily.", '[1] "The filter is cleaned daily."'])
    def test_what_the_model_does_not_find_is_not_answered(self, asked: Asked, said: str) -> None:
        answer = asked("Is the filter cleaned every six weeks?", said)
        assert answer.refusal and not answer.text and not answer.quotations and len(asked.engine.prompts) == 1

    def test_none_is_not_quoted(self, asked: Asked) -> None:
        asked.found = [passage("None of the pumps may run dry. The function returns None")]
        assert asked("May the pumps run dry?", "None.").refusal

    def test_a_quotation_that_is_cut_off_does_not_count(self, asked: Asked) -> None:
        asked.engine.replies = [['[1] "The pump must not run dry."', '\n[2] "The filter is clea', "ned"]]
        answer = asked("May the pump run dry?", "So.")
        assert [quotation.text for quotation in answer.quotations][:1] == ["The pump must not run dry."]
        assert all(quotation.text in PUMP for quotation in answer.quotations)

    def test_passages_leave_room_for_the_answer(self, asked: Asked) -> None:
        asked.found = [passage(f"{number} " + "word " * 100) for number in range(8)]
        answer = asked("Which word?", '[1] "word word"', "So.", top=8)
        taken = len(answer.passages)
        assert 1 <= taken < 8 and len(asked.engine.prompts[0]) + 900 < 4000
        assert [each.chunk.text[0] for each in answer.passages] == [str(n) for n in reversed(range(taken))]
        assert f"{taken} passages and the question: " in asked.console.stderr.getvalue()  # type: ignore[attr-defined]

    def test_a_window_without_room_is_an_error(self, asked: Asked) -> None:
        asked.found = [passage("word " * 1000)]
        with pytest.raises(SlmError) as caught:
            asked("Which word?")
        assert caught.value.exit_code is ExitCode.CONTEXT

    def test_a_thought_stands_before_the_answer_and_not_before_a_quotation(self, asked: Asked) -> None:
        asked.engine.template = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
        answer = asked(
            "Is the filter cleaned every six weeks?", QUOTED, "Six weeks, as [9] says.</think>\n\nSix weeks [1]."
        )
        assert (answer.thinking.strip(), answer.text) == ("Six weeks, as [9] says.", "Six weeks [1].")
        quoting, answering = asked.engine.prompts
        assert quoting.rstrip().endswith("</think>") and answering.endswith("<think>\n")
        assert asked.engine.limits[0].max_tokens and asked.engine.limits[1].max_tokens is None

    def test_the_record_for_programs(self, asked: Asked) -> None:
        answer = asked("Is the filter cleaned every six weeks?", QUOTED, "Every six weeks [1].")
        record = json.loads(json.dumps(answer_record(answer, "fake:1b@Q4_K_M", 0.5)))
        assert record["answer"] == "Every six weeks [1]." and record["refusal"] is None
        quotation = record["quotations"][0]
        assert quotation["lines"] == [10, 11] and quotation["page"] is None and quotation["file"] == "/docs/manual.md"
        assert quotation["text"] in record["passages"][quotation["passage"]]["text"]
        assert record["usage"]["completion_tokens"] == 2
        refused = answer_record(asked("Is the filter cleaned every six weeks?", "None"), "fake:1b@Q4_K_M", 0.5)
        assert refused["answer"] is None and refused["quotations"] == [] and refused["refusal"]


def said(yes: float, *, no: float | None = None) -> tuple[tuple[str, float], ...]:
    """The alternatives to a first token, with these probabilities of the two words."""
    return (("Yes", math.log(yes)), ("No", math.log(1 - yes if no is None else no)))


class TestNearest:
    """A model that is not very small answers from what it has quoted and from the nearest sentence."""

    QUESTION = "Is the filter cleaned every six weeks?"
    WRONG, NEAREST = '[1] "The pump must not run dry."', "The filter is cleaned every\nsix weeks."

    def test_it_answers_from_both_and_what_it_refers_to_is_shown(self, asked: Asked) -> None:
        answer = asked(self.QUESTION, self.WRONG, "So [2]. It is [2, 7] so.")
        assert f'[1] "The pump must not run dry."\n[2] "{self.NEAREST}"\n' in asked.engine.prompts[1]
        assert answer.text == "So [1]. It is [1] so."
        assert [(each.number, each.text) for each in answer.quotations] == [(1, self.NEAREST)]

    def test_numbers_follow_the_answer(self, asked: Asked) -> None:
        answer = asked(self.QUESTION, self.WRONG, "So [2]. And [1], so [2].")
        assert answer.text == "So [1]. And [2], so [1]."
        assert [each.text for each in answer.quotations] == [self.NEAREST, "The pump must not run dry."]

    def test_of_a_model_that_thinks_the_numbers_are_those_of_its_thought(self, asked: Asked) -> None:
        asked.engine.template = CHATML.replace("assistant\n{%", "assistant\n<think>\n{%")
        answer = asked(self.QUESTION, self.WRONG, "Not [1] but [2].</think>\n\nSo [2].")
        assert (answer.thinking.strip(), answer.text) == ("Not [1] but [2].", "So [2].")
        assert [(each.number, each.text) for each in answer.quotations] == [(2, self.NEAREST)]

    def test_what_it_has_copied_without_a_number_is_shown(self, asked: Asked) -> None:
        answer = asked(self.QUESTION, self.WRONG, "[1] The filter is cleaned every six weeks, it says.")
        assert [each.number for each in answer.quotations] == [1, 2]
        assert answer.quotations[1].text == self.NEAREST

    def test_all_are_shown_where_it_refers_to_none(self, asked: Asked) -> None:
        answer = asked(self.QUESTION, self.WRONG, "Yes, it is [9].")
        assert (answer.text, [each.number for each in answer.quotations]) == ("Yes, it is.", [1, 2])

    def test_it_is_not_there_twice(self, asked: Asked) -> None:
        for copied in (QUOTED, '[1] "six weeks."'):  # a part of it gives way
            assert [each.text for each in asked(self.QUESTION, copied, "So [1].").quotations] == [self.NEAREST]
            assert '[2] "' not in asked.engine.prompts[-1]

    def test_nothing_quoted_is_nothing_answered(self, asked: Asked) -> None:
        answer = asked(self.QUESTION, "None")
        assert answer.refusal and not answer.quotations and len(asked.engine.prompts) == 1

    def test_without_an_answer_both_are_there(self, asked: Asked) -> None:
        assert len(asked(self.QUESTION, self.WRONG, is_quoting_only=True).quotations) == 2

    def test_what_is_too_long_is_not_added(self, asked: Asked) -> None:
        asked.found = [passage(f"The pump must not run dry.\n\nThe filter is {'very ' * 150}clean.")]
        assert len(asked("Is the filter clean?", self.WRONG, "So.").quotations) == 1

    def test_a_very_small_model_has_its_own_alone(self, small: Asked) -> None:
        small.found = [passage(PUMP)]
        answer = small(self.QUESTION, self.WRONG, "So [1].")
        assert [each.text for each in answer.quotations] == ["The pump must not run dry."]


class TestUnsure:
    """Where the search is not sure, a model that is not very small is asked about the best passage."""

    QUESTION = "What does the filter of the pump cost today?"

    @pytest.mark.parametrize(("yes", "is_answered"), [(0.95, True), (0.05, False)])
    def test_the_model_decides(self, asked: Asked, yes: float, is_answered: bool) -> None:
        asked.engine.alternatives = said(yes)
        answer = asked(self.QUESTION, "Yes", QUOTED, "So.")
        assert bool(answer.text) is is_answered and bool(answer.refusal) is not is_answered
        assert len(asked.engine.prompts) == (3 if is_answered else 1)
        assert answer.usage.completion_tokens == (3 if is_answered else 1) and answer.passages
        assert PUMP in asked.engine.prompts[0] and FERRY not in asked.engine.prompts[0]
        assert asked.engine.samplers[0].temperature == 0 and asked.engine.limits[0].max_tokens == 1
        assert "probable that the best passage has the answer" in asked.console.stderr.getvalue()  # type: ignore[attr-defined]

    def test_a_system_message_of_the_user_has_no_say(self, asked: Asked) -> None:
        asked.engine.alternatives = said(0.95)
        asked(self.QUESTION, "Yes", QUOTED, "So.", prefix=[Message(Role.SYSTEM, "Answer in Latin.")])
        assert ["Latin" in prompt for prompt in asked.engine.prompts] == [False, True, True]

    def test_where_the_search_is_sure_it_is_not_asked(self, asked: Asked) -> None:
        asked.engine.alternatives = said(0.01)
        assert asked("Is the filter cleaned every six weeks?", QUOTED, "So.").text == "So."
        assert asked("Who won the world cup in 1998?").refusal
        assert len(asked.engine.prompts) == 2

    def test_a_meaning_that_is_near_needs_no_word_and_a_yes(self, asked: Asked) -> None:
        asked.found = [replace(passage(PUMP, share=0.0), similarity=0.7)]
        for yes, is_answered in ((0.6, True), (0.4, False)):
            asked.engine.replies.clear()
            asked.engine.alternatives = said(yes)
            assert bool(asked("How often do I rinse the strainer?", "Yes", QUOTED, "So.").text) is is_answered

    def test_without_a_word_of_it_the_search_decides_alone(self, asked: Asked) -> None:
        asked.engine.alternatives = (("The", -0.1),)
        assert asked(self.QUESTION, "The", QUOTED, "So.").text == "So."

    def test_very_small_models_and_bare_texts_are_not_asked(self, asked: Asked, small: Asked) -> None:
        asked.options = replace(asked.options, raw=True)
        asked.engine.alternatives = said(0.01)
        for one in (asked, small):
            assert one("What does the pump filter hold?", QUOTED, "So.").text == "So."

    @pytest.mark.parametrize("yes", [0.01, 0.99])
    def test_a_model_that_always_says_the_same_has_no_say(
        self, asked: Asked, monkeypatch: pytest.MonkeyPatch, yes: float
    ) -> None:
        """It is asked four times about texts that are known, and never again."""
        monkeypatch.undo()
        monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(asked.engine))
        asked.engine.alternatives = said(yes)
        (asked.model.installed.path).write_bytes(b"x")  # what a model has said is kept with its file
        assert asked(self.QUESTION, *["Yes"] * 4, QUOTED, "So.").text == "So."
        assert asked(self.QUESTION, QUOTED, "So.").text == "So."
        assert len(asked.engine.prompts) == 8

    def test_who_is_right_about_known_texts_is_a_reader(self) -> None:
        assert is_reader((0.6, 0.4, 0.9, 0.1))
        assert not is_reader((0.6, 0.4, 0.9, 0.6)) and not is_reader((0.4, 0.1, 0.3, 0.1)) and not is_reader((0.5,) * 4)

    def test_the_probability_of_yes(self) -> None:
        def first(text: str, *alternatives: tuple[str, float]) -> list[TokenLogprob]:
            return [TokenLogprob(text, alternatives[0][1], alternatives)]

        assert thresholds.yes_probability(first("Yes", *said(0.3, no=0.1))) == pytest.approx(0.75)
        both = first(" yes", (" yes", math.log(0.2)), ("Yes", math.log(0.2)), ("No", math.log(0.1)))
        assert thresholds.yes_probability(both) == pytest.approx(0.8)
        assert thresholds.yes_probability(first("The", ("The", -0.1))) is None
        assert thresholds.yes_probability([]) is None


class TestQuotations:
    """The check of the text, for engines that cannot be held to anything."""

    PASSAGES = (passage(PUMP), passage(FERRY, "ferry.pdf", page=3))

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('[1] "The pump must not run dry."\n[2] "Bicycles travel free of charge."', 2),
            ("The manual says “The pump must not run dry.”", 1),
            ('- "The filter is cleaned every six weeks."', 1),  # with a blank for the line end
            ("- The pump must not run dry.\n- It must be cleaned.", 1),
            ('[1] "The pump must run dry."', 0),
            ('[1] "the pump must not run dry"', 0),  # another case is another text
            ('[1] "a"\n[2] "."', 0),
            ('[1] "Care"', 0),  # a heading
            ('[1] "run dry."\n[2] "The pump must not run dry."\n[3] "pump must"', 1),  # one is inside of another
        ],
    )
    def test_only_what_stands_there_counts(self, text: str, found: int) -> None:
        quotations = quotations_in(text, self.PASSAGES)
        assert len(quotations) == found
        for number, quotation in enumerate(quotations, 1):
            place = quotation.passage.chunk.text[quotation.begin :]
            assert quotation.number == number and place.startswith(quotation.text)

    def test_pages_and_lines_are_told(self) -> None:
        first, second = quotations_in('[1] "The pump must not run dry."\n[2] "Bicycles travel"', self.PASSAGES)
        assert (first.where, second.where) == ("line 11", "page 3")


class TestWholeSentences:
    MANUAL = passage(
        "## Wall\n\nA bracket is not included; it is sold as part HB-114. Use two screws.\n\n"
        "- Send the claim within 45 days.\n- Keep the bill.\n\nDer Tank fasst 1,8 Liter. Die Garantie gilt 45 Tage."
    )
    TABLE = passage("| from | to |\n|---|---|\n| 19:05 | 20:00 |\n| 21:05 | 22:00 |", "times.md")
    CODE = passage("KEEP = 5\n\ndef kept(day):\n    return day.day <= KEEP and day.weekday() == 6\n", "days.py")

    @staticmethod
    def shown(quoted: str, said: str, *passages: Passage) -> Quotation:
        (found,) = in_whole_sentences(quotations_of([quoted], passages), said, passages)
        return found

    @pytest.mark.parametrize(
        ("quoted", "whole"),
        [
            ("HB-114.", "A bracket is not included; it is sold as part HB-114."),
            ("sold as part HB-114. Use two", "A bracket is not included; it is sold as part HB-114. Use two screws."),
            ("45 days.", "- Send the claim within 45 days."),
            ("1,8 Liter.", "Der Tank fasst 1,8 Liter."),
            ("20:00 |", "| 19:05 | 20:00 |"),
            ("Use two screws.", "Use two screws."),
        ],
    )
    def test_a_piece_is_widened_to_the_sentences_around_it(self, quoted: str, whole: str) -> None:
        assert self.shown(quoted, "?", self.TABLE, self.MANUAL).text == whole

    def test_of_code_whole_lines_are_taken(self) -> None:
        code = replace(self.CODE, chunk=replace(self.CODE.chunk, kind=DocumentKind.CODE))
        assert self.shown("day.weekday() ==", "?", code).text == "return day.day <= KEEP and day.weekday() == 6"

    def test_of_several_places_the_one_with_words_of_the_question_counts(self) -> None:
        assert self.shown("45", "Wie lange gilt die Garantie?", self.MANUAL).text == "Die Garantie gilt 45 Tage."
        assert self.shown("45", "When must I send the claim?", self.MANUAL).text == "- Send the claim within 45 days."

    def test_what_would_be_too_long_stays_as_it_is(self) -> None:
        endless = passage("word " * 200 + "HB-114 " + "word " * 200)
        assert self.shown("HB-114", "?", endless).text == "HB-114"

    @pytest.mark.parametrize(("said", "line", "file"), [("dogs", 13, "fees.md"), ("ferry", 12, "ferry.md")])
    def test_of_places_with_the_same_sentence_the_one_whose_passage_has_the_words(
        self, said: str, line: int, file: str
    ) -> None:
        fees = passage("# Fees of dogs, since 2040\n\nThe year:\n40 EUR\n", "fees.md")
        ferry = passage("# The ferry\n\n40 EUR\n\nIt runs in 40 minutes.", "ferry.md")
        for quoted in ("40 EUR", "40"):
            found = self.shown(quoted, f"How much are {said}? 40 EUR.", fees, ferry)
            assert (found.text, found.first_line, found.file.name) == ("40 EUR", line, file)

    def test_the_answer_shows_the_sentence(self, asked: Asked) -> None:
        asked.found = [self.MANUAL]
        answer = asked("Which bracket is not included, sold as part of what?", '[1] "HB-114."', "It is HB-114 [1].")
        assert [each.text for each in answer.quotations] == ["A bracket is not included; it is sold as part HB-114."]


class TestVerySmallModels:
    TEXT = "## Care\n\nThe filter is cleaned every six weeks. Use no soap.\n\nThe warranty lasts three years."

    def test_they_choose_among_the_sentences_that_have_the_words(self, small: Asked) -> None:
        small.found = [passage(self.TEXT), passage("Nothing of it. Not here.", "other.md")]
        small("How long does the warranty last?", '[1] "The warranty lasts three years."', "So.")
        constraint = small.engine.limits[0].constraint
        assert constraint is not None
        assert QuotationRules.of(constraint).passages == ("The warranty lasts three years.",)

    def test_their_answer_is_one_paragraph(self, asked: Asked, small: Asked) -> None:
        """They write the first one again and again, until the limit."""
        for one, stop in ((asked, ()), (small, ("\n\n",))):
            one.found = [passage(self.TEXT)]
            one("How long does the warranty last?", '[1] "The warranty lasts three years."', "So.")
            assert one.engine.limits[-1].stop == stop

    def test_in_another_language_they_choose_among_all(self, small: Asked) -> None:
        small.found = [replace(passage(self.TEXT, share=0.0), similarity=0.9)]
        small("Wie lange gilt die Garantie?", '[1] "The warranty lasts three years."', "So.")
        constraint = small.engine.limits[0].constraint
        assert constraint is not None and QuotationRules.of(constraint).passages == (self.TEXT,)

    @pytest.mark.parametrize(
        ("question", "text", "is_near"),
        [
            ("How long does the warranty last?", "The warranty lasts three years.", True),
            ("How long is the warranty?", "The warranty lasts three years.", True),
            ("When is the Überprüfung?", "Die Ueberprüfungen sind im Mai.", True),
            ("What is the capital of Mongolia?", "The warranty lasts three years.", False),
            ("Who won the football world cup?", "The cup is made of steel.", False),
            ("水は何度で沸騰しますか", "水は百度で沸騰する。", True),
        ],
    )
    def test_words_tell_what_a_text_is_about(
        self, asked: Asked, small: Asked, question: str, text: str, is_near: bool
    ) -> None:
        """In the smallest index: one passage."""
        for model in (asked.model, small.model):
            assert thresholds.is_near(question, [passage(text)], model) is is_near

    def test_a_larger_model_is_asked_more(self, asked: Asked, small: Asked) -> None:
        question, text = "Which colour has the warranty card?", "The warranty lasts three years."
        assert thresholds.is_near(question, [passage(text)], asked.model)
        assert not thresholds.is_near(question, [passage(text)], small.model)


class TestCitations:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("It is so [1].", "It is so [1]."),
            ("It is so [3].", "It is so."),
            ("It [0] is [1, 7] so [12][2].", "It is [1] so[2]."),
            ("a list [a, b] and x[i] and [", "a list [a, b] and x[i] and ["),
            ('He said "run dry" and "run wet".', 'He said "run dry" and run wet.'),
            ("Er sagte „not run dry“ und „gar nichts [9] davon“.", "Er sagte „not run dry“ und gar nichts davon."),
            ('The "pump" is 5" wide.', 'The "pump" is 5" wide.'),
            ('An open "mark at the end [', 'An open "mark at the end ['),
            ("[1]", "[1]"),
        ],
    )
    def test_numbers_point_somewhere_and_marks_hold_what_is_quoted(self, text: str, shown: str) -> None:
        for size in (1, 2, 3, 7, 100):
            made = CitationFilter(2, lambda quoted: quoted in PUMP)
            pieces = [made.feed(text[begin : begin + size]) for begin in range(0, len(text), size)]
            assert "".join(pieces) + made.flush() == shown, size

    def test_an_answer_comes_as_it_is_written(self) -> None:
        made = CitationFilter(1, lambda _text: True)
        assert made.feed("The filter is ") == "The filter is" and made.feed("clean [") == " clean"
        assert made.feed("1] ") == " [1]" and made.used == [1]


class TestInjections:
    """Documents are text: whatever stands in them, slm itself does the same as ever."""

    def test_there_are_thirty(self) -> None:
        assert len(INJECTIONS) >= 30 and len(set(INJECTIONS.values())) == len(INJECTIONS)

    @pytest.mark.parametrize("name", INJECTIONS)
    def test_a_document_changes_nothing(self, asked: Asked, name: str) -> None:
        text = f"The code of the door is 4711.\n{INJECTIONS[name]}\nThe door is green."
        asked.found = [passage(text, "note.txt")]
        answer = asked("What is the code?", '[1] "The code of the door is 4711."', "It is 4711 [1]. Not [9].")
        assert answer.text == "It is 4711 [1]. Not."
        (quotation,) = answer.quotations
        assert quotation.text.startswith("The code of the door is 4711.") and quotation.text in text
        assert answer.refusal == "" and len(asked.engine.prompts) == 2
        for made in asked.engine.prompts:  # the turns are those of the template, and the document is one piece of it
            assert made.count(text) in (1, 2) and made.index(text) < made.index("Question: What is the code?")
            assert made.count("<|im_start|>") == 2 + text.count("<|im_start|>")

    @pytest.mark.parametrize("name", INJECTIONS)
    def test_what_is_quoted_of_it_is_shown_as_text(self, asked: Asked, name: str) -> None:
        """A quotation of the attack itself: letter by letter in the record, harmless on a terminal."""
        asked.found = [passage(INJECTIONS[name], "note.txt")]
        answer = asked("What is the code?", f'[1] "{INJECTIONS[name].strip()}"', "So [1].")
        asked.console.write("".join(f"{line}\n" for line in source_lines(answer.quotations)))
        shown = asked.console.stdout.getvalue()  # type: ignore[attr-defined]
        assert not {"\x1b", "\x07", "\x9b", "\r", "\x08"} & set(shown)
        for quotation in answer.quotations:
            assert quotation.text in INJECTIONS[name]
