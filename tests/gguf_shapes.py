"""GGUF headers of real models' shapes, without their weights: the file behind the header is a hole.

llama.cpp plans a load of them (`no_alloc`) and so says what it would need, without a byte of weights.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter


@dataclass(frozen=True)
class Shape:
    """A transformer as its configuration states it; `more`: further keys of the architecture."""

    architecture: str
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    type: str = "Q4_K"
    output_type: str = "Q6_K"
    is_tied: bool = True
    has_norms: bool = False  # of queries and keys
    has_bias: bool = False
    has_post_norms: bool = False
    experts: int = 0
    used: int = 0
    context: int = 131072
    more: dict[str, int | float | list[int]] = field(default_factory=dict)


# From the configurations that the makers publish.
LLAMA_1B = Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256)
QWEN25_7B = Shape("qwen2", 28, 3584, 18944, 28, 4, 128, 152064, "Q8_0", "Q8_0", is_tied=False, has_bias=True)
QWEN3_4B = Shape("qwen3", 36, 2560, 9728, 32, 8, 128, 151936, has_norms=True)
GEMMA3_4B = Shape(
    "gemma3", 34, 2560, 10240, 8, 4, 256, 262208, has_norms=True, has_post_norms=True,
    more={"attention.sliding_window": 1024},
)  # fmt: skip
MIXTRAL = Shape("llama", 32, 4096, 14336, 32, 8, 128, 32000, is_tied=False, experts=8, used=2, context=32768)
QWEN3_MOE = Shape(
    "qwen3moe", 48, 2048, 6144, 32, 4, 128, 151936, is_tied=False, has_norms=True, experts=128, used=8,
    more={"expert_feed_forward_length": 768},
)  # fmt: skip
ALL = {
    "Llama 3.2 1B": LLAMA_1B, "Qwen2.5 7B": QWEN25_7B, "Qwen3 4B": QWEN3_4B, "Gemma 3 4B": GEMMA3_4B,
    "Mixtral 8x7B": MIXTRAL, "Qwen3 30B-A3B": QWEN3_MOE,
}  # fmt: skip


def write_shape(path: Path, shape: Shape) -> Path:
    """Write the header; the data is a hole of the right length."""
    writer = GGUFWriter(path, shape.architecture)
    writer.add_string("tokenizer.ggml.model", "no_vocab")
    keys: dict[str, int | float | list[int]] = {
        "context_length": shape.context, "embedding_length": shape.embedding, "block_count": shape.layers,
        "feed_forward_length": shape.feed_forward, "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads, "attention.key_length": shape.head,
        "attention.value_length": shape.head, "rope.dimension_count": shape.head, "vocab_size": shape.vocabulary,
        "attention.layer_norm_rms_epsilon": 1e-6, **shape.more,
    }  # fmt: skip
    if shape.experts:
        keys |= {"expert_count": shape.experts, "expert_used_count": shape.used}
    for key, value in keys.items():
        add = {int: writer.add_uint32, float: writer.add_float32, list: writer.add_array}[type(value)]
        add(f"{shape.architecture}.{key}", value)  # type: ignore[operator]
    size = 0
    for name, sides, type_name in tensors(shape):
        kind = GGMLQuantizationType[type_name]
        block, block_bytes = GGML_QUANT_SIZES[kind]
        n_bytes = int(np.prod(sides)) // block * block_bytes
        writer.add_tensor_info(name, sides[::-1], np.dtype(np.float32), n_bytes, raw_dtype=kind)
        size += -(-n_bytes // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    position = writer.fout[0].tell()
    writer.close()
    with path.open("r+b") as stream:
        stream.truncate(-(-position // 32) * 32 + size)
    return path


def tensors(shape: Shape) -> list[tuple[str, tuple[int, ...], str]]:
    wide, narrow, embedding = shape.heads * shape.head, shape.kv_heads * shape.head, shape.embedding
    found: list[tuple[str, tuple[int, ...], str]] = [
        ("token_embd.weight", (embedding, shape.vocabulary), shape.output_type),
        ("output_norm.weight", (embedding,), "F32"),
    ]
    if not shape.is_tied:
        found.append(("output.weight", (embedding, shape.vocabulary), shape.output_type))
    ends = {"q": wide, "k": narrow, "v": narrow}
    for index in range(shape.layers):
        block = f"blk.{index}."
        norms = ["attn_norm", "ffn_norm", *(("post_attention_norm", "post_ffw_norm") if shape.has_post_norms else ())]
        found += [(f"{block}{name}.weight", (embedding,), "F32") for name in norms]
        found += [(f"{block}attn_{name}.weight", (embedding, rows), shape.type) for name, rows in ends.items()]
        found.append((f"{block}attn_output.weight", (wide, embedding), shape.type))
        if shape.has_bias:
            found += [(f"{block}attn_{name}.bias", (rows,), "F32") for name, rows in ends.items()]
        if shape.has_norms:
            found += [(f"{block}attn_{name}_norm.weight", (shape.head,), "F32") for name in "qk"]
        inner = (
            shape.more.get("expert_feed_forward_length", shape.feed_forward) if shape.experts else shape.feed_forward
        )
        assert isinstance(inner, int)
        many, ending = ((shape.experts,), "_exps") if shape.experts else ((), "")
        if shape.experts:
            found.append((f"{block}ffn_gate_inp.weight", (embedding, shape.experts), "F32"))
        found += [
            (f"{block}ffn_{name}{ending}.weight", (embedding, inner, *many), shape.type) for name in ("gate", "up")
        ]
        found.append((f"{block}ffn_down{ending}.weight", (inner, embedding, *many), shape.type))
    return found
