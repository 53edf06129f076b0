"""How unsure a model was, shown in its text: underlined where it was, bold as well where it was very unsure.

Knows: the limits, the control sequences, the legend. Refuses to know: where probabilities come from.
"""

import math

# Below these probabilities a token is marked: one the model would rather not have, and one of many.
_UNSURE, _VERY_UNSURE = math.log(0.5), math.log(0.1)

_UNDERLINE, _NO_UNDERLINE = "\x1b[4m", "\x1b[24m"
_BOLD, _NO_BOLD = "\x1b[1m", "\x1b[22m"

LEGEND = (
    f"{_UNDERLINE}underlined{_NO_UNDERLINE}: the model gave it less than 50 %; "
    f"{_BOLD}{_UNDERLINE}bold too{_NO_UNDERLINE}{_NO_BOLD}: less than 10 %"
)


def marked(text: str, logprob: float) -> str:
    """The text of a token with this log-probability, as a terminal shows it. White space around it is left alone."""
    core = text.strip()
    if logprob >= _UNSURE or not core:
        return text
    before, _, after = text.partition(core)
    shown = f"{_UNDERLINE}{core}{_NO_UNDERLINE}"
    return f"{before}{f'{_BOLD}{shown}{_NO_BOLD}' if logprob < _VERY_UNSURE else shown}{after}"
