"""What is asked, before it becomes a prompt: words, files, pictures, what is piped in, what stands before them.

Knows: where inputs come from, how messages become a prompt, how an input is cut to fit. Refuses to know: how a model is
opened and what becomes of its answer (run.py, batch.py).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from slmchat import text_files
from slmchat.conversation import pictures, window
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.template import layout_of, raw_prompt
from slmchat.engine.api import Engine, Prompt
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.generation.prompt_template import PromptFile
from slmchat.models import loader
from slmchat.options import GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.piped import read_piped
from slmchat.text_files import text_of, with_line_feeds

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
        head: Sequence[Message],
        shown: Sequence[Picture] = (),
        template: PromptFile | None = None,
    ) -> None:
        """`template` stands for the instruction where there is one. `head`: the system message and the examples of a
        persona, which stand before the question.

        Raises `SlmError` (USAGE) when there is no text, or a value for the template is missing.
        """
        self.instruction = instruction
        self._template = template
        self.attachments = attachments
        self.head = head
        self.pictures = tuple(shown)
        if not self._composed(attachments).strip():
            raise SlmError(
                "the prompt is empty.",
                hint='slm run -f PICTURE "What does it show?"'
                if shown
                else 'slm run "Why is the sky blue?", or pipe text into it',
                exit_code=ExitCode.USAGE,
            )

    def prompt(self, lay_out: Layout, attachments: Sequence[Attachment] | None = None) -> Prompt:
        """The prompt with these attachments; None: with all of them."""
        attachments = self.attachments if attachments is None else attachments
        prompt = self._laid_out(lay_out, self._composed(attachments))
        return replace(prompt, alike=tuple(self._laid_out(lay_out, text) for text in self._others(attachments)))

    def without_input(self, lay_out: Layout, text: str) -> Prompt:
        """The prompt with this text instead of its input: every attachment, or the question where there is none."""
        if not self.attachments:
            return self._laid_out(lay_out, text)
        return self._laid_out(lay_out, self._composed([replace(item, text=text) for item in self.attachments]))

    def _laid_out(self, lay_out: Layout, text: str) -> Prompt:
        return lay_out([*self.head, Message(Role.USER, text, pictures=self.pictures)])

    def _others(self, attachments: Sequence[Attachment]) -> Iterator[str]:
        """What may be asked next: something else of the same system message, another question about the same input,
        the same about another input."""
        if self.head:
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

    def trimmed(self, lay_out: Layout, engine: Engine, n_ctx: int, max_tokens: int | None, console: Console) -> Prompt:
        """The prompt with the end of the longest input cut off; says what was cut. Raises `SlmError` (CONTEXT)."""
        n_prompt = engine.count(self.prompt(lay_out))

        def fits(attachments: Sequence[Attachment]) -> bool:
            return window.fits(engine.count(self.prompt(lay_out, attachments)), n_ctx, max_tokens)

        kept = trim(self.attachments, fits)
        if kept is None:
            raise SlmError(
                f"{window.overflow('the prompt is', n_prompt, n_ctx, max_tokens)}, and there is no input to trim.",
                hint="a larger window: --ctx N, or a shorter prompt",
                exit_code=ExitCode.CONTEXT,
            )
        before = sum(len(item.text) for item in self.attachments)
        after = sum(len(item.text) for item in kept)
        console.warn(
            f"{window.overflow('the prompt is', n_prompt, n_ctx, max_tokens)}: "
            f"the last {before - after:,} of {before:,} characters of the input were left out."
        )
        return self.prompt(lay_out, kept)


class Instruction(Protocol):
    """What the model is told of the answer that is wanted."""

    def told(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with it."""
        ...


def layout(engine: Engine, *, is_raw: bool, told: Instruction | None = None) -> Layout:
    """How messages become a prompt: through the model's chat template, by the engine itself, or bare.

    What the model is `told` stands last, behind everything of the user's (not in a bare prompt).
    Raises `SlmError` (USAGE) when the model has no template; what is returned raises it (DAMAGED) when the template
    refuses the messages.
    """
    if is_raw:
        return _bare
    render = layout_of(engine.info, is_raw=False).render
    if told is None:
        return render
    return lambda messages: structured.thought_closed(render(told.told(messages)))


def _bare(messages: Sequence[Message]) -> Prompt:
    shown = tuple(picture for message in messages for picture in message.pictures)
    return raw_prompt([Message(Role.USER, "\n\n".join(message.text for message in messages), pictures=shown)])


def read_inputs(
    options: GenerationOptions, console: Console, *, reads_piped: bool = True
) -> tuple[list[Attachment], list[Picture]]:
    """Files in the order given, then what is piped in. Standard input is read once, and only when it is no terminal.

    `reads_piped` False: only where it is named (`-f -`).
    """
    found: list[Attachment] = []
    shown: list[Picture] = []
    is_stdin_read = False
    for name in options.files:
        path = Path(name).expanduser()
        if name == "-":
            is_stdin_read = True
            _take_piped(found, shown, console, is_named=True)
        elif pictures.is_picture(path):
            shown.append(pictures.read(path))
        else:
            found.append(Attachment(read_text(name), path.name))
    if reads_piped and not is_stdin_read and not console.stdin.isatty():
        _take_piped(found, shown, console, is_named=False)
    return found, shown


def _take_piped(found: list[Attachment], shown: list[Picture], console: Console, *, is_named: bool) -> None:
    """Standard input, a picture or text. `is_named`: asked for with `-f -`, so that it counts even when it is empty."""
    data = text_files.read_whole(lambda most: read_piped(console, most), "standard input")
    if pictures.looks_like_picture(data):
        shown.append(Picture.of("standard input", pictures.decode(data, "standard input")))
        return
    text = with_line_feeds(text_of(data, "standard input"))
    if is_named or text.strip():
        found.append(Attachment(text))


def prefix_messages(options: GenerationOptions, settings: Settings) -> list[Message]:
    """What stands before the question: the system message, and the examples of a persona."""
    system = system_text(options.system)
    examples = loader.example_messages(loader.persona_of(options, settings))
    return [*([Message(Role.SYSTEM, system)] if system else []), *examples]


def read_text(name: str) -> str:
    """A text file of the user's; `SlmError` (USAGE) when it cannot be read as one."""
    if not name:
        raise SlmError(
            "a file needs a name, and this one is empty.", hint="-f FILE; - is standard input", exit_code=ExitCode.USAGE
        )
    return with_line_feeds(text_files.read(name))


def system_text(given: str | None) -> str | None:
    """The system message of `-s`: the text itself, or what @FILE holds."""
    return read_text(given[1:]).strip() if given and given.startswith("@") and len(given) > 1 else given
