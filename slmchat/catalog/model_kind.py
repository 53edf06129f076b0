"""What kind of GGUF a file is, told from its header alone: a model that answers, or one of the many others.

Knows: the signs of each kind, what to say of it, and which command is the right one instead.
Refuses to know: what values inside the header llama.cpp survives (header_limits.py), how a file is loaded.
"""

from collections.abc import Sequence
from enum import Enum

from slmchat.catalog import architectures, header_limits, lora
from slmchat.catalog.gguf_header import Header, is_projector
from slmchat.catalog.records import BASE_TAG, EMBEDDING_TAG
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.toml_schema import shown

_OTHERS = "slm list --available shows models that answer"
_NEWER = "a newer slm may: update it"
# enum ggml_type of ggml.h: "support has been removed".
_REMOVED_TYPES = frozenset((4, 5, 31, 32, 33, 36, 37, 38))
# llama.h, enum llama_pooling_type: 0 none; 1 mean, 2 cls, 3 last make one vector of a text, 4 rank a number.
_POOLS_TO_VECTOR, _POOLS_TO_RANK = (1, 2, 3), 4


class FileKind(Enum):
    """The kinds of GGUF files. The value is what such a file is, as the middle of a sentence."""

    CHAT = "a chat model"
    BASE = "a base model"
    EMBEDDING = "an embedding model, which turns text into numbers and cannot answer"
    RERANKER = "a reranker, which scores texts and cannot answer"
    ENCODER = "the encoder of a text model, which cannot answer by itself"
    ENCODER_DECODER = "an encoder-decoder model, and slm runs models that only decode"
    DIFFUSION = "a diffusion model for text, and slm runs models that write one token after the other"
    IMAGE = "an image model, and slm runs models that answer with text"
    SPEECH = "a speech model, and slm runs models that answer with text"
    DRAFT_HEAD = "a draft head, which only guesses for the model that it was made for"
    PROJECTOR = "a projector (mmproj), the half of a model that sees pictures or hears"
    ADAPTER = "a LoRA adapter, not a model"
    CONTROL_VECTOR = "a control vector, not a model"
    IMATRIX = "an importance matrix (imatrix), which is for quantizing a model"
    VOCABULARY = "a vocabulary without weights"
    PART = "one of the later parts of a model in several files"
    NAMELESS = "a GGUF that does not say which architecture it has"
    UNKNOWN_ARCHITECTURE = "a model of an architecture that the installed llama.cpp does not know"
    UNKNOWN_TYPES = "a model whose tensors the installed llama.cpp cannot read"


_GENERATES = (FileKind.CHAT, FileKind.BASE)
# Those that slm installs. An embedding model is a model of its own right, though nothing answers with it.
_INSTALLABLE = (*_GENERATES, FileKind.EMBEDDING, FileKind.RERANKER, FileKind.ADAPTER)

_HINTS = {
    FileKind.EMBEDDING: f"vectors: slm embed -m MODEL; {_OTHERS}",
    FileKind.PROJECTOR: "give it to its model: slm chat MODEL --mmproj FILE",
    FileKind.DRAFT_HEAD: "--draft takes a whole small model with the same vocabulary",
    FileKind.UNKNOWN_ARCHITECTURE: _NEWER,
    FileKind.PART: "give the first part, the one with 00001 in its name",
}


@dataclass(frozen=True, slots=True)
class ModelKind:
    """What a file is. `detail`: what of it makes it so (its architecture, its types), "" when the kind says all."""

    kind: FileKind
    detail: str = ""

    @property
    def can_generate(self) -> bool:
        """Whether it writes text one token after the other, so that it can chat, answer or go on with a text."""
        return self.kind in _GENERATES

    @property
    def is_installable(self) -> bool:
        """Whether `slm pull` and `slm add` take it."""
        return self.kind in _INSTALLABLE

    @property
    def is_embedding(self) -> bool:
        return self.kind is FileKind.EMBEDDING

    @property
    def tags(self) -> tuple[str, ...]:
        """What the library notes of it, where it does not simply chat."""
        return {FileKind.EMBEDDING: (EMBEDDING_TAG,), FileKind.BASE: (BASE_TAG,)}.get(self.kind, ())

    @property
    def in_words(self) -> str:
        """What it is, for people: `an embedding model (bert), which …`."""
        noun, comma, rest = self.kind.value.partition(",")
        return f"{noun} ({self.detail}){comma}{rest}" if self.detail else self.kind.value

    def refusal(self, name: str, header: Header | None = None) -> SlmError:
        """The error for such a file where a model that answers belongs. `name` as it is shown."""
        if self.kind is FileKind.ADAPTER:
            return lora.not_a_model(name, header)
        if self.kind is FileKind.UNKNOWN_ARCHITECTURE:
            message = f"{name} has the architecture '{self.detail}', which the installed llama.cpp does not know."
        else:
            message = f"{name} is {self.in_words}."
        hint = _HINTS.get(self.kind, _OTHERS)
        if self.kind is FileKind.UNKNOWN_TYPES:
            hint = _NEWER if "newer" in self.detail else "get another quantization of the model"
        # an embedding model is sound and installed on purpose: the command is the wrong one, not the file
        is_sound = self.kind in (FileKind.EMBEDDING, FileKind.RERANKER)
        return SlmError(message, hint=hint, exit_code=ExitCode.USAGE if is_sound else ExitCode.DAMAGED)


