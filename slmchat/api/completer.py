"""From a question of a program to its completion: checked, laid out, known to fit, answered at once or as a stream.

Knows: whose turn it is with the model while that happens.
Refuses to know: which keywords a program has (model.py), how a completion is made (generation/).
"""

from collections.abc import Sequence
from dataclasses import replace

from slmchat.api import arguments
from slmchat.api.options import (
    CompletionOptions,
    ImageSource,
    n_answers_of,
    response_format_of,
    top_logprobs_of,
    with_sampling,
)
from slmchat.api.parameters import says_parameters
from slmchat.api.questions import MessageDict, QuestionOptions, question_of
from slmchat.api.shared_model import SharedModel
from slmchat.api.stream import Stream
from slmchat.api.turns import ModelTurn
from slmchat.conversation import window
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.best_of import best_of
from slmchat.generation.generator import PreparedPrompt
from slmchat.generation.many import ManyCompletions
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import Completion, NullHandler, StreamHandler, interrupted
from slmchat.generation.structured import ResponseFormat
from slmchat.lazy_dataclasses import dataclass
from slmchat.options import GenerationOptions


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """What a program asks, checked."""

    request: PromptRequest
    options: GenerationOptions
    response_format: ResponseFormat | None
    top_logprobs: int | None
    n_answers: int
    vote: str | None


class Completer:
    """A loaded model and the options that hold where a question says nothing else."""

    def __init__(self, shared: SharedModel, options: GenerationOptions) -> None:
        self._shared = shared
        self._options = options

    @says_parameters
    def question(
        self,
        prompt: str | None,
        messages: Sequence[MessageDict] | None,
        system: str | None,
        images: Sequence[ImageSource],
        raw: bool,
        logprobs: bool | int,
        options: CompletionOptions,
    ) -> CompletionRequest:
        """What is asked, with everything checked that needs no model. Raises `SlmError`."""
        self._shared.check_answers()
        return CompletionRequest(
            question_of(prompt, messages, system, images),
            self.settled(raw, options),
            response_format_of(options),
            top_logprobs_of(logprobs),
            *n_answers_of(options),
        )

    def question_with(self, prompt: str | None, options: QuestionOptions) -> CompletionRequest:
        """The same with all keywords in one table. Raises `SlmError`."""
        return self.question(
            prompt,
            options.get("messages"),
            options.get("system"),
            options.get("images", ()),
            options.get("raw", False),
            options.get("logprobs", False),
            options,
        )

    def settled(self, raw: bool, options: CompletionOptions) -> GenerationOptions:
        """The options that hold for a question. Raises `SlmError`."""
        return with_sampling(replace(self._options, raw=arguments.flag(raw, "raw")), options)

    def prepared(
        self, request: PromptRequest, options: GenerationOptions, response_format: ResponseFormat | None
    ) -> PreparedPrompt:
        """The prompt laid out and known to fit. Raises `SlmError`."""
        generator = self._shared.generator
        if request.pictures:
            self._shared.opened.model.check_vision(self._shared.opened.settings)
        prepared = generator.prepare(
            request,
            is_raw=options.raw,
            response_format=response_format,
            thinking=params.thinking_of(options, self._shared.opened.settings),
        )
        return self.fitting(prepared, options.max_tokens)

    def fitting(self, request: PreparedPrompt, max_tokens: int | None) -> PreparedPrompt:
        """The same request. Raises `SlmError` (CONTEXT) when it leaves no room for an answer."""
        n_ctx = self._shared.generator.n_ctx
        if not self._shared.opened.engine.info.has_exact_counts:
            return request  # an endpoint knows, and says so
        if not window.fits(request.n_prompt, n_ctx, max_tokens):
            raise SlmError(
                f"{window.overflow('the prompt is', request.n_prompt, n_ctx, max_tokens)}.",
                hint="a larger window: load(..., ctx=N); or a shorter prompt",
                exit_code=ExitCode.CONTEXT,
            )
        return request

    @says_parameters
    def complete(self, question: CompletionRequest, turn: ModelTurn) -> Completion:
        """The completion, when it is this turn's time. Raises `SlmError`."""
        with self._shared.turns.taken(turn):
            return self.complete_in(turn, question)

    @says_parameters
    def complete_in(self, turn: ModelTurn, question: CompletionRequest) -> Completion:
        """The completion in a turn that has been taken, and is given back. Raises `SlmError`."""
        try:
            prepared = self.prepared(question.request, question.options, question.response_format)
            if question.n_answers > 1:
                return self._elected(prepared, question)
            return self._answer(prepared, question, NullHandler())
        finally:
            self._shared.turns.give_back(turn)

    def _elected(self, prepared: PreparedPrompt, question: CompletionRequest) -> Completion:
        opened = self._shared.opened
        sampler = self._sampler(prepared, question)
        asked = best_of(
            question.n_answers,
            question.vote,
            question.response_format,
            sampler,
            is_remote=opened.model.host is not None,
        )
        limits = params.limits(question.options, question.top_logprobs)
        work = ManyCompletions([lambda: prepared], sampler, limits, opened.engine.info, asked=asked)
        pool = opened.open_pool_for(self._shared.generator.n_ctx, asked.n, prepared.request.pictures)
        (made,) = work.run(pool, self._shared.running)
        if isinstance(made, Completion):
            return made
        if made.exit_code is ExitCode.INTERRUPTED:
            return interrupted(prepared.n_prompt)
        raise made

    def _sampler(self, prepared: PreparedPrompt, question: CompletionRequest) -> SamplerSettings:
        opened = self._shared.opened
        return params.sampler_settings(
            opened.model, opened.settings, question.options, lambda: prepared.thinks(opened.engine)
        )

    @says_parameters
    def stream(self, question: CompletionRequest, turn: ModelTurn) -> Stream:
        """The completion on its way; the turn ends with it. Raises `SlmError`."""
        try:
            self._shared.turns.take(turn)
            return self.stream_in(turn, question)
        except BaseException:
            self._shared.turns.give_back(turn)
            raise

    @says_parameters
    def stream_in(self, turn: ModelTurn, question: CompletionRequest) -> Stream:
        """The same in a turn that has been taken. Raises `SlmError`."""
        try:
            prepared = self.prepared(question.request, question.options, question.response_format)
            return self._shared.streamed(
                turn, lambda handler: self._answer(prepared, question, handler, is_streamed=True)
            )
        except BaseException:
            self._shared.turns.give_back(turn)
            raise

    def _answer(
        self,
        prepared: PreparedPrompt,
        question: CompletionRequest,
        handler: StreamHandler,
        *,
        is_streamed: bool = False,
    ) -> Completion:
        return self._shared.generator.generate(
            prepared,
            self._sampler(prepared, question),
            params.limits(question.options, question.top_logprobs),
            self._shared.delegate(handler, is_streamed=is_streamed),
        )
