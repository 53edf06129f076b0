"""What a GGUF header says, as records: metadata, tensors, and the tables that give its numbers their names.

Knows: the keys that slm asks for, ggml's types and llama.cpp's file types.
Refuses to know: bytes (gguf_parser.py), files (gguf.py), what a terminal may show (every string here is untrusted:
`sanitize` it before showing).
"""

from collections.abc import Mapping

from slmchat.lazy_dataclasses import dataclass

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


TEMPLATE_KEY = "tokenizer.chat_template"
VOCABULARY_KEY = "tokenizer.ggml.tokens"

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was counted and not kept; `type` as llama.cpp writes it (`str`, `f32`, `i32`)."""

    type: str
    length: int


Value = Scalar | tuple[Scalar, ...] | SkippedArray


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
    tensors: tuple[Tensor, ...] = ()
    is_whole: bool = True  # False: only the beginning was read; keys may be missing, and there are no tensors
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
    def vocab_size(self) -> int | None:
        tokens = self.metadata.get(VOCABULARY_KEY)
        if isinstance(tokens, SkippedArray):
            return tokens.length
        return len(tokens) if isinstance(tokens, tuple) else self._count(f"{self.architecture}.vocab_size")

    @property
    def chat_template(self) -> str | None:
        return self._text(TEMPLATE_KEY)

    @property
    def named_templates(self) -> Mapping[str, str]:
        """Further templates: `tokenizer.chat_template.NAME` -> NAME and its text."""
        prefix = TEMPLATE_KEY + "."
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


def is_projector(header: Header) -> bool:
    """Whether the file is the vision or audio half of a model (an mmproj), which cannot chat alone."""
    return header.architecture == "clip" or header.metadata.get("general.type") == "mmproj"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
