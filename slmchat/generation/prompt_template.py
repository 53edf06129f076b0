"""`--template-file` and `--var`: a prompt from a file, and the values that go into it.

Knows: what `k=v` and `k=@FILE` say, which names are taken, where the input of `run` and the rows of `batch` go.
Refuses to know: Jinja (conversation/prompt_template.py), where inputs and rows come from.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from slmchat.conversation.attachments import Attachment, fenced_before, joined
from slmchat.conversation.prompt_template import NoValue, PromptTemplate
from slmchat.errors import SlmError, usage_error
from slmchat.options import TemplateOptions

# What is piped in or named with -f, and the input of a row.
INPUT = "input"
# The whole row of a batch: for fields whose names are not words (`row["First name"]`).
ROW = "row"


class PromptFile:
    """A template with the values of `--var`."""

    def __init__(self, template: PromptTemplate, values: Mapping[str, str]) -> None:
        self._template = template
        self._values = values
        self.uses_input = INPUT in template.names

    @property
    def identity(self) -> list[Any]:
        """The template and its values: what makes its prompts those that they are."""
        return [self._template.source, dict(sorted(self._values.items()))]

    @property
    def fields(self) -> frozenset[str]:
        """The names that a row of a batch has to give."""
        return self._template.names - set(self._values) - {INPUT}

    def compose(self, attachments: Sequence[Attachment]) -> str:
        """The text of the message: the input where the template wants it, else before the template's text.

        Raises `SlmError` (USAGE), naming the variable that has no value.
        """
        if not self.uses_input:
            return fenced_before(self._fill({}), attachments)
        return self._fill({INPUT: joined(attachments)} if attachments else {})

    def of_row(self, fields: Mapping[str, Any], input_text: Callable[[], str]) -> str:
        """The text for one row: its fields are variables. Raises `SlmError` (USAGE) as `compose` does."""
        values: dict[str, Any] = {ROW: dict(fields), **fields}
        if self.uses_input:
            values[INPUT] = input_text()
        return self._fill(values)

    def shown(self, fields: Mapping[str, Any], input_text: Callable[[], str]) -> dict[str, Any]:
        """What of a row has gone into its prompt."""
        names = fields if ROW in self.fields and ROW not in fields else sorted(self.fields)
        shown = {name: fields[name] for name in names if name in fields}
        if self.uses_input:
            with suppress(SlmError):
                shown[INPUT] = input_text()
        return shown

    def check(self) -> None:
        """Whether inputs without fields are enough for it. Raises `NoValue` where not."""
        try:
            self.compose([Attachment("…")])
        except NoValue:
            raise
        except SlmError:  # it looks for something in the input: whether that is there, the input itself will tell
            return

    def _fill(self, values: Mapping[str, Any]) -> str:
        try:
            return self._template.fill({**values, **self._values})
        except NoValue as missing:
            if missing.name != INPUT:
                raise
            raise usage_error(
                f"{self._template.file} uses {{{{ {INPUT} }}}}, and there is no input.",
                "pipe text in, or name a file with -f",
            ) from missing


def prompt_file(options: TemplateOptions, words: Sequence[str], read: Callable[[str], str]) -> PromptFile | None:
    """The prompt that the options ask for, None when there is no `--template-file`.

    `read` gives the text of a file of the user's. Raises `SlmError` (USAGE), also for a `--var` that is not used.
    """
    if options.template_file is None:
        if options.variables:
            raise usage_error("--var needs a template to go into: --template-file FILE.")
        return None
    if words:
        raise usage_error(
            "--template-file FILE is the prompt, and there is another one.",
            "put it into the file, or give it as a value: --var NAME=VALUE",
        )
    values = _values(options.variables, read)
    template = PromptTemplate(read(options.template_file), Path(options.template_file).name)
    unused = sorted(set(values) - template.names)
    if unused:
        raise usage_error(
            f"{template.file} does not use {' and '.join(unused)}.",
            f"it uses: {', '.join(sorted(template.names)) or 'no variables'}",
        )
    return PromptFile(template, values)


def _values(given: Sequence[str], read: Callable[[str], str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for entry in given:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier():
            raise usage_error(f"--var cannot be '{entry}'.", "--var NAME=VALUE, or NAME=@FILE")
        if name in values:
            raise usage_error(f"--var {name} is given twice.")
        if name == INPUT:
            raise usage_error(f"--var cannot set {INPUT}: that is what is piped in or named with -f.")
        is_file = value.startswith("@") and not value.startswith("@@")
        values[name] = read(value[1:]).removesuffix("\n") if is_file else value.removeprefix("@")
    return values
