"""What is asked of the model for each row of a batch, and what of its completion goes into the record.

Knows: records of completions. Refuses to know: rows, order, files. Another kind of answer is another `Answers`.
"""

from typing import Any, Protocol

from slmchat.commands import answering
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Chunk, Done, Job, Limits, Prefill, Prompt
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.terminal.sanitize import Sanitizer


class Unsuitable(Exception):
    """A completion came, and it is not what was asked for. `fields` stand in the record all the same."""

    def __init__(self, error: SlmError, fields: dict[str, Any]) -> None:
        super().__init__(error.message)
        self.error = error
        self.fields = fields


class Answers(Protocol):
    """How the rows of a batch are answered."""

    def job(self, number: int, prompt: Prompt) -> Job:
        """What the engine is asked for row `number`."""
        ...

    def record(self, done: Done, prompt: Prompt) -> dict[str, Any]:
        """The fields of a record for a job that the engine has done.

        Raises `Unsuitable` when the row failed after all: the fields then stand beside the error.
        """
        ...


class Completions:
    """Free text, as `slm run` answers."""

    def __init__(self, sampler: SamplerSettings, limits: Limits, *, is_raw: bool, is_sanitized: bool) -> None:
        """`is_raw`: without a chat template, so that white space and thoughts are text like any other."""
        self._sampler = sampler
        self._limits = limits
        self._is_raw = is_raw
        self._is_sanitized = is_sanitized

    def job(self, number: int, prompt: Prompt) -> Job:
        """The row's own completion; with `--seed` every row has the same seed."""
        return Job(number, prompt, self._sampler, self._limits)

    def record(self, done: Done, prompt: Prompt) -> dict[str, Any]:
        """Completion, finish reason, usage and seed; the thinking of a reasoning model where there was one."""
        assert done.finish is not None
        answer = answering.follow(
            (Chunk(done.text, ()), done.finish),
            _Unseen(),
            sanitizer=Sanitizer(show_invisible=False) if self._is_sanitized else None,
            keeps_space=self._is_raw,
            is_thinking=not self._is_raw and opens_thinking(prompt.parts[-1].text),
        )
        usage = done.finish.usage
        return {
            "completion": answer.text,
            **({"thinking": answer.thinking} if answer.thinking else {}),
            "finish_reason": done.finish.reason.value,
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
            },
            "seed": done.finish.seed,
        }


class _Unseen:
    """A view of a completion that nobody looks at."""

    def prefill(self, event: Prefill) -> None: ...

    def thinking(self, text: str) -> None: ...

    def answer(self, text: str) -> None: ...

    def close(self) -> None: ...
