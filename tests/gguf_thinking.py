"""A tiny Llama whose weights are planted: behind each token stands the one that was written down, and nothing else.

Attention and feed-forward add nothing, so that only the last token counts: its embedding is a direction of its own, and
the output matrix sends that direction to the next token. Any chat template of the field can stand in the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, TokenType
from gguf_samples import (
    BLOCKS,
    EMBEDDING,
    FEED_FORWARD,
    HEADS,
    _add_facts,
    _add_spm,
    _finish,
    _spm_vocabulary,
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


def write_planted(
    path: Path,
    following: Mapping[str, str],
    template: str,
    *,
    user_defined: Sequence[str] = ("<think>", "</think>"),
    more: Sequence[str] = (),
    context_length: int = 512,
) -> Path:
    """The model. `following`: token -> next token, by their spellings; `more`: ordinary tokens besides."""
    tokens, scores, types = _spm_vocabulary(CONTROL)
    for spelling, kind in [
        *((one, TokenType.USER_DEFINED) for one in user_defined),
        *((one, TokenType.NORMAL) for one in more),
    ]:
        tokens.append(spelling)
        scores.append(0.0)
        types.append(kind)
    writer = GGUFWriter(path, "llama")
    _add_facts(writer, "Planted Llama", context_length, kv_heads=HEADS)
    _add_spm(writer, tokens, scores, types, eos=tokens.index(END))
    writer.add_vocab_size(len(tokens))
    writer.add_chat_template(template)
    embedding = np.zeros((len(tokens), EMBEDDING), dtype=np.float16)
    output = np.zeros((len(tokens), EMBEDDING), dtype=np.float16)
    embedding[:, EMBEDDING - 1] = 1  # of every token that nothing is planted for
    for direction, (token, after) in enumerate(following.items()):
        row = tokens.index(token)
        embedding[row] = 0
        embedding[row, direction] = 1
        output[tokens.index(after), direction] = 4
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", np.ones(EMBEDDING, dtype=np.float32))
    writer.add_tensor("output.weight", output)
    for block in range(BLOCKS):
        for name, rows in (
            ("attn_q", EMBEDDING),
            ("attn_k", EMBEDDING),
            ("attn_v", EMBEDDING),
            ("attn_output", EMBEDDING),
        ):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.zeros((rows, EMBEDDING), dtype=np.float16))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.zeros((FEED_FORWARD, EMBEDDING), dtype=np.float16))
        writer.add_tensor(f"blk.{block}.ffn_down.weight", np.zeros((EMBEDDING, FEED_FORWARD), dtype=np.float16))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{name}.weight", np.ones(EMBEDDING, dtype=np.float32))
    return _finish(writer, path)
