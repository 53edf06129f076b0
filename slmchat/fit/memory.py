"""Memory that a model needs, in bytes: weights, their repacked copies, KV cache, vocabulary, compute buffers.

Knows: how llama.cpp sizes each of them (read in its sources and measured, docs/performance.md). Pure arithmetic.
Refuses to know: how much memory a device has.
"""

from collections.abc import Collection

from slmchat.catalog.gguf_header import Header
from slmchat.fit.shape import F32, LAZY_ANYWAY, Layer, Matrix, ModelShape
from slmchat.lazy_dataclasses import dataclass

MIB = 1 << 20

BATCH_TOKENS = 512
"""Tokens of one prefill batch (n_ubatch), as the engine sets it."""

CTX_STEP = 256
"""llama-context.cpp: n_ctx is rounded up to a multiple of this; llama-kv-cache-iswa.cpp: the window's cache too."""

DEFAULT_KV_TYPE = "f16"
"""What the KV cache is made of when nobody says otherwise: llama.cpp's own default."""

# Bytes of one element in the KV cache (ggml-common.h: q8_0 is 34 bytes for 32 elements, q4_0 18).
KV_BYTES = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

# What a loaded vocabulary takes for each token and each merge of a BPE tokenizer, fitted to the 19 vocabularies that
# llama.cpp carries (models/ggml-vocab-*.gguf): 16 of them come out within 18 %, SentencePiece ones 2 MiB too high.
_TOKEN_BYTES = 160
_MERGE_BYTES = 160

# The program itself over a bare Python: slm's modules and llama.cpp's libraries (measured: 14 MiB), graph and buffers
# for the terminal.
_PROGRAM = 16 * MIB

# Bookkeeping of one KV cell and what sampling takes for each entry of the vocabulary: a candidate (12 bytes) and its
# sorted copy, a logit, llama_context's list of all ids.
_CELL_BYTES = 40
_CANDIDATE_BYTES = 32

# ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type: which types are copied into another layout on which
# processor, if the rows are a multiple of so many.
_REPACK_X86 = {"AVX2": {"Q4_0": 8, "Q4_K": 8, "IQ4_NL": 8, "MXFP4": 8}, "AVX512": {"Q2_K": 8}}
# Types that a build with AMX takes into tiles instead, with the bytes of a block there and in the file; matrices of
# experts stay out (ggml-cpu/amx: qtype_has_amx_kernels, supports_op; sizes as llama.cpp reports them for each type).
_AMX = {
    **{name: 1.0 for name in ("Q4_0", "Q4_1", "Q6_K")},
    **{"Q8_0": 38 / 34, "Q4_K": 148 / 144, "Q5_K": 180 / 176, "IQ4_XS": 138 / 136},
}
_AMX_ROWS = 32
# What a patch of an image takes while it is encoded: so many times the width of the feed-forward, so many times its
# own, in f32. Measured with random weights of the shape of Gemma 3's encoder (4,096 patches: 176 MiB; 179 by this).
_FEED_FORWARDS, _WIDTHS = 2.0, 2.5
# More patches are not believed: four times those of the largest image that one of these encoders sees whole.
_MOST_PATCHES = 16_384

_REPACK_ARM = {
    "MATMUL_INT8": {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 4},
    "DOTPROD": {"Q4_0": 4, "Q4_K": 8, "Q5_K": 8, "Q6_K": 8, "Q8_0": 4, "IQ4_NL": 4, "MXFP4": 4},
}