def kind_of(parts: Sequence[Header]) -> ModelKind:
    """The kind of a file, from its header or from those of all parts of a split model (the first has the metadata)."""
    header = parts[0]
    return (
        _no_model(header)
        or _unreadable(parts)
        or _no_generator(header)
        or ModelKind(FileKind.CHAT if header.chat_template or header.named_templates else FileKind.BASE)
    )


def check_generates(parts: Sequence[Header], name: str) -> None:
    """Raise `SlmError` unless llama.cpp can load this and write text with it: USAGE (embeddings) or DAMAGED."""
    found = kind_of(parts)
    if not found.can_generate:
        raise found.refusal(name, parts[0])
    header_limits.check(parts, name)


def check_embeds(parts: Sequence[Header], name: str) -> None:
    """Raise `SlmError` unless llama.cpp can load this and make vectors with it: USAGE (it answers) or DAMAGED."""
    found = kind_of(parts)
    if found.is_embedding:
        header_limits.check(parts, name, writes=False)
        return
    if found.kind not in (*_GENERATES, FileKind.RERANKER):
        raise found.refusal(name, parts[0])
    raise usage_error(
        f"{name} is {found.in_words}: it makes no vectors.",
        "embedding models: slm list --available; slm pull all-minilm",
    )


def check_installable(parts: Sequence[Header], name: str) -> ModelKind:
    """What it is, if slm can do anything with it; else `SlmError` (DAMAGED)."""
    found = kind_of(parts)
    if not found.is_installable:
        raise found.refusal(name, parts[0])
    if found.can_generate and _is_all(parts):
        header_limits.check(parts, name)
    return found


def _is_all(parts: Sequence[Header]) -> bool:
    """Whether nothing of the model is missing: no part of a split one, nothing of a header that was read in part."""
    return (parts[0].split_count or 1) <= len(parts) and all(part.is_whole for part in parts)


def _no_model(header: Header) -> ModelKind | None:
    """Files that hold something else than a model of llama.cpp."""
    architecture = header.architecture
    if lora.is_adapter(header):
        return ModelKind(FileKind.ADAPTER)
    if is_projector(header):
        return ModelKind(FileKind.PROJECTOR)
    if header.metadata.get("general.type") == "imatrix" or "imatrix.datasets" in header.metadata:
        return ModelKind(FileKind.IMATRIX)
    if architecture == architectures.CONTROL_VECTOR:
        return ModelKind(FileKind.CONTROL_VECTOR)
    if architecture in architectures.IMAGE or (architecture not in architectures.KNOWN and _draws(header)):
        return ModelKind(FileKind.IMAGE, shown(architecture or ""))
    if architecture == architectures.WHISPER:
        return ModelKind(FileKind.SPEECH, architecture)
    if header.split_no:
        return ModelKind(FileKind.PART)
    if not architecture:
        return ModelKind(FileKind.NAMELESS)
    if architecture not in architectures.KNOWN:
        return ModelKind(FileKind.UNKNOWN_ARCHITECTURE, shown(architecture))
    return None


def _draws(header: Header) -> bool:
    """Image generators often name no architecture, but their tensors are called as nobody else's."""
    return any(tensor.name.startswith(architectures.IMAGE_TENSORS) for tensor in header.tensors)


def _unreadable(parts: Sequence[Header]) -> ModelKind | None:
    """Models of an architecture that is known, but without weights, or with weights that cannot be read."""
    types = sorted({number for part in parts for number in part.unknown_types})
    if types:
        words = ("removed from llama.cpp" if number in _REMOVED_TYPES else "newer than it" for number in types)
        told = ", ".join(f"type {number}, {word}" for number, word in zip(types, words, strict=True))
        return ModelKind(FileKind.UNKNOWN_TYPES, told)
    if _is_all(parts) and not any(part.tensor_count for part in parts):
        return ModelKind(FileKind.VOCABULARY)
    return None


_BY_ARCHITECTURE = (
    (architectures.EMBEDDING, FileKind.EMBEDDING),
    (architectures.ENCODER, FileKind.ENCODER),
    (architectures.ENCODER_DECODER, FileKind.ENCODER_DECODER),
    (architectures.DIFFUSION, FileKind.DIFFUSION),
    (architectures.DRAFT_HEAD, FileKind.DRAFT_HEAD),
    (architectures.SPEECH, FileKind.SPEECH),
)


def _no_generator(header: Header) -> ModelKind | None:
    """Models that llama.cpp loads, and that do not write one token after the other."""
    architecture = header.architecture
    pooling = header.metadata.get(f"{architecture}.pooling_type")
    if pooling == _POOLS_TO_RANK and not isinstance(pooling, bool):
        return ModelKind(FileKind.RERANKER, shown(architecture or ""))
    for names, kind in _BY_ARCHITECTURE:
        if architecture in names:
            return ModelKind(kind, shown(architecture or ""))
    # what sentence-transformers has made of a decoder: gte-qwen2, qwen3-embedding, e5-mistral
    is_pooled = pooling in _POOLS_TO_VECTOR and not isinstance(pooling, bool)
    if is_pooled or header.metadata.get(f"{architecture}.attention.causal") is False:
        return ModelKind(FileKind.EMBEDDING, shown(architecture or ""))
    return None
