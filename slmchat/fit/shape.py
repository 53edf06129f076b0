"""The shape of a model: what of a GGUF header decides how much memory it needs and how fast it can be.

Knows: llama.cpp's keys (src/llama-arch.cpp) and its rules for them (src/llama-hparams.cpp, src/models/*.cpp of the
llama.cpp in llama-cpp-python 0.3.36): heads, sliding windows and their patterns, shared KV layers, recurrent state,
experts. Refuses to know: devices, sizes of contexts, where a header came from.

A header is untrusted: a value that is missing or nonsense counts as its llama.cpp default, or as the larger memory.
"""

import re
from collections.abc import Iterable, Sequence

from slmchat.catalog.architectures import RECURRENT, RECURRENT_WITHOUT_KV_HEADS
from slmchat.catalog.gguf_header import Header, SkippedArray, Tensor
from slmchat.lazy_dataclasses import dataclass

MAX_LAYERS = 512
"""llama-hparams.h: LLAMA_MAX_LAYERS. A header that claims more is not a model that llama.cpp loads."""

F32 = 4

# Architectures whose layers llama.cpp gives a sliding window: every how many layers one sees everything
# (`load_swa_pattern`), and the window where the header states none. In those of _DENSE_FIRST that one is the first.
_PATTERNS: dict[str, tuple[int, int]] = {
    "gemma2": (2, 4096), "gemma3": (6, 0), "gemma3n": (5, 0), "gemma4": (1, 0), "cohere2": (4, 0), "cohere2moe": (4, 0),
    "afmoe": (4, 0), "exaone-moe": (4, 128), "gpt-oss": (2, 0), "olmo2": (4, 0), "llama4": (4, 8192),
    "smallthinker": (4, 0), "mellum": (4, 0), "plamo3": (8, 0), "laguna": (4, 0), "muse-glimmer": (4, 0),
}  # fmt: skip
_DENSE_FIRST = {"cohere2moe", "laguna", "smallthinker"}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}  # whatever the header says, unless that is 0

# Of those that have a state instead of a KV cache: every how many layers one has a KV cache.
_RECURRENT_BY_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}

# Architectures whose per-layer embeddings llama.cpp can leave on the disk and read row by row (TENSOR_READ_LAZY in its
# src/models/; Gemma 3n is not marked there), and the size of that tensor from which it does so unasked (llama.h:
# LLAMA_LAZY_MODE_AUTO).
_READ_BY_ROW = {"gemma4", "qwen4exp"}
_PER_LAYER_EMBEDDINGS = "per_layer_token_embd.weight"
LAZY_ANYWAY = 4 << 30

