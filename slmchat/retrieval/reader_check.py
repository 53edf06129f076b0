"""Whether a model can be believed when it says that a text has the answer to a question, or has it not.

Some models say No to everything, some Yes, and most of the small ones what comes to mind. So a model is asked first
about two short texts, each with a question that it answers and one that it leaves open. Only who is right about all
four has a say. That is asked once for a model, and kept.

Knows: the texts, the rule. Refuses to know: how a model is asked (answers.py), in which words (prompts.py).
"""

from collections.abc import Sequence

_LIBRARY = (
    "Lindow Library\nOpening hours\nThe library is open from Tuesday to Saturday, 10:00 to 18:00. A reader's card "
    "costs 12 euros a year; children pay nothing."
)
_TOMATOES = (
    "Garden notes\nTomatoes\nTomatoes are sown in March and planted out after the last frost. They need a stake, and "
    "water every second day."
)

KNOWN: Sequence[tuple[str, str, bool]] = (
    (_LIBRARY, "How much does a reader's card cost?", True),
    (_LIBRARY, "Who is the director of the library?", False),
    (_TOMATOES, "When are tomatoes sown?", True),
    (_TOMATOES, "How much do tomato seeds cost?", False),
)
"""A text, a question, and whether the text answers it."""


def is_reader(yes: Sequence[float]) -> bool:
    """Whether a model with these probabilities of Yes to `KNOWN` is right each time."""
    return all((each > 0.5) is is_stated for each, (_, _, is_stated) in zip(yes, KNOWN, strict=True))
