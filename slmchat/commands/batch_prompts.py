"""From a row to its prompt: which of its fields are the input, where they go, what is cut when it does not fit.

Knows: `{}` and `{field}` in an instruction, the names of fields that are taken for the input.
Refuses to know: where rows come from, chat templates (a function makes the prompt), how completions are made.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slmchat.commands.batch_inputs import Row
from slmchat.commands.prompt_files import PromptFile
from slmchat.conversation.attachments import Attachment, compose, trim
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.engine.api import Prompt
from slmchat.errors import ExitCode, SlmError

# Without --input-field, the first of these that a row has is its input; a row with one field needs no name.
USUAL_FIELDS = ("input", "text", "prompt", "content", "question", "message")

# {{name}} is a literal {name}; {} and {name} are filled in. '{"a": 1}' is none of them.
_PLACE = re.compile(r"\{\{([^{}\"':,\n]+)\}\}|\{([^{}\"':,\n]*)\}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a row asks: the prompt, what stands as `input` in its record, how many characters had to be left out."""

    prompt: Prompt
    n_trimmed: int = 0


def has_fields(instruction: str) -> bool:
    """Whether the instruction names a field."""
    return any(match[2] for match in _PLACE.finditer(instruction))


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
        self._has_fields = bool(template.fields) if template else has_fields(instruction)
        self._head = list(head)
        self._lay_out = lay_out
        self._fits = fits

    def make(self, row: Row) -> Asked:
        """The prompt of a row. Raises `SlmError` with what is wrong with the row."""
        if row.error is not None:
            raise SlmError(f"{row.error}.", exit_code=ExitCode.USAGE)
        if row.picture is not None:
            return Asked(self._asking(self._composed([]), (row.picture,)))
        if row.fields is not None and self._has_fields:
            return Asked(self._asking(self._filled(row, row.fields)))
        text = self.input_text(row)
        if not text.strip():
            raise SlmError("the input is empty.", exit_code=ExitCode.USAGE)
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

    def shown_input(self, row: Row) -> Any:
        """What the record has as `input`: the text, or the fields that the instruction names."""
        if row.fields is None:
            return row.text
        if self._has_fields and self._template:
            return self._template.shown(row.fields, lambda: self.input_text(row))
        if self._has_fields:
            names = dict.fromkeys(match[2] for match in _PLACE.finditer(self._instruction) if match[2])
            return {name: row.fields[name] for name in names if name in row.fields}
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
            raise _no_field("it is not clear which field is the input", fields)
        if name not in fields:
            raise _no_field(f"there is no field '{name}'", fields)
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
                raise _no_field(f"there is no field '{match[2]}'", fields)
            return _as_text(fields[match[2]])

        return _PLACE.sub(value, self._instruction)


def _no_field(what: str, fields: dict[str, Any]) -> SlmError:
    names = ", ".join(list(fields)[:12]) or "none"
    return SlmError(
        f"{what} (fields: {names}).",
        hint="--input-field NAME, or {NAME} in the prompt; {{NAME}} is a literal {NAME}",
        exit_code=ExitCode.USAGE,
    )


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
