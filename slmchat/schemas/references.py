"""Where the `$ref`s of a schema lead, inside of this one document.

Knows: JSON pointers, $id and id, anchors. Refuses to know: other documents. Nothing is ever fetched or read: a `$ref`
that leads out of the document is an error where somebody needs it.
"""

import itertools
import json
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from slmchat.schemas import keywords
from slmchat.schemas.refusals import unusable

# What makes a plain look into the document at "#/…" wrong or not enough: a name, and a reference that needs one.
_NAME = re.compile(r'"(?:\$id|id|\$anchor|\$dynamicAnchor)": "')
_NEEDS_NAMES = re.compile(r'"(?:\$dynamicRef|\$recursiveRef)"|"\$ref": "(?!#/|#")')
# The base of a document that does not name its own.
_NO_BASE = "http://schema.invalid/"


def flattened(document: Any, text: str) -> Any:
    """The schema with every `$ref` written as a pointer from its top; `text`: the same as JSON text.

    A reference whose target is not in the document stays as it is.
    """
    if not isinstance(document, dict):
        return document
    # the name of the whole changes nothing for "#/…"
    n_own = sum(isinstance(document.get(keyword), str) for keyword in ("$id", "id", "$anchor"))
    has_names = sum(1 for _ in itertools.islice(_NAME.finditer(text), n_own + 1)) > n_own
    return _flattened(text) if has_names or _NEEDS_NAMES.search(text) else document


@lru_cache(maxsize=2)
def _flattened(text: str) -> Any:
    """Kept for a while: the grammar of a schema, its check, and what the model is told of it all begin with this."""
    return _Flattening(json.loads(text)).whole()


def target(document: Any, reference: Any, place: str) -> Any:
    """What a flattened `$ref` leads to. Raises `SlmError` (USAGE) when it is not in the document."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise unusable(
            f"the $ref in {place} leads outside of the schema ({reference}); only its own parts are followed"
        )
    found = _at(document, unquote(reference[1:]))
    if found is _NOTHING:
        raise unusable(f"the $ref in {place} leads to {reference}, which is not there")
    return found


_NOTHING = object()


def _at(document: Any, pointer: str) -> Any:
    found = document
    for step in pointer.split("/")[1:]:
        step = keywords.unescaped(step)
        if isinstance(found, dict) and step in found:
            found = found[step]
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return _NOTHING
    return found


class _Flattening:
    def __init__(self, document: Any) -> None:
        self.document = document
        self.pointers: dict[str, str] = {}  # an absolute URI, with an anchor where it has one -> pointer
        self.resources: dict[str, str] = {_NO_BASE: ""}  # a base -> pointer of the resource

    def whole(self) -> Any:
        self.collect(self.document, _NO_BASE, "")
        return self.written(self.document, _NO_BASE)

    def base_of(self, schema: Any, base: str) -> str:
        """The base inside of a schema: its own $id (2019 on) or id (draft 4), as long as it is text."""
        for keyword in ("$id", "id"):
            name = schema.get(keyword)
            if isinstance(name, str) and not name.startswith("#"):
                return urldefrag(_joined(base, name)).url
        return base

    def collect(self, schema: Any, base: str, pointer: str) -> None:
        if not isinstance(schema, dict):
            return
        own = self.base_of(schema, base)
        if own != base:
            self.resources.setdefault(own, pointer)
            self.pointers.setdefault(own, pointer)
        for keyword in ("$anchor", "$dynamicAnchor", "$id", "id"):
            name = schema.get(keyword)
            if isinstance(name, str) and ("nchor" in keyword or name.startswith("#")):
                self.pointers.setdefault(f"{own}#{name.lstrip('#')}", pointer)
        for step, part in keywords.below(schema):
            self.collect(part, own, pointer + step)

    def written(self, schema: Any, base: str) -> Any:
        if not isinstance(schema, dict):
            return schema
        own = self.base_of(schema, base)
        made = dict(schema)
        for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            if isinstance(schema.get(keyword), str):
                del made[keyword]
                made["$ref"] = self.resolved(schema[keyword], own)
        for keyword, value in schema.items():
            kind = keywords.HOLDS_SCHEMAS.get(keyword)
            if kind is None:
                continue
            if isinstance(value, list) and kind != "named":
                made[keyword] = [self.written(part, own) for part in value]
            elif isinstance(value, dict) and kind == "one":
                made[keyword] = self.written(value, own)
            elif isinstance(value, dict) and kind == "named":
                made[keyword] = {name: self.written(part, own) for name, part in value.items()}
        return made

    def resolved(self, reference: str, base: str) -> str:
        """The reference as a pointer from the top; as it is when it leads out."""
        absolute = _joined(base, reference)
        url, fragment = urldefrag(absolute)
        fragment = unquote(fragment)
        if fragment and not fragment.startswith("/"):
            found = self.pointers.get(f"{url}#{fragment}")
            return reference if found is None else f"#{found}"
        resource = self.resources.get(url, self.pointers.get(url))
        for begin in (resource, "" if reference.startswith("#") else None):
            # draft 4 wrote ids that name nothing; then "#/…" means the document
            if begin is not None and _at(self.document, begin + fragment) is not _NOTHING:
                return f"#{begin}{fragment}"
        return reference


def _joined(base: str, name: str) -> str:
    try:
        if name.startswith("#"):  # urljoin drops the path of a scheme that it does not know (urn:)
            return urldefrag(base).url + name
        return urljoin(base, name)
    except ValueError:
        return name
