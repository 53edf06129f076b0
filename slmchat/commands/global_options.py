"""The options that every command understands, and how a field of an options record becomes an option.

Apart from the other records (options.py): `slm list` need not wait for the hundred options of `slm run`.
Refuses to know: typer, and what any option does.
"""

from dataclasses import dataclass, field
from typing import Any

from slmchat.ranges import Range


def option(*flags: str, help: str, default: Any = None, metavar: str | None = None, within: Range | None = None) -> Any:
    """A field of an options record: its flags, its help and the numbers that it accepts."""
    limits = {} if within is None else {"min": within.low, "max": within.high}
    made: dict[str, Any] = {"metadata": {"flags": flags, "help": help, "metavar": metavar, **limits}}
    return (
        field(default_factory=lambda: list(default), **made)
        if isinstance(default, list)
        else field(default=default, **made)
    )


@dataclass(frozen=True, slots=True)
class GlobalOptions:
    """What every command understands, before or after its name."""

    offline: bool = option("--offline", help="Never use the network.", default=False)
    private: bool = option("--private", help="Write nothing about the conversation to the disk.", default=False)
    verbose: bool = option("-v", "--verbose", help="Statistics and what the engine says, on stderr.", default=False)
    quiet: bool = option("-q", "--quiet", help="Errors only on stderr.", default=False)
