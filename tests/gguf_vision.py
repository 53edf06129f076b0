"""Models that see, in small: a two-layer Gemma 3 with a two-layer SigLIP projector, both of random weights.

The real llama.cpp loads them; what an image shows changes what they answer, which is all that tests need.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from gguf_samples import EMBEDDING, FEED_FORWARD, HEADS, _add_facts, _add_spm, _finish, _spm_vocabulary, _Weights

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
GEMMA3_CONTROL = ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>")

_HEAD, _KV_HEADS = EMBEDDING // HEADS, 2
_SIGHT, _SIGHT_FEED, _SIGHT_HEADS = 32, 96, 2
IMAGE_SIZE, _PATCH, _MERGE = 64, 8, 2
IMAGE_TOKENS = (IMAGE_SIZE // _PATCH // _MERGE) ** 2


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
        weights.matrix(f"blk.{block}.attn_q.weight", EMBEDDING, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_k.weight", _KV_HEADS * _HEAD, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_v.weight", _KV_HEADS * _HEAD, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_output.weight", EMBEDDING, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)
        for name in ("attn_q_norm", "attn_k_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(_HEAD, dtype=np.float32))
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            weights.norm(f"blk.{block}.{name}.weight")
    return _finish(writer, path)


def write_tiny_siglip(path: Path, *, embedding: int = EMBEDDING, seed: int = 2) -> Path:
    """The projector of that Gemma 3: keys and tensors as llama.cpp's converter writes them (clip.cpp reads them)."""
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_name("Tiny SigLIP")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("gemma3")
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
    writer.add_vision_projector_scale_factor(_MERGE)
    writer.add_vision_use_gelu(True)
    random = np.random.default_rng(seed)

    def tensor(name: str, *shape: int, scale: float = 0.2) -> None:
        writer.add_tensor(name, random.normal(0, scale, shape).astype(np.float32))

    tensor("v.patch_embd.weight", _SIGHT, 3, _PATCH, _PATCH)
    tensor("v.patch_embd.bias", _SIGHT)
    tensor("v.position_embd.weight", (IMAGE_SIZE // _PATCH) ** 2, _SIGHT)
    for block in range(2):
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            tensor(f"v.blk.{block}.{name}.weight", _SIGHT, _SIGHT)
            tensor(f"v.blk.{block}.{name}.bias", _SIGHT)
        tensor(f"v.blk.{block}.ffn_up.weight", _SIGHT_FEED, _SIGHT)
        tensor(f"v.blk.{block}.ffn_up.bias", _SIGHT_FEED)
        tensor(f"v.blk.{block}.ffn_down.weight", _SIGHT, _SIGHT_FEED)
        tensor(f"v.blk.{block}.ffn_down.bias", _SIGHT)
        for name in ("ln1", "ln2"):
            writer.add_tensor(f"v.blk.{block}.{name}.weight", np.ones(_SIGHT, dtype=np.float32))
            writer.add_tensor(f"v.blk.{block}.{name}.bias", np.zeros(_SIGHT, dtype=np.float32))
    writer.add_tensor("v.post_ln.weight", np.ones(_SIGHT, dtype=np.float32))
    writer.add_tensor("v.post_ln.bias", np.zeros(_SIGHT, dtype=np.float32))
    tensor("mm.input_projection.weight", _SIGHT, embedding, scale=1.0)
    writer.add_tensor("mm.soft_emb_norm.weight", np.ones(_SIGHT, dtype=np.float32))
    return _finish(writer, path)
