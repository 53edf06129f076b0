"""How unsure a model was, shown in its text: underlined where it was, bold as well where it was very unsure.

Knows: the limits, the styles, the legend, an answer that is written as plain text.
Refuses to know: where probabilities come from.
"""

import math

from slmchat.terminal.console import Console
from slmchat.terminal.screen import BOLD_UNDERLINE, UNDERLINE, ControlSequences, Style

# Below these probabilities a token is marked: one the model would rather not have, and one of many.
_UNSURE, _VERY_UNSURE = math.log(0.5), math.log(0.1)

LEGEND = ControlSequences(
    f"{UNDERLINE.on}underlined{UNDERLINE.off}: the model gave it less than 50 %; "
    f"{BOLD_UNDERLINE.on}bold too{BOLD_UNDERLINE.off}: less than 10 %\n"
)


def style_of(logprob: float) -> Style | None:
    """How the text of a token with this log-probability looks; None: as any other."""
    if logprob >= _UNSURE:
        return None
    return BOLD_UNDERLINE if logprob < _VERY_UNSURE else UNDERLINE


class AnswerText:
    """An answer on stdout as plain text, piece by piece, each told before by how probable its tokens were."""

    def __init__(self, console: Console, *, shows_doubt: bool, is_raw: bool) -> None:
        """`shows_doubt`: unsure tokens are marked; `is_raw`: the user wants the terminal to obey the model."""
        self._console = console
        self._shows_doubt = shows_doubt
        self._is_raw = is_raw
        self._doubt = 0.0

    def logprob(self, logprob: float) -> None:
        self._doubt = min(self._doubt, logprob)

    def write(self, text: str) -> None:
        if self._is_raw:
            self._console.send(ControlSequences(text))
        else:
            self._console.write(text, style_of(self._doubt) if self._shows_doubt else None)
        self._doubt = 0.0
