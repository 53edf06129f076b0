"""Models that see, in small: a two-layer Gemma 3 with a two-layer SigLIP projector, SmolVLM, Qwen2-VL.

All of random weights. The real llama.cpp loads them; what an image shows changes what they answer, which is all that tests need.
"""

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
    made_once,
    write_tiny_llama,
)

# Google's template, google/gemma-3-4b-it (tokenizer_config.json).
GEMMA3_TEMPLATE = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
# Qwen/Qwen2-VL-2B-Instruct (chat_template.json), without videos.
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# HuggingFaceTB/SmolVLM-256M-Instruct (chat_template.json): it knows lists of items only.
SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
GEMMA3_CONTROL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")

_HEAD, _KV_HEADS = EMBEDDING // HEADS, 2
_SIGHT, _SIGHT_FEED, _SIGHT_HEADS = 32, 96, 2
IMAGE_SIZE, _PATCH, _MERGE = 64, 8, 2
IMAGE_TOKENS = (IMAGE_SIZE // _PATCH // _MERGE) ** 2


@made_once
def write_tiny_gemma3(path: Path, *, window: int = 64, context_length: int = 1024, seed: int = 1) -> Path:
    """Gemma 3's tensors, sliding window, template and marks of images."""
    writer = GGUFWriter(path, "gemma3")
    _add_facts(writer, "Tiny Gemma 3", context_length, kv_heads=_KV_HEADS)
    tokens, scores, types = _spm_vocabulary(GEMMA3_CONTROL)
    _add_spm(writer, tokens, scores, types, eos=tokens.index("<end_of_turn>"))
    writer.add_add_space_prefix(False)
    writer.add_vocab_size(len(tokens))
    writer.add_chat_template(GEMMA3_TEMPLATE)
    writer.add_sliding_window(window)
    writer.add_sliding_window_pattern(2)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    weights = _Weights(writer, seed)
    weights.outside(types)
    for block in range(2):
        _attention(weights, block)
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(_HEAD, dtype=np.float32))
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            weights.norm(f"blk.{block}.{name}.weight")
    return _finish(writer, path)


