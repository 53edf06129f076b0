"""The GGUF header, read defensively: what a model file says about itself, before any other library opens it.

Knows: the layout of GGUF 2 and 3 (docs/gguf.md of ggml), what llama.cpp's loader (gguf.cpp) refuses, limits that no
real file comes near.
Refuses to know: weights, chat templates as programs, where files come from, what a terminal may show (every string
here is untrusted: `sanitize` it before showing).

The file is read, not mapped: a mapped file that another process cuts kills this one with SIGBUS, which nothing can
catch. The same parser serves a header fetched by ranged requests (`read_header_bytes`, `NeedMore`).
"""

import math
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from slmchat.errors import ExitCode, SlmError
from slmchat.wording import part_in_bytes

# Limits. A count is also bounded by the bytes it needs in the file; these bound time and memory.
MAX_HEADER_BYTES = 64 << 20  # the largest vocabularies (262k tokens and 514k merges) need about 16 MiB
MAX_KEYS = 1 << 16  # real files have 20 to 100
MAX_TENSORS = 1 << 16  # real files have some hundreds; a mixture of experts in separate tensors some thousands
MAX_STRINGS = 1 << 22  # all strings of the header: each costs a step in Python; real files stay below 1 million
MAX_KEY_BYTES = (1 << 16) - 1  # docs/gguf.md: "at most 2^16-1 bytes long"
MAX_TENSOR_NAME_BYTES = 63  # ggml.h: GGML_MAX_NAME 64 with its NUL
MAX_DIMS = 4  # ggml.h: GGML_MAX_DIMS
MAX_ELEMENTS = (1 << 63) - 1  # ggml counts in int64
MAX_TEMPLATE_BYTES = 1 << 20  # a longer chat template is refused: half a template would be a wrong one
MAX_TEXT_BYTES = 64 << 10  # any other text is cut here and ends in "…": it is only shown
MAX_TOKENIZER_ARRAY = 64  # longer arrays under `tokenizer.` are counted, not kept: slm never reads a vocabulary
MAX_ARRAY = 1024  # arrays elsewhere are per layer (head_count_kv) or short lists (tags)
MAX_KEPT_ELEMENTS = 1 << 16  # of all kept arrays together; those behind it are only counted
FIRST_READ = 8 << 20  # most headers whole, so that few are parsed twice
FIRST_REMOTE_READ = 1 << 20  # vocabularies of 32k to 50k tokens; doubled until the header is there
MAX_REMOTE_BYTES = 8 << 20  # 262k tokens of SentencePiece; what is longer is estimated until it has been fetched

_UINT32, _FLOAT32, _STRING, _ARRAY = 4, 6, 8, 9
# gguf.h, enum gguf_type -> the letter of `struct`; 8 (string) and 9 (array) have no fixed size.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VALUES = {kind: struct.Struct("<" + letter) for kind, letter in _LETTERS.items()}
_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

# ggml.h, enum ggml_type -> name, elements of a block, bytes of a block (ggml-common.h: static_assert of each block_*).
GGML_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18), 42: ("Q2_0", 64, 18),
}  # fmt: skip

