"""What comes from elsewhere: checked once, here, and made into records that cannot be wrong.

A Hub, a mirror, a proxy or a captive portal may answer anything. What it says becomes a path, a size, a hash or a line
of text only through this module. Its records are frozen and check themselves: code that holds a `PlannedFile` needs no
further look before it makes a path of its hash.

Knows: what a hash, a commit, a size, a name below a directory and a line of text may be; the answers of a Hub.
Refuses to know: HTTP, files, what becomes of a record. Whatever writes or deletes checks again that it stays below its
own directory (private_files.py): a right name can still lie behind a wrong link.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 1 << 44
"""The largest size of a file that is believed: 16 TiB, the most that ext4 holds."""

_MOST_NAME = 1024  # characters of a name with its folders; PATH_MAX is 4096 bytes
_MOST_PART = 255  # bytes of one part of it: NAME_MAX of all file systems in use
_MOST_FILES = 100_000  # of one repository
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class MalformedAnswer(ValueError):
    """What is wrong with something from elsewhere, as the end of a sentence."""


class NotAHub(MalformedAnswer):
    """Not even the form of an answer is right: a login page of the network, another server's, a broken mirror's."""


def sha256(value: object, what: str) -> str:
    """A SHA-256: 64 lower-case hexadecimal digits. Raises `MalformedAnswer`, as all functions here."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise MalformedAnswer(f"{what} is not a sha256 of 64 hexadecimal digits")
    return value


def is_commit(value: object) -> bool:
    """Whether `value` is a whole Git commit: 40 lower-case hexadecimal digits."""
    return isinstance(value, str) and bool(_COMMIT.fullmatch(value))


def commit(value: object, what: str) -> str:
    """A Git commit."""
    if not is_commit(value):
        raise MalformedAnswer(f"{what} is not a commit of 40 hexadecimal digits")
    return str(value)


def size(value: object, what: str) -> int:
    """The size of a file in bytes. `True` and `1.0` are not sizes."""
    if type(value) is not int or not 0 < value <= MOST_BYTES:
        raise MalformedAnswer(f"{what} is not a number of bytes from 1 to {MOST_BYTES}")
    return value


def is_contained(path: object) -> bool:
    """Whether `path` is relative, with forward slashes, and cannot leave the directory it is put into.

    Backslashes and colons are separators and drives to Windows, and a part that ends in a dot or a space loses it
    there: `.. ` would be `..`.
    """
    if not isinstance(path, str) or not path.isprintable() or set(path) & set("\\:") or len(path) > _MOST_NAME:
        return False
    parts = path.split("/")
    return all(part and part[-1] not in ". " and len(part.encode()) <= _MOST_PART for part in parts)


def is_hub_file(path: object) -> bool:
    """Whether `path` can be a GGUF inside a repository."""
    return isinstance(path, str) and path.lower().endswith(".gguf") and is_contained(path)


def line_or_none(value: object, longest: int) -> str | None:
    """One line of text that may be shown, or None: what cannot be one is left out."""
    is_line = isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= longest
    return str(value) if is_line else None


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file that a fetch brings. `size` in bytes; `sha256` of the whole file. None: nobody states it.

    Raises `MalformedAnswer`: no object of this class holds a name, a size or a hash that cannot be one.
    """

    name: str
    size: int | None
    sha256: str | None

    def __post_init__(self) -> None:
        if not is_contained(self.name):
            raise MalformedAnswer("the name of a file leads out of its directory")
        if self.size is not None:
            size(self.size, f"the size of {self.name}")
        if self.sha256 is not None:
            sha256(self.sha256, f"the hash of {self.name}")


@dataclass(frozen=True, slots=True)
class HubListing:
    """What a Hub says about one revision of a repository: its commit, its GGUF files, its licence.

    Names that no path can be made of are left out: nobody can ask for them. `refused`: files of which something else
    cannot be true, with the reason; it counts when one of them is asked for.
    """

    commit: str
    files: Mapping[str, PlannedFile]
    refused: Mapping[str, str]
    license_name: str | None
    license_link: str | None
    is_gated: bool

    @classmethod
    def of(cls, document: object) -> "HubListing":
        """The answer of `/api/models/OWNER/REPO`. Raises `MalformedAnswer`."""
        if not isinstance(document, dict):
            raise NotAHub("its answer is not a description of a repository")
        siblings = document.get("siblings", [])
        if not isinstance(siblings, list) or len(siblings) > _MOST_FILES:
            raise MalformedAnswer("its list of files is not one")
        files: dict[str, PlannedFile] = {}
        refused: dict[str, str] = {}
        for entry in siblings:
            name = _name_of(entry)
            if is_hub_file(name):
                try:
                    files[name] = _listed(name, entry)
                except MalformedAnswer as reason:
                    refused[name] = str(reason)
        card = document.get("cardData")
        card = card if isinstance(card, dict) else {}
        link = line_or_none(card.get("license_link"), 500)
        return cls(
            commit(document.get("sha"), "its revision"),
            files,
            refused,
            line_or_none(card.get("license_name"), 200) or line_or_none(card.get("license"), 200),
            link if link is not None and re.fullmatch(r"https://[!-~]+", link) else None,
            document.get("gated") in ("auto", "manual"),
        )

    @property
    def names(self) -> list[str]:
        """Of all GGUF files."""
        return [*self.files, *self.refused]

    def file(self, name: str) -> PlannedFile:
        """The file of this name, which is in `names`. Raises `MalformedAnswer`."""
        if name in self.refused:
            raise MalformedAnswer(self.refused[name])
        return self.files[name]


def _name_of(entry: object) -> str:
    name = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(name, str):
        raise MalformedAnswer("its list of files has an entry without a name")
    return name


def _listed(name: str, entry: Mapping[str, object]) -> PlannedFile:
    lfs = entry.get("lfs")
    if lfs is not None and not isinstance(lfs, dict):
        raise MalformedAnswer(f"its description of {name} is not one")
    return PlannedFile(name, entry.get("size"), lfs.get("sha256") if lfs else None)  # type: ignore[arg-type] # it checks


@dataclass(frozen=True, slots=True)
class HubHeaders:
    """What a Hub says about one file before it sends it. None: it does not say.

    An ETag that is not a SHA-256 (of a file outside of LFS, of a mirror) says nothing about the content.
    """

    size: int | None
    sha256: str | None

    @classmethod
    def of(cls, stated_size: object, etag: object) -> "HubHeaders":
        """Raises `MalformedAnswer` for a size that cannot be one."""
        is_hash = isinstance(etag, str) and _SHA256.fullmatch(etag)
        return cls(None if stated_size is None else size(stated_size, "the size"), str(etag) if is_hash else None)


def content_range(value: str | None) -> tuple[int, int | None]:
    """Start and whole size of an HTTP `Content-Range: bytes START-END/SIZE`; None for `*`. Raises `MalformedAnswer`."""
    match = re.fullmatch(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15}|\*)", value or "")
    if match is None:
        raise MalformedAnswer("it sends a part of the file without saying which")
    return int(match[1]), None if match[3] == "*" else int(match[3])


def parsed_json(data: bytes | str) -> Any:
    """The value in JSON from elsewhere. Raises `NotAHub` also for what is nested too deeply."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        head = data[:200].decode("utf-8", "replace") if isinstance(data, bytes) else data[:200]
        is_page = re.match(r"\ufeff?\s*<", head)
        raise NotAHub("it answers with a web page" if is_page else "its answer is not JSON") from error
