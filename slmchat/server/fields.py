"""What a field of a request must be, and what is said of one that is not.

Knows: types, ranges, the field at fault. Refuses to know: what the fields mean (openai.py, embeddings.py).
"""

from collections.abc import Mapping
from typing import Any

from slmchat.ranges import Range


class BadRequest(Exception):
    """What a client asked cannot be done; `param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


def checked_object(body: object) -> Mapping[str, Any]:
    """The request, which is an object. Raises `BadRequest`."""
    if not isinstance(body, dict):
        raise BadRequest("the request must be a JSON object.")
    return body


def checked_list(given: Mapping[str, Any], name: str) -> list[object]:
    """A field that has to be a list. Raises `BadRequest`."""
    value = given.get(name)
    if not isinstance(value, list):
        raise BadRequest(f"{name} must be a list.", name)
    return value


def checked_number(given: Mapping[str, Any], name: str, within: Range) -> float | int | None:
    """A number of this range, None where the field is not there. Raises `BadRequest`."""
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, float) and within.is_whole and value.is_integer():
        value = int(value)
    if not within.holds(value):
        raise BadRequest(f"{name} must be {within}.", name)
    return value


def checked_flag(given: Mapping[str, Any], name: str) -> bool:
    """True or false; false where the field is not there. Raises `BadRequest`."""
    value = given.get(name)
    if value not in (None, True, False):
        raise BadRequest(f"{name} must be true or false.", name)
    return bool(value)


def model_named(given: Mapping[str, Any]) -> str | None:
    """The model that a request names; None: it names none."""
    model = given.get("model")
    if model is not None and not isinstance(model, str):
        raise BadRequest("model must be a text.", "model")
    return model