# llama.h, enum llama_ftype without LLAMA_FTYPE_MOSTLY_. LLAMA_FTYPE_GUESSED (1024) is a flag on top.
FILE_TYPES: Mapping[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE",
    39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
_GUESSED = 1024

_TEMPLATE_KEY = "tokenizer.chat_template"
_TOKENIZER_KEY, _SENTENCEPIECE = "tokenizer.ggml.model", "llama"
_VOCABULARY_KEY = "tokenizer.ggml.tokens"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
_GIVE = "give the path of a .gguf file"
_OLD = "convert the original model again with a current llama.cpp"
_AGAIN = "get the file again; `slm verify` checks the models that slm installed"

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was counted and not kept; `type` as llama.cpp writes it (`str`, `f32`, `i32`)."""

    type: str
    length: int


Value = Scalar | tuple[Scalar, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself. A property is None when the file does not say, or says nonsense."""

    version: int
    metadata: Mapping[str, Value]
    tensor_count: int
    file_size: int
    data_offset: int  # where the tensor data starts, in bytes
    parameters: int  # elements of all tensors
    tensor_bytes: int  # of all tensors whose type is known
    tensor_type: str | None  # the type that most bytes are in
    unknown_types: tuple[int, ...]  # ggml types newer than this table: the size check left their tensors out
    tensors: tuple["Tensor", ...] = ()
    spells_bytes: bool = True  # False: SentencePiece's tokenizer, and some byte has no token; llama.cpp dies of it

    @property
    def architecture(self) -> str | None:
        return self._text("general.architecture")

    @property
    def name(self) -> str | None:
        return self._text("general.name")

    @property
    def license(self) -> str | None:
        return self._text("general.license")

    @property
    def quantization(self) -> str | None:
        """As the writer names it (`Q4_K_M`); without a known `general.file_type`, the type most bytes are in."""
        file_type = self._count("general.file_type")
        named = None if file_type is None else FILE_TYPES.get(file_type & ~_GUESSED)
        return named or self.tensor_type

    @property
    def context_length(self) -> int | None:
        """The trained context length, in tokens."""
        return self._count(f"{self.architecture}.context_length")

    @property
    def block_count(self) -> int | None:
        return self._count(f"{self.architecture}.block_count")

    @property
    def embedding_length(self) -> int | None:
        return self._count(f"{self.architecture}.embedding_length")

    @property
    def head_count(self) -> int | tuple[int, ...] | None:
        return self._counts(f"{self.architecture}.attention.head_count")

    @property
    def head_count_kv(self) -> int | tuple[int, ...] | None:
        """Heads of the KV cache, one number or one for each layer; llama.cpp falls back to `head_count`."""
        counts = self._counts(f"{self.architecture}.attention.head_count_kv")
        return self.head_count if counts is None else counts

    @property
    def vocab_size(self) -> int | None:
        tokens = self.metadata.get(_VOCABULARY_KEY)
        if isinstance(tokens, SkippedArray):
            return tokens.length
        return len(tokens) if isinstance(tokens, tuple) else self._count(f"{self.architecture}.vocab_size")

    @property
    def chat_template(self) -> str | None:
        return self._text(_TEMPLATE_KEY)

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Further templates: `tokenizer.chat_template.NAME` -> NAME and its text."""
        prefix = _TEMPLATE_KEY + "."
        pairs = ((key, value) for key, value in self.metadata.items() if key.startswith(prefix))
        return {key[len(prefix) :]: value for key, value in pairs if isinstance(value, str)}

    @property
    def split_count(self) -> int | None:
        return self._count("split.count")

    @property
    def split_no(self) -> int | None:
        """Which part this is, from 0."""
        return self._count("split.no")

    @property
    def base_model_names(self) -> tuple[str, ...]:
        count = min(self._count("general.base_model.count") or 0, 64)
        names = (self._text(f"general.base_model.{number}.name") for number in range(count))
        return tuple(name for name in names if name)

    def _text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def _count(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if _is_count(value) else None  # type: ignore[return-value]

    def _counts(self, key: str) -> int | tuple[int, ...] | None:
        value = self.metadata.get(key)
        if isinstance(value, tuple):
            return value if value and all(map(_is_count, value)) else None  # type: ignore[return-value]
        return self._count(key)


class NeedMore(Exception):
    """The header goes on behind the bytes given; `at_least` bytes from the start of the file are needed."""

    def __init__(self, at_least: int) -> None:
        super().__init__(at_least)
        self.at_least = at_least


class _Damaged(Exception):
    """Why the header cannot be true, as the end of a sentence."""


class _Unsupported(Exception):
    """What the file is instead of something that can be used, as the end of a sentence, and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


def read_header(path: Path) -> Header:
    """The header of the file at `path`, or an SlmError: NO_MODEL, STORAGE or DAMAGED."""
    try:
        _check_regular(path)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            data = file.read(FIRST_READ)
            while True:
                try:
                    return read_header_bytes(data, size, name=str(path))
                except NeedMore as more:
                    wanted = max(more.at_least, 4 * len(data))
                    fresh = file.read(min(wanted, size) - len(data))
                    if not fresh:  # the file became shorter while it was read
                        size = len(data)
                    data += fresh
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SlmError(
            f"there is no file {path}.", exit_code=ExitCode.NO_MODEL, hint="`slm list` shows the installed models"
        ) from error
    except OSError as error:
        raise SlmError(
            f"{path} cannot be read: {error.strerror or error}.",
            exit_code=ExitCode.STORAGE,
            hint="check the permissions of the file and of its directory",
        ) from error


def read_headers(paths: Iterable[Path]) -> list[Header]:
    """The headers of all parts of a model; the first has the metadata. Raises `SlmError` as `read_header`."""
    return [read_header(path) for path in paths]


def read_remote_header(read: Callable[[int, int], bytes], file_size: int, *, name: str) -> Header | None:
    """The header of a file elsewhere; `read(start, end)` brings a part of it, or fewer bytes when it cannot.

    None when it is longer than `MAX_REMOTE_BYTES`, or when the part did not come. Raises SlmError (DAMAGED).
    """
    data = read(0, min(FIRST_REMOTE_READ, file_size))
    while True:
        try:
            return read_header_bytes(data, file_size, name=name)
        except NeedMore as more:
            wanted = min(max(more.at_least, 2 * len(data)), file_size)
            if more.at_least > MAX_REMOTE_BYTES:
                return None
            fresh = read(len(data), min(wanted, MAX_REMOTE_BYTES))
            if not fresh:
                return None
            data += fresh


def _check_regular(path: Path) -> None:
    """Opening a FIFO would wait for ever, a device may never end."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # a NUL or half a surrogate pair in the path: no file can be called that
        raise FileNotFoundError from error
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise SlmError(f"{path} is {what}.", exit_code=ExitCode.STORAGE, hint=_GIVE)


def read_header_bytes(data: bytes | bytearray | memoryview, file_size: int, *, name: str) -> Header:
    """The header at the start of `data`, the first bytes of a file of `file_size` bytes that errors call `name`.

    Raises SlmError when the file cannot be a sound GGUF, NeedMore when the header is longer than `data`.
    """
    try:
        if bytes(data[:4]) != b"GGUF":
            looks, hint = _appearance(bytes(data[:4096]), file_size)
            raise _Unsupported(f"is not a GGUF file: it is {looks}", hint)
        return _Parser(data, file_size).header()
    except _Unsupported as other:
        raise SlmError(f"{name} {other}.", exit_code=ExitCode.DAMAGED, hint=other.hint) from other
    except _Damaged as damage:
        raise SlmError(f"{name} is damaged: {damage}.", exit_code=ExitCode.DAMAGED, hint=_AGAIN) from damage


def split_parts(path: Path) -> tuple[Path, ...]:
    """All files of a model by name alone: `NAME-00001-of-00003.gguf` gives three, any other name itself."""
    match = _PART.fullmatch(path.name)
    if match is None or not 1 <= int(match[2]) <= int(match[3]):
        return (path,)
    return tuple(path.with_name(f"{match[1]}-{no:05}-of-{match[3]}.gguf") for no in range(1, int(match[3]) + 1))


def is_projector(header: Header) -> bool:
    """Whether the file is the vision or audio half of a model (an mmproj), which cannot chat alone."""
    return header.architecture == "clip" or header.metadata.get("general.type") == "mmproj"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class _Parser:
    """One pass over the header. `position` never goes back; nothing is read behind `file_size`."""

    def __init__(self, data: bytes | bytearray | memoryview, file_size: int) -> None:
        self.data = data
        self.available = min(len(data), file_size)
        self.file_size = file_size
        self.position = 4  # behind the magic
        self.strings_left = MAX_STRINGS
        self.elements_left = MAX_KEPT_ELEMENTS
        self.vocabulary = (0, 0)  # where the texts of the tokens begin and end

    def header(self) -> Header:
        version = self.version()
        tensor_count = self.count("tensors", MAX_TENSORS, 24)
        key_count = self.count("metadata keys", MAX_KEYS, 13)
        metadata: dict[str, Value] = {}
        for _ in range(key_count):
            key, value = self.entry()
            if key in metadata:
                raise _Damaged(f"its header has the key {_quote(key)} twice")
            metadata[key] = value
        alignment = metadata.get("general.alignment", 32)  # docs/gguf.md: the default is 32
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise _Damaged("its alignment is not a power of two")
        tensors = self.tensors(tensor_count)
        data_offset = -(-self.position // alignment) * alignment
        sizes = _tensor_sizes(tensors, alignment, data_offset, self.file_size)
        return Header(
            version=version,
            metadata=MappingProxyType(metadata),
            tensor_count=tensor_count,
            file_size=self.file_size,
            data_offset=data_offset,
            parameters=sum(tensor.elements for tensor in tensors),
            tensor_bytes=sum(sizes.values()),
            tensor_type=max(sizes, key=lambda name: sizes[name], default=None),
            unknown_types=tuple(sorted({tensor.type for tensor in tensors} - GGML_TYPES.keys())),
            tensors=tuple(tensors),
            spells_bytes=metadata.get(_TOKENIZER_KEY) != _SENTENCEPIECE or self.spells_bytes(),
        )

    def spells_bytes(self) -> bool:
        """Whether every byte is a token, as `<0x41>` or, of ASCII, as itself (llama-vocab.cpp: byte_to_token)."""
        begin, end = self.vocabulary
        texts = bytes(self.data[begin:end])
        for byte in range(256):
            spellings = (b"<0x%02X>" % byte, bytes([byte])) if byte < 0x80 else (b"<0x%02X>" % byte,)
            if not any(_U64.pack(len(spelling)) + spelling in texts for spelling in spellings):
                return False
        return True

    def version(self) -> int:
        version = self.u32()
        if version in (2, 3):
            return version
        if version and not version & 0xFFFF:  # the check of gguf.cpp
            raise _Unsupported("is a big-endian GGUF, and slm reads little-endian ones", "get the little-endian file")
        if version == 0:
            raise _Damaged("its header says GGUF version 0")
        if version == 1:
            raise _Unsupported("is GGUF version 1, which llama.cpp no longer reads", _OLD)
        raise _Unsupported(
            f"says it is GGUF version {version}, and slm reads 2 and 3", "a newer slm may read it: update slm"
        )

    def count(self, what: str, limit: int, least_bytes: int) -> int:
        """A number of things that each need at least `least_bytes` in the file."""
        count = self.u64()
        if count > limit or count * least_bytes > self.file_size:
            raise _Damaged(f"its header claims {count} {what} in a file of {self.file_size} bytes")
        return count

    def entry(self) -> tuple[str, Value]:
        key = self.name("a metadata key", MAX_KEY_BYTES)
        kind = self.u32()
        if kind == _STRING:
            return key, self.text(key)
        if kind == _ARRAY:
            begin = self.position
            value = self.array(key)
            if key == _VOCABULARY_KEY:
                self.vocabulary = begin, self.position
            return key, value
        if key == "general.alignment" and kind != _UINT32:
            raise _Damaged("its alignment is not a power of two")
        if key == "adapter.lora.alpha" and kind != _FLOAT32:  # llama.cpp aborts on any other type
            raise _Damaged("its adapter.lora.alpha is not a 32-bit float")
        return key, self.scalar(key, kind)

    def scalar(self, key: str, kind: int) -> Scalar:
        layout = _VALUES.get(kind)
        if layout is None:
            raise _Damaged(f"the key {_quote(key)} has the unknown value type {kind}")
        value: Scalar = layout.unpack_from(self.data, self.take(layout.size))[0]
        return value

    def array(self, key: str) -> tuple[Scalar, ...] | SkippedArray:
        kind, length = self.u32(), self.u64()
        if kind == _ARRAY:
            raise _Damaged(f"the key {_quote(key)} holds arrays inside an array")
        if kind != _STRING and kind not in _VALUES:
            raise _Damaged(f"the key {_quote(key)} holds an array of the unknown value type {kind}")
        width = 8 if kind == _STRING else _VALUES[kind].size
        if length * width > self.file_size or (kind == _STRING and length > self.strings_left):
            raise _Damaged(f"the key {_quote(key)} claims {length} elements in a file of {self.file_size} bytes")
        limit = MAX_TOKENIZER_ARRAY if key.startswith("tokenizer.") else MAX_ARRAY
        if length > min(limit, self.elements_left):
            if kind == _STRING:
                self.skip_strings(length)
            else:
                self.take(length * width)
            return SkippedArray(_TYPE_NAMES[kind], length)
        self.elements_left -= length
        if kind == _STRING:
            return tuple(self.text(key) for _ in range(length))
        return struct.unpack_from(f"<{length}{_LETTERS[kind]}", self.data, self.take(length * width))

    def skip_strings(self, count: int) -> None:
        """The vocabulary: the one loop that is long, so it touches nothing but the lengths."""
        self.strings_left -= count
        data, position, last, unpack = self.data, self.position, self.available - 8, _U64.unpack_from
        for done in range(count):
            if position > last:
                self.position = position
                self.take(8 * (count - done))  # raises
            position += 8 + unpack(data, position)[0]
        self.position = position
        self.take(0)

    def text(self, key: str) -> str:
        length = self.string_length()
        is_template = key.startswith(_TEMPLATE_KEY)
        if is_template and length > MAX_TEMPLATE_BYTES:
            raise _Damaged(f"its chat template has {length} bytes, and slm reads {MAX_TEMPLATE_BYTES} at most")
        start = self.take(length)
        if is_template or length <= MAX_TEXT_BYTES:
            return str(self.data[start : start + length], "utf-8", "replace")
        return str(self.data[start : start + MAX_TEXT_BYTES], "utf-8", "ignore") + "…"

    def name(self, what: str, limit: int) -> str:
        """A string that must be right: a key or the name of a tensor."""
        length = self.string_length()
        if not 0 < length <= limit:
            raise _Damaged(f"{what} in its header has a length of {length} bytes")
        start = self.take(length)
        try:
            return str(self.data[start : start + length], "utf-8")
        except UnicodeDecodeError:
            raise _Damaged(f"{what} in its header is not valid UTF-8") from None

    def tensors(self, count: int) -> list["Tensor"]:
        tensors: list[Tensor] = []
        names: set[str] = set()
        for _ in range(count):
            name = self.name("a tensor name", MAX_TENSOR_NAME_BYTES)
            if name in names:
                raise _Damaged(f"its header has the tensor {_quote(name)} twice")
            names.add(name)
            dims = self.u32()
            if dims > MAX_DIMS:
                raise _Damaged(f"the tensor {_quote(name)} has {dims} dimensions")
            # no dimensions: a single number; a side of 0: no elements. Both are legal (llama.cpp #25596)
            shape = struct.unpack_from(f"<{dims}Q", self.data, self.take(8 * dims))
            if max(shape, default=0) > MAX_ELEMENTS or math.prod(filter(None, shape)) > MAX_ELEMENTS:
                raise _Damaged(f"the tensor {_quote(name)} has an impossible shape")
            elements = math.prod(shape)
            tensors.append(Tensor(name, shape, elements, self.u32(), self.u64()))
        return tensors

    def string_length(self) -> int:
        self.strings_left -= 1
        if self.strings_left < 0:
            raise _Damaged(f"its header holds more than {MAX_STRINGS} strings")
        return self.u64()

    def u32(self) -> int:
        value: int = _U32.unpack_from(self.data, self.take(4))[0]
        return value

    def u64(self) -> int:
        value: int = _U64.unpack_from(self.data, self.take(8))[0]
        return value

    def take(self, size: int) -> int:
        """The position of the next `size` bytes, which are there."""
        start = self.position
        end = start + size
        if end > self.available:
            if end > self.file_size:
                if size > self.file_size:
                    raise _Damaged(f"its header claims {size} bytes for one value in a file of {self.file_size} bytes")
                raise _Damaged(
                    f"it is cut short inside its header, {self.file_size:,} of at least {end:,} bytes are there"
                )
            if end > MAX_HEADER_BYTES:
                raise _Damaged(f"its header is larger than {MAX_HEADER_BYTES} bytes")
            raise NeedMore(end)
        self.position = end
        return start


@dataclass(frozen=True, slots=True)
class Tensor:
    """One entry of the tensor table. `shape` in ggml's order: the row, which blocks may not cross, comes first."""

    name: str
    shape: tuple[int, ...]
    elements: int
    type: int
    offset: int

    @property
    def type_name(self) -> str | None:
        """ggml's name of the type, None for one newer than the table."""
        return GGML_TYPES[self.type][0] if self.type in GGML_TYPES else None

    @property
    def size(self) -> int | None:
        """Bytes of the data, None for a type newer than the table."""
        if self.type not in GGML_TYPES:
            return None
        _, block, block_bytes = GGML_TYPES[self.type]
        return self.elements // block * block_bytes


def _tensor_sizes(tensors: list[Tensor], alignment: int, data_offset: int, file_size: int) -> dict[str, int]:
    """Bytes of each tensor type. gguf.cpp wants every tensor to start exactly where the one before it ends, padded."""
    sizes: dict[str, int] = {}
    expected: int | None = 0  # None behind a tensor whose size is not known
    end = 0
    for tensor in tensors:
        if tensor.offset % alignment:
            raise _Damaged(f"the tensor {_quote(tensor.name)} is not aligned to {alignment} bytes")
        if (expected is None and tensor.offset < end) or (expected is not None and tensor.offset < expected):
            raise _Damaged(f"the tensor {_quote(tensor.name)} overlaps the one before it")
        if expected is not None and tensor.offset > expected:
            raise _Damaged(f"there is a gap before the tensor {_quote(tensor.name)}")
        if tensor.type not in GGML_TYPES:
            expected, end = None, tensor.offset + 1
            continue
        type_name, block, block_bytes = GGML_TYPES[tensor.type]
        if (tensor.shape[0] if tensor.shape else 1) % block:
            raise _Damaged(f"the rows of the tensor {_quote(tensor.name)} are not whole blocks of {type_name}")
        size = tensor.elements // block * block_bytes
        sizes[type_name] = sizes.get(type_name, 0) + size
        end = tensor.offset + size
        expected = -(-end // alignment) * alignment
    if tensors and data_offset + end > file_size:
        raise _Damaged(f"it is cut short, {part_in_bytes(file_size, data_offset + end)} are there")
    return sizes


def _quote(name: str) -> str:
    """A name of a hostile file, short enough for one sentence, and without a line end that would make it two."""
    return "'" + "".join(character if character.isprintable() else "?" for character in name[:64]) + "'"


# How a file that is no GGUF starts, what it is, and what to do about it. The old formats: llama.h and ggml.h of 2023,
# where a magic such as 0x67676a74 ('ggjt') is stored little-endian.
_LFS = "run `git lfs pull` in that repository, or download the file itself"
_PYTORCH = "convert it with llama.cpp's convert_hf_to_gguf.py"
_LOOKS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for", _LFS),
    (b"tjgg", "a model in the old format ggjt, from before GGUF", _OLD),
    (b"lmgg", "a model in the old format ggml, from before GGUF", _OLD),
    (b"fmgg", "a model in the old format ggmf, from before GGUF", _OLD),
    (b"algg", "a LoRA adapter in the old format ggla", _OLD),
    (b"nsgg", "a saved llama.cpp session (ggsn)", "give the model instead"),
    (b"qsgg", "a saved llama.cpp sequence state (ggsq)", "give the model instead"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"\x80\x02", "a PyTorch checkpoint (pickle)", _PYTORCH),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
)


def _appearance(start: bytes, file_size: int) -> tuple[str, str]:
    """What the first bytes look like, and a hint."""
    if file_size == 0 or not start:
        return "empty", _AGAIN
    if start[:4] == b"PK\x03\x04" and b"data.pkl" in start:
        return "a PyTorch checkpoint", _PYTORCH
    for prefix, looks, hint in _LOOKS:
        if start.startswith(prefix):
            return looks, hint
    if b"GGUF".startswith(start):
        return f"cut after {file_size} bytes", _AGAIN
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < file_size:
        return "a safetensors file", _PYTORCH
    if not start.strip(b"\0"):
        return "filled with zeros, like a download that was never finished", _AGAIN
    if re.match(rb"\s*<(!doctype\s+html|html|head|\?xml)", start, re.IGNORECASE):
        return "a web page, perhaps an error or a login page saved under this name", _AGAIN
    if not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", start) and _is_utf8(start):
        return "text", _GIVE
    return f"something else, it starts with the bytes {start[:4].hex(' ')}", _GIVE


def _is_utf8(start: bytes) -> bool:
    """A last character may be cut by the end of what was read."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(start) - 4 and len(start) > 4
    return True
