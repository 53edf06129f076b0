"""A model in a Python program: loaded once, asked as often as one likes.

Knows: what a program may ask of a model, and that only one thing at a time is asked of it.
Refuses to know: how a question becomes an answer (generation/generator.py) and how a chat goes on
(generation/chat_session.py).
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn, Unpack

from slmchat import settings as settings_module
from slmchat.api.chat import Chat, Overflowing
from slmchat.api.options import (
    CompletionOptions,
    ImageSource,
    LoadOptions,
    SamplingOptions,
    choosing_of,
    pictures_of,
    refuse_unknown,
    response_format_of,
    with_loading,
    with_sampling,
)
from slmchat.api.shared_model import SharedModel
from slmchat.api.stream import Stream
from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import raw_prompt
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.classify import Classification
from slmchat.generation.generator import Generator, PreparedPrompt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import Completion, NullHandler, StreamHandler
from slmchat.generation.structured import ResponseFormat
from slmchat.models import resolve, sandbox
from slmchat.models.backend import LocalModel
from slmchat.models.open import open_model
from slmchat.options import GenerationOptions
from slmchat.privacy.seal import SealStatus, status
from slmchat.privacy.writable_paths import check_directory
from slmchat.reporting import LogReporter
from slmchat.settings import Settings


def load(
    name: str | os.PathLike[str] | None = None,
    *,
    ctx: int | None = None,
    threads: int | None = None,
    gpu_layers: int | Literal["auto"] | None = None,
    seed: int | None = None,
    reads_config: bool = False,
    **rare: Unpack[LoadOptions],
) -> "Model":
    """Load an installed model (`slm pull NAME`) or a GGUF file; None: the only installed model.

    `ctx`: the context window in tokens; None: what suits this device, at most 8,192. `threads`: exactly so many; None:
    as many as there are free cores. `gpu_layers`: None: as suits the GPU, if there is one. `seed`: for every answer
    that is not given another. `rare`: see `LoadOptions`.
    `reads_config`: settings that are not given here are those of config.toml and the SLM_* variables, and states of the
    KV cache are kept on the disk as the commands keep them. Without it only SLM_HOME counts, and nothing is written
    (but what was found out about llama.cpp itself, on a machine where that must be tried).
    Raises `SlmError`: USAGE for a value out of its range, NO_MODEL, NO_FIT, DAMAGED.
    """
    refuse_unknown(rare, LoadOptions, "load")
    settings = _settings(reads_config=reads_config)
    reporter = LogReporter()
    options = with_loading(
        {
            "ctx": ctx,
            "threads": threads,
            "gpu_layers": None if gpu_layers is None else str(gpu_layers),
            "seed": seed,
            **rare,
        }
    )
    found = resolve.find(None if name is None else os.fspath(name), settings, reporter)
    local = LocalModel(found).with_projector(options.mmproj)
    generator = Generator(open_model(options, settings, reporter, model=local))
    try:
        generator.open(generator.opened.window(options.ctx or settings.n_ctx))
    except BaseException:
        generator.close()
        raise
    return Model(SharedModel(generator), options)


def seal(*, is_private: bool = False, writable: Sequence[str | os.PathLike[str]] = ()) -> SealStatus:
    """Close this process to the network, for good: its threads and the children that it will have, too.

    Do it before anything is loaded. From then on files can be written only in the directories of `writable`, in slm's
    own (with `is_private` not there, and no core dump is made), and as temporary files in memory; modes, owners and
    times of files cannot be changed. Returns what is in force. Raises `SlmError`: UNSEALED where the kernel of this
    system cannot enforce it, or where something of before still leads out; USAGE for a directory that holds code.
    """
    named = [check_directory(Path(directory), "writable") for directory in writable]
    sandbox.seal(replace(_settings(reads_config=False), is_offline=True, is_private=is_private), writable=named)
    return status()


def _settings(*, reads_config: bool) -> Settings:
    if reads_config:
        return settings_module.load(os.environ)
    return Settings(settings_module.paths_of(os.environ), is_private=True)


class Model:
    """A loaded model with one context window. Also a context manager, closed at its end.

    Any thread may call it: calls wait for one another, as one answer takes all processors anyway. A thread that has
    a stream open gets an `SlmError` (USAGE) instead of waiting for itself.
    """

    def __init__(self, shared: SharedModel, options: GenerationOptions) -> None:
        """Programs use `load`."""
        self._shared = shared
        self._options = options

    def __reduce__(self) -> NoReturn:
        raise SlmError(
            "a Model cannot be pickled or copied: it is weights in the memory of this process.",
            hint="call load() in each process",
            exit_code=ExitCode.USAGE,
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

    def count_tokens(self, text: str) -> int:
        """How many tokens a text is by itself, without a chat template."""
        with self._shared.turns:
            return self._shared.opened.engine.count(raw_prompt([Message(Role.USER, text)]))

    def complete(
        self,
        prompt: str,
        *,
        system: str | None = None,
        images: Sequence[ImageSource] = (),
        raw: bool = False,
        **options: Unpack[CompletionOptions],
    ) -> Completion:
        """The answer to one prompt, by itself: nothing of it is remembered, though what prompts share is read once.

        `system`: a system message. `images`: files, or the bytes of files, that a model with a projector is shown.
        `raw`: the prompt is continued as it is, without the chat template.
        Raises `SlmError`: USAGE for options that cannot be used, CONTEXT when the prompt does not fit into the window,
        UNSATISFIED when neither of two answers has the shape that was asked for; TypeError for an unknown keyword.
        """
        refuse_unknown(options, CompletionOptions, "complete")
        asked = with_sampling(replace(self._options, raw=raw), options)
        shape = response_format_of(options)
        with self._shared.turns:
            request = self._request(prompt, system, images, asked, shape)
            return self._answer(request, asked, NullHandler())

    def stream(
        self,
        prompt: str,
        *,
        system: str | None = None,
        images: Sequence[ImageSource] = (),
        raw: bool = False,
        **options: Unpack[SamplingOptions],
    ) -> Stream:
        """As `complete`, but piece by piece as they come. An answer with a shape comes whole: use `complete`.

        Raises as `complete` does; what goes wrong later is raised where the stream is read.
        """
        refuse_unknown(options, SamplingOptions, "stream")
        asked = with_sampling(replace(self._options, raw=raw), options)
        self._shared.turns.take()
        try:
            request = self._request(prompt, system, images, asked, None)
        except BaseException:
            self._shared.turns.give_back()
            raise
        return self._shared.streamed(lambda handler: self._answer(request, asked, handler))

    def classify(
        self,
        text: str,
        choices: Sequence[str],
        *,
        instruction: str = "",
        system: str | None = None,
        raw: bool = False,
        threshold: float | None = None,
        calibrate: bool = True,
    ) -> Classification:
        """Which of 2 to 100 choices is the model's answer, by its own probabilities: nothing is sampled.

        `instruction`: what is asked about the text; `{}` in it says where the text goes, else it stands behind it. The
        model is not told the choices. `threshold`: the label is None when no choice is as probable (0 to 1).
        `calibrate`: take away what the model prefers whatever it reads. Raises as `complete` does, and `SlmError`
        (INTERRUPTED) when it was cancelled.
        """
        task = choosing_of(choices, threshold, is_calibrated=calibrate)
        head = [Message(Role.SYSTEM, system)] if system else []
        if not text.strip():
            raise SlmError("the text is empty.", exit_code=ExitCode.USAGE)
        with self._shared.turns:
            generator = self._shared.generator
            question = PromptRequest(instruction, [Attachment(text)], head)
            request = self._fitting(generator.prepare(question, is_raw=raw, task=task), None)
            generator.open_scorer(generator.n_ctx)
            found = generator.classify(request, self._shared.running)
        if found is None:
            raise SlmError("the classification was cancelled.", exit_code=ExitCode.INTERRUPTED)
        return found[0]

    def chat(
        self,
        *,
        system: str | None = None,
        messages: Sequence[tuple[Literal["user", "assistant"], str]] = (),
        on_overflow: Overflowing = "fail",
        **options: Unpack[SamplingOptions],
    ) -> Chat:
        """A conversation with a context window of its own (close it to free that).

        `messages`: what has been said before, as (role, text). `on_overflow`: what to do when the conversation no
        longer fits: "fail" with `SlmError` (CONTEXT), "drop" the oldest exchanges or "summarise" them.
        """
        refuse_unknown(options, SamplingOptions, "chat")
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

    def _request(
        self,
        prompt: str,
        system: str | None,
        images: Sequence[ImageSource],
        asked: GenerationOptions,
        shape: ResponseFormat | None,
    ) -> PreparedPrompt:
        """The prompt laid out and known to fit. Raises `SlmError`."""
        generator = self._shared.generator
        shown = pictures_of(images)
        if shown:
            self._shared.opened.model.check_vision(self._shared.opened.settings)
        head = [Message(Role.SYSTEM, system)] if system else []
        if not prompt.strip():
            raise SlmError("the prompt is empty.", exit_code=ExitCode.USAGE)
        request = generator.prepare(PromptRequest(prompt, [], head, shown), is_raw=asked.raw, response_format=shape)
        return self._fitting(request, asked.max_tokens)

    def _fitting(self, request: PreparedPrompt, max_tokens: int | None) -> PreparedPrompt:
        """The same request. Raises `SlmError` (CONTEXT) when it leaves no room for an answer."""
        n_ctx = self._shared.generator.n_ctx
        if not window.fits(request.n_prompt, n_ctx, max_tokens):
            raise SlmError(
                f"{window.overflow('the prompt is', request.n_prompt, n_ctx, max_tokens)}.",
                hint="a larger window: load(..., ctx=N); or a shorter prompt",
                exit_code=ExitCode.CONTEXT,
            )
        return request

    def _answer(self, prepared: PreparedPrompt, asked: GenerationOptions, handler: StreamHandler) -> Completion:
        opened = self._shared.opened
        sampler = params.sampler_settings(opened.model, opened.settings, asked)
        return self._shared.generator.generate(prepared, sampler, params.limits(asked), self._shared.delegate(handler))
