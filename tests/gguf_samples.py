"""Small GGUF files for tests: two tiny models that the real llama.cpp loads and decodes, and one file per damage.

The models have random weights: they answer nonsense, but everything around the answer is real (vocabulary, control
tokens, chat template, KV cache).
"""

import functools
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from chat_templates import CHATML_TEMPLATE, GEMMA_TEMPLATE, LLAMA2_TEMPLATE, PHI3_TEMPLATE
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType

__all__ = ["CHATML_TEMPLATE", "GEMMA_TEMPLATE", "LLAMA2_TEMPLATE", "PHI3_TEMPLATE"]

# As in Qwen2.5-Coder, and as in CodeGemma.
QWEN_INFILL = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
GEMMA_INFILL = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|file_separator|>")
BROKEN_TEMPLATE = "{% for message in messages %}{{ message['content'] }"

# The order in Microsoft's Phi-3 vocabulary (there 32000 to 32010, with placeholders between).
PHI3_CONTROL = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")

_COMMON = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may part system user "
    "assistant hello world model token file secret key answer question"
)
WORDS = _COMMON.split()
LETTERS = "etaoinsrhldcumfpgwybvkxjqzETAOINSRHLDCUMFPGWYBVKXJQZ0123456789.,;:!?'\"()[]{}<>|/\\-_+=*&%$#@~^`\n"

EMBEDDING, HEADS, BLOCKS, FEED_FORWARD = 64, 4, 2, 64


def made_once(write: Callable[..., Path]) -> Callable[..., Path]:
    """A writer of files whose bytes its arguments decide: what it made before it copies, in a tenth of the time."""
    made: dict[str, bytes] = {}

    @functools.wraps(write)
    def written(path: Path, *arguments: Any, **options: Any) -> Path:
        key = repr((arguments, sorted(options.items())))
        if key in made:
            path.write_bytes(made[key])
        else:
            made[key] = write(path, *arguments, **options).read_bytes()
        return path

    return written


