"""Numbers in sentences: "1 message", "1,024 messages".

Knows: how a number and its noun agree in English. Refuses to know: which sentence it is.
"""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number with its noun: `counted(1, "value")` is "1 value". `plural`: where an "s" does not make it."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
