"""The table of models for phones in docs/termux.md, from the catalog and `fit`. `.docs/generate.py` puts it into the page.

A phone is planted: half of its memory for models, the instruction sets of 64-bit Arm, a speed that is not known.

Knows: the phones and the columns. Refuses to know: the page.
"""

import io
import os

from slmchat import settings
from slmchat.catalog import registry
from slmchat.commands.first_run import Suggestion, suggestions
from slmchat.fit.memory import Load
from slmchat.fit.plan import Room
from slmchat.models.device_fit import ForDevice, usable_memory
from slmchat.terminal.console import Console
from slmchat.wording import in_bytes

HEAD = "| memory of the phone | for models | the first choice | also |\n|---|---|---|---|\n"
GIB = 1 << 30
PHONES = (4, 6, 8)

# What phones since about 2018 have (Armv8.2).
_SETS = ("NEON", "FP16", "DOTPROD")


def phone(memory: int) -> ForDevice:
    """A phone with this much memory in bytes."""
    made = ForDevice(settings.load(os.environ), Console(io.StringIO(), io.StringIO(), io.StringIO(), {}))
    made.available_memory = Room(usable_memory(memory, is_phone=True), memory)
    made.load = Load(0, instruction_sets=_SETS)
    made.throughput = None  # and not what this machine has measured of itself
    return made


def chosen(gigabytes: int) -> list[Suggestion]:
    """What slm suggests there, the first choice first."""
    return suggestions(phone(gigabytes * GIB), registry.load())


def table() -> str:
    return HEAD + "".join(_row(size) for size in PHONES)


def _row(size: int) -> str:
    first, *others = (
        f"`{one.spec.name}@{one.variant.quantization}` ({in_bytes(one.variant.size)})" for one in chosen(size)
    )
    return f"| {size} GB | {in_bytes(usable_memory(size * GIB, is_phone=True))} | {first} | {', '.join(others)} |\n"
