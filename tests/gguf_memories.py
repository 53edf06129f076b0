"""Tiny models with every kind of memory that llama.cpp has: plain, sliding window, recurrent, and hybrids of them.

Random weights, as in gguf_samples.py; the states are real, and big enough in the logits that a wrong one shows.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf_samples import (
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    _add_facts,
    _add_spm,
    _finish,
    _spm_vocabulary,
    _Weights,
    write_tiny_llama,
)

CONTEXT = 4096
WINDOW = 64
_HEAD = EMBEDDING // HEADS
_KV_HEADS = 2
_CONV, _STATE, _RANK, _INNER = 4, 8, 4, 2 * EMBEDDING


class _Model:
    """A model in the making: facts and vocabulary are there, tensors come."""

    def __init__(self, path: Path, architecture: str, kv_heads: int | list[int]) -> None:
        self.path = path
        self.writer = GGUFWriter(path, architecture)
        _add_facts(self.writer, f"Tiny {architecture}", CONTEXT, kv_heads=kv_heads)  # type: ignore[arg-type]
        tokens, scores, self.types = _spm_vocabulary(())
        _add_spm(self.writer, tokens, scores, self.types, eos=tokens.index("</s>"))
        self.writer.add_vocab_size(len(tokens))
        self.weights = _Weights(self.writer, seed=1)

    def vector(self, name: str, values: np.ndarray) -> None:
        self.writer.add_tensor(name, values.astype(np.float32))

    def attention(self, block: int) -> None:
        self.weights.matrix(f"blk.{block}.attn_q.weight", EMBEDDING, EMBEDDING)
        self.weights.matrix(f"blk.{block}.attn_k.weight", _KV_HEADS * _HEAD, EMBEDDING)
        self.weights.matrix(f"blk.{block}.attn_v.weight", _KV_HEADS * _HEAD, EMBEDDING)
        self.weights.matrix(f"blk.{block}.attn_output.weight", EMBEDDING, EMBEDDING)
        for name in ("attn_q_norm", "attn_k_norm"):
            self.vector(f"blk.{block}.{name}.weight", np.ones(_HEAD))

    def feed_forward(self, block: int) -> None:
        self.weights.matrix(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        self.weights.matrix(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        self.weights.matrix(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)

    def norms(self, block: int, *names: str) -> None:
        for name in names:
            self.weights.norm(f"blk.{block}.{name}.weight")

    def done(self) -> Path:
        return _finish(self.writer, self.path)


def _plain(path: Path) -> Path:
    return write_tiny_llama(path, chat_template=None, context_length=CONTEXT)


def _window(path: Path) -> Path:
    """Gemma 3 in small: one layer with a window, one with the whole context."""
    model = _Model(path, "gemma3", _KV_HEADS)
    model.writer.add_sliding_window(WINDOW)
    model.writer.add_sliding_window_pattern(2)
    model.writer.add_key_length(_HEAD)
    model.writer.add_value_length(_HEAD)
    model.weights.outside(model.types)
    for block in range(2):
        model.attention(block)
        model.feed_forward(block)
        model.norms(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm")
    return model.done()


def _recurrent(path: Path) -> Path:
    """Mamba in small."""
    model = _Model(path, "mamba", 0)
    model.writer.add_ssm_conv_kernel(_CONV)
    model.writer.add_ssm_inner_size(_INNER)
    model.writer.add_ssm_state_size(_STATE)
    model.writer.add_ssm_time_step_rank(_RANK)
    model.weights.outside(model.types)
    random = model.weights.random
    for block in range(2):
        model.norms(block, "attn_norm")
        model.weights.matrix(f"blk.{block}.ssm_in.weight", 2 * _INNER, EMBEDDING)
        model.vector(f"blk.{block}.ssm_conv1d.weight", random.normal(0, 0.5, (_INNER, _CONV)))
        model.vector(f"blk.{block}.ssm_conv1d.bias", np.zeros(_INNER))
        model.weights.matrix(f"blk.{block}.ssm_x.weight", _RANK + 2 * _STATE, _INNER)
        model.weights.matrix(f"blk.{block}.ssm_dt.weight", _INNER, _RANK)
        model.vector(f"blk.{block}.ssm_dt.bias", np.full(_INNER, -4.0))  # slow decay: old tokens still count
        model.vector(f"blk.{block}.ssm_a", -np.tile(np.arange(1.0, _STATE + 1), (_INNER, 1)))
        model.vector(f"blk.{block}.ssm_d", np.ones(_INNER))
        model.weights.matrix(f"blk.{block}.ssm_out.weight", EMBEDDING, _INNER)
    return model.done()


def _mamba2(path: Path) -> Path:
    """Mamba 2 in small: one decay for all of a head."""
    groups, heads = 1, _RANK
    mixed = _INNER + 2 * groups * _STATE
    model = _Model(path, "mamba2", 0)
    model.writer.add_ssm_conv_kernel(_CONV)
    model.writer.add_ssm_inner_size(_INNER)
    model.writer.add_ssm_state_size(_STATE)
    model.writer.add_ssm_time_step_rank(heads)
    model.writer.add_ssm_group_count(groups)
    model.weights.outside(model.types)
    random = model.weights.random
    for block in range(2):
        model.norms(block, "attn_norm")
        model.weights.matrix(f"blk.{block}.ssm_in.weight", _INNER + mixed + heads, EMBEDDING)
        model.vector(f"blk.{block}.ssm_conv1d.weight", random.normal(0, 0.5, (mixed, _CONV)))
        model.vector(f"blk.{block}.ssm_conv1d.bias", np.zeros(mixed))
        model.vector(f"blk.{block}.ssm_dt.bias", np.full(heads, -2.0))
        model.vector(f"blk.{block}.ssm_a", -np.arange(1.0, heads + 1).reshape(heads, 1))
        model.vector(f"blk.{block}.ssm_d", np.ones((heads, 1)))
        model.vector(f"blk.{block}.ssm_norm.weight", np.ones((groups, _INNER // groups)))
        model.weights.matrix(f"blk.{block}.ssm_out.weight", EMBEDDING, _INNER)
    return model.done()


def _rwkv(path: Path) -> Path:
    """RWKV 6 in small: a matrix of state for each head, and the token before."""
    extra, decay = 8, 8
    model = _Model(path, "rwkv6", 0)
    model.writer.add_layer_norm_eps(1e-5)
    model.writer.add_wkv_head_size(_HEAD)
    model.writer.add_time_mix_extra_dim(extra)
    model.writer.add_time_decay_extra_dim(decay)
    model.weights.outside(model.types)
    model.vector("output_norm.bias", np.zeros(EMBEDDING))
    model.vector("token_embd_norm.weight", np.ones(EMBEDDING))
    model.vector("token_embd_norm.bias", np.zeros(EMBEDDING))
    random = model.weights.random
    for block in range(2):
        for name in ("attn_norm", "attn_norm_2", "time_mix_ln"):
            model.vector(f"blk.{block}.{name}.weight", np.ones(EMBEDDING))
            model.vector(f"blk.{block}.{name}.bias", np.zeros(EMBEDDING))
        model.weights.matrix(f"blk.{block}.time_mix_w1.weight", 5 * extra, EMBEDDING)
        model.vector(f"blk.{block}.time_mix_w2.weight", random.normal(0, 0.2, (5, EMBEDDING, extra)))
        for name in ("time_mix_lerp_x", "channel_mix_lerp_k", "channel_mix_lerp_r"):
            model.vector(f"blk.{block}.{name}.weight", np.full((1, 1, EMBEDDING), 0.5))
        model.vector(f"blk.{block}.time_mix_lerp_fused.weight", np.full((5, 1, 1, EMBEDDING), 0.5))
        model.vector(f"blk.{block}.time_mix_first.weight", random.normal(0, 0.5, (HEADS, _HEAD)))
        model.vector(f"blk.{block}.time_mix_decay.weight", np.full(EMBEDDING, -3.0))  # slow
        model.weights.matrix(f"blk.{block}.time_mix_decay_w1.weight", decay, EMBEDDING)
        model.weights.matrix(f"blk.{block}.time_mix_decay_w2.weight", EMBEDDING, decay)
        for name in ("key", "value", "receptance", "gate", "output"):
            model.weights.matrix(f"blk.{block}.time_mix_{name}.weight", EMBEDDING, EMBEDDING)
        model.weights.matrix(f"blk.{block}.channel_mix_key.weight", FEED_FORWARD, EMBEDDING)
        model.weights.matrix(f"blk.{block}.channel_mix_value.weight", EMBEDDING, FEED_FORWARD)
        model.weights.matrix(f"blk.{block}.channel_mix_receptance.weight", EMBEDDING, EMBEDDING)
    return model.done()


def _hybrid(path: Path, *, window: int = 0) -> Path:
    """LFM2 in small: a short convolution, then attention (with a window, if asked for)."""
    model = _Model(path, "lfm2", [0, _KV_HEADS])
    model.writer.add_shortconv_l_cache(_CONV)
    if window:
        model.writer.add_sliding_window(window)
    random = model.weights.random
    model.weights.matrix("token_embd.weight", len(model.types), EMBEDDING)
    model.weights.norm("token_embd_norm.weight")
    for block in range(2):
        model.norms(block, "attn_norm", "ffn_norm")
        model.feed_forward(block)
        if block:
            model.attention(block)
        else:
            model.vector(f"blk.{block}.shortconv.conv.weight", random.normal(0, 0.5, (EMBEDDING, _CONV)))
            model.weights.matrix(f"blk.{block}.shortconv.in_proj.weight", 3 * EMBEDDING, EMBEDDING)
            model.weights.matrix(f"blk.{block}.shortconv.out_proj.weight", EMBEDDING, EMBEDDING)
    return model.done()


MEMORIES: dict[str, Callable[[Path], Path]] = {
    "plain": _plain,
    "window": _window,
    "recurrent": _recurrent,
    "hybrid": _hybrid,
    "hybrid with window": lambda path: _hybrid(path, window=WINDOW),
}

# Those with a recurrent state, of every kind of recurrence.
STATES: dict[str, Callable[[Path], Path]] = {
    "mamba": _recurrent,
    "mamba 2": _mamba2,
    "rwkv 6": _rwkv,
    "hybrid": _hybrid,
    "hybrid with window": MEMORIES["hybrid with window"],
}


def write_per_layer(path: Path) -> Path:
    """Gemma 4 in small, but with per-layer embeddings of 40 MB: three quarters of all."""
    per_layer = 16384
    model = _Model(path, "gemma4", _KV_HEADS)
    model.writer.add_sliding_window(WINDOW)
    model.writer.add_sliding_window_pattern([True, False])
    for name in ("attention.key_length", "attention.value_length"):
        model.writer.add_uint32(f"gemma4.{name}", _HEAD)
        model.writer.add_uint32(f"gemma4.{name}_swa", _HEAD)
    model.writer.add_uint32("gemma4.rope.dimension_count_swa", _HEAD)
    model.writer.add_uint32("gemma4.embedding_length_per_layer_input", per_layer)
    model.weights.outside(model.types)
    numbers = model.weights.random.normal(0, 1, 1 << 20).astype(np.float16)
    model.writer.add_tensor("per_layer_token_embd.weight", np.resize(numbers, (len(model.types), 2 * per_layer)))
    model.weights.matrix("per_layer_model_proj.weight", 2 * per_layer, EMBEDDING)
    model.vector("per_layer_proj_norm.weight", np.ones(per_layer))
    model.vector("rope_freqs.weight", np.ones(_HEAD // 2))
    for block in range(2):
        model.attention(block)
        model.feed_forward(block)
        model.norms(block, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm")
        model.weights.matrix(f"blk.{block}.inp_gate.weight", per_layer, EMBEDDING)
        model.weights.matrix(f"blk.{block}.proj.weight", EMBEDDING, per_layer)
    return model.done()
