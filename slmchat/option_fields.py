"""An option, written once: name, help, group, metavar, default, range. It is a field of a record.

The records become command lines in commands/command_line.py; docs/commands.md, completion and the limits of the Python
API are made from the same. Refuses to know: typer, and what any option does.
"""

from dataclasses import Field, field
from enum import StrEnum
from typing import Any

from slmchat.errors import usage_error
from slmchat.ranges import Range

_REQUIRED: Any = object()


class OptionGroup(StrEnum):
    """What an option is about, as a long help page groups them, in this order."""

    SERVER = "Server"
    MODEL = "Model"
    INPUT = "Input"
    CONVERSATION = "Conversation"
    MEASUREMENT = "Measurement"
    SAMPLING = "Sampling"
    FORMAT = "Response format"
    INFILL = "Infill of code"
    OUTPUT = "Output"
    DEVICE = "Device"
    GENERAL = "General"


def option(
    *flags: str,
    help: str,
    group: OptionGroup = OptionGroup.GENERAL,
    default: Any = None,
    metavar: str | None = None,
    within: Range | None = None,
    is_count: bool = False,
    is_destination: bool = False,
) -> Any:
    """A field of an options record: its flags, its help, the numbers that it accepts.

    `metavar`: CAPITALS stand for a value, small letters for themselves, `|` for "or"; None for a flag. Where it is
    nothing but words, no other value is accepted.
    `is_count`: how many times it was given. `is_destination`: the answer goes there instead of to stdout.
    """
    limits = {} if within is None else {"min": within.low, "max": within.high}
    told = {"help": help, "metavar": metavar, "group": group, "is_count": is_count, "is_destination": is_destination}
    return _field(default, {"flags": flags, **told, **limits})


def range_of(item: "Field[Any]") -> Range | None:
    """The numbers that a field of an options record accepts; None: it is no number, or any will do."""
    low, high = item.metadata.get("min"), item.metadata.get("max")
    return None if low is None or high is None else Range(low, high)


def check_choice(item: "Field[Any]", value: object, name: str) -> None:
    """Refuse what is none of the words that the metavar of this field offers. Raises `SlmError` (USAGE)."""
    metavar = item.metadata["metavar"] or ""
    if value is None or "|" not in metavar or not metavar.islower():
        return
    *others, last = metavar.split("|")
    if value not in (*others, last):
        raise usage_error(f"{name} cannot be '{value}'.", f"{', '.join(others)} or {last}")


def number_or_auto(given: str | None, flag: str, within: Range) -> int | None:
    """The value of an option that is `auto` or a number; None for auto. Raises `SlmError` (USAGE)."""
    if given in (None, "auto"):
        return None
    number = int(given) if given.isascii() and given.isdecimal() and len(given) < 20 else -1
    if not within.holds(number):
        raise usage_error(f"{flag} cannot be '{given}'.", f"auto, or {within}")
    return number


def argument(metavar: str, help: str = "", default: Any = _REQUIRED) -> Any:
    """A field that stands on the command line without a flag."""
    return _field(default, {"flags": (), "help": help, "metavar": metavar, "is_destination": False})


def _field(default: Any, metadata: dict[str, Any]) -> Any:
    if default is _REQUIRED:
        return field(metadata=metadata)
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def json_option() -> Any:
    """The option of commands whose answer can be JSON."""
    return option("--json", group=OptionGroup.OUTPUT, help="JSON on stdout.", default=False)
