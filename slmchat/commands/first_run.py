"""The first run: nothing is installed, so show what suits this device, offer to pull it, and let the chat begin.

Knows: which few models of the catalog are a good beginning, and how much memory they want.
Refuses to know: how a model is fetched (pull.py), how the chat goes on (chat.py).
"""

from slmchat import hardware
from slmchat.catalog import registry
from slmchat.catalog.fetching import in_bytes
from slmchat.commands.options import PullOptions
from slmchat.commands.pull import pull
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.console import Console

# From large to small: good chat models for their size, each of another order of magnitude of effort.
SUGGESTED = ("gemma3:4b", "phi4-mini", "llama3.2:3b", "qwen2.5:1.5b", "gemma3:1b", "smollm2:360m", "smollm2:135m")
# Weights may take this share of the memory: the rest is for the KV cache, the system and other programs.
_SHARE = 0.4
_SHOWN = 4


def suggestions(memory: int, known: registry.Registry) -> list[registry.ModelSpec]:
    """What suits a device with this much memory in bytes, the most capable first; the smallest is always there."""
    specs = [known.models[name] for name in SUGGESTED if name in known.models]
    fitting = [spec for spec in specs if (spec.variants[0].size or memory) <= memory * _SHARE]
    chosen = fitting[:_SHOWN]
    return chosen if specs[-1] in chosen else [*chosen[: _SHOWN - 1], specs[-1]]


def offer(settings: Settings, console: Console) -> str:
    """Ask which model to begin with and pull it; its name. Raises `SlmError` (NO_MODEL) when nothing is chosen."""
    known = registry.load(settings.paths.user_registry)
    memory = hardware.total_memory()
    suited = suggestions(memory, known)
    console.note(f"Nothing is installed yet. This device has {in_bytes(memory)} of memory; these models suit it:")
    console.note("")
    for number, spec in enumerate(suited, start=1):
        size = spec.variants[0].size
        license = spec.license.title if spec.license else "licence: see its page"
        console.note(f"  {number}  {spec.name:14} {in_bytes(size) if size else '':>8}  {spec.title}, {license}")
    console.note("")
    chosen = _choose(suited, console)
    code = pull([chosen], PullOptions(), settings, console)
    if code is not ExitCode.DONE:
        raise SlmError(f"{chosen} was not installed.", hint=f"slm pull {chosen}", exit_code=code)
    return chosen


def _choose(suited: list[registry.ModelSpec], console: Console) -> str:
    answer = console.ask_text(f"Pull which one? [1-{len(suited)}, Enter leaves] ").strip()
    if answer.isdecimal() and 1 <= int(answer) <= len(suited):
        return suited[int(answer) - 1].name
    raise SlmError(
        "no model is installed.",
        hint=f"slm pull {suited[-1].name}; slm list --available shows all",
        exit_code=ExitCode.NO_MODEL,
    )
