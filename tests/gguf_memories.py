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
