"""A model in a Python program: loaded once, asked as often as one likes.

Knows: what a program may ask of a model, and that only one thing at a time is asked of it.
Refuses to know: how a question becomes an answer (generation/generator.py) and how a chat goes on
(generation/chat_session.py).
"""

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Literal, NoReturn, Unpack, cast

from slmchat.api import arguments
from slmchat.api.chat import Chat, Overflowing
from slmchat.api.completer import Completer
from slmchat.api.documents import paths_of
from slmchat.api.event_loop import in_thread, in_turn
from slmchat.api.options import (
    CompletionOptions,
    ImageSource,
    SamplingOptions,
    choosing_of,
    n_answers_of,
    pictures_of,
    refuse_unknown,
    response_format_of,
    top_logprobs_of,
    with_sampling,
)
from slmchat.api.parameters import name_parameters, says_parameters
from slmchat.api.questions import MessageDict, QuestionOptions, one_of
from slmchat.api.shared_model import SharedModel
from slmchat.api.stream import Stream
from slmchat.api.turns import ModelTurn
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Message, Role
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation import params
from slmchat.generation.best_of import best_of
from slmchat.generation.classify import Classification
from slmchat.generation.generator import PreparedPrompt
from slmchat.generation.many import ManyCompletions
from slmchat.generation.prompt import PromptRequest, thinks
from slmchat.generation.response import Completion
from slmchat.models.embedding import embedder
from slmchat.options import GenerationOptions
from slmchat.ranges import PARALLEL, PASSAGES
from slmchat.retrieval.answers import Answer, DocumentAnswers
from slmchat.retrieval.steps import SilentDelegate