@made_once
def write_tiny_phi3(path: Path, *, seed: int = 0, context_length: int = 256) -> Path:
    """A Phi-3 in small: its tensors (fused QKV and gate), its vocabulary type, its control tokens, its template."""
    tokens, scores, types = _spm_vocabulary(PHI3_CONTROL)
    writer = GGUFWriter(path, "phi3")
    # llama.cpp strips white space behind control tokens for models whose name says Phi-3 (llama-vocab.cpp).
    _add_facts(writer, "Tiny Phi-3 Instruct", context_length, kv_heads=HEADS)
    writer.add_license("mit")
    writer.add_rope_scaling_orig_ctx_len(context_length)
    end_of_text = tokens.index("<|endoftext|>")
    # Flags and ids as in llama.cpp's ggml-vocab-phi-3.gguf; add_space_prefix is not set there, so it is true.
    _add_spm(writer, tokens, scores, types, eos=end_of_text)
    writer.add_pad_token_id(end_of_text)
    writer.add_chat_template(PHI3_TEMPLATE)
    weights = _Weights(writer, seed)
    weights.outside(types)
    for block in range(BLOCKS):
        weights.matrix(f"blk.{block}.attn_qkv.weight", 3 * EMBEDDING, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_up.weight", 2 * FEED_FORWARD, EMBEDDING)
        weights.rest_of_block(block)
    return _finish(writer, path)


@made_once
def write_tiny_llama(
    path: Path,
    *,
    chat_template: str | None,
    tokenizer: Literal["bpe", "spm"] = "spm",
    extra_control_tokens: Sequence[str] = (),
    user_defined_tokens: Sequence[str] = (),
    seed: int = 0,
    context_length: int = 256,
    bpe_pre: str = "gpt-2",
) -> Path:
    """A Llama in small (grouped-query attention) with any chat template, to try templates on the real llama.cpp.

    `user_defined_tokens` (spm only): markers that the file declares as user-defined, as some real files do.
    `bpe_pre`: the pre-tokenizer that the file names, by which some models are known.
    """
    kv_heads = HEADS // 2
    writer = GGUFWriter(path, "llama")
    _add_facts(writer, "Tiny Llama", context_length, kv_heads=kv_heads)
    if tokenizer == "spm":
        tokens, scores, types = _spm_vocabulary(extra_control_tokens)
        tokens += user_defined_tokens
        scores += [0.0] * len(user_defined_tokens)
        types += [TokenType.USER_DEFINED] * len(user_defined_tokens)
        _add_spm(writer, tokens, scores, types, eos=tokens.index("</s>"))
    else:
        types = _add_bpe(writer, extra_control_tokens, bpe_pre)
    writer.add_vocab_size(len(types))
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    weights = _Weights(writer, seed)
    weights.outside(types)
    head = EMBEDDING // HEADS
    for block in range(BLOCKS):
        weights.matrix(f"blk.{block}.attn_q.weight", EMBEDDING, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_k.weight", kv_heads * head, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_v.weight", kv_heads * head, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        weights.rest_of_block(block)
    return _finish(writer, path)


@made_once
def write_tiny_gemma3(path: Path, *, window: int = 16, seed: int = 0, context_length: int = 512) -> Path:
    """A Gemma 3 in small: every second layer sees only the last `window` tokens."""
    writer = GGUFWriter(path, "gemma3")
    _add_facts(writer, "Tiny Gemma 3", context_length, kv_heads=HEADS // 2)
    writer.add_key_length(EMBEDDING // HEADS)
    writer.add_value_length(EMBEDDING // HEADS)
    writer.add_sliding_window(window)
    writer.add_array("gemma3.attention.sliding_window_pattern", [block % 2 == 0 for block in range(BLOCKS)])
    tokens, scores, types = _spm_vocabulary(())
    _add_spm(writer, tokens, scores, types, eos=tokens.index("</s>"))
    weights = _Weights(writer, seed)
    weights.outside(types)
    head = EMBEDDING // HEADS
    for block in range(BLOCKS):
        weights.matrix(f"blk.{block}.attn_q.weight", EMBEDDING, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_k.weight", HEADS // 2 * head, EMBEDDING)
        weights.matrix(f"blk.{block}.attn_v.weight", HEADS // 2 * head, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        weights.matrix(f"blk.{block}.ffn_up.weight", FEED_FORWARD, EMBEDDING)
        weights.rest_of_block(block)
        weights.norm(f"blk.{block}.post_attention_norm.weight")
        weights.norm(f"blk.{block}.post_ffw_norm.weight")
        weights.norm(f"blk.{block}.attn_q_norm.weight", head)
        weights.norm(f"blk.{block}.attn_k_norm.weight", head)
    return _finish(writer, path)


@made_once
def write_tiny_mamba(path: Path, *, seed: int = 0, context_length: int = 512) -> Path:
    """A Mamba in small: a recurrent state instead of a KV cache."""
    kernel, inner, state, rank = 4, 2 * EMBEDDING, 8, 4
    writer = GGUFWriter(path, "mamba")
    _add_facts(writer, "Tiny Mamba", context_length, kv_heads=0)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(state)
    writer.add_ssm_time_step_rank(rank)
    tokens, scores, types = _spm_vocabulary(())
    _add_spm(writer, tokens, scores, types, eos=tokens.index("</s>"))
    weights = _Weights(writer, seed)
    weights.outside(types)
    for block in range(BLOCKS):
        weights.norm(f"blk.{block}.attn_norm.weight")
        weights.matrix(f"blk.{block}.ssm_in.weight", 2 * inner, EMBEDDING)
        weights.floats(f"blk.{block}.ssm_conv1d.weight", inner, kernel)
        weights.floats(f"blk.{block}.ssm_conv1d.bias", inner)
        weights.matrix(f"blk.{block}.ssm_x.weight", rank + 2 * state, inner)
        weights.matrix(f"blk.{block}.ssm_dt.weight", inner, rank)
        weights.floats(f"blk.{block}.ssm_dt.bias", inner)
        writer.add_tensor(f"blk.{block}.ssm_a", -np.ones((inner, state), dtype=np.float32))  # it must forget
        weights.norm(f"blk.{block}.ssm_d", inner)
        weights.matrix(f"blk.{block}.ssm_out.weight", EMBEDDING, inner)
    return _finish(writer, path)


class _Weights:
    """Random matrices in F16, norms of ones in F32."""

    def __init__(self, writer: GGUFWriter, seed: int) -> None:
        self.writer = writer
        self.random = np.random.default_rng(seed)

    def matrix(self, name: str, rows: int, columns: int) -> None:
        self.writer.add_tensor(name, self.random.normal(0, 0.2, (rows, columns)).astype(np.float16))

    def floats(self, name: str, *shape: int) -> None:
        self.writer.add_tensor(name, self.random.normal(0, 0.2, shape).astype(np.float32))

    def norm(self, name: str, length: int = EMBEDDING) -> None:
        self.writer.add_tensor(name, np.ones(length, dtype=np.float32))

    def outside(self, types: Sequence[TokenType]) -> None:
        """Embedding and output. Control and byte tokens have zero rows, logit 0: greedy never picks one of them."""
        self.matrix("token_embd.weight", len(types), EMBEDDING)
        self.norm("output_norm.weight")
        output = self.random.normal(0, 0.5, (len(types), EMBEDDING))
        output[[token_type != TokenType.NORMAL for token_type in types]] = 0
        self.writer.add_tensor("output.weight", output.astype(np.float16))

    def rest_of_block(self, block: int) -> None:
        self.norm(f"blk.{block}.attn_norm.weight")
        self.norm(f"blk.{block}.ffn_norm.weight")
        self.matrix(f"blk.{block}.attn_output.weight", EMBEDDING, EMBEDDING)
        self.matrix(f"blk.{block}.ffn_down.weight", EMBEDDING, FEED_FORWARD)


def _add_facts(
    writer: GGUFWriter,
    name: str,
    context_length: int,
    *,
    kv_heads: int,
    width: int = EMBEDDING,
    blocks: int = BLOCKS,
    feed_forward: int = FEED_FORWARD,
    file_type: LlamaFileType = LlamaFileType.MOSTLY_F16,
) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(context_length)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // HEADS)
    writer.add_rope_freq_base(10000.0)


def _spm_vocabulary(control: Sequence[str]) -> tuple[list[str], list[float], list[TokenType]]:
    """Bytes, letters, and every word with all its beginnings, so that SentencePiece can merge its way to the word."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    pieces = dict.fromkeys(["▁", *(letter for letter in LETTERS if letter != "\n")])
    for word in WORDS:
        pieces.update(dict.fromkeys("▁" + word[:length] for length in range(1, len(word) + 1)))
    scores = [0.0] * len(tokens) + [-float(rank) for rank in range(len(pieces))] + [0.0] * len(control)
    tokens += [*pieces, *control]
    types += [TokenType.NORMAL] * len(pieces) + [TokenType.CONTROL] * len(control)
    return tokens, scores, types


def _add_spm(writer: GGUFWriter, tokens: list[str], scores: list[float], types: list[TokenType], *, eos: int) -> None:
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(eos)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def _add_bpe(writer: GGUFWriter, control: Sequence[str], pre: str) -> list[TokenType]:
    """GPT-2's byte letters, and merges that build each word from left to right."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(0x100 + rank) for rank in range(len(others))]
    space = letters[len(printable) + others.index(0x20)]
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        piece = space
        for letter in word:
            merges[piece, letter] = None
            piece += letter
    tokens = ["<|endoftext|>", *letters, *(left + right for left, right in merges), *control]
    types = [TokenType.NORMAL] * len(tokens)
    for index in (0, *range(len(tokens) - len(control), len(tokens))):
        types[index] = TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    return types


def _finish(writer: GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# Files built by bytes: what a writer would refuse to write.

U8, U32, I32, F32, STR, ARR = 0, 4, 5, 6, 8, 9


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def array(kind: int, length: int, data: bytes) -> bytes:
    return struct.pack("<IQ", kind, length) + data


def tensor(name: str | bytes, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


ARCHITECTURE = entry("general.architecture", STR, string("llama"))


def gguf(
    entries: Sequence[bytes] = (ARCHITECTURE,),
    tensors: Sequence[bytes] = (),
    *,
    data_bytes: int = 0,
    version: int = 3,
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    """A GGUF of these parts, the header padded to 32 bytes; the counts may lie."""
    keys = len(entries) if key_count is None else key_count
    infos = len(tensors) if tensor_count is None else tensor_count
    header = b"GGUF" + struct.pack("<IQQ", version, infos, keys) + b"".join(entries) + b"".join(tensors)
    return header + bytes(-len(header) % 32) + bytes(data_bytes)


def hostile(directory: Path) -> dict[str, Path]:
    """One file for each kind of damage, `NAME.gguf` for each NAME."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {**_not_gguf(), **_bad_counts(), **_bad_values(), **_bad_tensors()}
    paths = {name: directory / f"{name}.gguf" for name in files}
    for name, data in files.items():
        paths[name].write_bytes(data)
    return paths


def _not_gguf() -> dict[str, bytes]:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n"
    header = b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return {
        "empty": b"",
        "text": "Hello, I am a café, not a model.\n".encode(),
        "html": b"\n<!DOCTYPE html><html><body>Please log in</body></html>",
        "git_lfs": pointer,
        "zip": b"PK\x03\x04" + bytes(60),
        "pytorch": b"PK\x03\x04" + bytes(26) + b"archive/data.pkl" + bytes(20),
        "pickle": b"\x80\x02}q\x00." + bytes(20),
        "safetensors": struct.pack("<Q", len(header)) + header + bytes(4),
        "ggjt": b"tjgg" + bytes(60),
        "ggml": b"lmgg" + bytes(60),
        "ggla": b"algg" + bytes(60),
        "ggsn": b"nsgg" + bytes(60),
        "zeros": bytes(4096),
        "wrong_magic": b"GGUX" + gguf()[4:],
        "cut_magic": b"GGU",
        "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 1) + bytes(64),
        "version_0": gguf(version=0),
        "version_1": gguf(version=1),
        "version_4": gguf(version=4),
    }


def _bad_counts() -> dict[str, bytes]:
    huge = 1 << 60
    return {
        "header_cut": gguf()[:40],
        "counts_cut": gguf()[:10],
        "tensor_count": gguf(tensor_count=huge) + bytes(200),
        "key_count": gguf(key_count=huge) + bytes(200),
        "key_count_one_more": gguf(key_count=2),
        "key_length": gguf([struct.pack("<Q", huge) + b"general"]),
        "empty_key": gguf([entry("", U32, bytes(4))]),
        "string_length": gguf([string("general.name") + struct.pack("<IQ", STR, huge)]),
        "string_length_max": gguf([string("general.name") + struct.pack("<IQ", STR, (1 << 64) - 1)]),
        "array_length": gguf([entry("a", ARR, array(F32, huge, b""))]),
        "string_array_length": gguf([entry("tokenizer.ggml.tokens", ARR, array(STR, huge, b""))]),
        "string_array_cut": gguf([entry("tokenizer.ggml.tokens", ARR, array(STR, 100, string("a") * 99))]) + bytes(4),
        "string_in_array": gguf([entry("tokenizer.ggml.tokens", ARR, array(STR, 65, b"\xff" * 8 * 65))]),
    }


def _bad_values() -> dict[str, bytes]:
    return {
        "value_type": gguf([entry("a", 13, bytes(8))]),
        "array_value_type": gguf([entry("a", ARR, array(99, 1, bytes(8)))]),
        "nested_array": gguf([entry("a", ARR, array(ARR, 1, array(U32, 1, bytes(4))))]),
        "duplicate_key": gguf([ARCHITECTURE, ARCHITECTURE]),
        "key_utf8": gguf([entry(b"general.\xff\xfe", U32, bytes(4))]),
        "alignment_odd": gguf([entry("general.alignment", U32, struct.pack("<I", 33))]),
        "alignment_zero": gguf([entry("general.alignment", U32, bytes(4))]),
        "alignment_text": gguf([entry("general.alignment", STR, string("32"))]),
        "huge_template": gguf([entry("tokenizer.chat_template", STR, string("x" * ((1 << 20) + 1)))]),
    }


def _bad_tensors() -> dict[str, bytes]:
    def holding(*tensors: bytes, data_bytes: int = 256) -> bytes:
        return gguf(tensors=tensors, data_bytes=data_bytes)

    return {
        "tensor_data_cut": holding(tensor("a", [32]), tensor("b", [32], offset=128), data_bytes=255),
        "tensor_beyond_the_end": holding(tensor("a", [1 << 40])),
        "too_many_dims": holding(tensor("a", [1] * 5)),
        "overflowing_dims": holding(tensor("a", [1 << 32, 1 << 32, 1 << 32, 1 << 32])),
        "negative_dim": holding(tensor("a", [(1 << 64) - 1])),
        "partial_block": holding(tensor("a", [33], kind=8)),
        "misaligned_offset": holding(tensor("a", [32]), tensor("b", [32], offset=132), data_bytes=512),
        "overlapping_tensors": holding(tensor("a", [32]), tensor("b", [32], offset=64)),
        "gap_between_tensors": holding(tensor("a", [32]), tensor("b", [16], offset=160)),
        "offset_beyond_the_end": holding(tensor("a", [32], offset=1 << 62)),
        "duplicate_tensor": holding(tensor("a", [32]), tensor("a", [32], offset=128)),
        "tensor_name_length": holding(tensor("a" * 64, [32])),
        "tensor_name_utf8": holding(tensor(b"\xc3\x28", [32])),
    }


def write_big_vocabulary(path: Path, count: int = 262_144) -> Path:
    """A file that is all vocabulary, of the size of Gemma's."""
    tokens = [
        entry("tokenizer.ggml.tokens", ARR, array(STR, count, string("▁token") * count)),
        entry("tokenizer.ggml.scores", ARR, array(F32, count, bytes(4 * count))),
        entry("tokenizer.ggml.token_type", ARR, array(I32, count, bytes(4 * count))),
    ]
    path.write_bytes(gguf(tokens))
    return path


def write_mixture(
    path: Path, *, experts: int, width: int = 512, feed_forward: int = 1024, blocks: int = 8, seed: int = 0
) -> Path:
    """A mixture of experts in Q8_0, of which each token uses two: `blocks` * `experts` * 3 * `width` * `feed_forward`
    * 34 / 32 bytes, and little beside them."""
    writer = GGUFWriter(path, "llama", use_temp_file=True)
    _add_facts(
        writer, "Mixture", 2048, kv_heads=HEADS, width=width, blocks=blocks, feed_forward=feed_forward,
        file_type=LlamaFileType.MOSTLY_Q8_0,
    )  # fmt: skip
    writer.add_expert_count(experts)
    writer.add_expert_used_count(2)
    tokens, scores, types = _spm_vocabulary(())
    _add_spm(writer, tokens, scores, types, eos=tokens.index("</s>"))
    writer.add_vocab_size(len(types))
    random = np.random.default_rng(seed)

    def matrix(name: str, *shape: int) -> None:
        """Blocks of 32 bytes, each behind its scale (ggml-common.h: block_q8_0)."""
        n_blocks = int(np.prod(shape)) // 32
        made = np.empty((n_blocks, 34), dtype=np.uint8)
        made[:, :2] = np.frombuffer(np.float16(0.0005).tobytes(), dtype=np.uint8)
        made[:, 2:] = random.integers(0, 256, (n_blocks, 32), dtype=np.uint8)
        writer.add_tensor(name, made.reshape(*shape[:-1], shape[-1] // 32 * 34), raw_dtype=GGMLQuantizationType.Q8_0)

    matrix("token_embd.weight", len(types), width)
    matrix("output.weight", len(types), width)
    writer.add_tensor("output_norm.weight", np.ones(width, dtype=np.float32))
    for block in range(blocks):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{block}.{part}.weight", width, width)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{block}.{part}.weight", np.ones(width, dtype=np.float32))
        writer.add_tensor(f"blk.{block}.ffn_gate_inp.weight", random.normal(0, 1, (experts, width)).astype(np.float32))
        matrix(f"blk.{block}.ffn_gate_exps.weight", experts, feed_forward, width)
        matrix(f"blk.{block}.ffn_up_exps.weight", experts, feed_forward, width)
        matrix(f"blk.{block}.ffn_down_exps.weight", experts, width, feed_forward)
    return _finish(writer, path)