@dataclass(frozen=True, slots=True)
class Load:
    """How a model would be loaded.

    `has_flash_attention` False: the scores of a whole batch are held in memory (llama.cpp chooses it by itself).
    `outputs`: rows of logits that llama.cpp makes room for (n_outputs_max; its default is a whole batch).
    `is_lazy`: per-layer embeddings stay on the disk, where the architecture has such.
    `gpu_layers`: of the repeating layers, counted from the last one; one more than there are takes the output too.
    """

    n_ctx: int
    kv_type: str = DEFAULT_KV_TYPE
    instruction_sets: Collection[str] = ()
    is_repacked: bool = True
    is_lazy: bool = False
    gpu_layers: int = 0
    outputs: int = BATCH_TOKENS
    has_flash_attention: bool = True

    @property
    def batch(self) -> int:
        return min(BATCH_TOKENS, self.n_ctx)

    @property
    def cells(self) -> int:
        return _padded(self.n_ctx)


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What one load takes, in bytes, on the processor's side (`gpu`: on the other)."""

    weights: int  # mapped from the file and read whole
    repacked: int  # copies of weights in another layout; what they were copied from stays mapped and is not read again
    kv: int  # with the state of recurrent layers
    vocabulary: int
    compute: int  # of the compute buffers what is touched
    compute_reserved: int  # what llama.cpp asks for and reports
    program: int
    gpu: int = 0
    on_disk: int = 0  # mapped, and read row by row when a token needs them

    @property
    def anonymous(self) -> int:
        """What cannot be dropped and read again from the file."""
        return self.repacked + self.kv + self.vocabulary + self.compute + self.program

    @property
    def resident(self) -> int:
        """Resident set of the process over that of a bare Python, once every weight has been touched."""
        return self.weights + self.anonymous

    @property
    def needed(self) -> int:
        """Resident memory without what the kernel may take back at no cost: the sources of repacked weights."""
        return self.resident - min(self.repacked, self.weights)

    @property
    def address_space(self) -> int:
        """What counts against RLIMIT_AS: also buffers that are asked for and never touched."""
        return self.resident - self.compute + self.compute_reserved + self.on_disk


def memory(shape: ModelShape, load: Load, *, used: int | None = None) -> MemoryNeed:
    """The memory of a load. `used`: tokens in the context window, None: it is full."""
    moved = _moved_layers(shape, load.gpu_layers)
    kept, gone = shape.layers[: len(shape.layers) - moved], shape.layers[len(shape.layers) - moved :]
    gpu_weights = sum(layer.weight_bytes for layer in gone)
    if load.gpu_layers > len(shape.layers):
        gpu_weights += sum(matrix.bytes for matrix in shape.matrices if matrix.is_output)
    reserved = compute_reserved(shape, load)
    gpu = gpu_weights + kv_bytes(gone, load) + (reserved if gone else 0)
    weights = max(0, shape.weight_bytes - gpu_weights)
    share = weights / shape.weight_bytes if shape.weight_bytes else 0.0
    on_disk = shape.lazy_bytes if load.is_lazy or shape.lazy_bytes > LAZY_ANYWAY else 0
    touched = compute_touched(shape, load, load.cells if used is None else used)
    return MemoryNeed(
        weights=max(0, weights - on_disk),
        repacked=round(repacked_bytes(shape.matrices, load) * share),
        kv=kv_bytes(kept, load),
        vocabulary=shape.vocabulary * _TOKEN_BYTES + shape.merges * _MERGE_BYTES,
        compute=touched,
        compute_reserved=max(reserved, touched),
        program=_PROGRAM,
        gpu=gpu,
        on_disk=on_disk,
    )


def _moved_layers(shape: ModelShape, gpu_layers: int) -> int:
    return min(max(0, gpu_layers), len(shape.layers))


def cells_of(layer: Layer, load: Load) -> int:
    """Cells that a layer keeps for a context: all, or as many as its window and a batch need."""
    if layer.window is None:
        return load.cells
    return _padded(min(load.cells, layer.window + load.batch))


def kv_bytes(layers: Collection[Layer], load: Load) -> int:
    """KV cache and recurrent state of these layers, exactly as llama.cpp allocates them."""
    size = KV_BYTES[load.kv_type]
    cache = sum(int(cells_of(layer, load) * layer.key * size) for layer in layers)
    cache += sum(int(cells_of(layer, load) * layer.value * size) for layer in layers)
    return cache + sum(layer.state_bytes for layer in layers)


