"""From a row to its prompt: which of its fields are the input, where they go, what is cut when it does not fit.

Knows: `{}` and `{field}` in an instruction, the names of fields that are taken for the input.
Refuses to know: where rows come from, chat templates (a function makes the prompt), how completions are made.
"""

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.prompt_template import NoValue
from slmchat.engine.requests import Prompt
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.generation.batch.rows import USUAL_FIELDS, Row, RowSource
from slmchat.generation.prompt_template import PromptFile
from slmchat.lazy_dataclasses import dataclass

# {{name}} is a literal {name}; {} and {name} are filled in. '{"a": 1}' is none of them.
_PLACE = re.compile(r"\{\{([^{}\"':,\n]+)\}\}|\{([^{}\"':,\n]*)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks: the prompt, how many characters had to be left out, the prompts of more questions about it."""

    prompt: Prompt
    n_trimmed: int = 0
    others: tuple[Prompt, ...] = ()


class NoField(SlmError):
    """A row does not have the field that the prompt or an option names (None: it is not clear which one is meant)."""

    def __init__(self, name: str | None, fields: Mapping[str, Any]) -> None:
        known = ", ".join(list(fields)[:12]) or "none"
        what = "it is not clear which field is the input" if name is None else f"there is no field '{name}'"
        near = difflib.get_close_matches(name or "", list(fields), n=2, cutoff=0.5)
        self.near = f"did you mean {' or '.join(near)}?" if near else None
        super().__init__(
            f"{what} (fields: {known}).",
            hint=self.near or "--input-field NAME, or {NAME} in the prompt; {{NAME}} is a literal {NAME}",
            exit_code=ExitCode.USAGE,
        )


def has_fields(instruction: str) -> bool:
    """Whether the instruction names a field."""
    return bool(fields_in(instruction))


def fields_in(instruction: str) -> list[str]:
    """The fields that the instruction names, each once."""
    return list(dict.fromkeys(match[2] for match in _PLACE.finditer(instruction) if match[2]))


def check_fields(source: RowSource, instruction: str, field: str | None, template: PromptFile | None) -> None:
    """Whether the rows can give what the prompt takes from them, before a model is loaded.

    Of JSON lines those that came first count: one that has everything is enough. Raises `SlmError` (USAGE).
    """
    if field is not None and not source.has_fields:
        raise usage_error(
            f"--input-field {field} needs rows with fields, and {source.format} have none.",
            "--format jsonl or --format csv",
        )
    prompts = PromptMaker(instruction, field, [], lambda _messages: Prompt(()), None, template)
    found: SlmError | None = None
    for fields in source.samples:
        try:
            prompts.make(Row(0, "", 0, fields=fields))
        except (NoField, NoValue) as error:
            found = found or error
        except SlmError:  # what is wrong with a row, its record will say
            return
        else:
            return
    if isinstance(found, NoField) and source.format == "csv":
        raise usage_error(
            f"the first line names the columns of a CSV, and {found.message}",
            found.near or "{} in the prompt stands for a whole line, {{NAME}} is a literal {NAME}",
        )
    if found is not None:
        raise found


class PromptMaker:
    """Makes the prompts of one batch."""

    def __init__(
        self,
        instruction: str,
        field: str | None,
        head: Sequence[Message],
        lay_out: Callable[[Sequence[Message]], Prompt],
        fits: Callable[[Prompt], bool] | None,
        template: PromptFile | None = None,
    ) -> None:
        """`head` stands before every question. `fits` None: what does not fit is not trimmed.

        `template` stands for the instruction where there is one.
        """
        self._instruction = instruction
        self._template = template
        self._field = field
        self._has_fields = bool(template.fields if template else fields_in(instruction))
        self._head = list(head)
        self._lay_out = lay_out
        self._fits = fits

    def make(self, row: Row) -> Asked:
        """The prompt of a row. Raises `SlmError` with what is wrong with the row."""
        if row.error is not None:
            raise usage_error(f"{row.error}.")
        if row.picture is not None:
            return Asked(self._asking(self._composed([]), (row.picture,)))
        if row.fields is not None and self._has_fields:
            return Asked(self._asking(self._filled(row, row.fields)))
        text = self.input_text(row)
        if not text.strip():
            raise usage_error("the input is empty.")
        whole = [Attachment(text, row.name if self._instruction or self._template else None)]
        prompt = self._asking(self._composed(whole))
        if self._fits is None or self._fits(prompt):
            return Asked(prompt)
        kept = trim(whole, lambda cut: self._trimmed_fits(cut))
        if kept is None:
            raise SlmError(
                "the prompt does not fit into the context window even without the input.",
                hint="a larger window: --ctx N",
                exit_code=ExitCode.CONTEXT,
            )
        return Asked(self._asking(self._composed(kept)), len(text) - len(kept[0].text))

    def without_input(self, text: str) -> Prompt:
        """The prompt of a row with this text instead of its input, and of every field that stands in the prompt.

        Raises `SlmError` (USAGE) for a template that looks for something in its fields.
        """
        if self._template and self._has_fields:
            return self._asking(self._template.of_row(dict.fromkeys(self._template.fields, text), lambda: text))
        if self._has_fields:
            return self._asking(_PLACE.sub(lambda match: f"{{{match[1]}}}" if match[1] else text, self._instruction))
        return self._asking(self._composed([Attachment(text)]))

    def without_picture(self) -> Prompt:
        """The prompt of a row that is a picture, without the picture."""
        return self._asking(self._composed([]))

    def shown_input(self, row: Row) -> Any:
        """What the record has as `input`: the text, or the fields that the instruction names."""
        if row.fields is None:
            return row.text
        if self._has_fields and self._template:
            return self._template.shown(row.fields, lambda: self.input_text(row))
        if self._has_fields:
            return {name: row.fields[name] for name in fields_in(self._instruction) if name in row.fields}
        try:
            return self.input_text(row)
        except SlmError:
            return row.fields

    def input_text(self, row: Row) -> str:
        """The text of a row. Raises `SlmError` (USAGE) when it is not clear which field that is."""
        if row.fields is None:
            return row.text
        fields = row.fields
        others = [name for name in fields if name != "id"]
        name = self._field or next((usual for usual in USUAL_FIELDS if usual in fields), None)
        if name is None and len(others) == 1:
            name = others[0]
        if name is None:
            raise NoField(None, fields)
        if name not in fields:
            raise NoField(name, fields)
        return _as_text(fields[name])

    def _trimmed_fits(self, kept: Sequence[Attachment]) -> bool:
        assert self._fits is not None
        return self._fits(self._asking(self._composed(kept)))

    def _asking(self, text: str, pictures: tuple[Picture, ...] = ()) -> Prompt:
        return self._lay_out([*self._head, Message(Role.USER, text, pictures=pictures)])

    def _composed(self, attachments: Sequence[Attachment]) -> str:
        return self._template.compose(attachments) if self._template else compose(self._instruction, attachments)

    def _filled(self, row: Row, fields: dict[str, Any]) -> str:
        """The instruction with the values in it; what stands in a value is never filled in again."""
        if self._template:
            return self._template.of_row(fields, lambda: self.input_text(row))

        def value(match: re.Match[str]) -> str:
            if match[1]:
                return f"{{{match[1]}}}"
            if not match[2]:
                return self.input_text(Row(0, "", 0, fields=fields))
            if match[2] not in fields:
                raise NoField(match[2], fields)
            return _as_text(fields[match[2]])

        return _PLACE.sub(value, self._instruction)


class SeveralPrompts:
    """Makes the prompts of a batch that asks several questions about each row."""

    def __init__(self, makers: Sequence[PromptMaker]) -> None:
        """One for each question, at least one."""
        self._makers = makers

    def make(self, row: Row) -> Asked:
        """The prompts of a row. Raises `SlmError` with what is wrong with the row."""
        first, *others = (maker.make(row) for maker in self._makers)
        n_trimmed = max(each.n_trimmed for each in (first, *others))
        return Asked(first.prompt, n_trimmed, tuple(other.prompt for other in others))

    def shown_input(self, row: Row) -> Any:
        """What the record has as `input`."""
        return self._makers[0].shown_input(row)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
