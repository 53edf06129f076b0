"""The formats of JSON Schema (2020-12 validation, 7.3), each as a regular expression and where that is not enough a
check.

Knows: which texts a format allows, as its RFC says. Refuses to know: JSON.

Each pattern is as wide as its RFC: a narrower one would make something else out of what a model read. Where it is too
wide, `is_right` has the rest: leap seconds, lengths of labels.
"""

import re
from collections.abc import Callable
from functools import cache

from slmchat.errors import SlmError
from slmchat.schemas import python_regex

# RFC 3339, 5.6, with the days of each month
_LEAP_YEAR = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)"
DATE = (
    "([0-9]{4}-(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    "|[0-9]{4}-(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    "|[0-9]{4}-02-(0[1-9]|1[0-9]|2[0-8])"
    f"|{_LEAP_YEAR}-02-29)"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]{1,30})?"
_ZONE = "([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
# RFC 3339, appendix A
_TIME_PART = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
_DATE_PART = "([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)"
_DURATION = f"P([0-9]+W|{_TIME_PART}|{_DATE_PART}({_TIME_PART})?)"

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}"
# RFC 3986, 3.2.2 and appendix A
_H16 = "[0-9A-Fa-f]{1,4}"
_LS32 = f"({_H16}:{_H16}|{_IPV4})"
_IPV6 = "|".join(
    (
        f"({_H16}:){{6}}{_LS32}",
        f"::({_H16}:){{5}}{_LS32}",
        f"({_H16})?::({_H16}:){{4}}{_LS32}",
        f"(({_H16}:){{0,1}}{_H16})?::({_H16}:){{3}}{_LS32}",
        f"(({_H16}:){{0,2}}{_H16})?::({_H16}:){{2}}{_LS32}",
        f"(({_H16}:){{0,3}}{_H16})?::{_H16}:{_LS32}",
        f"(({_H16}:){{0,4}}{_H16})?::{_LS32}",
        f"(({_H16}:){{0,5}}{_H16})?::{_H16}",
        f"(({_H16}:){{0,6}}{_H16})?::",
    )
)
# Characters beyond ASCII, without those that reorder or hide text (RFC 3987, ucschar)
_BEYOND = (
    r"\u00a1-\u00ac\u00ae-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff00-\uffef"
    r"\U00010000-\U000dfffd"
)


def _uri(beyond: str) -> tuple[str, str]:
    """A URI, and a reference to one; `beyond`: characters beyond ASCII that may stand in both."""

    def some(chars: str) -> str:
        return f"([{chars}{beyond}]|%[0-9A-Fa-f]{{2}})"

    plain = r"A-Za-z0-9._~!$&'()*+,;=\-"
    in_path, authority_chars = some(plain + ":@"), some(plain)
    literal = rf"\[({_IPV6}|[vV][0-9A-Fa-f]+\.[{plain}:]+)\]"
    authority = f"({some(plain + ':')}*@)?({literal}|{authority_chars}*)(:[0-9]*)?"
    behind = rf"(\?{some(plain + ':@/?')}*)?(#{some(plain + ':@/?')}*)?"
    rooted = f"//{authority}(/{in_path}*)*|/({in_path}+(/{in_path}*)*)?"
    first = some(plain + "@")  # of a relative path: a colon would end a scheme
    absolute = rf"[A-Za-z][A-Za-z0-9+.\-]*:({rooted}|{in_path}+(/{in_path}*)*)?{behind}"
    return absolute, f"{absolute}|({rooted}|{first}+(/{in_path}*)*)?{behind}"


_URI, _URI_REFERENCE = _uri("")
_IRI, _IRI_REFERENCE = _uri(_BEYOND)
# RFC 6570, 2
_TEMPLATE_NAME = r"([A-Za-z0-9_]|%[0-9A-Fa-f]{2})(\.?([A-Za-z0-9_]|%[0-9A-Fa-f]{2}))*(:[1-9][0-9]{0,3}|\*)?"
_TEMPLATE = (
    rf"([!#-$&-;=?-\[\]_a-z~{_BEYOND}]|%[0-9A-Fa-f]{{2}}|"
    rf"\{{[+#./;?&=,!@|]?{_TEMPLATE_NAME}(,{_TEMPLATE_NAME})*\}})*"
)


