"""A thought while it is generated (`ThoughtWatch`): whether it has begun, how long it is, when it has had enough.

Knows: the marks that it is given, the bytes of the tokens so far, the budget.
Refuses to know: which model writes which marks (conversation/thinking.py), ids of tokens, how a token is forced
(thinking_sampler.py).

The budget is exact: thought number N is the last one. Two things are not torn apart, and then the thought is a few
tokens longer: a character whose bytes are not all there, and a mark that has begun (the end of the thought itself, or
a call of a tool).
"""

import codecs
from collections import deque
from collections.abc import Sequence
from enum import Enum, StrEnum

from slmchat.lazy_dataclasses import dataclass


class ThinkingMode(StrEnum):
    """What was asked of a model that can think."""

    AUTO = "auto"  # as its maker has it
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Thinking:
    """What was asked of the thought before an answer. `budget`: at most so many tokens of it; None: no limit."""

    mode: ThinkingMode = ThinkingMode.AUTO
    budget: int | None = None


UNASKED = Thinking()


@dataclass(frozen=True, slots=True)
class ThoughtMarks:
    """How one family writes: an opening, the thought, a closing, the answer, which may be wrapped once more.

    No opening is the beginning of another one, and no closing of another one. `end`: what is written to close a thought
    that has had enough, as far as the answer; `bridge` stands before it where something was thought. `is_prompted`: the
    opening counts only where a prompt ends with it.
    """

    openings: tuple[str, ...]
    closings: tuple[str, ...]
    answer: tuple[str, str] | None = None
    end: str = ""
    bridge: str = ""
    is_prompted: bool = False

    @property
    def has_thought(self) -> bool:
        """Whether a thought stands behind the opening; some families only open their answer."""
        return self.closings != ("",)


class _Place(Enum):
    """Where in a completion we are."""

    BEFORE = 1  # nothing yet, or what may become an opening
    THOUGHT = 2
    ENDING = 3  # what closes it is being written
    ANSWER = 4


class ThoughtWatch:
    """Follows one completion token by token.

    `n_tokens`: tokens of the thought so far, without its marks. `marks`: those with which it began, None before.
    """

    def __init__(
        self,
        families: Sequence[ThoughtMarks],
        prompt_tail: str,
        budget: int | None,
        unbroken: Sequence[tuple[str, str]] = (),
    ) -> None:
        """`prompt_tail`: the template's text at the end of the prompt, which may have opened the thought.

        `unbroken`: beginning and end of what a budget must not cut through.
        """
        self._families = [family for family in families if family.has_thought and not family.is_prompted]
        self._budget = budget
        self._unbroken = unbroken
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.n_tokens = 0
        self.marks = opened_by(prompt_tail, families)
        self._place = _Place.BEFORE if self.marks is None else _Place.THOUGHT
        longest = (
            text for family in families for text in (*family.closings, *(end for pair in unbroken for end in pair))
        )
        self._kept = max(map(len, longest), default=0)  # characters in which a mark may have begun
        self._text = ""  # before the thought: all of it; in the thought: its last characters
        self._end = 0  # of the text, in characters of the thought
        self._begins: deque[int] = deque(maxlen=self._kept + 1)  # where the last tokens begin, in the same
        self._closes: str | None = None  # the end of what has begun and must not be cut

    @property
    def is_thinking(self) -> bool:
        """Whether the next token belongs to the thought, or closes it."""
        return self._place in (_Place.THOUGHT, _Place.ENDING)

    @property
    def is_due(self) -> bool:
        """Whether the thought has had enough and can be closed here."""
        if self._place is not _Place.THOUGHT or self._budget is None or self.n_tokens < self._budget:
            return False
        return self._closes is None and not self._decoder.getstate()[0] and not self._has_begun_to_close()

    def end(self) -> None:
        """What closes the thought is being written from here on; `ended` comes behind it."""
        self._place = _Place.ENDING

    def ended(self) -> None:
        """The answer begins."""
        self._place = _Place.ANSWER

    def accept(self, data: bytes) -> None:
        """The bytes of the next token of the completion."""
        if self._place is _Place.BEFORE:
            self._text += self._decoder.decode(data)
            self._look_for_opening()
        elif self._place is _Place.THOUGHT:
            self.n_tokens += 1
            self._begins.append(self._end)
            self._read(self._decoder.decode(data))

    def _look_for_opening(self) -> None:
        text = self._text.lstrip()
        for family in self._families:
            for opening in family.openings:
                if text.startswith(opening):
                    self.marks, self._place, self._text = family, _Place.THOUGHT, ""
                    self._read(text[len(opening) :])
                    return
        if not any(opening.startswith(text) for family in self._families for opening in family.openings):
            self.ended()

    def _read(self, new: str) -> None:
        """More text of the thought: does it end here, does it begin what must not be cut?"""
        text = self._text + new
        begin = self._end - len(self._text)
        self._end += len(new)
        self._text = text[-self._kept :]
        assert self.marks is not None
        found = [place for mark in self.marks.closings if (place := text.find(mark)) >= 0]
        if found:
            place = begin + min(found)
            self.n_tokens -= sum(first >= place for first in self._begins)
            self.ended()
            return
        for opening, closing in self._unbroken:
            if self._closes is None and opening in text and closing not in text[text.rindex(opening) :]:
                self._closes = closing
            elif self._closes == closing and closing in text:
                self._closes, self._text = None, text[text.rindex(closing) + len(closing) :][-self._kept :]

    def _has_begun_to_close(self) -> bool:
        assert self.marks is not None
        return any(self._text.endswith(mark[:length]) for mark in self.marks.closings for length in range(1, len(mark)))


def opened_by(prompt_tail: str, families: Sequence[ThoughtMarks]) -> ThoughtMarks | None:
    """The marks of the thought that a prompt ending like this has begun; None when it has begun none."""
    tail = prompt_tail.rstrip()
    return next((marks for marks in families if marks.has_thought and tail.endswith(marks.openings)), None)
