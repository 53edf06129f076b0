"""Whether a value is right for a JSON Schema, and if not, where.

Knows: fastjsonschema, and what has to be said to it differently. Refuses to know: grammars, texts, files.
"""

from collections.abc import Mapping
from typing import Any

from slmchat.errors import ExitCode, SlmError

# Keywords below which schemas stand: one, a list of them, or one for each name.
_ONE = ("additionalProperties", "items")
_SEVERAL = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")


class SchemaCheck:
    """The check of one schema, compiled once. Raises `SlmError` (USAGE) when the library refuses the schema."""

    def __init__(self, schema: Any) -> None:
        import fastjsonschema

        self._refusal = fastjsonschema.JsonSchemaValueException
        try:
            self._validate = fastjsonschema.compile(_as_draft_2019(schema), use_default=False)
        except Exception as error:
            raise SlmError(
                f"this schema cannot be used: {error}.",
                hint="what is supported: docs/structured.md",
                exit_code=ExitCode.USAGE,
            ) from error

    def problem(self, value: Any) -> str | None:
        """What is wrong with the value, in one phrase; None when it is right."""
        try:
            self._validate(value)
        except self._refusal as refusal:
            return str(refusal.message).replace("data", "the value", 1)
        return None

    def is_right(self, value: Any) -> bool:
        return self.problem(value) is None


def _as_draft_2019(schema: Any) -> Any:
    """The schema in the words that fastjsonschema knows: no prefixItems, nothing beside a $ref, no names of its own."""
    if not isinstance(schema, dict):
        return schema
    made: dict[str, Any] = {key: value for key, value in schema.items() if key not in ("$schema", "$id")}
    for key in _ONE:
        if key in made:
            made[key] = _as_draft_2019(made[key])
    for key in _SEVERAL:
        if isinstance(made.get(key), list):
            made[key] = [_as_draft_2019(part) for part in made[key]]
    for key in _NAMED:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: _as_draft_2019(part) for name, part in made[key].items()}
    if "prefixItems" in made:
        rest = made.pop("items", True)
        made["items"] = made.pop("prefixItems")
        made["additionalItems"] = rest
    beside = {key: made[key] for key in made if key not in ("$ref", *_NAMED[1:])}
    if "$ref" in made and beside:
        kept = {key: made[key] for key in _NAMED[1:] if key in made}
        return {**kept, "allOf": [{"$ref": made["$ref"]}, beside]}
    return made
