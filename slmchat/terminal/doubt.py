"""How unsure a model was, shown in its text: underlined where it was, bold as well where it was very unsure.

Knows: the limits, the styles, the legend. Refuses to know: where probabilities come from.
"""

import math

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