def _host(beyond: str) -> str:
    """RFC 1123, 2.1: labels between dots; how long they may be is checked at the end."""
    label = f"[A-Za-z0-9{beyond}]+(-+[A-Za-z0-9{beyond}]+)*"
    return rf"{label}(\.{label})*"


def _mailbox(beyond: str) -> str:
    """RFC 5321, 4.1.2, Mailbox."""
    atom = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~\-{beyond}]+"
    quoted = rf'"([ !#-\[\]-~{beyond}]|\\[ -~])*"'
    return rf"({atom}(\.{atom})*|{quoted})@({_host(beyond)}|\[({_IPV4}|IPv6:({_IPV6}))\])"


_POINTER = r"(/([^~/]|[\x00-\x1f]|~[01])*)*"

PATTERNS = {
    "date": DATE,
    "time": _CLOCK + _ZONE,
    "date-time": f"{DATE}[Tt]{_CLOCK}{_ZONE}",
    "duration": _DURATION,
    "uuid": "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
    "email": _mailbox(""),
    "idn-email": _mailbox(_BEYOND),
    "hostname": _host(""),
    "idn-hostname": _host(_BEYOND),
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "uri-template": _TEMPLATE,
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(0|[1-9][0-9]*)(#|{_POINTER})",
    "regex": r"[\s\S]*",
}

# Formats of OpenAPI and of pydantic that say how a program keeps a value: any text or number of the type is right.
NOTES = frozenset(
    (
        *(
            "int32",
            "int64",
            "uint",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "float",
            "double",
            "decimal",
            "byte",
            "binary",
        ),
        *("password", "path", "file-path", "directory-path", "base64", "base64url", "text", "textarea", "multi-line"),
    )
)


def is_right(name: str, text: str) -> bool:
    """Whether the text is of the format; of a format that is not known everything is."""
    if name not in PATTERNS:
        return True
    if _compiled(name).fullmatch(text) is None:
        return False
    further = CHECKED.get(name)
    return further is None or further(text)


@cache
def _compiled(name: str) -> re.Pattern[str]:
    return python_regex.compiled(PATTERNS[name])


def _is_time(text: str) -> bool:
    """A leap second stands at 23:59:60 UTC alone (RFC 3339, 5.7)."""
    found = re.search(r"(\d\d):(\d\d):60(?:\.\d+)?(?:[Zz]|([+-])(\d\d):(\d\d))\Z", text, re.ASCII)
    if found is None:
        return True
    offset = int(f"{found[3]}1") * (int(found[4]) * 60 + int(found[5])) if found[3] else 0
    return (int(found[1]) * 60 + int(found[2]) - offset) % (24 * 60) == 23 * 60 + 59


def _is_host(text: str) -> bool:
    return len(text) <= 253 and all(map(_is_label, text.split(".")))


def _is_label(label: str) -> bool:
    """RFC 1035, 2.3.4; two dashes in the third place mark Punycode (RFC 5890, 2.3.1)."""
    if len(label) > 63:
        return False
    if label[2:4] != "--":
        return True
    if label[:2].lower() != "xn":
        return False
    try:
        return label[4:].encode().decode("punycode").encode("punycode").decode().lower() == label[4:].lower()
    except (UnicodeError, ValueError):
        return False


def _is_mailbox(text: str) -> bool:
    """RFC 5321, 4.5.3.1."""
    local, _, domain = text.rpartition("@")
    return len(local) <= 64 and (domain.startswith("[") or _is_host(domain))


def _is_regex(text: str) -> bool:
    try:
        python_regex.compiled(text)
    except SlmError:
        return False
    return True


# What a pattern cannot say.
CHECKED: dict[str, Callable[[str], bool]] = {
    "time": _is_time,
    "date-time": _is_time,
    "hostname": _is_host,
    "idn-hostname": _is_host,
    "email": _is_mailbox,
    "idn-email": _is_mailbox,
    "regex": _is_regex,
}
