"""One answer on its way: generated, and sent as it comes or whole.

Knows: the order of a generation, of its completions and of what is sent. Refuses to know: HTTP, the fields of records.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from slmchat.engine.api import FinishReason, Prefill, Usage
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.thinking import Thinking
from slmchat.errors import SlmError
from slmchat.generation import params
from slmchat.generation.generator import Generator, PreparedPrompt
from slmchat.generation.response import Completion, NullHandler, Response
from slmchat.generation.tools import CallSplitter, ToolCall, split
from slmchat.ranges import SEED
from slmchat.server.connection import Connection, Gone
from slmchat.server.openai import ApiRequest
from slmchat.server.records import AnswerRecords, call_record
from slmchat.server.served_model import ServedWeights


class CompletionAnswer:
    """One answer on its way. Implements `GenerationDelegate`."""

    def __init__(
        self, connection: Connection, asked: ApiRequest, loaded: ServedWeights, records: AnswerRecords
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._loaded = loaded
        self._records = records
        self._index = 0
        self._has_begun = False  # something of this completion has been sent
        self._splitter: CallSplitter | None = None
        self._n_calls = 0

    def give(self, generator: Generator) -> str:
        """Generate and send; what it was, in words for the log."""
        asked, opened = self._asked, self._loaded.opened
        prepared = generator.prepare(
            asked.request,
            is_raw=asked.is_raw,
            response_format=asked.response_format,
            thinking=_thinking(asked.thinking, params.thinking_of(opened.options, opened.settings)),
        )
        prepared = generator.fitted(prepared, generator.n_ctx, is_trimmed=False)
        sampler = params.sampler_settings(
            opened.model, opened.settings, opened.options, lambda: prepared.thinks(generator.engine)
        ).with_values(asked.sampler)
        made: list[Completion] = []
        for self._index in range(asked.n):
            again = {} if sampler.seed is None else {"seed": (sampler.seed + self._index) % int(SEED.high)}
            self._has_begun, self._n_calls = False, 0
            self._splitter = CallSplitter() if asked.toolbox is not None else None
            settings = sampler.with_values(again)
            made.append(generator.generate(prepared, settings, asked.limits, self, takes_cut=True))
            if made[-1].finish_reason is FinishReason.INTERRUPTED and self._connection.is_gone():
                raise Gone
            self._end_one(made[-1])
        usage = replace(
            made[0].usage,
            completion_tokens=sum(each.usage.completion_tokens for each in made),
            thinking_tokens=sum(each.usage.thinking_tokens for each in made),
        )
        self._end(made, usage, prepared)
        return f"200, {usage.prompt_tokens} tokens read ({usage.cached_tokens} known), {usage.completion_tokens} said"

    def _end_one(self, made: Completion) -> None:
        if self._asked.is_streamed:
            self._begin()
            for part in self._splitter.flush() if self._splitter is not None else ():
                self._send_part(part)
            last = self._records.last_chunk(
                self._index, made.finish_reason, self._logprobs(made), has_calls=bool(self._n_calls)
            )
            self._connection.event(last)

    def _end(self, made: Sequence[Completion], usage: Usage, prepared: PreparedPrompt) -> None:
        if self._asked.is_streamed:
            if self._asked.includes_usage:
                self._connection.event(self._records.usage_chunk(usage))
            self._connection.event("[DONE]")
            self._connection.end()
            return
        choices = []
        for index, each in enumerate(made):
            text, calls = split(each.text) if self._asked.toolbox is not None else (each.text, ())
            choices.append(
                self._records.choice(index, text, each.thinking, each.finish_reason, self._logprobs(each), calls)
            )
        self._connection.answer(200, self._records.whole(choices, usage))

    def _logprobs(self, made: Completion) -> Any:
        return None if self._asked.limits.top_logprobs is None else made.logprobs

    # Implements `GenerationDelegate`

    def handler(self) -> "CompletionAnswer | NullHandler":
        return self if self._asked.is_streamed else NullHandler()

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def may_retry(self) -> bool:
        # what was sent has been read; and a second attempt takes more room than a client may have allowed
        return not self._asked.is_streamed and self._asked.limits.max_tokens is None

    def on_retry(self, error: SlmError) -> None: ...

    def on_fallback(self, response: Response) -> None: ...

    # Implements `StreamHandler`

    def prefill(self, event: Prefill) -> None:
        if not self._connection.has_begun_answer:
            self._connection.begin_events()
        self._connection.send(f": {event.done} of {event.total} tokens read\n\n".encode())

    def thinking(self, text: str) -> None:
        self._begin()
        if self._records.is_chat:
            self._connection.event(self._records.chunk(self._index, {"reasoning_content": text}))

    def logprob(self, logprob: float) -> None: ...

    def answer(self, text: str) -> None:
        self._begin()
        for part in (text,) if self._splitter is None else self._splitter.feed(text):
            self._send_part(part)

    def close(self) -> None: ...

    def _send_part(self, part: str | ToolCall) -> None:
        delta: Any = {"content": part} if self._records.is_chat else part
        if isinstance(part, ToolCall):
            delta = {"tool_calls": [{"index": self._n_calls, **call_record(part)}]}
            self._n_calls += 1
        self._connection.event(self._records.chunk(self._index, delta))

    def _begin(self) -> None:
        if not self._connection.has_begun_answer:
            self._connection.begin_events()
        if not self._has_begun and self._records.is_chat:
            self._connection.event(self._records.chunk(self._index, {"role": "assistant", "content": ""}))
        self._has_begun = True


def _thinking(asked: Thinking | None, usual: Thinking) -> Thinking:
    """What a request asks of a thought, and where it says nothing, what the server was started with."""
    if asked is None:
        return usual
    return asked if asked.budget is not None else replace(asked, budget=usual.budget or None)
