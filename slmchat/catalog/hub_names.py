"""Names on the Hub as people type and paste them: `hf:OWNER/REPO`, addresses from a browser, names of other tools.

Knows: the forms of such a name, and the one that slm writes (`hf:OWNER/REPO/FILE@QUANT#REVISION`).
Refuses to know: what there is on the Hub, what a name of the catalog is (registry.py).
"""

import re
from urllib.parse import parse_qs, unquote

from slmchat.catalog.file_names import quantization_of
from slmchat.catalog.untrusted import is_contained, is_hub_file
from slmchat.lazy_dataclasses import dataclass
from slmchat.lazy_patterns import lazy_pattern

HINT = "write hf:OWNER/REPO, hf:OWNER/REPO@Q4_K_M or hf:OWNER/REPO/FILE.gguf, then #REVISION if you like"

QUANTIZATION = lazy_pattern(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
_REPO_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
REPO = lazy_pattern(rf"(?!.*(?:--|\.\.)){_REPO_PART}/{_REPO_PART}")
_REVISION = lazy_pattern(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")  # a commit, a branch or a tag
_NAME = lazy_pattern(
    r"(?P<repo>[^/@#:]+/[^/@#:]+)(?:/(?P<file>[^@#]+?))?(?:[@:](?P<quantization>[^@#:]+))?(?:#(?P<revision>[^@#]+))?"
)
_ADDRESS = lazy_pattern(
    r"(?P<scheme>https?://)?(?:(?:www\.)?huggingface\.co|hf\.co)/(?P<rest>.+)", re.IGNORECASE | re.DOTALL
)
_ANY_ADDRESS = lazy_pattern(r"(?:https?|hf|huggingface)://|(?:www\.)?huggingface\.co/|hf\.co/|hf:", re.IGNORECASE)
# Pages of a repository, with a revision behind them.
_PAGES = frozenset({"tree", "blob", "resolve", "raw", "blame", "commit", "commits"})
# `huggingface.co/datasets/OWNER/REPO` and the like look as if `datasets` owned something.
_NO_OWNERS = frozenset({"datasets", "spaces", "docs", "blog", "papers", "collections", "models", "settings"})


@dataclass(frozen=True, slots=True)
class HubName:
    """What a name says. `file` is a GGUF in the repository; a `quantization` goes with a repository only."""

    repo: str
    file: str | None = None
    quantization: str | None = None
    revision: str | None = None

    @property
    def without_quantization(self) -> str:
        """As slm writes it: `hf:OWNER/REPO/FILE#REVISION`."""
        return f"hf:{self.repo}{f'/{self.file}' if self.file else ''}{f'#{self.revision}' if self.revision else ''}"

    @property
    def text(self) -> str:
        at = f"@{self.quantization}" if self.quantization else ""
        return f"hf:{self.repo}{f'/{self.file}' if self.file else ''}{at}{f'#{self.revision}' if self.revision else ''}"

    @property
    def is_right(self) -> bool:
        """Whether each part can be what it says; a name of this kind leads nowhere but into its repository."""
        return bool(
            REPO.fullmatch(self.repo)
            and self.repo.partition("/")[0].lower() not in _NO_OWNERS
            and (self.file is None or (is_hub_file(self.file) and self.quantization is None))
            and (self.quantization is None or QUANTIZATION.fullmatch(self.quantization))
            and (self.revision is None or (_REVISION.fullmatch(self.revision) and is_contained(self.revision)))
        )


def is_hub_name(text: str) -> bool:
    """Whether `text` is meant as a name on the Hub, rightly written or not."""
    return _ANY_ADDRESS.match(text) is not None


def parse(text: str) -> HubName | None:
    """The name that `text` is; None when it is malformed, or leads to something else than a repository of models."""
    text = text.strip()
    address = _ADDRESS.fullmatch(text)
    if address is not None:
        found = _of_address(address["rest"], is_link=address["scheme"] is not None)
    elif text.lower().startswith(("hf:", "huggingface://")):
        found = _of_name(text.partition(":")[2].removeprefix("//"))
    else:
        return None
    return found if found is not None and found.is_right else None


def _of_name(text: str) -> HubName | None:
    revised, at, quantization = text.rpartition("@")
    if at and "#" in revised:  # the quantization may also come last
        text = f"@{quantization}#".join(revised.split("#", 1))
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    name = HubName(match["repo"], match["file"], match["quantization"], match["revision"])
    # Ollama's and Docker's word for "any"
    return HubName(name.repo, name.file, None, name.revision) if name.quantization in ("latest", "LATEST") else name


def _of_address(rest: str, *, is_link: bool) -> HubName | None:
    """What stands behind the host: `OWNER/REPO`, then perhaps `tree`, `blob` or another page, a revision and a path."""
    if is_link:
        rest = rest.partition("#")[0]  # a place on the page
    rest, _, query = rest.partition("?")
    parts = [unquote(part) for part in rest.rstrip("/").split("/")]
    if is_link and parts[2:3] == ["discussions"]:
        return HubName("/".join(parts[:2]))
    if len(parts) < 4 or parts[2] not in _PAGES:
        shown = parse_qs(query).get("show_file_info", [""])[0]  # what a click on a file of the page leaves there
        return HubName("/".join(parts[:2]), shown) if shown and len(parts) == 2 else _of_name("/".join(parts))
    revision = parts[3] if parts[3] != "main" else None
    path = "/".join(parts[4:])
    if path.lower().endswith(".gguf"):
        return HubName("/".join(parts[:2]), path, None, revision)
    return HubName("/".join(parts[:2]), None, quantization_of(path) if path else None, revision)
