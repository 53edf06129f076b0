"""A tiny Llama whose weights are planted: behind each token stands the one that was written down, and nothing else.

Attention and feed-forward add nothing, so that only the last token counts: its embedding is a direction of its own, and
the output matrix sends that direction to the next token. Any chat template of the field can stand in the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType
from gguf_samples import (
    BLOCKS,
    EMBEDDING,
    HEADS,
    _add_spm,
    _finish,
    _spm_vocabulary,
    made_once,
)

NEWLINE = "<0x0A>"
END = "</s>"

# As Qwen3's and Qwen3.5's templates switch: the first only closes the thought, the second opens it, too.
SWITCHED = (
    "{% for message in messages %}<|turn|>{{ message.role }}<|says|>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>model<|says|>"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
OPENED = SWITCHED.replace("{% endif %}{% endif %}", "{% else %}<think>{% endif %}{% endif %}")
# No switch, and no word of thoughts.
PLAIN = SWITCHED[: SWITCHED.index("{% if enable")] + "{% endif %}"

CONTROL = ("<|turn|>", "<|says|>")

# The thought goes round and round, the answer is "no way" and an end.
THINKS = {
    "<|says|>": "<think>",
    "<think>": "▁look",
    "▁look": "▁at",
    "▁at": "▁the",
    "▁the": "▁water",
    "▁water": "▁look",
    "</think>": NEWLINE,
    NEWLINE: "▁no",
    "▁no": "▁way",
    "▁way": END,
}


@made_once
def write_planted(
    path: Path,
    following: Mapping[str, str],
    template: str,
    *,
    user_defined: Sequence[str] = ("<think>", "</think>"),
    more: Sequence[str] = (),
    context_length: int = 512,
    width: int = EMBEDDING,
    blocks: int = BLOCKS,
) -> Path:
    """The model. `following`: token -> next token, by their spellings; `more`: ordinary tokens besides.

    `width`, `blocks`: how much there is to compute for the same words, as a draft and its model differ.
    """
    tokens, scores, types = _spm_vocabulary(CONTROL)
    for spelling, kind in [
        *((one, TokenType.USER_DEFINED) for one in user_defined),
        *((one, TokenType.NORMAL) for one in more),
    ]:
        tokens.append(spelling)
        scores.append(0.0)
        types.append(kind)
    writer = GGUFWriter(path, "llama")
    writer.add_type("model")
    writer.add_name("Planted Llama")
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(width)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_rope_freq_base(10000.0)
    _add_spm(writer, tokens, scores, types, eos=tokens.index(END))
    writer.add_vocab_size(len(tokens))
    writer.add_chat_template(template)
    embedding = np.zeros((len(tokens), width), dtype=np.float16)
    output = np.zeros((len(tokens), width), dtype=np.float16)
    embedding[:, width - 1] = 1  # of every token that nothing is planted for
    for direction, (token, after) in enumerate(following.items()):
        row = tokens.index(token)
        embedding[row] = 0
        embedding[row, direction] = 1
        output[tokens.index(after), direction] = 4
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for block in range(blocks):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.zeros((width, width), dtype=np.float16))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(width, dtype=np.float32))
    return _finish(writer, path)
