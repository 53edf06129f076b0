"""Values in a header that llama.cpp takes without a word and then aborts on, or computes on for ever.

Knows: which values of which keys these are, by architecture: asserts, divisions and loops of the llama.cpp in
llama-cpp-python 0.3.36 (src/llama-model.cpp, src/models/*.cpp, src/llama-vocab.cpp, ggml/src/ggml-cpu/ops.cpp).
Refuses to know: what llama.cpp itself refuses in words (keys that are missing or of another type, shapes of tensors
that do not fit the keys): nothing is checked twice. tests/fuzz/search_headers.py looks for what is not here yet.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from slmchat.catalog.architectures import (
    IN_SECTIONS,
    LATENT,
    RECURRENT,
    RECURRENT_WITHOUT_KV_HEADS,
    SAME_LENGTHS,
    TURNS_WHOLE_HEADS,
    WITHOUT_ROPE,
)
from slmchat.catalog.gguf_header import Header
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.toml_schema import shown

MAX_LAYERS = 512
"""llama-hparams.h: LLAMA_MAX_LAYERS."""
MAX_EXPERTS = 1024
"""llama-hparams.h: LLAMA_MAX_EXPERTS."""
MAX_GATING = 4
"""llama-hparams.h: the last one of enum llama_expert_gating_func_type."""
MAX_WINDOW = 1 << 30
"""A larger sliding window overflows when llama-kv-cache-iswa.cpp adds a batch to it in 32 bits."""
DATA_ALIGNMENT = 32
"""ggml-impl.h: TENSOR_ALIGNMENT, of the address that the mapped tensors begin at."""

# LLAMA_ROPE_SCALING_TYPES in llama-model.cpp; another one is an assert.
_ROPE_SCALING = ("none", "linear", "yarn", "longrope")
# llama-vocab.cpp: `none` and `no_vocab` assert at the first text, `bert` at the first byte; `test` writes numbers.
_MUTE_TOKENIZERS = ("none", "no_vocab", "bert", "test")
_DIVISORS = (
    "full_attention_interval", "interleave_moe_layer_step", "wkv.head_size", "token_shift_count", "ssm.inner_size",
)  # fmt: skip
# mamba-base.cpp (build_mamba2_layer), plamo2.cpp
_STATE_IN_HEADS = frozenset({"mamba2", "granitehybrid", "nemotron_h", "nemotron_h_moe", "falcon-h1", "plamo2"})
# In a layer with the first tensor, one of the groups behind it must be there (src/models/*.cpp: TENSOR_NOT_REQUIRED).
_NEEDED: tuple[tuple[frozenset[str], str, tuple[tuple[str, ...], ...]], ...] = (
    (frozenset({"phi3", "phimoe"}), "attn_output.weight", (("attn_qkv.weight",), ("attn_q.weight", "attn_k.weight"))),
    (_STATE_IN_HEADS - {"plamo2"}, "ssm_conv1d.weight", (("ssm_conv1d.bias",),)),
    (frozenset({"qwen35", "qwen35moe"}), "ssm_conv1d.weight", (("attn_qkv.weight", "attn_gate.weight"),)),
    (frozenset({"qwen3next"}), "ssm_conv1d.weight", (("attn_qkv.weight", "attn_gate.weight"), ("ssm_in.weight",))),
    (frozenset({"rwkv6"}), "time_mix_w1.weight", (("time_mix_lerp_fused.weight",), ("time_mix_lerp_w.weight",))),
)
_NORMS = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "attention.group_norm_epsilon")


def check(parts: Sequence[Header], name: str, *, writes: bool = True) -> None:
    """Raise `SlmError` (DAMAGED) when llama.cpp would not survive this model, given the headers of all its parts.

    `writes`: it is to write text; an embedding model only reads.
    """
    facts = _Facts(replace(parts[0], tensors=tuple(tensor for part in parts for tensor in part.tensors)), writes)
    for look in _CHECKS:
        for fault in look(facts):
            raise SlmError(
                f"{name} is damaged: {fault}.",
                hint="llama.cpp would crash or hang on it; get another copy or another conversion of the model",
                exit_code=ExitCode.DAMAGED,
            )


@dataclass(frozen=True, slots=True)
class _Facts:
    """The keys of one header as llama.cpp reads them."""

    header: Header
    writes: bool = True

    @property
    def architecture(self) -> str:
        return self.header.architecture or ""

    def count(self, key: str, default: int = 0) -> int:
        """A whole number; the default where there is none."""
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, int) and not isinstance(value, bool) else default

    def real(self, key: str) -> float | None:
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        return value if isinstance(value, float) else None

    def has(self, key: str) -> bool:
        return f"{self.architecture}.{key}" in self.header.metadata

    @property
    def heads(self) -> list[int]:
        """Query heads of each layer."""
        return self.layers("attention.head_count")

    @property
    def kv_heads(self) -> list[int]:
        """Key and value heads of each layer; those of the queries where the file does not say."""
        return self.layers("attention.head_count_kv") if self.has("attention.head_count_kv") else self.heads

    @property
    def key_length(self) -> int:
        """Elements of the key of one head, outside sliding windows; 0 for a model without heads."""
        heads = self.heads
        plain = self.count("embedding_length") // heads[0] if heads and heads[0] > 0 else 0
        return self.count("attention.key_length", plain)

    @property
    def value_length(self) -> int:
        heads = self.heads
        plain = self.count("embedding_length") // heads[0] if heads and heads[0] > 0 else 0
        return self.count("attention.value_length", plain)

    def text(self, key: str) -> str | None:
        value = self.header.metadata.get(key)
        return value if isinstance(value, str) else None

    def layers(self, key: str, default: int = 0) -> list[int]:
        """One number for each layer; a single one counts for all (llama-model-loader.cpp: get_key_or_arr)."""
        n_layer = max(0, min(self.count("block_count"), MAX_LAYERS))
        value = self.header.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, tuple):
            return [each for each in value if isinstance(each, int)][:n_layer]
        return [self.count(key, default)] * n_layer


def _blocks(facts: _Facts) -> Iterator[str]:
    if facts.has("block_count") and not 1 <= facts.count("block_count", 1) <= MAX_LAYERS:
        yield f"its block_count is {facts.count('block_count'):,}, and llama.cpp takes 1 to {MAX_LAYERS}"
    ahead = facts.count("nextn_predict_layers")
    if ahead and ahead >= facts.count("block_count", ahead + 1):
        yield f"its nextn_predict_layers are {ahead:,}, which leaves no layer of {facts.count('block_count'):,}"


def _norms(facts: _Facts) -> Iterator[str]:
    for key in _NORMS:
        epsilon = facts.real(key)
        if epsilon is not None and not 0 <= epsilon < math.inf:
            yield f"its {key} is {epsilon:g}, and must be a number from 0 on"


def _experts(facts: _Facts) -> Iterator[str]:
    n_experts, used = facts.count("expert_count"), max(facts.layers("expert_used_count"), default=0)
    if facts.architecture in ("hunyuan-dense", "hunyuan_vl") and n_experts <= 1:  # llama.cpp takes one for none
        n_experts = used = 0
    groups, used_groups = facts.count("expert_group_count"), facts.count("expert_group_used_count")
    if facts.count("expert_gating_func") > MAX_GATING:
        yield f"its expert_gating_func is {facts.count('expert_gating_func'):,}, and llama.cpp knows 1 to {MAX_GATING}"
    if n_experts > MAX_EXPERTS:
        yield f"its expert_count is {n_experts:,}, and llama.cpp takes at most {MAX_EXPERTS:,}"
    if used > n_experts or (n_experts > 0 and used < 1):
        yield f"it uses {used:,} experts of {n_experts:,} (expert_used_count)"
    routed = {tensor.name for tensor in facts.header.tensors if tensor.name.endswith("ffn_gate_inp.weight")}
    for index, count in enumerate(facts.layers("expert_used_count")):
        if f"blk.{index}.ffn_gate_inp.weight" in routed and (count < 1 or count > n_experts):
            yield f"layer {index} has experts and uses {count:,} of them (expert_used_count)"
    if groups and groups >= n_experts:
        yield f"it has {groups:,} groups of experts and {n_experts:,} experts"
    if groups > 1 and (n_experts % groups or not 0 < used_groups < groups):
        yield f"it uses {used_groups:,} groups of experts of {groups:,} (expert_group_used_count)"


def _rope(facts: _Facts) -> Iterator[str]:
    scaling = facts.text(f"{facts.architecture}.rope.scaling.type")
    if scaling is not None and scaling not in _ROPE_SCALING:
        yield f"its rope.scaling.type is '{shown(scaling)}', and llama.cpp knows {', '.join(_ROPE_SCALING)}"
    if facts.architecture in WITHOUT_ROPE or not facts.key_length:
        return
    for end in ("", "_swa"):
        head = facts.count(f"attention.key_length{end}", facts.key_length)
        turned = facts.count(f"rope.dimension_count{end}", head if not end else 0)
        if end and not facts.has(f"rope.dimension_count{end}"):
            continue
        if turned < 2 or turned % 2 or turned > head:
            yield f"its rope.dimension_count{end} is {turned:,}, and must be even and at most {head:,}"
        elif facts.architecture in TURNS_WHOLE_HEADS and turned != head and not facts.has("rope.dimension_count_swa"):
            yield f"its rope.dimension_count is {turned:,}, and must be {head:,} in {facts.architecture}"
    length = facts.count("attention.key_length_mla", facts.key_length)
    if facts.architecture in LATENT and facts.count("rope.dimension_count", length) >= length:
        yield f"its rope.dimension_count is {facts.count('rope.dimension_count', length):,} of keys of {length:,}"
    sections = facts.header.metadata.get(f"{facts.architecture}.rope.dimension_sections")
    if facts.architecture in IN_SECTIONS and isinstance(sections, tuple) and not any(sections[:3]):
        yield "its rope.dimension_sections are all 0"


def _heads(facts: _Facts) -> Iterator[str]:
    """Heads of each layer, how long they are, and the matrices that belong to them."""
    heads, kv_heads = facts.heads, facts.kv_heads
    if facts.architecture in RECURRENT or not facts.has("block_count") or not heads:
        return
    may_lack = facts.architecture in (*RECURRENT_WITHOUT_KV_HEADS, "deci")
    # of PLaMo 2 already the first layer has a state instead
    if (heads[0] < 1 and facts.architecture != "plamo2") or (not may_lack and min(heads) < 1):
        yield "its attention.head_count is 0"
        return
    if not may_lack and min(kv_heads, default=0) < 1:
        yield "its attention.head_count_kv is 0"
    if any(own and many % own for many, own in zip(heads, kv_heads, strict=False)):
        yield "its attention.head_count is not a multiple of its attention.head_count_kv"
    if facts.architecture == "olmoe" and kv_heads != heads:  # its norm of the keys is as wide as the model
        yield "its attention.head_count_kv is not its attention.head_count"
    if facts.architecture in LATENT and len(set(kv_heads)) > 1:
        yield "its layers have different numbers of heads (attention.head_count_kv)"
    if facts.architecture in SAME_LENGTHS:
        for end in ("", "_swa"):
            key = facts.count(f"attention.key_length{end}", facts.key_length)
            value = facts.count(f"attention.value_length{end}", facts.value_length)
            if key != value:
                yield f"its heads have keys of {key:,} and values of {value:,}, and {facts.architecture} has one length"
    yield from _matrices(facts)


def _matrices(facts: _Facts) -> Iterator[str]:
    """llama.cpp compares the matrices of every layer with the heads of the first, and lets some be left out."""
    sides = {tensor.name: tensor.shape for tensor in facts.header.tensors}
    lengths = {facts.count(f"attention.key_length{end}", facts.key_length) for end in ("", "_swa")}
    for key, name, counts in (
        ("attention.head_count", "attn_q", facts.heads),
        ("attention.head_count_kv", "attn_k", facts.kv_heads),
    ):
        if len(set(counts)) < 2:
            continue
        for index, count in enumerate(counts):
            shape = sides.get(f"blk.{index}.{name}.weight", ())
            if len(shape) == 2 and shape[1] not in {count * length for length in lengths}:
                yield f"layer {index} has {count:,} heads ({key}), and its matrix has other sizes"


def _tensors(facts: _Facts) -> Iterator[str]:
    """Tensors that llama.cpp does not ask for and then reads."""
    names = {tensor.name for tensor in facts.header.tensors}
    for architectures, sign, needed in _NEEDED:
        if facts.architecture not in architectures:
            continue
        for index in range(max(0, min(facts.count("block_count"), MAX_LAYERS))):
            block = f"blk.{index}."
            has_any = any(all(block + name in names for name in choice) for choice in needed)
            if block + sign in names and not has_any:
                yield f"layer {index} has {sign} and no {needed[0][0]}"


def _windows(facts: _Facts) -> Iterator[str]:
    window = facts.count("attention.sliding_window")
    if window > MAX_WINDOW:
        yield f"its attention.sliding_window is {window:,} tokens"
    pattern = facts.header.metadata.get(f"{facts.architecture}.attention.sliding_window_pattern")
    if window and (pattern == 1 or (isinstance(pattern, tuple) and not any(pattern))) and pattern is not True:
        yield "its attention.sliding_window_pattern gives no layer the sliding window"
    shared = facts.count("attention.shared_kv_layers")
    if shared and facts.count("block_count") - shared < 2:
        yield f"{shared:,} of its {facts.count('block_count'):,} layers use the KV cache of others (shared_kv_layers)"


def _temperature(facts: _Facts) -> Iterator[str]:
    """llama-graph.cpp, llm_graph_input_attn_temp: a scale needs a length."""
    is_scaled = facts.architecture in (*LATENT, "mistral3") and facts.real("attention.temperature_scale")
    if is_scaled and facts.count("attention.temperature_length") < 1:
        yield "it has an attention.temperature_scale without an attention.temperature_length"


def _divisors(facts: _Facts) -> Iterator[str]:
    """Numbers that llama.cpp divides by without a look, in the architectures that have them."""
    for key in _DIVISORS:
        if facts.has(key) and facts.count(key, 1) < 1:
            yield f"its {key} is {facts.count(key):,}, and must be at least 1"
    inner, wide = facts.count("ssm.inner_size"), facts.count("embedding_length")
    if facts.architecture in ("jamba", "granitehybrid") and inner and inner != 2 * wide:
        yield f"its ssm.inner_size is {inner:,}, and must be twice its embedding_length, {wide:,}"
    for key in ("ssm.time_step_rank", "ssm.group_count"):
        parts = facts.count(key)
        if facts.architecture in _STATE_IN_HEADS and inner and (parts < 1 or inner % parts):
            yield f"its ssm.inner_size is {inner:,}, not a multiple of its {key}, {parts:,}"


def _tokenizer(facts: _Facts) -> Iterator[str]:
    model = facts.text("tokenizer.ggml.model")
    if model in _MUTE_TOKENIZERS:
        if facts.writes:
            yield f"its tokenizer is '{model}', with which no text can be written"
    elif not facts.header.spells_bytes:
        yield "its vocabulary has no tokens for single bytes, as its tokenizer ('llama') needs them"


def _place(facts: _Facts) -> Iterator[str]:
    if facts.header.tensor_count and facts.header.data_offset % DATA_ALIGNMENT:
        yield f"its tensors do not begin at a multiple of {DATA_ALIGNMENT} bytes"


_CHECKS: tuple[Callable[[_Facts], Iterator[str]], ...] = (
    _blocks,
    _norms,
    _experts,
    _heads,
    _tensors,
    _rope,
    _windows,
    _temperature,
    _divisors,
    _tokenizer,
    _place,
)
