"""The first run: nothing that chats is installed, so show what suits this device, recommend one of them, pull the one
that is chosen, and let the chat begin.

Knows: what is asked and answered. Refuses to know: which models suit a device (models/suggestions.py), how a model is
fetched (pull.py), how the chat goes on (repl/).
"""

from collections.abc import Sequence

from slmchat import hardware
from slmchat.catalog import hub_names, registry
from slmchat.catalog.library import Library
from slmchat.commands.pull import pull
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.speed import in_words
from slmchat.models.device_fit import ForDevice
from slmchat.models.suggestions import Suggestion, recommended, suggestions
from slmchat.options import PullOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import in_bytes

# Slices in which the speed of the device is measured, at most; a slice takes 0.2 s.
_MOST_SLICES = 5


def offer(settings: Settings, console: Console) -> str:
    """Ask which model to begin with and pull it; its name. Raises `SlmError` (NO_MODEL) when nothing is chosen."""
    known = registry.load(settings.paths.user_registry)
    console.note(f"{_what_is_there(settings)} This device has {in_bytes(hardware.total_memory())} of memory.")
    console.status("looking how fast it is …")
    device = ForDevice(settings, console, is_lasting=True)
    for _ in range(_MOST_SLICES):
        if device.throughput is not None and not device.throughput.is_rough:
            break
        device.measure_more()
        device = ForDevice(settings, console, is_lasting=True)
    suited = suggestions(device, known)
    console.note("These models suit it:")
    console.note("")
    place, why = recommended(suited)
    for number, one in enumerate(suited):
        size, license = one.variant.size, one.spec.license.title if one.spec.license else "licence: see its page"
        speed = in_words(one.speed) if one.speed is not None else ""
        mark = "*" if number == place else " "
        facts = f"{one.spec.name:14} {in_bytes(size) if size else '':>8}  {speed:18}"
        console.note(f" {mark} {number + 1}  {facts}  {one.spec.title}, {license}")
    console.note("")
    console.note(f"{suited[place].spec.name} is recommended: {why}.")
    chosen = _choose(suited, place, known, console)
    code = pull(PullOptions([chosen]), settings, console, tells_next=False)
    if code is not ExitCode.DONE:
        raise SlmError(f"{chosen} was not installed.", hint=f"slm pull {chosen}", exit_code=code)
    return chosen


def _what_is_there(settings: Settings) -> str:
    bases = [record.name for record in Library(settings.paths).all() if record.answers]
    return f"{', '.join(bases)} completes text and does not chat." if bases else "Nothing is installed yet."


def _choose(suited: Sequence[Suggestion], place: int, known: registry.Registry, console: Console) -> str:
    """A number, or any name; Enter takes the one recommended. A wrong answer is asked for again."""
    question = f"Pull which one? [1-{len(suited)} or a name; Enter: {suited[place].spec.name}; q leaves] "
    while True:
        answer = console.ask_text(question)
        text = answer.strip()
        if not answer or text.lower() in ("q", "quit", "n", "no"):
            raise SlmError(
                "no model is installed.",
                hint=f"slm pull {suited[-1].spec.name}; slm list --available shows all",
                exit_code=ExitCode.NO_MODEL,
            )
        if not text:
            return suited[place].spec.name
        if text.isdecimal() and 1 <= int(text) <= len(suited):
            return suited[int(text) - 1].spec.name
        if text.partition("@")[0] in known.models or hub_names.is_hub_name(text):
            return text
        console.note(f"'{text}' is not one of them, and not a name of the catalog (slm list --available).")