@made_once
def write_tiny_siglip(path: Path, *, embedding: int = EMBEDDING, seed: int = 2, kind: str = "gemma3") -> Path:
    """The projector of that Gemma 3: keys and tensors as llama.cpp's converter writes them (clip.cpp reads them).

    `kind` "idefics3": the one of SmolVLM, which cuts an image into slices. `embedding`: width of the language model.
    """
    sight = _Sight(path, kind, embedding, seed)
    writer = sight.writer
    writer.add_vision_projector_scale_factor(_MERGE)
    sight.tensor("v.patch_embd.weight", _SIGHT, 3, _PATCH, _PATCH)
    sight.tensor("v.patch_embd.bias", _SIGHT)
    sight.tensor("v.position_embd.weight", (IMAGE_SIZE // _PATCH) ** 2, _SIGHT)
    sight.blocks()
    if kind == "gemma3":
        sight.tensor("mm.input_projection.weight", _SIGHT, embedding, scale=1.0)
        writer.add_tensor("mm.soft_emb_norm.weight", np.ones(_SIGHT, dtype=np.float32))
    else:
        writer.add_uint32("clip.vision.preproc_image_size", 2 * IMAGE_SIZE)
        sight.tensor("mm.model.fc.weight", embedding, _SIGHT * _MERGE**2)
    return _finish(writer, path)


@made_once
def write_tiny_qwen2vl(path: Path) -> Path:
    """Qwen2-VL in small: what it sees has a place in height and width (M-RoPE), and fewer positions than tokens."""
    writer = GGUFWriter(path, "qwen2vl")
    _add_facts(writer, "Tiny Qwen2-VL", 1024, kv_heads=_KV_HEADS)
    tokens, scores, types = _spm_vocabulary(("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"))
    _add_spm(writer, tokens, scores, types, eos=tokens.index("<|im_end|>"))
    writer.add_vocab_size(len(tokens))
    writer.add_chat_template(QWEN_TEMPLATE)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    weights = _Weights(writer, 3)
    weights.outside(types)
    for block in range(2):
        _attention(weights, block)
        for name in ("attn_norm", "ffn_norm"):
            weights.norm(f"blk.{block}.{name}.weight")
        for name, width in (("attn_q", EMBEDDING), ("attn_k", _KV_HEADS * _HEAD), ("attn_v", _KV_HEADS * _HEAD)):
            writer.add_tensor(f"blk.{block}.{name}.bias", np.zeros(width, dtype=np.float32))
    return _finish(writer, path)


@made_once
def write_tiny_qwen2vl_projector(path: Path) -> Path:
    """Its projector: no learned positions, two patch embeddings (for two frames), a merger of four patches."""
    sight = _Sight(path, "qwen2vl_merger", EMBEDDING, seed=4)
    for name in ("v.patch_embd.weight", "v.patch_embd.weight.1"):
        sight.tensor(name, _SIGHT, 3, _PATCH, _PATCH)
    sight.blocks()
    sight.tensor("mm.0.weight", 4 * _SIGHT, 4 * _SIGHT)
    sight.tensor("mm.0.bias", 4 * _SIGHT)
    sight.tensor("mm.2.weight", EMBEDDING, 4 * _SIGHT)
    sight.tensor("mm.2.bias", EMBEDDING)
    return _finish(sight.writer, path)


def write_tiny_smolvlm(path: Path) -> Path:
    """SmolVLM's language model: a Llama with the control tokens that stand between the slices of an image."""
    rows = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    control = ("<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", *rows)
    return write_tiny_llama(
        path,
        chat_template=SMOLVLM_TEMPLATE,
        extra_control_tokens=control,
        user_defined_tokens=("\n\n",),
        context_length=1024,
    )


class _Sight:
    """An image encoder in the making: the facts are there, tensors come."""

    def __init__(self, path: Path, kind: str, embedding: int, seed: int) -> None:
        self.writer = writer = GGUFWriter(path, "clip")
        self.random = np.random.default_rng(seed)
        writer.add_type("mmproj")
        writer.add_name(f"Tiny {kind}")
        writer.add_clip_has_vision_encoder(True)
        writer.add_clip_projector_type(kind)
        writer.add_vision_image_size(IMAGE_SIZE)
        writer.add_vision_patch_size(_PATCH)
        writer.add_vision_embedding_length(_SIGHT)
        writer.add_vision_feed_forward_length(_SIGHT_FEED)
        writer.add_vision_head_count(_SIGHT_HEADS)
        writer.add_vision_block_count(2)
        writer.add_vision_projection_dim(embedding)
        writer.add_vision_attention_layernorm_eps(1e-6)
        writer.add_vision_image_mean([0.5, 0.5, 0.5])
        writer.add_vision_image_std([0.5, 0.5, 0.5])
        writer.add_vision_use_gelu(True)

    def tensor(self, name: str, *shape: int, scale: float = 0.2) -> None:
        self.writer.add_tensor(name, self.random.normal(0, scale, shape).astype(np.float32))

    def blocks(self) -> None:
        for block in range(2):
            for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
                self.tensor(f"v.blk.{block}.{name}.weight", _SIGHT, _SIGHT)
                self.tensor(f"v.blk.{block}.{name}.bias", _SIGHT)
            self.tensor(f"v.blk.{block}.ffn_up.weight", _SIGHT_FEED, _SIGHT)
            self.tensor(f"v.blk.{block}.ffn_up.bias", _SIGHT_FEED)
            self.tensor(f"v.blk.{block}.ffn_down.weight", _SIGHT, _SIGHT_FEED)
            self.tensor(f"v.blk.{block}.ffn_down.bias", _SIGHT)
            for name in ("ln1", "ln2"):
                self._norm(f"v.blk.{block}.{name}")
        self._norm("v.post_ln")

    def _norm(self, name: str) -> None:
        self.writer.add_tensor(f"{name}.weight", np.ones(_SIGHT, dtype=np.float32))
        self.writer.add_tensor(f"{name}.bias", np.zeros(_SIGHT, dtype=np.float32))


def _attention(weights: _Weights, block: int) -> None:
    """Attention and feed-forward matrices of a language model's block."""
    weights.matrix(f"blk.{block}.attn_q.weight", EMBEDDING, EMBEDDING)
    weights.matrix(f"blk.{block}.attn_k.weight", _KV_HEADS * _HEAD, EMBEDDING)
    weights.matrix(f"blk.{block}.attn_v.weight", _KV_HEADS * _HEAD, EMBEDDING)
    weights.matrix(f"blk.{block}.attn_output.weight", EMBEDDING, EMBEDDING)
    weights.matrix(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
    weights.matrix(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
    weights.matrix(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