def _padded(tokens: int) -> int:
    return -(-tokens // CTX_STEP) * CTX_STEP


def repacked_bytes(matrices: Collection[Matrix], load: Load) -> int:
    """Bytes of the copies of weights for this processor (llama.cpp: "CPU_REPACK", "AMX model buffer size")."""
    if not load.is_repacked:
        return 0
    has_amx = "AMX_INT8" in load.instruction_sets
    rules: dict[str, int] = {}
    for table in (_REPACK_X86, _REPACK_ARM):
        for name, types in table.items():
            if name in load.instruction_sets:
                rules = types | rules
    size = 0
    for matrix in matrices:
        if has_amx and _takes_tiles(matrix):
            size += int(matrix.bytes * _AMX[matrix.type_name])
        elif matrix.type_name in rules and matrix.rows % rules[matrix.type_name] == 0:
            size += matrix.bytes
    return size


def _takes_tiles(matrix: Matrix) -> bool:
    return matrix.type_name in _AMX and matrix.rows == matrix.all_rows and matrix.rows % _AMX_ROWS == 0


def compute_reserved(shape: ModelShape, load: Load) -> int:
    """The compute buffer that llama.cpp reserves ("compute buffer size"), for its worst graph.

    Fitted to what it reports for seven shapes: the peak lies either at the output matrix (logits and two activations)
    or in a layer's feed-forward part (gate, up, their product and four activations; in a mixture of experts also the
    outputs of all that are used, twice).
    """
    column = 4 * load.batch
    logits = 4 * min(load.outputs, load.batch) * shape.vocabulary + 2 * column * shape.embedding
    return max(logits, _body(shape, load) + _masks(shape, load, load.cells) + _scores(shape, load, load.cells))


def compute_touched(shape: ModelShape, load: Load, used: int) -> int:
    """What of the compute buffers is written to: logits of one token, a layer's activations, masks of `used` cells."""
    cells = min(used, load.cells)
    body = _body(shape, load) + _masks(shape, load, cells) + _scores(shape, load, cells)
    return body + shape.vocabulary * _CANDIDATE_BYTES + _CELL_BYTES * load.cells


def _body(shape: ModelShape, load: Load) -> int:
    column = 4 * load.batch
    dense = 3 * shape.feed_forward + 4 * shape.embedding
    attention = 3 * shape.attention + 3 * shape.embedding
    mixture = 2 * shape.experts_used * shape.embedding + shape.feed_forward + 3 * shape.embedding
    return column * max(dense, attention, mixture if shape.is_mixture else 0)


def _scores(shape: ModelShape, load: Load, used: int) -> int:
    """The scores of one layer's attention, f32, in whose place their softmax comes; none with flash attention.

    Measured with llama.cpp's own figures: 2,048 and 8,192 cells, 8 and 16 heads, within 8 % above this.
    """
    return 0 if load.has_flash_attention else 4 * load.batch * _padded(used) * shape.heads


def _masks(shape: ModelShape, load: Load, used: int) -> int:
    """The masks of attention, one for each kind of KV cache, in f16."""
    widths = {min(cells_of(layer, load), _padded(used)) for layer in shape.layers if layer.key and layer.window}
    widths_full = {_padded(used) for layer in shape.layers if layer.key and layer.window is None}
    return 2 * load.batch * (sum(widths) + sum(widths_full))


def projector_memory(header: Header) -> int:
    """Bytes that a projector (mmproj) takes when it has encoded an image: its file, and what it computes in."""
    size, patch, width, feed_forward = (
        _count(header, f"clip.vision.{key}")
        for key in ("image_size", "patch_size", "embedding_length", "feed_forward_length")
    )
    patches = min((size // max(1, patch)) ** 2, _MOST_PATCHES)
    return header.file_size + int(patches * F32 * (_FEED_FORWARDS * feed_forward + _WIDTHS * width))


def _count(header: Header, key: str) -> int:
    value = header.metadata.get(key)
    return value if isinstance(value, int) and 0 < value < 1 << 20 else 0
