"""Laying out a long conversation without rendering again what was rendered before.

Templates of the field render every message anew for every answer, and some look back over all messages at each of them
(Gemma 4): the time grows with the square of their number. So a long conversation is rendered in blocks. Each block is
the beginning of the conversation, a few messages that are known already, and the new ones; what the template writes
around the messages that are known has to come out as before, else the conversation is rendered as a whole.

Knows: which messages have been laid out, and whether the template writes the same around them in a shorter
conversation. Refuses to know: Jinja, what stands around messages and why.
"""

import re
from collections.abc import Sequence
from typing import Protocol

from slmchat.conversation.messages import Message, Role
from slmchat.conversation.provenance import Form, Span, edges

# Up to so many messages, the whole conversation is rendered: it takes a few milliseconds.
_WHOLE = 64
# Of a longer one: the first messages, known ones that are looked at again, and new ones. What stands around the last
# ones that are known may still change (a thought in the last answer, the system message in the last question).
_HEAD, _AGAIN, _UNSETTLED, _NEW = 4, 8, 4, 64

# What templates look for in any message of a conversation, however old (Nemotron Nano 2).
_MARK = re.compile(r"/(?:no_?)?think|detailed thinking", re.IGNORECASE)


class Render(Protocol):
    """What renders the messages of these numbers, as a conversation of their own."""

    def __call__(
        self, messages: Sequence[Message], numbers: Sequence[int], form: Form, *, adds_generation_prompt: bool
    ) -> list[Span]: ...


class LongLayout:
    """The pieces of one conversation, kept from one layout to the next. One at a time."""

    def __init__(self, render: Render) -> None:
        self._render = render
        # the messages that are known, their form, and the pieces up to and with the last of them
        self._laid_out: tuple[list[Message], Form, list[Span]] = ([], Form.TEXT, [])

    def spans(self, messages: Sequence[Message], form: Form, *, goes_on: bool) -> list[Span]:
        """The pieces of the rendered conversation; it ends where the assistant speaks, unless it `goes_on`.

        Raises what rendering raises.
        """
        if len(messages) > _WHOLE:
            laid_out = self._in_blocks(messages, form, adds_generation_prompt=not goes_on)
            if laid_out is not None:
                return laid_out
            self._laid_out = ([], form, [])
        return self._render(messages, range(len(messages)), form, adds_generation_prompt=not goes_on)

    def _in_blocks(self, messages: Sequence[Message], form: Form, *, adds_generation_prompt: bool) -> list[Span] | None:
        """None where the template does not write the same around a message in a shorter conversation."""
        known, known_form, spans = self._laid_out
        n_known = _n_settled(known, messages) if form is known_form else 0
        if n_known < _HEAD + _AGAIN:
            end = _behind_question(messages, _WHOLE)
            spans = self._render(messages, range(end), form, adds_generation_prompt=True)
            n_known = _behind_text(messages, end - _UNSETTLED)
        spans = _until(spans, n_known - 1)
        end = 0
        while end < len(messages):
            end = min(len(messages), n_known + _UNSETTLED + _NEW)
            is_last = end == len(messages)
            end = end if is_last else _behind_question(messages, end)
            made = self._block(messages, (n_known, end), form, spans, is_open=is_last and not adds_generation_prompt)
            if made is None:
                return None
            spans += made
            if not is_last:
                n_known = _behind_text(messages, end - _UNSETTLED)
                spans = _until(spans, n_known - 1)
        self._laid_out = (list(messages), form, _until(spans, _behind_text(messages, len(messages)) - 1))
        return spans

    def _block(
        self, messages: Sequence[Message], new: tuple[int, int], form: Form, known: Sequence[Span], *, is_open: bool
    ) -> list[Span] | None:
        """What stands from message `new[0]` up to `new[1]`; `is_open`: the last one is an answer that goes on."""
        n_known, end = new
        head = _begin_of_exchange(messages, _HEAD, 0)
        again = None if head is None else _begin_of_exchange(messages, n_known - _AGAIN, head)
        if head is None or again is None:
            return None
        if any(_MARK.search(messages[number].text) for number in range(head, again)):
            return None
        numbers = [*range(head), *range(again, end)]
        made = self._render(messages, numbers, form, adds_generation_prompt=not is_open)
        if [span.message for span in made if span.message is not None and span.picture is None] != [
            number for number in numbers if edges(messages[number])[1]
        ]:
            return None
        settled = _until(made, n_known - 1)
        if not settled or _around(settled, head, again) != _around(known, head, again):
            return None
        return made[len(settled) :]


def _n_settled(known: Sequence[Message], messages: Sequence[Message]) -> int:
    """How many messages from the first on are known, without the last ones of them."""
    same = 0
    for one, message in zip(known, messages, strict=False):
        if not _is_same(one, message):
            break
        same += 1
    return _behind_text(messages, max(0, same - _UNSETTLED))


def _begin_of_exchange(messages: Sequence[Message], place: int, head: int) -> int | None:
    """The number of the last question up to `place` that stands behind an answer, an even number of them from `head`.

    Templates count: a question has an even place, or an odd one behind a system message.
    """
    for number in range(place, head, -1):
        question, answer = messages[number], messages[number - 1]
        is_exchange = question.role is Role.USER and answer.role is Role.ASSISTANT
        is_told_apart = bool(edges(question)[1] and edges(answer)[1])
        if is_exchange and is_told_apart and (not head or (number - head) % 2 == 0):
            return number
    return None


def _behind_question(messages: Sequence[Message], end: int) -> int:
    """The same end or an earlier one, behind a question, so that a block ends as a conversation may."""
    found = (number for number in range(end, end - _UNSETTLED, -1) if messages[number - 1].role is Role.USER)
    return next(found, end)


def _behind_text(messages: Sequence[Message], end: int) -> int:
    """The same end or an earlier one, behind a message that has a piece of its own."""
    while end and not edges(messages[end - 1])[1]:
        end -= 1
    return end


def _until(spans: Sequence[Span], number: int) -> list[Span]:
    """The pieces up to and with this message; none where it has no piece."""
    for place in range(len(spans) - 1, -1, -1):
        if spans[place].message == number and spans[place].picture is None:
            return list(spans[: place + 1])
    return []


def _around(spans: Sequence[Span], head: int, again: int) -> list[Span]:
    """The pieces of the messages before `head` and from `again` on, without what stands between the two."""
    kept: list[Span] = []
    is_in = True
    for span in spans:
        is_message = span.message is not None and span.picture is None
        is_in = is_in or (is_message and span.message == again)
        if is_in:
            kept.append(span)
        if is_message and span.message == head - 1:
            is_in = False
    return kept


def _is_same(one: Message, other: Message) -> bool:
    return one.role is other.role and one.text == other.text and one.pictures == other.pictures