_BLOCK = re.compile(r"blk\.(\d+)\.")
_EXPERTS = re.compile(r"_(?:gate_up|gate|up|down)_exps\.")
# Looked up row by row, not multiplied: of these a token reads next to nothing.
_EMBEDDINGS = {"token_embd.weight", _PER_LAYER_EMBEDDINGS, "position_embd.weight", "token_types.weight"}


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer. `key`, `value`: elements that a token puts into its KV cache; 0 for a layer without one."""

    key: int
    value: int
    window: int | None  # tokens that it looks back, None: all
    state_bytes: int  # of a recurrent layer, whatever the context
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class Matrix:
    """A tensor that is multiplied with: its type, rows, and bytes (`active_bytes` of them are read for one token).

    `rows` of each of its matrices (ggml's second dimension), `all_rows` of all experts together, each of so many
    `columns` (0: not known).
    """

    type_name: str
    rows: int
    all_rows: int
    bytes: int
    active_bytes: int
    is_output: bool
    columns: int = 0


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What memory and speed follow from. Sizes in bytes, lengths in tokens or elements."""

    context_length: int | None
    layers: tuple[Layer, ...]
    matrices: tuple[Matrix, ...]
    vocabulary: int
    merges: int
    embedding: int
    feed_forward: int  # the widest of its layers; of a mixture of experts those used together
    attention: int  # all query heads together, the widest layer
    experts: int
    experts_used: int
    weight_bytes: int
    lazy_bytes: int = 0  # of the weights: what may stay on the disk and be read row by row
    heads: int = 0  # of queries, in the widest layer
    unused_bytes: int = 0  # of the file beside `weight_bytes`: heads that predict tokens ahead, which are not loaded

    @property
    def is_mixture(self) -> bool:
        return self.experts > 0

    @property
    def active_bytes(self) -> int:
        """Bytes of weights that one token reads: of experts only those that are chosen."""
        return sum(matrix.active_bytes for matrix in self.matrices)


def shape_of(parts: Sequence[Header]) -> ModelShape:
    """The shape of a model from its header, or from those of all its parts (the first has the metadata)."""
    reader = _Reader(parts[0])
    tensors, sizes, unused = reader.loaded(tensor for part in parts for tensor in part.tensors)
    names = {tensor.name for tensor in tensors}
    is_tied = "output.weight" not in names
    share = reader.expert_share()
    return ModelShape(
        context_length=parts[0].context_length,
        layers=tuple(reader.layer(index, size) for index, size in enumerate(sizes)),
        matrices=tuple(_matrices(tensors, share, is_tied=is_tied)),
        vocabulary=parts[0].vocab_size or _rows_of(tensors, "token_embd.weight"),
        merges=reader.length("tokenizer.ggml.merges"),
        embedding=reader.number("embedding_length"),
        feed_forward=reader.feed_forward(),
        attention=max((reader.heads[i] * reader.key_size(i) for i in range(reader.n_layer)), default=0),
        experts=reader.number("expert_count"),
        experts_used=max(reader.per_layer("expert_used_count"), default=0),
        weight_bytes=sum(part.tensor_bytes for part in parts) - unused,
        lazy_bytes=_lazy_bytes(reader.architecture, tensors),
        heads=max(reader.heads, default=0),
        unused_bytes=unused,
    )


def _lazy_bytes(architecture: str, tensors: Iterable[Tensor]) -> int:
    if architecture not in _READ_BY_ROW:
        return 0
    return sum(tensor.size or 0 for tensor in tensors if tensor.name == _PER_LAYER_EMBEDDINGS)


def _rows_of(tensors: Iterable[Tensor], name: str) -> int:
    return next((tensor.shape[1] for tensor in tensors if tensor.name == name and len(tensor.shape) > 1), 0)


def _matrices(tensors: Iterable[Tensor], expert_share: float, *, is_tied: bool) -> Iterable[Matrix]:
    for tensor in tensors:
        is_output = tensor.name == "output.weight" or (is_tied and tensor.name == "token_embd.weight")
        if len(tensor.shape) < 2 or (tensor.name in _EMBEDDINGS and not is_output) or not tensor.size:
            continue
        share = expert_share if _EXPERTS.search(tensor.name) else 1.0
        all_rows = tensor.elements // tensor.shape[0]
        active = round(tensor.size * share)
        yield Matrix(tensor.type_name or "", tensor.shape[1], all_rows, tensor.size, active, is_output, tensor.shape[0])


class _Reader:
    """The keys of one header, by llama.cpp's rules and defaults."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.architecture = header.architecture or ""
        self.n_layer = min(header.block_count or 0, MAX_LAYERS)
        self.heads = self.per_layer("attention.head_count")
        self.kv_heads = [
            own if own is not None else heads
            for own, heads in zip(self.optional_per_layer("attention.head_count_kv"), self.heads, strict=True)
        ]
        self.window, self.windowed = self._windows()
        # the last ones predict tokens ahead (multi-token prediction): the main context gives them no cache, and the
        # loader leaves their tensors in the file (llama_model_params.load_mtp, TENSOR_SKIP)
        self.n_used = self.n_layer - min(self.number("nextn_predict_layers"), self.n_layer)
        self.n_with_kv = self._layers_with_kv()

    def loaded(self, tensors: Iterable[Tensor]) -> tuple[list[Tensor], list[int], int]:
        """The tensors that are loaded, their bytes in each layer, and the bytes of those that stay in the file."""
        kept, sizes, unused = [], [0] * self.n_layer, 0
        for tensor in tensors:
            block = _BLOCK.match(tensor.name)
            index = None if block is None else int(block[1])
            if index is not None and self.n_used <= index < self.n_layer:
                unused += tensor.size or 0
                continue
            kept.append(tensor)
            if index is not None and index < self.n_layer:
                sizes[index] += tensor.size or 0
        return kept, sizes, unused

    def number(self, key: str, default: int = 0) -> int:
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and value >= 0 else default

    def length(self, key: str) -> int:
        value = self.header.metadata.get(key)
        return value.length if isinstance(value, SkippedArray) else len(value) if isinstance(value, tuple) else 0

    def per_layer(self, key: str) -> list[int]:
        return [value or 0 for value in self.optional_per_layer(key)]

    def optional_per_layer(self, key: str) -> list[int | None]:
        """A number for all layers, or one for each (llama.cpp: get_key_or_arr)."""
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            counts = [int(each) if isinstance(each, int) and each >= 0 else None for each in value]
            return (counts + [None] * self.n_layer)[: self.n_layer]
        return [value if isinstance(value, int) and value >= 0 else None] * self.n_layer

    def _windows(self) -> tuple[int, list[bool]]:
        """The window, and which layers have it."""
        none = [False] * self.n_layer
        named = self.header.metadata.get(f"{self.architecture}.attention.sliding_window")
        every, default = _PATTERNS.get(self.architecture, (0, 0))
        window = self.number("attention.sliding_window", default)
        if window and self.architecture in _FIXED_WINDOWS and (named or self.architecture == "llama4"):
            window = _FIXED_WINDOWS[self.architecture]
        if self.architecture == "exaone4" and self.n_layer == 64:
            every, window = 4, window or 4096
        if self.architecture in ("lfm2", "lfm2moe") and window:
            return window, [count > 0 for count in self.kv_heads]
        pattern = self.header.metadata.get(f"{self.architecture}.attention.sliding_window_pattern")
        if not window or self.architecture == "phi3":  # llama.cpp: "Phi SWA is currently disabled"
            return 0, none
        if isinstance(pattern, tuple):
            return window, (([bool(each) for each in pattern]) + none)[: self.n_layer]
        if not every:  # llama.cpp reads no window for this architecture
            return 0, none
        every = pattern if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0 else every
        dense = 0 if self.architecture in _DENSE_FIRST else every - 1
        return window, [index % every != dense for index in range(self.n_layer)]

    def _layers_with_kv(self) -> int:
        """The first so many layers have a KV cache of their own; the rest reuse those (Gemma 3n and 4)."""
        if self.architecture == "gemma3n":
            return 20
        return self.n_layer - min(self.number("attention.shared_kv_layers"), self.n_layer)

    def key_size(self, index: int) -> int:
        default = self.number("embedding_length") // self.heads[index] if self.heads[index] else 0
        full = self.number("attention.key_length", default)
        return self.number("attention.key_length_swa", full) if self.windowed[index] else full

    def value_size(self, index: int) -> int:
        if self.number("attention.key_length_mla") and self.number("attention.value_length_mla"):
            return 0  # latent attention: the values are part of the keys
        default = self.number("embedding_length") // self.heads[index] if self.heads[index] else 0
        full = self.number("attention.value_length", default)
        return self.number("attention.value_length_swa", full) if self.windowed[index] else full

    def layer(self, index: int, weight_bytes: int) -> Layer:
        is_recurrent = self._is_recurrent(index)
        has_kv = index < self.n_used and index < self.n_with_kv
        if self.architecture in RECURRENT or (is_recurrent and self.architecture != "falcon-h1"):
            has_kv = False
        heads = self.kv_heads[index] if has_kv else 0
        return Layer(
            key=heads * self.key_size(index),
            value=heads * self.value_size(index),
            window=self.window if self.windowed[index] else None,
            state_bytes=self._state() if is_recurrent and index < self.n_used else 0,
            weight_bytes=weight_bytes,
        )

    def _is_recurrent(self, index: int) -> bool:
        if self.architecture in RECURRENT or self.architecture == "falcon-h1":
            return True
        if self.architecture in RECURRENT_WITHOUT_KV_HEADS:
            is_mixer = not self.architecture.startswith("nemotron") or not self.per_layer("feed_forward_length")[index]
            return self.kv_heads[index] == 0 and is_mixer
        if self.architecture not in _RECURRENT_BY_INTERVAL:
            return False
        listed = self.header.metadata.get(f"{self.architecture}.attention.recurrent_layers")
        if isinstance(listed, tuple) and index < len(listed):
            return bool(listed[index])
        interval = self.number("full_attention_interval", _RECURRENT_BY_INTERVAL[self.architecture]) or 1
        return (index + 1) % interval != 0

    def _state(self) -> int:
        """Bytes of one recurrent layer's state: n_embd_r and n_embd_s of llama-hparams.cpp, both in f32."""
        embedding, inner, size = (
            self.number("embedding_length"),
            self.number("ssm.inner_size"),
            self.number("ssm.state_size"),
        )
        if head := self.number("wkv.head_size"):
            return F32 * (self.number("token_shift_count", 2) * embedding + embedding * head)
        if short := self.number("shortconv.l_cache"):
            return F32 * (embedding * (short - 1) + size * inner)
        kernel = self.number("ssm.conv_kernel")
        if head := self.number("kda.head_dim"):
            heads = self.heads[0] if self.heads else 0
            return F32 * (3 * (kernel - 1 if kernel else 3) * heads * head + head * head * heads)
        convolution = max(0, kernel - 1) * (inner + 2 * self.number("ssm.group_count") * size)
        return F32 * (convolution + size * inner)

    def expert_share(self) -> float:
        """The part of the experts' weights that one token reads."""
        experts = self.number("expert_count")
        used = max(self.per_layer("expert_used_count"), default=0)
        return min(1.0, used / experts) if experts and used else 1.0

    def feed_forward(self) -> int:
        """The widest layer's, of a mixture of experts that of all experts that one token uses."""
        dense = max(self.per_layer("feed_forward_length"), default=0)
        used = max(self.per_layer("expert_used_count"), default=0)
        if not self.number("expert_count") or not used:
            return dense
        own = max(self.per_layer("expert_feed_forward_length"), default=0) or dense
        return max(own * used + self.number("expert_shared_feed_forward_length"), dense if own != dense else 0)
