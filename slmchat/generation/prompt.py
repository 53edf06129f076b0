"""What is asked, before it becomes a prompt: an instruction, inputs, pictures, the messages that stand before them.

Knows: how messages become a prompt, what similar prompts share, how an input is cut to fit.
Refuses to know: where inputs come from (the doors), how a model is opened, what becomes of the completion.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace

from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.layouts import layout_of, raw_prompt
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.thinking import opens_thinking
from slmchat.engine.api import Engine
from slmchat.engine.requests import Prompt
from slmchat.engine.thinking import UNASKED, Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation import structured
from slmchat.generation.prompt_template import PromptFile
from slmchat.reporting import Reporter

Layout = Callable[[Sequence[Message]], Prompt]

# Stands for another question or input in prompts that are only compared with the one that was given, to see what they
# share. No text begins with it, so that it shares nothing itself.
PLACEHOLDER = "\u00b6"


class PromptRequest:
    """What was asked."""

    def __init__(
        self,
        instruction: str,
        attachments: Sequence[Attachment],
        prefix: Sequence[Message],
        shown: Sequence[Picture] = (),
        template: PromptFile | None = None,
        answer: str = "",
    ) -> None:
        """`template` stands for the instruction where there is one. `prefix`: the system message and the examples of a
        persona, which stand before the question. `answer`: what has come of an answer that was cut; the completion goes
        on with it.

        Raises `SlmError` (USAGE) when there is no text, or a value for the template is missing.
        """
        self.instruction = instruction
        self._template = template
        self.attachments = attachments
        self.prefix = prefix
        self.pictures = tuple(shown)
        self.answer = answer
        if not self._composed(attachments).strip():
            raise usage_error(
                "the prompt is empty.",
                'slm run -f PICTURE "What does it show?"'
                if shown
                else 'slm run "Why is the sky blue?", or pipe text into it',
            )

    def with_system(self, text: str) -> "PromptRequest":
        """The same with this text behind that of the system message."""
        made = copy(self)
        head, rest = list(self.prefix[:1]), list(self.prefix[1:])
        if head and head[0].role is not Role.SYSTEM:
            head, rest = [], list(self.prefix)
        told = "\n\n".join([*(message.text for message in head), text])
        made.prefix = [Message(Role.SYSTEM, told), *rest]
        return made

    def with_behind(self, text: str) -> "PromptRequest":
        """The same with this text behind the last message; "": none."""
        made = copy(self)
        made.instruction = f"{self.instruction}\n\n{text}" if text else self.instruction
        return made

    def with_answers(self, rewrite: Callable[[str], str]) -> "PromptRequest":
        """The same with the texts of earlier answers as `rewrite` has them."""
        made = copy(self)
        made.prefix = [
            replace(message, text=rewrite(message.text)) if message.role is Role.ASSISTANT else message
            for message in self.prefix
        ]
        return made

    def prompt(self, lay_out: Layout, attachments: Sequence[Attachment] | None = None) -> Prompt:
        """The prompt with these attachments; None: with all of them."""
        attachments = self.attachments if attachments is None else attachments
        prompt = self._laid_out(lay_out, self._composed(attachments))
        return replace(prompt, cache_hints=tuple(self._laid_out(lay_out, text) for text in self._others(attachments)))

    def without_input(self, lay_out: Layout, text: str) -> Prompt:
        """The prompt with this text instead of its input: every attachment, or the question where there is neither one
        nor a picture. Pictures are left out: to look at an empty one takes as long as to look at the real one."""
        if not self.attachments and not self.pictures:
            return self._laid_out(lay_out, text)
        empty = [replace(item, text=text) for item in self.attachments]
        return self._laid_out(lay_out, self._composed(empty), shows=False)

    def _laid_out(self, lay_out: Layout, text: str, *, shows: bool = True) -> Prompt:
        begun = [Message(Role.ASSISTANT, self.answer)] if self.answer else []
        return lay_out([*self.prefix, Message(Role.USER, text, pictures=self.pictures if shows else ()), *begun])

    def _others(self, attachments: Sequence[Attachment]) -> Iterator[str]:
        """What may be asked next: something else of the same system message, another question about the same input,
        the same about another input."""
        if self.prefix:
            yield PLACEHOLDER
        if not attachments or not (self._template or self.instruction):
            return
        if self._template.uses_input if self._template else "{}" in self.instruction:
            with suppress(SlmError):  # a template that looks for something in its input
                yield self._composed([Attachment(PLACEHOLDER)])
        else:
            yield compose(PLACEHOLDER, attachments)

    def _composed(self, attachments: Sequence[Attachment]) -> str:
        return self._template.compose(attachments) if self._template else compose(self.instruction, attachments)

    def trimmed(
        self, lay_out: Layout, engine: Engine, n_ctx: int, max_tokens: int | None, reporter: Reporter
    ) -> Prompt:
        """The prompt with the end of the longest input cut off; says what was cut. Raises `SlmError` (CONTEXT)."""
        n_prompt = engine.count(self.prompt(lay_out), n_ctx)

        def fits(attachments: Sequence[Attachment]) -> bool:
            return window.fits(engine.count(self.prompt(lay_out, attachments), n_ctx), n_ctx, max_tokens)

        kept = trim(self.attachments, fits)
        if kept is None:
            raise SlmError(
                f"{window.overflow('the prompt is', n_prompt, n_ctx, max_tokens)}, and there is no input to trim.",
                hint="a larger window: --ctx N, or a shorter prompt",
                exit_code=ExitCode.CONTEXT,
            )
        before = sum(len(item.text) for item in self.attachments)
        after = sum(len(item.text) for item in kept)
        reporter.warn(
            f"{window.overflow('the prompt is', n_prompt, n_ctx, max_tokens)}: "
            f"the last {before - after:,} of {before:,} characters of the input were left out."
        )
        return self.prompt(lay_out, kept)


def layout(
    engine: Engine,
    *,
    is_raw: bool,
    instruction: structured.ResponseFormat | None = None,
    closes_thought: bool = False,
    goes_on: bool = False,
    thinking: Thinking = UNASKED,
    tell: Callable[[str], None] | None = None,
) -> Layout:
    """How messages become a prompt: through the model's chat template, by the engine itself, or bare.

    The `instruction` stands last, behind everything of the user's (not in a bare prompt). `closes_thought`: a thought
    that the template opens is closed at once, and the model is told not to think; so it is behind an instruction,
    unless `thinking` is on. `goes_on`: the last message is an answer that was cut, and the prompt ends inside it.
    `tell` hears of a model that cannot be told to think or not to think.
    Raises `SlmError` (USAGE) when the model has no template; what is returned raises it (DAMAGED) when the template
    refuses the messages.
    """
    if is_raw:
        return _bare
    template = layout_of(engine.info, is_raw=False, mode=thinking.mode)
    if tell is not None and not template.has_thinking_switch:
        tell(no_switch(thinking))
    if thinking.mode is ThinkingMode.AUTO and (closes_thought or instruction is not None):
        template = layout_of(engine.info, is_raw=False, mode=ThinkingMode.OFF)
    render = template.render
    if instruction is not None and thinking.mode is ThinkingMode.ON:
        return lambda messages: template.thinking(render(instruction.with_instruction(messages)))
    if instruction is not None:
        return lambda messages: structured.thought_closed(render(instruction.with_instruction(messages)))
    if closes_thought:
        return lambda messages: structured.thought_closed(render(messages))
    if goes_on:
        return lambda messages: render(messages, goes_on=True)
    return render


def no_switch(thinking: Thinking, switch: str = "--think") -> str:
    """What is told of a model that cannot be told to think or not to think. `switch`: how that is asked for here."""
    return f"(the chat template of this model has no switch for thinking: {switch} {thinking.mode} changes nothing)"


def thinks(engine: Engine, thinking: Thinking, *, is_raw: bool) -> bool:
    """Whether a free answer of this model begins with a thought, as far as its chat template tells."""
    return layout_of(engine.info, is_raw=is_raw, mode=thinking.mode).thinks


def begins_thought(prompt: Prompt) -> bool:
    """Whether the answer to this prompt begins inside of a thought."""
    last = prompt.parts[-1]
    return last.is_template and opens_thinking(last.text)


def _bare(messages: Sequence[Message]) -> Prompt:
    shown = tuple(picture for message in messages for picture in message.pictures)
    return raw_prompt([Message(Role.USER, "\n\n".join(message.text for message in messages), pictures=shown)])
