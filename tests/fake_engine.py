"""An engine without weights: it implements the public Protocols and says what it was told to say."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from slmchat.engine.api import (
    Adapter,
    Chunk,
    Event,
    Finish,
    FinishReason,
    Limits,
    ModelInfo,
    Prefill,
    Prompt,
    SessionSettings,
    Timings,
    Usage,
)
from slmchat.engine.sampler import SamplerSettings

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass
class FakeEngine:
    """Answers with `replies` in turn; a prompt has as many tokens as characters."""

    replies: list[Sequence[str]] = field(default_factory=lambda: [("Hello", ".")])
    template: str | None = CHATML
    trained: int = 100_000
    prompts: list[str] = field(default_factory=list)
    is_closed: bool = False

    @property
    def info(self) -> ModelInfo:
        return ModelInfo("fake", self.trained, self.template, "<s>", "</s>")

    def count(self, prompt: Prompt) -> int:
        return sum(len(part.text) for part in prompt.parts)

    def open_session(self, settings: SessionSettings) -> "FakeSession":
        return FakeSession(self, settings)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeSession:
    engine: FakeEngine
    settings: SessionSettings
    is_cancelled: bool = False
    adapters: tuple[Adapter, ...] = ()

    @property
    def n_ctx(self) -> int:
        return self.settings.n_ctx

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        self.is_cancelled = False
        return self._generate(prompt, sampler, limits)

    def _generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[Event]:
        self.engine.prompts.append("".join(part.text for part in prompt.parts))
        total = self.engine.count(prompt)
        yield Prefill(0, total, 0)
        yield Prefill(total, total, 0)
        reply = self.engine.replies.pop(0)
        reason = FinishReason.STOP
        said = 0
        for piece in reply:
            if self.is_cancelled:
                reason = FinishReason.INTERRUPTED
                break
            if limits.max_tokens is not None and said == limits.max_tokens:
                reason = FinishReason.LENGTH
                break
            said += 1
            yield Chunk(piece, (said,))
        yield Finish(
            reason, Usage(total, 0, said), Timings(0.1, 0.1, 0.1), sampler.seed or 1, tuple(range(1, said + 1))
        )

    def cancel(self) -> None:
        self.is_cancelled = True

    def set_adapters(self, adapters: Sequence[Adapter]) -> None:
        self.adapters = tuple(adapters)

    def close(self) -> None:
        pass
