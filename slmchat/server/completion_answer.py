"""One answer on its way: generated, and sent as it comes or whole.

Knows: the order of a generation, of its completions and of what is sent. Refuses to know: HTTP, the fields of records.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from slmchat.engine.cancellable import Cancellable
from slmchat.engine.results import FinishReason, Prefill, Usage
from slmchat.engine.thinking import Thinking
from slmchat.generation import params
from slmchat.generation.generator import Generator, OneAttempt, PreparedPrompt
from slmchat.generation.prompt import PromptRequest
from slmchat.generation.response import Completion, NullHandler
from slmchat.generation.tools import CallSplitter, Toolbox, ToolCall, split
from slmchat.ranges import SEED
from slmchat.server.connection import Connection, Gone
from slmchat.server.openai import ApiRequest
from slmchat.server.records import Made, Sent
from slmchat.server.responses import AnswerRecords
from slmchat.server.served_model import ServedWeights

# While a prompt is read, so many seconds may pass in a stream without a word (as the standard of HTML has it, 9.2.7).
QUIET_S = 15.0


class CompletionAnswer(OneAttempt, NullHandler):
    """One answer on its way. Implements `GenerationDelegate`."""

    def __init__(
        self, connection: Connection, asked: ApiRequest, loaded: ServedWeights, records: AnswerRecords
    ) -> None:
        self._connection = connection
        self._asked = asked
        self._loaded = loaded
        self._records = records
        self._index = 0
        self._said_at = time.monotonic()  # when the client last heard that the prompt is being read
        self._has_begun = False  # something of this completion has been sent
        self._toolbox: Toolbox | None = None
        self._splitter: CallSplitter | None = None
        self._calls: list[ToolCall] = []

    def give(self, generator: Generator) -> str:
        """Generate and send; what it was, in words for the log."""
        asked, opened = self._asked, self._loaded.opened
        limits, toolbox = asked.limits, asked.toolbox
        if toolbox is not None:
            self._toolbox = toolbox = generator.toolbox_for(toolbox)
            limits = replace(limits, constraint=toolbox.constraint(), shown=toolbox.notation.marks)
        ready = [self._prepared(generator, request) for request in (asked.request, *asked.further)]
        made: list[Made] = []
        usages: list[Usage] = []
        for number, prepared in enumerate(ready):
            sampler = params.sampler_settings(
                opened.model, opened.settings, opened.options, partial(prepared.thinks, generator.engine)
            ).with_values(asked.sampler)
            for again in range(asked.n):
                self._index = number * asked.n + again
                self._has_begun, self._calls = False, []
                self._splitter = toolbox.splitter() if toolbox is not None else None
                seed = {} if sampler.seed is None else {"seed": (sampler.seed + again) % int(SEED.high)}
                done = generator.generate(prepared, sampler.with_values(seed), limits, self, takes_cut=True)
                if done.finish_reason is FinishReason.INTERRUPTED and self._connection.is_gone():
                    raise Gone
                made.append(self._ended(done))
                usages.append(done.usage)
        usage = _together(usages, asked.n)
        if asked.is_streamed:
            self._send(self._records.close(usage, includes_usage=asked.includes_usage))
            self._connection.end()
        else:
            self._connection.answer(200, self._records.whole(made, usage))
        return f"200, {usage.prompt_tokens} tokens read ({usage.cached_tokens} known), {usage.completion_tokens} said"

    def _prepared(self, generator: Generator, request: PromptRequest) -> PreparedPrompt:
        """One prompt, which fits. Raises `SlmError` (CONTEXT)."""
        asked, opened = self._asked, self._loaded.opened
        prepared = generator.prepare(
            request if self._toolbox is None else generator.with_tools(request, self._toolbox),
            is_raw=asked.is_raw,
            response_format=asked.response_format,
            thinking=_thinking(asked.thinking, params.thinking_of(opened.options, opened.settings)),
        )
        return generator.fitted(prepared, generator.n_ctx, is_trimmed=False)

    def _ended(self, done: Completion) -> Made:
        """A completion that is whole, and sent where there is a stream."""
        logprobs = None if self._asked.limits.top_logprobs is None else done.logprobs
        if self._asked.is_streamed:
            self._begin()
            for part in self._splitter.flush() if self._splitter is not None else ():
                self._send_part(part)
            text, calls = done.text, self._calls
        elif self._splitter is not None:
            text, calls = split(done.text, self._toolbox)
        else:
            text, calls = done.text, []
        answer = self._toolbox.answer if self._toolbox is not None else None
        if answer is not None and not calls and not done.finish_reason.is_cut:
            answer.value(text, done.finish_reason)  # raises for what is not right
        made = Made(text, done.thinking, calls, done.finish_reason, logprobs)
        if self._asked.is_streamed:
            self._send(self._records.end(made))
        return made

    # Implements `GenerationDelegate`

    def handler(self) -> NullHandler:
        return self if self._asked.is_streamed else NullHandler()

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def may_retry(self) -> bool:
        # what was sent has been read; and a second attempt takes more room than a client may have allowed
        return not self._asked.is_streamed and self._asked.limits.max_tokens is None

    # Implements `StreamHandler`

    def prefill(self, event: Prefill) -> None:
        """A long prompt is not a silence in which a client gives up. What is said is an event: some clients do not hear
        comments (Codex), and others take them for JSON."""
        if time.monotonic() - self._said_at < QUIET_S:
            return
        self._said_at = time.monotonic()
        self._begin()
        self._send(self._records.waiting())

    def thinking(self, text: str) -> None:
        self._begin()
        self._send(self._records.thinking(text))

    def answer(self, text: str) -> None:
        self._begin()
        for part in (text,) if self._splitter is None else self._splitter.feed(text):
            self._send_part(part)

    def _send_part(self, part: str | ToolCall) -> None:
        if isinstance(part, ToolCall):
            self._calls.append(part)
            self._send(self._records.call(part))
        else:
            self._send(self._records.text(part))

    def _begin(self) -> None:
        if not self._connection.has_begun_answer:
            self._connection.begin_events()
        if not self._has_begun:
            self._has_begun = True
            self._send(self._records.begin(self._index))

    def _send(self, events: Iterable[Sent]) -> None:
        for name, data in events:
            self._connection.event(data, name)


def _thinking(asked: Thinking | None, usual: Thinking) -> Thinking:
    """What a request asks of a thought, and where it says nothing, what the server was started with."""
    if asked is None:
        return usual
    return asked if asked.budget is not None else replace(asked, budget=usual.budget or None)


def _together(usages: Sequence[Usage], n: int) -> Usage:
    """The counts of a request; a prompt counts once, however many completions (`n`) it has."""
    return replace(
        usages[0],
        prompt_tokens=sum(each.prompt_tokens for each in usages[::n]),
        cached_tokens=sum(each.cached_tokens for each in usages[::n]),
        completion_tokens=sum(each.completion_tokens for each in usages),
        thinking_tokens=sum(each.thinking_tokens for each in usages),
    )
