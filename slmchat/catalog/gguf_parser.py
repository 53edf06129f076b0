"""The bytes of a GGUF header, read defensively: one pass that believes nothing.

Knows: the layout of GGUF 2 and 3 (docs/gguf.md of ggml), what llama.cpp's loader (gguf.cpp) refuses, limits that no
real file comes near.
Refuses to know: weights, chat templates as programs, where the bytes come from, whole sentences (gguf.py).
"""

import math
import struct
from contextlib import suppress
from types import MappingProxyType

from slmchat.catalog.gguf_header import (
    GGML_TYPES,
    TEMPLATE_KEY,
    VOCABULARY_KEY,
    Header,
    Scalar,
    SkippedArray,
    Tensor,
    Value,
)
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

_UINT32, _FLOAT32, _STRING, _ARRAY = 4, 6, 8, 9
# gguf.h, enum gguf_type -> the letter of `struct`; 8 (string) and 9 (array) have no fixed size.
_LETTERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_VALUES = {kind: struct.Struct("<" + letter) for kind, letter in _LETTERS.items()}
_TYPE_NAMES = ("u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

_TOKENIZER_KEY, _SENTENCEPIECE = "tokenizer.ggml.model", "llama"
OLD = "convert the original model again with a current llama.cpp"


class NeedMore(Exception):
    """The header goes on behind the bytes given; `at_least` bytes from the start of the file are needed."""

    def __init__(self, at_least: int) -> None:
        super().__init__(at_least)
        self.at_least = at_least


class Damaged(Exception):
    """Why the header cannot be true, as the end of a sentence."""


class Unsupported(Exception):
    """What the file is instead of something that can be used, as the end of a sentence, and what to do."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


class HeaderParser:
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
                raise Damaged(f"its header has the key {_quote(key)} twice")
            metadata[key] = value
        alignment = metadata.get("general.alignment", 32)  # docs/gguf.md: the default is 32
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise Damaged("its alignment is not a power of two")
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

    def beginning(self) -> Header:
        """What stands in the bytes that are there: keys up to the one that goes on behind them, no tensors."""
        version = self.version()
        tensor_count = self.count("tensors", MAX_TENSORS, 24)
        metadata: dict[str, Value] = {}
        with suppress(NeedMore):
            for _ in range(self.count("metadata keys", MAX_KEYS, 13)):
                key, value = self.entry()
                metadata[key] = value
        return Header(
            version=version,
            metadata=MappingProxyType(metadata),
            tensor_count=tensor_count,
            file_size=self.file_size,
            data_offset=self.position,
            parameters=0,
            tensor_bytes=0,
            tensor_type=None,
            unknown_types=(),
            is_whole=False,
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
            raise Unsupported("is a big-endian GGUF, and slm reads little-endian ones", "get the little-endian file")
        if version == 0:
            raise Damaged("its header says GGUF version 0")
        if version == 1:
            raise Unsupported("is GGUF version 1, which llama.cpp no longer reads", OLD)
        raise Unsupported(
            f"says it is GGUF version {version}, and slm reads 2 and 3", "a newer slm may read it: update slm"
        )

    def count(self, what: str, limit: int, least_bytes: int) -> int:
        """A number of things that each need at least `least_bytes` in the file."""
        count = self.u64()
        if count > limit or count * least_bytes > self.file_size:
            raise Damaged(f"its header claims {count} {what} in a file of {self.file_size} bytes")
        return count

    def entry(self) -> tuple[str, Value]:
        key = self.name("a metadata key", MAX_KEY_BYTES)
        kind = self.u32()
        if kind == _STRING:
            return key, self.text(key)
        if kind == _ARRAY:
            begin = self.position
            value = self.array(key)
            if key == VOCABULARY_KEY:
                self.vocabulary = begin, self.position
            return key, value
        if key == "general.alignment" and kind != _UINT32:
            raise Damaged("its alignment is not a power of two")
        if key == "adapter.lora.alpha" and kind != _FLOAT32:  # llama.cpp aborts on any other type
            raise Damaged("its adapter.lora.alpha is not a 32-bit float")
        return key, self.scalar(key, kind)

    def scalar(self, key: str, kind: int) -> Scalar:
        layout = _VALUES.get(kind)
        if layout is None:
            raise Damaged(f"the key {_quote(key)} has the unknown value type {kind}")
        value: Scalar = layout.unpack_from(self.data, self.take(layout.size))[0]
        return value

    def array(self, key: str) -> tuple[Scalar, ...] | SkippedArray:
        kind, length = self.u32(), self.u64()
        if kind == _ARRAY:
            raise Damaged(f"the key {_quote(key)} holds arrays inside an array")
        if kind != _STRING and kind not in _VALUES:
            raise Damaged(f"the key {_quote(key)} holds an array of the unknown value type {kind}")
        width = 8 if kind == _STRING else _VALUES[kind].size
        if length * width > self.file_size or (kind == _STRING and length > self.strings_left):
            raise Damaged(f"the key {_quote(key)} claims {length} elements in a file of {self.file_size} bytes")
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
        is_template = key.startswith(TEMPLATE_KEY)
        if is_template and length > MAX_TEMPLATE_BYTES:
            raise Damaged(f"its chat template has {length} bytes, and slm reads {MAX_TEMPLATE_BYTES} at most")
        start = self.take(length)
        if is_template or length <= MAX_TEXT_BYTES:
            return str(self.data[start : start + length], "utf-8", "replace")
        return str(self.data[start : start + MAX_TEXT_BYTES], "utf-8", "ignore") + "…"

    def name(self, what: str, limit: int) -> str:
        """A string that must be right: a key or the name of a tensor."""
        length = self.string_length()
        if not 0 < length <= limit:
            raise Damaged(f"{what} in its header has a length of {length} bytes")
        start = self.take(length)
        try:
            return str(self.data[start : start + length], "utf-8")
        except UnicodeDecodeError:
            raise Damaged(f"{what} in its header is not valid UTF-8") from None

    def tensors(self, count: int) -> list[Tensor]:
        tensors: list[Tensor] = []
        names: set[str] = set()
        for _ in range(count):
            name = self.name("a tensor name", MAX_TENSOR_NAME_BYTES)
            if name in names:
                raise Damaged(f"its header has the tensor {_quote(name)} twice")
            names.add(name)
            dims = self.u32()
            if dims > MAX_DIMS:
                raise Damaged(f"the tensor {_quote(name)} has {dims} dimensions")
            # no dimensions: a single number; a side of 0: no elements. Both are legal (llama.cpp #25596)
            shape = struct.unpack_from(f"<{dims}Q", self.data, self.take(8 * dims))
            if max(shape, default=0) > MAX_ELEMENTS or math.prod(filter(None, shape)) > MAX_ELEMENTS:
                raise Damaged(f"the tensor {_quote(name)} has an impossible shape")
            elements = math.prod(shape)
            tensors.append(Tensor(name, shape, elements, self.u32(), self.u64()))
        return tensors

    def string_length(self) -> int:
        self.strings_left -= 1
        if self.strings_left < 0:
            raise Damaged(f"its header holds more than {MAX_STRINGS} strings")
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
                    raise Damaged(f"its header claims {size} bytes for one value in a file of {self.file_size} bytes")
                raise Damaged(
                    f"it is cut short inside its header, {self.file_size:,} of at least {end:,} bytes are there"
                )
            if end > MAX_HEADER_BYTES:
                raise Damaged(f"its header is larger than {MAX_HEADER_BYTES} bytes")
            raise NeedMore(end)
        self.position = end
        return start


def _tensor_sizes(tensors: list[Tensor], alignment: int, data_offset: int, file_size: int) -> dict[str, int]:
    """Bytes of each tensor type. gguf.cpp wants every tensor to start exactly where the one before it ends, padded."""
    sizes: dict[str, int] = {}
    expected: int | None = 0  # None behind a tensor whose size is not known
    end = 0
    for tensor in tensors:
        if tensor.offset % alignment:
            raise Damaged(f"the tensor {_quote(tensor.name)} is not aligned to {alignment} bytes")
        if (expected is None and tensor.offset < end) or (expected is not None and tensor.offset < expected):
            raise Damaged(f"the tensor {_quote(tensor.name)} overlaps the one before it")
        if expected is not None and tensor.offset > expected:
            raise Damaged(f"there is a gap before the tensor {_quote(tensor.name)}")
        if tensor.type not in GGML_TYPES:
            expected, end = None, tensor.offset + 1
            continue
        type_name, block, block_bytes = GGML_TYPES[tensor.type]
        if (tensor.shape[0] if tensor.shape else 1) % block:
            raise Damaged(f"the rows of the tensor {_quote(tensor.name)} are not whole blocks of {type_name}")
        size = tensor.elements // block * block_bytes
        sizes[type_name] = sizes.get(type_name, 0) + size
        end = tensor.offset + size
        expected = -(-end // alignment) * alignment
    if tensors and data_offset + end > file_size:
        raise Damaged(f"it is cut short, {part_in_bytes(file_size, data_offset + end)} are there")
    return sizes


def _quote(name: str) -> str:
    """A name of a hostile file, short enough for one sentence, and without a line end that would make it two."""
    return "'" + "".join(character if character.isprintable() else "?" for character in name[:64]) + "'"
