"""How a model writes calls of functions, found in what its chat template writes of them.

Families differ: JSON between marks (Hermes, Qwen, Granite), JSON alone (Llama 3), a list behind a mark (Mistral), a
name and then JSON (newer Mistral models), keys and values with marks of their own (GLM, Qwen Coder, Gemma 4). None of
them is known here by its name. The template lays out an answer with two calls, and what stands around names, keys and
values in it is the notation. So a template that nobody here has seen works as well.

Knows: the parts of a notation, how calls are written in it and read again. Refuses to know: Jinja (conversation/),
which calls there may be (tools.py), schemas (call_grammar.py).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from slmchat.engine.kvstore import shared_length
from slmchat.lazy_dataclasses import dataclass

# As OpenAI has them: what a function may be called.
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME_RUN = re.compile(r"[A-Za-z0-9_-]+")

# A mark with which calls may begin: <tool_call>, <|tool_call|>, [TOOL_CALLS].
_MARK = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")

# What Llama 3 models write before a call that begins an answer, sometimes.
PYTHON_TAG = "<|python_tag|>"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Arguments as keys and values, not as one JSON object. Texts stand as they are between `quote`s, all else as JSON.

    `key_close`: between a key and its value; `value_close`: behind a value; `separator`: between that and the next key.
    `nothing`: what stands behind a name without arguments. `takes_lists`: values may be lists and objects.
    """

    key_close: str
    value_close: str
    separator: str
    quote: str
    nothing: str
    takes_lists: bool

    @property
    def text_end(self) -> str:
        """What cannot stand in a text. In it no character is like the first one, as the grammar needs it."""
        end = self.quote + self.value_close
        second = end.find(end[0], 1)
        return end if second < 0 else end[:second]


@dataclass(frozen=True, slots=True)
class CallNotation:
    """What stands around calls: `first`, a name, `middle`, its arguments, `between`, the next name, ..., `last`.

    `between` None: an answer has one call at most. `pairs` None: arguments are a JSON object.
    """

    first: str
    middle: str
    between: str | None
    last: str
    pairs: Pairs | None = None

    @property
    def mark(self) -> str:
        """With what calls begin behind a text; empty: a call is the whole answer, and begins with a brace."""
        found = _MARK.match(self.first)
        return found[0] if found else ""

    @property
    def marks(self) -> tuple[str, ...]:
        """The marks in it, which may be control tokens."""
        pairs = (self.pairs.key_close, self.pairs.separator, self.pairs.quote) if self.pairs else ()
        said = (self.first, self.middle, self.between or "", self.last, *pairs)
        found = dict.fromkeys(mark for text in said for mark in _MARK.findall(text))
        return (*found, *(() if self.mark else (PYTHON_TAG,)))

    def written(self, calls: Sequence[tuple[str, Any]]) -> str:
        """These calls, names with their arguments, as the model writes them."""
        between = self.last + "\n" + self.first if self.between is None else self.between
        return self.first + between.join(f"{name}{self._arguments(given)}" for name, given in calls) + self.last

    def _arguments(self, given: Any) -> str:
        pairs = self.pairs
        if pairs is None or not isinstance(given, Mapping):
            return self.middle + json.dumps(given, ensure_ascii=False)
        if not given:
            return pairs.nothing
        written = (f"{key}{pairs.key_close}{self._value(value)}{pairs.value_close}" for key, value in given.items())
        return self.middle + pairs.separator.join(written)

    def _value(self, value: Any) -> str:
        assert self.pairs is not None
        quote = self.pairs.quote
        return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def read(self, text: str, place: int, is_text: Callable[[str, str], bool]) -> tuple[str, Any, int] | None:
        """The call whose name stands at `place`: name, arguments, where they end. None: it is not whole yet.

        `is_text`: whether this argument of this function is a text, which stands as it is. Raises ValueError for what
        is not a call in this notation.
        """
        name = _NAME_RUN.match(text, place)
        if name is None:
            raise ValueError("no name")
        if name.end() == len(text):
            return None
        if self.pairs is not None:
            found = self._read_pairs(text, name.end(), self.pairs, lambda key: is_text(name[0], key))
        else:
            found = self._read_json(text, name.end())
        return None if found is None else (name[0], *found)

    def _read_json(self, text: str, place: int) -> tuple[Any, int] | None:
        behind = _behind(text, place, self.middle)
        if behind is None:
            return None
        try:
            return json.JSONDecoder().raw_decode(text, behind)
        except ValueError:
            return None

    def _read_pairs(
        self, text: str, place: int, pairs: Pairs, is_text: Callable[[str], bool]
    ) -> tuple[Any, int] | None:
        made: dict[str, Any] = {}
        for end in filter(None, (self.between, self.last)):
            if text.startswith(pairs.nothing + end, place):
                return made, place + len(pairs.nothing)
        if (pairs.nothing + self.last).startswith(text[place:]):
            return None
        behind = _behind(text, place, self.middle)
        while behind is not None:
            key_end = text.find(pairs.key_close, behind)
            if key_end < 0:
                return None
            key, place = text[behind:key_end], key_end + len(pairs.key_close)
            value = _text_value(text, place, pairs) if is_text(key) else _json_value(text, place, pairs)
            if value is None:
                return None
            made[key], place = value
            if not text.startswith(pairs.separator, place):
                return None if pairs.separator.startswith(text[place:]) else (made, place)
            behind = place + len(pairs.separator)
        return None


