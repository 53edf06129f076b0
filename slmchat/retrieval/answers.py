"""From ranked passages to an answer that cannot misquote.

The story of a question: (1) the passages that are nearest to it, as many as fit into the window with room for an
answer; (2) the model copies out of them what answers it; (3) it answers from that and from the sentence nearest by its
words, and refers to them by number. What it does not refer to is not shown.

What is not in the documents is told by the search and the model together, which is asked about the best passage where
the search is not sure, and by a check of what it quotes.

Knows: the order of the steps. Refuses to know: how passages are found (index.py), the words of the prompts
(prompts.py), how far a model is believed (thresholds.py), how it is kept to the passages (engine/quotations.py), what
an answer is made from (evidence.py), who shows it (steps.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from itertools import takewhile

from slmchat.conversation.messages import Message
from slmchat.engine.quotations import QuotationRules
from slmchat.engine.requests import Limits
from slmchat.engine.results import FinishReason, Timings, Usage
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import UNASKED
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.classify import ClassificationTask
from slmchat.generation.generator import Generator, PreparedPrompt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import Completion
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import GenerationOptions
from slmchat.retrieval import prompts, reader_check, thresholds
from slmchat.retrieval.citations import CitationFilter
from slmchat.retrieval.evidence import NEAREST_ROOM, evidence, has_nearest, referred
from slmchat.retrieval.index import Passage
from slmchat.retrieval.nearest import nearest_sentences
from slmchat.retrieval.quotations import Quotation, is_verbatim
from slmchat.retrieval.steps import AnswerDelegate, AnswerStep, CitingHandler, ReadingHandler
from slmchat.retrieval.whole_sentences import in_whole_sentences
from slmchat.wording import counted

TOP, TOP_SMALL = 5, 3
"""Passages that a model reads where nobody says how many, and those of a very small one: the right passage is among
five for 97 % of the questions, among three for 93 %, and three are read in half of the time."""

# Quotations of one answer; tokens of room for them, and for an answer that nobody has limited.
QUOTATIONS = 3
_QUOTING_ROOM = 420
_ANSWER_ROOM = 512
# Why there is no answer.
_NOTHING_NEAR = "nothing in the documents is about this."
_NOT_STATED = "the documents do not answer this."
# What a model is asked about the best passage, and how many of the most probable tokens are looked at for both words.
_YES_OR_NO = ClassificationTask(("Yes", "No"), None, is_calibrated=False)
_ALTERNATIVES = 20
# Where an answer of a very small model ends: such a model writes its first paragraph again and again.
_PARAGRAPH = "\n\n"

Search = Callable[[str, int], Sequence[Passage]]
"""The best passages for a question, the best first, at most so many."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question; `str()` gives the text.

    `text`: the answer, with `[n]` for the quotation of that number; empty where the documents have no answer, and where
    only quotations were asked for. `quotations`: verbatim spans of the documents, those to which the text refers; all
    from which it was made where it refers to none. `passages`: what the model was to read. `refusal`: a sentence that
    says why there is no answer, empty where there is one.
    `thinking`, `finish_reason`, `usage` and `timings` (of all steps together), `seed`: as a completion has them.
    """

    question: str
    text: str = ""
    quotations: tuple[Quotation, ...] = ()
    passages: tuple[Passage, ...] = ()
    refusal: str = ""
    thinking: str = ""
    finish_reason: FinishReason = FinishReason.STOP
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    timings: Timings = field(default_factory=lambda: Timings(0.0, 0.0, None))
    seed: int = 0

    def __str__(self) -> str:
        return self.text


class ReadingOrder:
    """In which order passages stand in a prompt, so that those of the question before need not be read again."""

    def __init__(self) -> None:
        self._read: tuple[Passage, ...] = ()

    def begins_with(self, passages: tuple[Passage, ...]) -> None:
        """These are at the beginning of the window now."""
        self._read = passages

    def of(self, passages: Sequence[Passage]) -> tuple[Passage, ...]:
        """Those with which the window begins already stay there; of the others the best is next to the question."""
        wanted = [passage.chunk for passage in passages]
        kept = list(takewhile(lambda passage: passage.chunk in wanted, self._read))
        known = [passage.chunk for passage in kept]
        return (*kept, *(passage for passage in reversed(passages) if passage.chunk not in known))


class DocumentAnswers:
    """Answers to questions about documents, one after the other, in one window of a model."""

    def __init__(
        self,
        generator: Generator,
        search: Search,
        options: GenerationOptions,
        prefix: Sequence[Message] = (),
        *,
        top: int | None = None,
        is_quoting_only: bool = False,
        order: "ReadingOrder | None" = None,
    ) -> None:
        """`prefix`: a system message. `top`: passages for a question. `is_quoting_only`: there is no third step.
        `order`: of those who have asked in this window before; None: nobody has.

        Opens a window where the generator has none. Raises `SlmError`: NO_FIT, USAGE for an option of thinking.
        """
        self._generator = generator
        self._search = search
        self._options = options
        self._prefix = prefix
        self._top = top or (TOP_SMALL if thresholds.is_very_small(generator.opened.model) else TOP)
        self._is_quoting_only = is_quoting_only
        self._thinking = params.thinking_of(options, generator.opened.settings)
        self._order = order or ReadingOrder()
        self._is_reader: bool | None = (
            None  # whether the model has a say in what a passage answers; None: not asked yet
        )
        opened = generator.opened
        if not generator.n_ctx:
            # nothing of this window is kept on the disk: `slm docs rm` forgets all of a document
            n_ctx = opened.warm_ctx or opened.window(options.ctx or opened.settings.n_ctx)
            generator.use(opened.open_plain_session(n_ctx))

    def answer(self, question: str, delegate: AnswerDelegate) -> Answer:
        """The answer to one question. Raises `SlmError`: CONTEXT when no passage fits into the window beside it."""
        question = question.strip()
        # 1. What is near enough to be read.
        found = self._search(question, self._top)
        judged = self._judged(question, found, delegate)
        if judged.finish_reason is FinishReason.INTERRUPTED or judged.refusal:
            return judged
        passages = self._fitting(question, found)
        self._order.begins_with(passages)
        # 2. What of it answers the question.
        copied = self._copied(question, passages, delegate)
        is_none = copied.text.strip(' .*"') == prompts.NONE  # from a model elsewhere
        quotations = () if is_none else evidence(question, copied.text, passages, self._generator.opened.model)
        made = Answer(
            question,
            quotations=quotations,
            passages=passages,
            finish_reason=FinishReason.STOP if quotations else copied.finish_reason,
            usage=_sum(judged.usage, copied.usage),
            timings=_joined(judged.timings, copied.timings),
            seed=copied.seed,
        )
        if copied.finish_reason is FinishReason.INTERRUPTED:
            return replace(made, finish_reason=FinishReason.INTERRUPTED)
        if not quotations:
            return replace(made, refusal=_NOT_STATED)
        delegate.quoted(quotations)
        # 3. The answer, which refers to it.
        answer = made if self._is_quoting_only else self._answered(made, delegate)
        said = f"{question} {answer.text}"
        return replace(answer, quotations=in_whole_sentences(answer.quotations, said, passages))

    def _judged(self, question: str, found: Sequence[Passage], delegate: AnswerDelegate) -> Answer:
        """An answer without text: whether it is refused already, and what it took to find out."""
        model, refused = self._generator.opened.model, Answer(question, passages=tuple(found), refusal=_NOTHING_NEAR)
        least = thresholds.least_yes(question, found)
        may_be_asked = bool(found) and model.host is None and not self._options.raw
        if not may_be_asked or thresholds.is_very_small(model):
            return Answer(question) if thresholds.is_near(question, found, model) else refused
        if not 0 < least <= 1:
            return Answer(question) if least <= 0 else refused
        prepared = self._to_judge(question, prompts.whole(found[0]))
        n_ctx = self._generator.n_ctx
        if n_ctx and prepared.n_prompt >= n_ctx:
            return Answer(question)  # a long question: what has no room is told where the passages are read
        if self._is_reader is None:
            self._is_reader = self._checked(delegate)
        if self._is_reader is None:
            return Answer(question, finish_reason=FinishReason.INTERRUPTED)
        if not self._is_reader:
            self._generator.opened.reporter.detail("the model cannot tell what a text leaves open; the search decides")
            return Answer(question) if thresholds.is_near(question, found, model) else refused
        made = self._judgement(prepared, delegate)
        yes = thresholds.yes_probability(made.logprobs)
        if yes is None:
            refusal = "" if thresholds.is_near(question, found, model) else _NOTHING_NEAR
        else:
            refusal = "" if yes >= least else _NOT_STATED
            self._generator.opened.reporter.detail(
                f"the model finds it {yes:.0%} probable that the best passage has the answer; {least:.0%} are needed"
            )
        took = Answer(question, refusal=refusal, usage=made.usage, timings=made.timings, seed=made.seed)
        if made.finish_reason is FinishReason.INTERRUPTED:
            return replace(took, refusal="", finish_reason=FinishReason.INTERRUPTED)
        return replace(took, passages=tuple(found)) if refusal else took

    def _to_judge(self, question: str, text: str) -> PreparedPrompt:
        return self._generator.prepare(prompts.to_judge(question, text), is_raw=False, task=_YES_OR_NO)

    def _judgement(self, prepared: PreparedPrompt, delegate: AnswerDelegate) -> Completion:
        self._order.begins_with(())
        reading = delegate.reading()
        step = AnswerStep(ReadingHandler(reading.prefill, reading.close), delegate)
        sampler = replace(self._sampler(prepared), temperature=0.0)
        return self._generator.generate(prepared, sampler, Limits(1, top_logprobs=_ALTERNATIVES), step)

    def _checked(self, delegate: AnswerDelegate) -> bool | None:
        """Whether the model is right about texts that are known; else it has no say. None when that was interrupted."""
        known = [self._to_judge(asked, text) for text, asked, _ in reader_check.KNOWN]
        said = self._generator.priors.said([each.prompt for each in known], lambda: self._yes_to_each(known, delegate))
        return None if said is None else reader_check.is_reader(said)

    def _yes_to_each(self, known: Sequence[PreparedPrompt], delegate: AnswerDelegate) -> tuple[float, ...] | None:
        """How probable the model finds Yes; half where it says neither. None when that was interrupted."""
        found = []
        for prepared in known:
            made = self._judgement(prepared, delegate)
            if made.finish_reason is FinishReason.INTERRUPTED:
                return None
            yes = thresholds.yes_probability(made.logprobs)
            found.append(0.5 if yes is None else yes)
        return tuple(found)

    def _copied(self, question: str, passages: Sequence[Passage], delegate: AnswerDelegate) -> Completion:
        model = self._generator.opened.model
        texts = tuple(passage.chunk.text for passage in passages)
        if thresholds.is_very_small(model):
            texts = nearest_sentences(question, passages) or texts
        rules = QuotationRules(texts, QUOTATIONS)
        prepared = self._prepared(
            prompts.to_quote(question, passages, self._prefix, is_raw=self._options.raw),
            ResponseFormat(rules.constraint()) if model.host is None else None,
        )
        self._tell_of_room(len(passages), prepared.n_prompt)
        reading = delegate.reading()
        step = AnswerStep(ReadingHandler(reading.prefill, reading.close), delegate)
        return self._generator.generate(prepared, self._sampler(prepared), Limits(_QUOTING_ROOM), step, takes_cut=True)

    def _answered(self, made: Answer, delegate: AnswerDelegate) -> Answer:
        is_raw = self._options.raw
        prepared = self._prepared(
            prompts.to_answer(made.question, made.passages, made.quotations, self._prefix, is_raw=is_raw)
        )
        limits = params.limits(self._options)
        if limits.max_tokens is None and not prepared.thinks(self._generator.engine):
            limits = replace(limits, max_tokens=_ANSWER_ROOM)
        if thresholds.is_very_small(self._generator.opened.model) and not is_raw:  # a bare text often begins with one
            limits = replace(limits, stop=(*limits.stop, _PARAGRAPH))
        is_chosen = has_nearest(self._generator.opened.model)
        # a thought that is shown has the numbers of the prompt, and so has then the answer
        is_anew = is_chosen and not prepared.thinks(self._generator.engine)
        citations = CitationFilter(
            len(made.quotations), lambda text: is_verbatim(text, made.passages), numbers_anew=is_anew
        )
        shown = CitingHandler(delegate.answering(), citations)
        completion = self._generator.generate(prepared, self._sampler(prepared), limits, AnswerStep(shown, delegate))
        quotations = made.quotations
        if is_chosen:
            quotations = referred(quotations, citations.used, shown.text, numbers_anew=is_anew)
        return replace(
            made,
            text=shown.text.strip(),
            quotations=quotations,
            thinking=completion.thinking,
            finish_reason=completion.finish_reason,
            usage=_sum(made.usage, completion.usage),
            timings=_joined(made.timings, completion.timings),
            seed=completion.seed,
        )

    def _prepared(self, request: PromptRequest, form: ResponseFormat | None = None) -> PreparedPrompt:
        thinking = self._thinking if form is None else UNASKED
        return self._generator.prepare(request, is_raw=self._options.raw, response_format=form, thinking=thinking)

    def _sampler(self, prepared: PreparedPrompt) -> SamplerSettings:
        """As everywhere, but greedy where nobody asked for a temperature: the same question has the same answer."""
        opened, engine = self._generator.opened, self._generator.engine
        sampler = params.sampler_settings(opened.model, opened.settings, self._options, lambda: prepared.thinks(engine))
        return sampler if self._options.temperature is not None else replace(sampler, temperature=0.0)

    # The window

    def _fitting(self, question: str, found: Sequence[Passage]) -> tuple[Passage, ...]:
        """The best passages that leave room, in the order in which they are read."""
        n_ctx, info = self._generator.n_ctx, self._generator.engine.info
        if not n_ctx or not info.has_exact_counts:
            return self._order.of(found)
        fitting: tuple[Passage, ...] = ()
        for count in range(1, len(found) + 1):
            passages = self._order.of(found[:count])
            request = prompts.to_quote(question, passages, self._prefix, is_raw=self._options.raw)
            if self._prepared(request).n_prompt + self._room > n_ctx:
                break
            fitting = passages
        if fitting:
            return fitting
        raise SlmError(
            f"the context window of {n_ctx:,} tokens has no room for a passage, the question and an answer.",
            hint="a larger one: --ctx N; or a shorter question",
            exit_code=ExitCode.CONTEXT,
        )

    @property
    def _room(self) -> int:
        """Tokens behind a prompt without quotations: for them in the next one, for the thought and the answer."""
        nearest = NEAREST_ROOM if has_nearest(self._generator.opened.model) else 0
        return _QUOTING_ROOM + nearest + (self._options.max_tokens or _ANSWER_ROOM) + (self._thinking.budget or 0)

    def _tell_of_room(self, count: int, n_prompt: int) -> None:
        n_ctx = self._generator.n_ctx
        of_all = f" of {n_ctx:,} in the context window" if n_ctx else ""
        self._generator.opened.reporter.detail(
            f"{counted(count, 'passage')} and the question: {n_prompt:,} tokens{of_all}"
        )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.cached_tokens + other.cached_tokens,
        one.completion_tokens + other.completion_tokens,
        is_estimate=one.is_estimate or other.is_estimate,
        thinking_tokens=one.thinking_tokens + other.thinking_tokens,
    )


def _joined(one: Timings, other: Timings) -> Timings:
    """Of both; the first token of the answer came behind the first step."""
    first = None if other.ttft_s is None else one.prompt_s + one.generation_s + other.ttft_s
    return Timings(one.prompt_s + other.prompt_s, one.generation_s + other.generation_s, first)
