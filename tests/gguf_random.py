"""A model file of a real model's shape with random weights: as fast as the real one, and it answers nonsense.

Its vocabulary and its chat template are those of another file, with entries that no text uses up to the right number.
The blocks of a quantized matrix are random bytes behind a scale of one size, so that a gigabyte takes seconds to make.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
from gguf_shapes import Shape, tensors

# Weights are about so far from 0, as real ones are (standard deviation).
_DEVIATION = 0.02
# Standard deviations of the whole numbers in a block: 16 and 64 different ones, each as often as the others.
_OF_4_BITS, _OF_6_BITS = 4.6, 18.5
# Rows that are made at once.
_ROWS = 4096


def write_random(path: Path, shape: Shape, vocabulary: Path) -> Path:
    """Write the file. `shape` has matrices in Q4_0 and Q6_K; `vocabulary`: a file whose tokens it has."""
    writer = GGUFWriter(path, shape.architecture)
    writer.add_name("Random weights")
    writer.add_file_type(LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.embedding)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(shape.vocabulary)
    _add_vocabulary(writer, GGUFReader(vocabulary), shape.vocabulary)
    random = np.random.default_rng(1)
    for name, sides, type_name in tensors(shape):
        kind = GGMLQuantizationType[type_name]
        if kind is GGMLQuantizationType.F32:
            writer.add_tensor(name, np.ones(sides, dtype=np.float32))
        else:
            writer.add_tensor(name, _matrix(random, sides[0], sides[1], kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: GGUFWriter, source: GGUFReader, n_tokens: int) -> None:
    """The tokens of the other file, and behind them words that no text is cut into, since no merge leads to them."""
    more = {"tokenizer.ggml.tokens": "Ġrandom{}", "tokenizer.ggml.token_type": 1, "tokenizer.ggml.scores": 0.0}
    for name, field in source.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name in more:
            filler = more[name]
            value += [
                filler.format(number) if isinstance(filler, str) else filler for number in range(len(value), n_tokens)
            ]
        is_array = field.types[0] is GGUFValueType.ARRAY
        writer.add_key_value(name, value, field.types[0], field.types[-1] if is_array else None)


def _matrix(random: np.random.Generator, columns: int, rows: int, kind: GGMLQuantizationType) -> np.ndarray:
    """The blocks of a matrix, row by row (ggml-common.h: block_q4_0, block_q6_K)."""
    values, size = GGML_QUANT_SIZES[kind]
    made = np.empty((rows, columns // values * size), dtype=np.uint8)
    for part in _parts(made):
        part[:] = random.integers(0, 256, part.shape, dtype=np.uint8)
        blocks = part.reshape(-1, size)
        if kind is GGMLQuantizationType.Q4_0:
            blocks[:, :2] = _half(_DEVIATION / _OF_4_BITS)
        else:
            blocks[:, -18:-2] = 1  # the scales of 16 values each
            blocks[:, -2:] = _half(_DEVIATION / _OF_6_BITS)
    return made


def _parts(made: np.ndarray) -> Iterator[np.ndarray]:
    for begin in range(0, len(made), _ROWS):
        yield made[begin : begin + _ROWS]


def _half(value: float) -> np.ndarray:
    return np.frombuffer(np.float16(value).tobytes(), dtype=np.uint8)