def _text_value(text: str, place: int, pairs: Pairs) -> tuple[str, int] | None:
    """The text that stands at `place`, and where what closes it ends; None: it is not whole yet."""
    begin = place + len(pairs.quote)
    end = text.find(pairs.quote + pairs.value_close, begin)
    return None if end < 0 else (text[begin:end], end + len(pairs.quote + pairs.value_close))


def _json_value(text: str, place: int, pairs: Pairs) -> tuple[Any, int] | None:
    """The same for a value in JSON. A number may go on, so that something has to stand behind it."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, place)
    except ValueError:
        return None
    behind = _behind(text, end, pairs.value_close)
    return None if behind is None or behind == len(text) else (value, behind)


def _behind(text: str, place: int, expected: str) -> int | None:
    """The place behind the expected text; None: it has not come to its end. Raises ValueError for another text."""
    if text.startswith(expected, place):
        return place + len(expected)
    if expected.startswith(text[place:]):
        return None
    raise ValueError("another notation")


HERMES = CallNotation(
    '<tool_call>\n{"name": "', '", "arguments": ', '}\n</tool_call>\n<tool_call>\n{"name": "', "}\n</tool_call>"
)
"""The notation of Hermes and Qwen, for models whose template knows none."""


# What is found again in the text that a template makes. Some templates want ids of nine letters and digits.
_NAMES = ("onefunction", "otherfunction")
_IDS = ("abcde0001", "abcde0002")
_KEYS = ("akey", "bkey")
_ARGUMENTS = {_KEYS[0]: "avalue", _KEYS[1]: 17}
_ID = re.compile(r', ?"id": ?"abcde000[12]"|"id": ?"abcde000[12]", ?|\[CALL_ID\]abcde000[12]')

LayOut = Callable[[Sequence[Mapping[str, Any]]], str | None]


def notation_of(lay_out: LayOut) -> CallNotation | None:
    """The notation of a chat template. None: it has none, or one that is not understood.

    `lay_out`: the text that the template makes of an answer with these calls, as the API of OpenAI describes them; None
    where it refuses.
    """
    for as_text in (False, True):  # most templates want arguments as an object, some as JSON text
        one = _laid_out(lay_out, 1, _ARGUMENTS, as_text=as_text)
        found = None if one is None else _json_notation(one) or _pairs_notation(one, lay_out)
        if found is None or not _is_usable(found):
            continue
        both = _laid_out(lay_out, 2, _ARGUMENTS, as_text=as_text)
        between = None if both is None else _between(both, found)
        made = replace(found, between=between)
        if between is not None and between.endswith(made.first):  # each call is closed; what comes then ends the turn
            closing = between.removesuffix(made.first).rstrip()
            made = replace(made, last=closing if made.last.startswith(closing) else made.last)
        return made
    return None


def _laid_out(lay_out: LayOut, count: int, arguments: Any, *, as_text: bool) -> str | None:
    given = json.dumps(arguments) if as_text else arguments
    calls = [
        {"type": "function", "id": id, "function": {"name": name, "arguments": given}}
        for name, id in zip(_NAMES[:count], _IDS, strict=False)
    ]
    text = lay_out(calls)
    return None if text is None else _ID.sub("", text)


def _json_notation(text: str) -> CallNotation | None:
    first, found, behind = text.partition(_NAMES[0])
    place = -1
    while found and (place := behind.find("{", place + 1)) >= 0:
        try:
            given, end = json.JSONDecoder().raw_decode(behind, place)
        except ValueError:
            continue
        if given == _ARGUMENTS:
            return CallNotation(first.lstrip(), behind[:place], None, behind[end:].rstrip())
    return None


def _pairs_notation(text: str, lay_out: LayOut) -> CallNotation | None:
    pattern = f"(.*){_NAMES[0]}(.*){_KEYS[0]}(.*)avalue(.*){_KEYS[1]}(.*)17(.*)"
    found = re.fullmatch(pattern, text, re.DOTALL)
    if found is None:
        return None
    first, middle, to_text, to_key, key_close, closing = found.groups()
    quote = to_text[len(key_close) :]
    if not to_text.startswith(key_close) or not to_key.startswith(quote):
        return None
    to_key, closing = to_key[len(quote) :], closing.rstrip()
    value_close = to_key[: shared_length(to_key, closing)]
    last = closing[len(value_close) :]
    empty = _laid_out(lay_out, 1, {}, as_text=False)
    nothing = "" if empty is None else empty.rstrip().partition(_NAMES[0])[2]
    if not nothing.endswith(last) or not (quote or value_close):
        return None
    listed = _laid_out(lay_out, 1, {_KEYS[0]: ["avalue", {"b": True}]}, as_text=False) or ""
    takes_lists = bool(re.search(r'\["avalue", ?\{"b": ?true\}\]', listed))
    nothing = nothing[: len(nothing) - len(last)]
    pairs = Pairs(key_close, value_close, to_key[len(value_close) :], quote, nothing, takes_lists)
    return CallNotation(first.lstrip(), middle, None, last, pairs)


def _between(text: str, notation: CallNotation) -> str | None:
    """What stands between two calls; None: the template does not write the second as it writes the first."""
    first, _, behind = text.lstrip().partition(_NAMES[0])
    before, found, last = behind.partition(_NAMES[1])
    call = notation.written([(_NAMES[1], _ARGUMENTS)])[len(notation.first) :]
    if first != notation.first or not found or _compact(_NAMES[1] + last.rstrip()) != _compact(call):
        return None
    own = CallNotation("", notation.middle, None, "", notation.pairs)
    read = own.read(_NAMES[0] + before, 0, lambda _name, key: key == _KEYS[0])
    return None if read is None else (_NAMES[0] + before)[read[2] :]


def _compact(text: str) -> str:
    """Without spaces: templates write JSON with them and without."""
    return text.replace(" ", "")


def _is_usable(notation: CallNotation) -> bool:
    """Whether an answer can be told from a call: by a mark, or by the brace with which a call begins."""
    mark, ends_name = notation.mark, notation.middle or (notation.pairs.nothing if notation.pairs else "")
    if not ends_name or _NAME_RUN.match(ends_name) or any(id in repr(notation) for id in _IDS):
        return False
    return mark.count(mark[0]) == 1 if mark else notation.first.startswith("{") and notation.pairs is None
