"""`/set`: the sampler, the limits, window and threads; for this chat, or kept for the chats to come.

The chat is sealed and may not change the config (privacy.md). What `--save` keeps are numbers and stop sequences in a
file of slm's data, which only the chat reads.

Knows: the names of the settings and of the options that mean the same. Refuses to know: what a value does.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from slmchat import kept_json, ranges
from slmchat.commands.repl.app import ChatApp, usage
from slmchat.generation import params
from slmchat.models import loader
from slmchat.private_files import write_private
from slmchat.ranges import Range

_SAMPLER: Mapping[str, Range] = {**ranges.SAMPLER, "seed": ranges.SEED}
_RANGES: Mapping[str, Range] = {
    **_SAMPLER,
    "max_tokens": ranges.MAX_TOKENS,
    "ctx": ranges.CTX,
    "threads": ranges.THREADS,
}
# How the options of the command line call them.
_ALSO = {"temp": "temperature", "n": "max_tokens", "num_ctx": "ctx", "num_predict": "max_tokens"}
# What other programs set in the same way.
_ELSEWHERE = {
    "system": "/system TEXT",
    "think": "/think on",
    "nothink": "/think off",
    "model": "/model NAME",
    "verbose": "/stats has the speed of the last answer",
}
_NONE = ("none", "default", "auto", "off")
_STOP = "stop"


def command(chat: ChatApp, arguments: str) -> None:
    """`/set`, `/set KEY`, `/set KEY VALUE`, `/set KEY none`, each with `--save`. Raises `SlmError` (USAGE, STORAGE)."""
    text = arguments.strip()
    is_saved = text == "--save" or text.endswith(" --save")
    text = text.removesuffix("--save").strip()
    if not text:
        if is_saved:
            raise usage("what is to be saved?", "/set KEY VALUE --save")
        _show(chat)
        return
    key, value = _parsed(text)
    told = ""
    if key in ("ctx", "threads") and chat.place.host is not None:
        raise usage(f"{key} is decided at {chat.place.host}, not here.")
    if not value and "=" not in text and not is_saved:
        _show(chat, key)
    elif key == _STOP:
        _set_stop(chat, value)
    else:
        number = None if value.lower() in _NONE else _number(key, value)
        _set_number(chat, key, number)
        told = f"{key} is now {number:.10g}" if number is not None else f"{key} is as it was without /set"
    try:
        if is_saved:
            _save(chat, key)
            told += " and stays so in later chats" if told else ""
    finally:  # it counts in this chat, also where it cannot be kept
        if told:
            chat.console.note(f"{told}.")


def _parsed(text: str) -> tuple[str, str]:
    """The key and its value, of `KEY VALUE` or `KEY=VALUE`. Raises `SlmError` (USAGE)."""
    text = text.removeprefix("parameter ").lstrip()  # as Ollama has it
    given, sign, value = text.partition("=") if "=" in text.split()[0] else text.partition(" ")
    key = given.lstrip("-").replace("-", "_")
    key = _ALSO.get(key, key)
    if key not in (*_RANGES, _STOP):
        hint = _ELSEWHERE.get(key) or f"/set KEY VALUE with one of {', '.join([*_RANGES, _STOP])}"
        raise usage(f"there is no setting '{given}'.", hint)
    is_signed = sign == " " and key != _STOP  # a stop sequence may begin with the sign
    return key, (value.strip().removeprefix("=") if is_signed else value).strip()


def _set_number(chat: ChatApp, key: str, value: float | None) -> None:
    session = chat.session
    if key in _SAMPLER:
        session.change_sampler(key, value)
    elif key == "max_tokens":
        session.limits = replace(session.limits, max_tokens=None if value is None else int(value))
    else:
        setattr(session, "asked_ctx" if key == "ctx" else "threads", None if value is None else int(value))
        if key == "ctx" and value and session.trained_ctx and value > session.trained_ctx:
            chat.console.warn(loader.beyond_training(f"ctx {int(value)}", session.trained_ctx))
        session.reopen()


def _set_stop(chat: ChatApp, text: str) -> None:
    """One more stop sequence; `\\n` in it is a line break. `none`: no more of them."""
    sequence = text.strip("\"'").replace("\\n", "\n")
    if not sequence:
        raise usage("which stop sequence?", "/set stop TEXT, or /set stop none")
    limits = chat.session.limits
    stop = () if text.lower() in _NONE else (*limits.stop, sequence)
    chat.session.limits = replace(limits, stop=stop)
    shown = ", ".join(map(repr, stop))
    chat.console.note(f"An answer ends at {shown}." if stop else "No stop sequence ends an answer.")


def _show(chat: ChatApp, key: str | None = None) -> None:
    """The settings as they are now, or one of them."""
    session, said = chat.session, chat.console.note
    values: dict[str, object] = {name: getattr(session.sampler, name) for name in _SAMPLER}
    values["seed"] = "a new one each time" if values["seed"] is None else values["seed"]
    if chat.place.host is None:
        values["ctx"] = session.n_ctx or session.asked_ctx or "chosen when the model is loaded"
        values["threads"] = session.threads or "as many as there are free cores"
    values["max_tokens"] = session.limits.max_tokens or "no limit"
    values[_STOP] = ", ".join(map(repr, session.limits.stop)) or "none"
    for name, value in values.items():
        if key in (None, name):
            said(f"{name:15} {value}")
    if key is not None:
        said(f"/set {key} VALUE changes it, /set {key} none resets it.")
    elif kept := _kept(chat):
        said(f"kept for later chats: {', '.join(kept)} (/set KEY none --save forgets one)")


def _number(key: str, text: str) -> float:
    allowed = _RANGES[key]
    try:
        value = float(text)
    except ValueError:
        raise usage(f"{key} must be a number, not '{text}'.", f"/set {key} VALUE, or /set {key} none") from None
    number = int(value) if allowed.is_whole and value.is_integer() else value
    if not allowed.holds(number):
        raise usage(f"{key} must be {allowed}.")
    return number


def complete(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """The names, and what they can be."""
    known = {**{name: str(allowed) for name, allowed in _RANGES.items()}, _STOP: "a text at which an answer ends"}
    return ((f"{name} ", meaning) for name, meaning in known.items() if name.startswith(text))


# What is kept


def _kept(chat: ChatApp) -> dict[str, Any]:
    """What was saved, as far as it is right; nothing where the file is damaged or of another slm."""
    found = kept_json.read(chat.settings.paths.chat_settings)
    if not isinstance(found, dict):
        return {}
    numbers = {key: value for key, value in found.items() if key in _RANGES and _RANGES[key].holds(value)}
    stop = found.get(_STOP)
    is_stop = isinstance(stop, list) and all(isinstance(each, str) and each for each in stop)
    return {**numbers, _STOP: stop} if is_stop and stop else numbers


def _save(chat: ChatApp, key: str) -> None:
    """Keep this setting as it is now. Raises `SlmError`: USAGE with `--private`, STORAGE."""
    if chat.is_private:
        raise usage("a private chat writes nothing, so nothing was saved.")
    session, kept = chat.session, _kept(chat)
    value = {
        "ctx": session.asked_ctx,
        "threads": session.threads,
        "max_tokens": session.limits.max_tokens,
        _STOP: list(session.limits.stop) or None,
    }.get(key, session.sampler_changes.get(key))
    kept.pop(key, None)
    if value is not None:
        kept[key] = value
    write_private(chat.settings.paths.chat_settings, json.dumps(kept, indent=2).encode())


def take_over(chat: ChatApp) -> None:
    """At the beginning of a chat: what was kept, where neither the command line nor a persona says otherwise."""
    persona = params.persona_of(chat.options, chat.settings)
    given = {**(persona.sampler if persona else {}), **chat.options.sampler_values()}
    given |= {"ctx": chat.options.ctx, "threads": chat.options.threads, "max_tokens": chat.options.max_tokens}
    for key, value in _kept(chat).items():
        if key == _STOP:
            if not chat.options.stop:
                chat.session.limits = replace(chat.session.limits, stop=tuple(value))
        elif given.get(key) is None and not (chat.place.host is not None and key in ("ctx", "threads")):
            _set_number(chat, key, value)
