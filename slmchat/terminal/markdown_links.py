"""Where an address or a link starts and ends in a line, and which addresses a terminal may be given.

Knows: the forms `[text](address)`, `<address>` and a bare address, and what of them may still come when the text stops.
Refuses to know: other inline markup, how a link is shown.
"""

import re

# Longest address that is taken for one, in characters.
ADDRESS_LIMIT = 2000
SCHEMES = ("http://", "https://")
# What follows `[text]`: a destination without spaces (parentheses paired) or in <>, and perhaps a title.
TARGET = re.compile(
    r"\([ \t]*(<[^<>]*>|[^\s()<][^\s()]*(?:\([^\s()]*\)[^\s()]*)*|)"
    r"(?:[ \t]+(?:\"[^\"]{0,200}\"|'[^']{0,200}'|\([^()]{0,200}\)))?[ \t]*\)"
)
MAYBE_TARGET = re.compile(r"\([ \t]*(?:<[^<>]*>?|[^\s<]\S*)?(?:[ \t]+(?:[\"'(].{0,200})?)?")
ADDRESS = re.compile(r"https?://[!-;=?-_a-{}~]+")  # printable ASCII without < > ` |
BRACKETED = re.compile(r"<((?:https?://|mailto:)[!-;=?-~]+|[A-Za-z0-9_.+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)>")
MAYBE_BRACKETED = re.compile(
    r"<(?:https?:/?|https?://[!-;=?-~]*|mailto:[!-;=?-~]*|[A-Za-z0-9_.+-]+(?:@[A-Za-z0-9.-]*)?)?"
)


def closing_bracket(text: str, opening: int) -> int:
    """Where the bracket that opens there is closed, or -1. Escaped brackets do not count."""
    depth, position = 0, opening
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
        elif char == "[":
            depth += 1
        elif char == "]":
            depth -= 1
            if not depth:
                return position
        position += 1
    return -1


def without_punctuation(address: str) -> str:
    """An address in a sentence does not end with the sentence's marks, nor with a bracket it did not open."""
    while address:
        last = address[-1]
        if last in ".,:;!?'\"*_~" or (last in ")]}" and address.count(last) > address.count("([{"[")]}".index(last)])):
            address = address[:-1]
        else:
            break
    return address
