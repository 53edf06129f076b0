"""Regular expressions that somebody else wrote, on a text that a model wrote: with an end.

Python's `re` goes back: `(a+)+b` on 30 letters a takes minutes, holds the interpreter's lock all the time, and a Ctrl-C
that only says "soon" does not end it. So an expression that might take long is tried in a process of its own (0.02 s),
which is ended after some seconds. Most are not of that kind: a bound of their steps can be read off their text.

Knows: that bound, the process. Refuses to know: whose expression it is, and what follows from an answer.
"""

import json
import re
import subprocess
import sys

from slmchat.interpreter import interpreter

MOST_S = 5.0  # of the clock; a match that takes longer is not one that somebody waits for

# Steps that are done at once: a tenth of a second.
_MOST_STEPS = 10_000_000

# What repeats a group, or says again what a group has found: then no bound can be read off.
_UNBOUND = re.compile(r"\)[*+?{]|\\[1-9]|\(\?P=|\(\?\(")
_REPEATS, _OPTIONS = re.compile(r"[*+]|\{\d*,"), re.compile(r"[?|]")

_CHILD = """\
import json, re, sys
asked = json.load(sys.stdin)
found = getattr(re.compile(asked["pattern"], asked["flags"]), asked["how"])(asked["text"])
sys.exit(3 if found else 4)
"""
_FOUND, _NOT_FOUND = 3, 4  # what no Python ends with by itself


class TooSlow(Exception):
    """Nobody knows whether the text matches: to find out takes too long."""


def is_found(pattern: re.Pattern[str], text: str) -> bool:
    """Whether it is found somewhere in the text. Raises `TooSlow`."""
    return _is(pattern, text, "search")


def is_whole(pattern: re.Pattern[str], text: str) -> bool:
    """Whether the text as a whole matches. Raises `TooSlow`."""
    return _is(pattern, text, "fullmatch")


def is_quick(pattern: str, length: int) -> bool:
    """Whether it takes few steps on any text of this length: each repetition may end at each place, each choice may be
    taken or not, and a match may begin anywhere."""
    if _UNBOUND.search(pattern):
        return False
    repeats, options = len(_REPEATS.findall(pattern)), len(_OPTIONS.findall(pattern))
    return bool((length + 1) ** (repeats + 1) * 2**options <= _MOST_STEPS)


def _is(pattern: re.Pattern[str], text: str, how: str) -> bool:
    is_plain = not pattern.flags & re.VERBOSE and is_quick(pattern.pattern, len(text))
    program = None if is_plain else interpreter()
    if program is None:
        return getattr(pattern, how)(text) is not None
    asked = json.dumps({"pattern": pattern.pattern, "flags": pattern.flags, "text": text, "how": how})
    try:
        done = subprocess.run(
            [program, "-I", "-S", "-c", _CHILD],
            input=asked.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=MOST_S,
            check=False,
            start_new_session=sys.platform != "win32",  # Ctrl-C is not meant for it
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        raise TooSlow from error
    except OSError:  # no process can be started here
        return getattr(pattern, how)(text) is not None
    if done.returncode not in (_FOUND, _NOT_FOUND):  # it died: out of memory
        raise TooSlow
    return done.returncode == _FOUND