class Model:
    """A loaded model with one context window. Also a context manager, closed at its end.

    Any thread may call it: calls wait for one another, as one answer takes all processors anyway. A stream has its turn
    until its answer has been generated, whether that is read or not.
    """

    def __init__(self, shared: SharedModel, options: GenerationOptions) -> None:
        """Programs use `load`."""
        self._shared = shared
        self._options = options
        self._completer = Completer(shared, options)

    def __reduce__(self) -> NoReturn:
        raise usage_error(
            "a Model cannot be pickled or copied: it is weights in the memory of this process.",
            "call load() in each process",
        )

    @property
    def name(self) -> str:
        """The model's full name, as `smollm2:135m@Q4_1`."""
        return self._shared.opened.model.key

    @property
    def n_ctx(self) -> int:
        """The context window in tokens: of every question with its answer, and of every chat."""
        return self._shared.generator.n_ctx

    @property
    def sees(self) -> bool:
        """Whether it can be shown images."""
        return self._shared.opened.model.supports_vision

    @says_parameters
    def count_tokens(self, text: str) -> int:
        """How many tokens a text is by itself, without a chat template."""
        arguments.text(text, "text")
        self._shared.generator  # noqa: B018 - raises when the model has been closed
        with self._shared.turns.taken():
            return self._shared.opened.count_text(text)

    @says_parameters
    def complete(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[MessageDict] | None = None,
        system: str | None = None,
        images: Sequence[ImageSource] = (),
        raw: bool = False,
        logprobs: bool | int = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion:
        """The answer to one prompt, by itself: nothing of it is remembered, though what prompts share is read once.

        `messages`: instead of a prompt, `{"role": "system" | "user" | "assistant", "content": TEXT}` each; where the
        last one is an answer, the completion goes on with it.
        `system`: a system message. `images`: files, or the bytes of files, that a model with a projector is shown.
        `raw`: the prompt is continued as it is, without the chat template. `logprobs`: True for those of its tokens,
        a number (0 to 20) for so many alternatives beside each. `best_of`: so many answers side by side, of which the
        one of the majority counts (`vote`: of what); the completion's `best_of` has the vote.
        How tokens are chosen and where the answer ends: `temperature`, `top_k`, `top_p`, `min_p`, `repeat_penalty`,
        `seed`, `max_tokens`, `stop`, `think`, `think_budget`. What it has to look like: one of `schema`, `fields`,
        `regex`, `grammar`, `json`.
        Raises `SlmError`: USAGE for options that cannot be used, CONTEXT when the prompt does not fit into the window,
        UNSATISFIED when neither of two answers is in the format that was asked for; TypeError for an unknown keyword.
        """
        refuse_unknown(options, CompletionOptions, "complete")
        question = self._completer.question(prompt, messages, system, images, raw, logprobs, options)
        return self._completer.complete(question, ModelTurn())

    @says_parameters
    def complete_many(
        self,
        prompts: Iterable[str | Sequence[MessageDict]],
        *,
        system: str | None = None,
        raw: bool = False,
        logprobs: bool | int = False,
        parallel: int | None = None,
        **options: Unpack[CompletionOptions],
    ) -> list[Completion | SlmError]:
        """The answers to many prompts (texts, or lists of messages), decoded together, in the order of the prompts.

        Where a prompt fails, the others go on, and the `SlmError` stands in its place; INTERRUPTED for those that
        `cancel` has kept from being answered. `parallel`: so many at once; None: as many as pay. With a `seed` every
        prompt has the same one. A context window for all of them is made, and freed at the end.
        Raises `SlmError`: USAGE for options that cannot be used, NO_FIT.
        """
        refuse_unknown(options, CompletionOptions, "complete_many")
        n_parallel = cast("int | None", arguments.number(parallel))
        if n_parallel is not None and not PARALLEL.holds(n_parallel):
            raise usage_error(f"parallel must be {PARALLEL}, or None.")
        self._shared.check_answers()
        given = arguments.several(prompts, "prompts", "texts")
        asked, response_format = self._completer.settled(raw, options), response_format_of(options)
        limits = params.limits(asked, top_logprobs_of(logprobs))
        n_answers, vote = n_answers_of(options)
        arguments.text_or_none(system, "system")

        def prepare(number: int) -> PreparedPrompt:
            return self._completer.prepared(one_of(given[number], f"prompts[{number}]", system), asked, response_format)

        with self._shared.turns.taken():
            opened, n_ctx = self._shared.opened, self._shared.generator.n_ctx
            thinking = params.thinking_of(asked, opened.settings)
            sampler = params.sampler_settings(
                opened.model,
                opened.settings,
                asked,
                lambda: response_format is None and thinks(opened.engine, thinking, is_raw=asked.raw),
            )
            work = ManyCompletions(
                [partial(prepare, number) for number in range(len(given))],
                sampler,
                limits,
                opened.engine.info,
                asked=best_of(n_answers, vote, response_format, sampler, is_remote=opened.model.host is not None),
            )
            made = (
                work.run(opened.open_pool(n_ctx, n_parallel, are_all_there=True), self._shared.running) if given else []
            )
        return [name_parameters(one) if isinstance(one, SlmError) else one for one in made]

    @says_parameters
    def stream(
        self,
        prompt: str | None = None,
        *,
        messages: Sequence[MessageDict] | None = None,
        system: str | None = None,
        images: Sequence[ImageSource] = (),
        raw: bool = False,
        logprobs: bool | int = False,
        **options: Unpack[CompletionOptions],
    ) -> Stream:
        """As `complete`, but piece by piece as they come. For an answer in a given format there is no second attempt.

        Raises as `complete` does; what goes wrong later is raised where the stream is read.
        """
        refuse_unknown(options, CompletionOptions, "stream")
        _refuse_several(options, "stream")
        question = self._completer.question(prompt, messages, system, images, raw, logprobs, options)
        return self._completer.stream(question, ModelTurn())

    async def acomplete(self, prompt: str | None = None, **options: Unpack[QuestionOptions]) -> Completion:
        """As `complete`, without keeping the event loop waiting. To cancel the task ends the generation."""
        refuse_unknown(options, QuestionOptions, "acomplete")
        question, turn = self._completer.question_with(prompt, options), ModelTurn()
        try:
            return await in_turn(self._shared.turns, turn, partial(self._completer.complete_in, turn, question))
        finally:
            self._shared.turns.cancel(turn)  # nothing, when it has ended by itself

    async def astream(self, prompt: str | None = None, **options: Unpack[QuestionOptions]) -> AsyncGenerator[str, None]:
        """The pieces of `stream`, without keeping the event loop waiting. To cancel the task, or `aclose`, ends the
        generation. Whatever is wrong is raised when the first piece is asked for."""
        refuse_unknown(options, QuestionOptions, "astream")
        _refuse_several(options, "astream")
        question, turn = self._completer.question_with(prompt, options), ModelTurn()
        try:
            stream = await in_turn(self._shared.turns, turn, partial(self._completer.stream_in, turn, question))
            while (piece := await in_thread(next, stream, None)) is not None:
                yield piece
        finally:
            self._shared.turns.cancel(turn)

    @says_parameters
    def classify(
        self,
        text: str,
        choices: Sequence[str],
        *,
        instruction: str = "",
        system: str | None = None,
        images: Sequence[ImageSource] = (),
        raw: bool = False,
        threshold: float | None = None,
        calibrate: bool = True,
    ) -> Classification:
        """Which of 2 to 1,000 choices is the model's answer, by its own probabilities: nothing is sampled.

        `instruction`: what is asked about the text; `{}` in it says where the text goes, else it stands behind it. The
        model is not told the choices. `images`: what it is asked about, beside the text or with "" instead of it;
        without an instruction the text is the question about them. `threshold`: the label is None when no choice is as
        probable (0 to 1). `calibrate`: take away what the model prefers whatever it reads. Raises as `complete` does,
        and `SlmError` (INTERRUPTED) when it was cancelled.
        """
        self._shared.check_answers()
        task = choosing_of(choices, threshold, is_calibrated=arguments.flag(calibrate, "calibrate"))
        arguments.text(instruction, "instruction")
        arguments.text_or_none(system, "system")
        arguments.flag(raw, "raw")
        head = [Message(Role.SYSTEM, system)] if system else []
        shown = pictures_of(images)
        if not arguments.text(text, "text").strip() and not (shown and instruction.strip()):
            raise usage_error("the text is empty.")
        is_question = bool(shown) and not instruction.strip()
        said = [Attachment(text)] if text.strip() and not is_question else []
        with self._shared.turns.taken():
            generator = self._shared.generator
            if shown:
                self._shared.opened.model.check_vision(self._shared.opened.settings)
            question = PromptRequest(text if is_question else instruction, said, head, shown)
            request = self._completer.fitting(generator.prepare(question, is_raw=raw, task=task), None)
            generator.open_scorer(generator.n_ctx)
            found = generator.classify([request], self._shared.running)
        if found is None:
            raise SlmError("the classification was cancelled.", exit_code=ExitCode.INTERRUPTED)
        return found[0][0]

    @says_parameters
    def ask(
        self,
        question: str,
        documents: str | PathLike[str] | Sequence[str | PathLike[str]],
        *,
        top: int | None = None,
        quotes_only: bool = False,
        system: str | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Answer:
        """The answer to a question from documents (files and directories), with quotations that are in them letter by
        letter (docs/ask.md). What is new of them is read first.

        `top`: so many passages are read for the question (1 to 50; None: 5, by a very small model 3). `quotes_only`:
        the quotations without an answer. Without a temperature the same question has the same answer. Where the
        documents do not answer it, `refusal` says so, and there is no text. Raises as `complete` does; USAGE too for
        documents that are not there or cannot be read, INTERRUPTED when it was cancelled while they were.
        """
        refuse_unknown(options, SamplingOptions, "ask")
        self._shared.check_answers()
        if not arguments.text(question, "question").strip():
            raise usage_error("the question is empty.")
        n_passages = cast("int | None", arguments.number(top))
        if n_passages is not None and not PASSAGES.holds(n_passages):
            raise usage_error(f"top must be {PASSAGES}, or None.")
        arguments.text_or_none(system, "system")
        paths = paths_of(documents)
        asked = with_sampling(replace(self._options, temperature=None), options)
        with self._shared.turns.taken():
            generator = self._shared.generator
            answers = DocumentAnswers(
                generator,
                self._shared.documents.search_in(paths, self._shared.running),
                asked,
                [Message(Role.SYSTEM, system)] if system else [],
                top=n_passages,
                is_quoting_only=arguments.flag(quotes_only, "quotes_only"),
                order=self._shared.documents.order,
            )
            return answers.answer(question, SilentDelegate(self._shared.running))

    @says_parameters
    def embed(self, texts: str | Sequence[str], *, trim: bool = False) -> list[list[float]]:
        """A vector of length 1 for each text, in order: the closer in meaning, the larger their scalar product.

        For an embedding model, or an endpoint that has one. `trim`: of a text that is longer than the model was trained
        for, the beginning counts. Raises `SlmError`: USAGE for another model or an empty text, CONTEXT for a text that
        is too long, INTERRUPTED after `cancel`.
        """
        given = [texts] if isinstance(texts, str) else arguments.several(texts, "texts", "texts")
        asked = [arguments.text(text, f"texts[{number}]") for number, text in enumerate(given)]
        arguments.flag(trim, "trim")
        self._shared.generator  # noqa: B018 - raises when the model has been closed
        opened = self._shared.opened
        if not opened.model.embeds and opened.model.host is None:
            raise usage_error(
                f"{opened.model.key} makes no vectors: it is not an embedding model.",
                "slm pull all-minilm, and load() that",
            )
        vectors: list[list[float]] = []
        with self._shared.turns.taken():
            made = embedder(opened, is_cut=trim)
            results = made.run(iter(asked))
            with self._shared.running(made):
                for number, result in enumerate(results):
                    if isinstance(result, SlmError):
                        made.close()
                        raise SlmError(
                            f"texts[{number}]: {result.message}", hint=result.hint, exit_code=result.exit_code
                        )
                    vectors.append(list(result.vector))
            made.close()
        if len(vectors) < len(asked):
            raise SlmError("this was cancelled before it was done.", exit_code=ExitCode.INTERRUPTED)
        return vectors

    @says_parameters
    def chat(
        self,
        *,
        system: str | None = None,
        messages: Sequence[tuple[Literal["user", "assistant"], str] | MessageDict] = (),
        on_overflow: Overflowing = "fail",
        **options: Unpack[SamplingOptions],
    ) -> Chat:
        """A conversation with a context window of its own (close it to free that).

        `messages`: what has been said before, as (role, text) or `{"role": ..., "content": TEXT}`. `on_overflow`: what
        to do when the conversation no longer fits: "fail" with `SlmError` (CONTEXT), "drop" the oldest exchanges or
        "summarise" them. For all answers: `temperature`, `top_k`, `top_p`, `min_p`, `repeat_penalty`, `seed`,
        `max_tokens`, `stop`, `think`, `think_budget`.
        """
        refuse_unknown(options, SamplingOptions, "chat")
        self._shared.check_answers()
        return Chat(self._shared, with_sampling(self._options, options), system, messages, on_overflow)

    def cancel(self) -> None:
        """End what is being generated, if anything is, from any thread: its `finish_reason` is "interrupted"."""
        self._shared.cancel()

    def close(self) -> None:
        """End an open stream, then free the chats, the context window and the weights. A second call does nothing."""
        self._shared.close()

    def __enter__(self) -> "Model":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<slmchat.Model {self.name}{', closed' if self._shared.is_closed else ''}>"


def _refuse_several(options: Mapping[str, object], function: str) -> None:
    """Raises `SlmError` (USAGE) for several answers where one is shown while it comes."""
    if options.get("best_of") not in (None, 1):
        raise usage_error(
            f"{function} gives an answer while it comes; best_of chooses among whole ones.", "complete(..., best_of=N)"
        )
