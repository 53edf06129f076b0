"""Well-formed headers with one value changed: what slm's check lets through must not abort or hang llama.cpp.

Tiny models of many architectures (gguf_builder.py); every number and text of the header is set to edge values, other
types and arrays; each file that slm accepts is loaded and decodes two tokens in a child process with a time limit.

    python tests/fuzz/search_headers.py [--architectures llama,mamba] [--seconds 8] [--all]

`--all`: also those that slm refuses, to see which refusals are needed. Exit code 1 when a child died or hung.
"""

import argparse
import collections
import importlib
import itertools
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

from gguf_builder import ARR, BOOL, F32, I32, STR, U32, Array, Tiny, completed, start  # noqa: E402

FINE, REFUSED = 0, 3  # exit codes of a child


# Tensors that llama.cpp reads and does not ask for.
_UNASKED: dict[str, dict[str, tuple[int, ...]]] = {
    **{key: {f"blk.{block}.attn_qkv.weight": (64, 128) for block in range(2)} for key in ("phi3", "phimoe")},
    "falcon-h1": {f"blk.{block}.ssm_conv1d.bias": (160,) for block in range(2)},
    **{key: {"blk.0.ssm_conv1d.bias": (160,)} for key in ("granitehybrid", "nemotron_h")},
    **{
        key: {"blk.0.attn_qkv.weight": (64, 128), "blk.0.attn_gate.weight": (64, 64)} for key in ("qwen35", "qwen3next")
    },
    "rwkv6": {f"blk.{block}.time_mix_lerp_fused.weight": (64, 1, 1, 5) for block in range(2)},
}


def _models() -> dict[str, Tiny]:
    """One for each kind of memory, feed-forward and position that llama.cpp has, and the families of the catalog."""
    moe = {"expert_count": (U32, 4), "expert_used_count": (U32, 2)}
    own = {"attention__key_length": (U32, 16), "attention__value_length": (U32, 16)}
    ssm = {
        "ssm__conv_kernel": (U32, 4), "ssm__inner_size": (U32, 128), "ssm__state_size": (U32, 16),
        "ssm__time_step_rank": (U32, 4), "ssm__group_count": (U32, 1),
    }  # fmt: skip
    hybrid_heads = (ARR, Array(I32, (0, 2)))
    swa = {"attention__sliding_window": (U32, 64)}
    linear = {
        "ssm__conv_kernel": (U32, 4), "ssm__inner_size": (U32, 64), "ssm__state_size": (U32, 16),
        "ssm__time_step_rank": (U32, 4), "ssm__group_count": (U32, 2),
        "rope__dimension_sections": (ARR, Array(I32, (2, 2, 2, 2))), "full_attention_interval": (U32, 2), **own,
    }  # fmt: skip
    mla = {
        "attention__kv_lora_rank": (U32, 16), "attention__q_lora_rank": (U32, 16), "attention__key_length": (U32, 32),
        "attention__value_length": (U32, 16), "attention__head_count_kv": (U32, 4), "leading_dense_block_count": (U32, 1),
        "expert_feed_forward_length": (U32, 32), "expert_shared_count": (U32, 1), "expert_weights_scale": (F32, 1.0),
        **moe,
    }  # fmt: skip
    plain = (
        "qwen2", "qwen3", "phi2", "phi3", "gemma", "falcon", "gptneox", "gpt2", "bloom", "mpt", "stablelm", "starcoder2",
        "olmo", "olmo2", "granite", "smollm3", "command-r", "cohere2", "internlm2", "chatglm", "glm4", "exaone", "arcee",
        "minicpm", "nemotron", "baichuan", "orion", "starcoder", "codeshell", "xverse", "qwen", "refact", "jais", "ernie4_5",
        "hunyuan-dense", "seed_oss", "mistral3", "apertus", "bitnet", "deci", "maincoder", "pangu-embedded", "openelm",
    )  # fmt: skip
    given: dict[str, dict[str, tuple[int, Any]]] = {
        "llama": {},
        **{name: {} for name in plain},
        "llama (experts)": moe,
        "gemma2": {**own, **swa},
        "gemma3": {**own, **swa},
        "gemma4": {
            **own, **swa, "attention__sliding_window_pattern": (ARR, Array(BOOL, (True, False))),
            "attention__key_length_swa": (U32, 16), "attention__value_length_swa": (U32, 16),
            "embedding_length_per_layer_input": (U32, 16), "attention__shared_kv_layers": (U32, 0),
            "rope__dimension_count_swa": (U32, 16),
        },
        "qwen3moe": {**moe, "expert_feed_forward_length": (U32, 32)},
        "qwen2moe": {**moe, "expert_feed_forward_length": (U32, 32), "expert_shared_feed_forward_length": (U32, 32)},
        "phimoe": moe,
        "olmoe": {**moe, "attention__head_count_kv": (U32, 4)},
        "granitemoe": moe,
        "gpt-oss": {**moe, **own, **swa, "expert_feed_forward_length": (U32, 32)},
        "deepseek2": mla,
        "mamba": {"attention__head_count": (U32, 0), "attention__head_count_kv": (U32, 0), **ssm},
        "mamba2": {"attention__head_count": (U32, 0), "attention__head_count_kv": (U32, 0), **ssm},
        "jamba": {"attention__head_count_kv": hybrid_heads, **ssm},
        "granitehybrid": {"attention__head_count_kv": hybrid_heads, **ssm},
        "falcon-h1": {**ssm, **own},
        "lfm2": {"attention__head_count_kv": hybrid_heads, "shortconv__l_cache": (U32, 4)},
        "nemotron_h": {
            "attention__head_count_kv": hybrid_heads, "feed_forward_length": (ARR, Array(I32, (0, 64))), **ssm
        },
        "qwen35": linear,
        "qwen3next": {**linear, **moe, "expert_feed_forward_length": (U32, 32)},
        "qwen2vl": {"rope__dimension_sections": (ARR, Array(I32, (2, 3, 3, 0)))},
        "qwen3vl": {"rope__dimension_sections": (ARR, Array(I32, (2, 3, 3, 0))), **own},
        "rwkv6": {"wkv__head_size": (U32, 16), "token_shift_count": (U32, 2)},
        "rwkv7": {"wkv__head_size": (U32, 16), "token_shift_count": (U32, 2)},
    }  # fmt: skip
    made = {name: start(name.partition(" ")[0], **more) for name, more in given.items()}
    for name, tensors in _UNASKED.items():
        made[name].tensors |= tensors
    return made


_NUMBERS = (0, 1, 3, 17, 32, 513, 1 << 20, 1 << 31, (1 << 32) - 1)
_FLOATS = (0.0, -1.0, 1e30, math.inf, math.nan)
_TEXTS = ("", "none", "yarn", "longrope", "x" * 300)
_TOKENIZERS = ("no_vocab", "bert", "gpt2", "llama", "t5", "rwkv", "plamo2", "gemma4", "test", "whitespace", "hybriddna")
# Keys that a file may have besides those that it needs: each is added, too.
_EXTRA: dict[str, tuple[int, Any]] = {
    "attention.key_length": (U32, 16), "attention.value_length": (U32, 16), "rope.scaling.type": (STR, "linear"),
    "rope.scaling.factor": (F32, 1.0), "rope.scaling.original_context_length": (U32, 256), "expert_count": (U32, 0),
    "expert_used_count": (U32, 0), "expert_group_count": (U32, 0), "expert_group_used_count": (U32, 0),
    "expert_shared_count": (U32, 0), "attention.sliding_window": (U32, 64), "attention.sliding_window_pattern": (U32, 2),
    "attention.causal": (BOOL, True), "pooling_type": (U32, 0), "attention.max_alibi_bias": (F32, 0.0),
    "attention.clamp_kqv": (F32, 0.0), "logit_scale": (F32, 1.0), "final_logit_softcapping": (F32, 30.0),
    "attn_logit_softcapping": (F32, 50.0), "nextn_predict_layers": (U32, 0), "attention.shared_kv_layers": (U32, 0),
    "embedding_length_out": (U32, 64), "attention.scale": (F32, 1.0), "rope.scaling.attn_factor": (F32, 1.0),
    "rope.scaling.yarn_log_multiplier": (F32, 0.1), "rope.freq_base_swa": (F32, 1e4), "full_attention_interval": (U32, 2),
    "leading_dense_block_count": (U32, 0), "use_parallel_residual": (BOOL, True), "expert_gating_func": (U32, 1),
    "interleave_moe_layer_step": (U32, 1), "attention.group_norm_groups": (U32, 1), "decoder_block_count": (U32, 2),
    "attention.relative_buckets_count": (U32, 32), "classifier.output_labels": (ARR, Array(STR, ("a", "b"))),
    "rope.dimension_count_swa": (U32, 16), "attention.key_length_swa": (U32, 16), "attention.value_length_swa": (U32, 16),
    "rope.dimension_sections": (ARR, Array(I32, (2, 2, 2, 2))), "embedding_scale": (F32, 1.0), "residual_scale": (F32, 1.0),
    "ssm.dt_b_c_rms": (BOOL, True), "n_deepstack_layers": (U32, 0), "attention.recurrent_layers": (ARR, Array(BOOL, (True, False))),
    "attention.temperature_length": (U32, 0), "attention.temperature_scale": (F32, 0.1), "swin_norm": (BOOL, True),
    "rescale_every_n_layers": (U32, 6), "attention.value_residual_mix_lora_rank": (U32, 4), "expert_weights_norm": (BOOL, True),
}  # fmt: skip
_EXTRA_TOKENIZER: dict[str, tuple[int, Any]] = {
    **{f"tokenizer.ggml.{name}_token_id": (U32, 3) for name in (
        "eot", "eom", "seperator", "padding", "mask", "cls", "fim_pre", "fim_suf", "fim_mid", "fim_pad", "fim_rep", "fim_sep",
        "prefix", "suffix", "middle",
    )},
    "tokenizer.ggml.add_space_prefix": (BOOL, True), "tokenizer.ggml.add_sep_token": (BOOL, True),
    "tokenizer.ggml.remove_extra_whitespaces": (BOOL, True), "tokenizer.ggml.token_type_count": (U32, 1),
    "tokenizer.ggml.precompiled_charsmap": (ARR, Array(0, (1, 2, 3, 4, 5))), "tokenizer.chat_template": (STR, "{{ 1 }}"),
    "tokenizer.ggml.merges": (ARR, Array(STR, ("a b",))), "general.alignment": (U32, 32),
    "tokenizer.ggml.suppress_tokens": (ARR, Array(I32, (1, 2))), "split.count": (2, 1), "split.no": (2, 0),
    "general.quantization_version": (U32, 2), "general.type": (STR, "model"),
}  # fmt: skip


def _others(kind: int, value: Any, key: str) -> Iterator[tuple[int, Any]]:
    """Edge values of a key's own type, then other types, then arrays."""
    if kind == STR:
        yield from ((STR, text) for text in (_TEXTS if "tokenizer" not in key else _TEXTS + _TOKENIZERS))
        return
    if kind == ARR:
        yield from _other_arrays(value)
        yield U32, 1
        return
    if kind == BOOL:
        yield from ((BOOL, False), (BOOL, True), (U32, 1), (STR, "yes"))
        return
    if kind == F32:
        yield from ((F32, number) for number in _FLOATS)
        return
    limit = {2: 1 << 16}.get(kind, 1 << 32)
    yield from ((kind, number) for number in _NUMBERS if number < limit)
    yield from ((I32, -1), (STR, "2"))
    if not key.startswith(("general.", "tokenizer.", "split.")):
        for items in ((0, value), (value, 0), (0, 0), (value, 1), (value,), (1 << 31, value)):
            yield ARR, Array(U32, tuple(items))


def _other_arrays(value: Array) -> Iterator[tuple[int, Any]]:
    items = value.items
    yield from (
        (ARR, Array(value.kind, ())),
        (ARR, Array(value.kind, items[:-1])),
        (ARR, Array(value.kind, items + items[:1])),
    )
    if value.kind == STR:
        yield ARR, Array(STR, (items[0],) * len(items))
        yield ARR, Array(STR, ("",) * len(items))
        yield ARR, Array(STR, tuple(f"\u00e9{index}" for index in range(len(items))))
        yield ARR, Array(STR, tuple(f"w{index}" for index in range(len(items))))
        yield ARR, Array(STR, (*items[:3], *(f"x{index}" for index in range(len(items) - 3))))
        yield ARR, Array(STR, ("a" * 70000, *items[1:]))
        yield ARR, Array(U32, (1,) * len(items))
        return
    for number in (0, 1, 3, 6, 99):
        yield ARR, Array(value.kind, (type(items[0])(number),) * len(items))
    if value.kind == F32:
        yield ARR, Array(F32, (math.nan,) * len(items))
        yield ARR, Array(F32, (math.inf,) * len(items))
    if value.kind in (I32, U32):
        yield ARR, Array(I32, (-1,) * len(items))
        yield ARR, Array(I32, tuple(reversed(items)))
        yield ARR, Array(F32, (1.0,) * len(items))


def mutations(tiny: Tiny, *, has_tokenizer: bool = True) -> Iterator[tuple[str, Tiny]]:
    """Each header that differs from this one in one key, or lacks one, with a word for it.

    `has_tokenizer` False: the keys that every architecture reads alike are left alone.
    """
    architecture = tiny.keys["general.architecture"][1]
    extra = {f"{architecture}.{key}": value for key, value in _EXTRA.items()} | _EXTRA_TOKENIZER
    for key, (kind, value) in {**extra, **tiny.keys}.items():
        if not has_tokenizer and key.startswith(("tokenizer.", "general.", "split.")):
            continue
        if key in tiny.keys:
            changed = tiny.copy()
            del changed.keys[key]
            yield f"{key} missing", changed
        for other in ((kind, value), *_others(kind, value, key)):
            if tiny.keys.get(key) == other:
                continue
            changed = tiny.copy()
            changed.keys[key] = other
            yield f"{key} = {_shown(other)}", changed


def _shown(value: tuple[int, Any]) -> str:
    kind, found = value
    text = f"[{found.kind}]{found.items}" if isinstance(found, Array) else repr(found)
    return f"<{kind}> {text[:60]}"


def _load(path: Path) -> str | None:
    """What llama.cpp says of a failed load, None when it loads."""
    from slmchat.engine import native

    api = native.bindings()
    native.clear_log()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if model:
        api.llama_model_free(model)
        return None
    lines = native.log_lines()
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1] if lines else "nothing")


def _use(path: Path) -> int:
    """Load, tokenize, generate two tokens, read their text and as slm does."""
    from slmchat.engine import llama
    from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
    from slmchat.engine.sampler import SamplerSettings
    from slmchat.errors import SlmError

    try:
        engine = llama.load(path)
        prompt = Prompt((Part("hello \u00e9\n\x01\U0001f600 the", is_template=True), Part(" of <s>")))
        settings = SessionSettings(n_ctx=256, threads=1, threads_batch=1)
        greedy = SamplerSettings(temperature=0, seed=1)
        list(engine.open_session(settings).generate(prompt, greedy, Limits(2)))
    except SlmError:
        return REFUSED
    return FINE


def in_child(path: Path, seconds: float) -> str:
    """`fine`, `refused`, the name of the signal that ended the child, or `hang`."""
    pid = os.fork()
    if not pid:
        if not os.environ.get("SLM_SHOW_CHILDREN"):
            with open(os.devnull, "w") as null:
                os.dup2(null.fileno(), 2)
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        code = 1
        try:
            code = _use(path)
        except BaseException:  # noqa: BLE001 - a traceback is a finding too
            traceback.print_exc()
        os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return signal.Signals(os.WTERMSIG(status)).name
            return {FINE: "fine", REFUSED: "refused"}.get(os.WEXITSTATUS(status), f"exit {os.WEXITSTATUS(status)}")
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hang"


def accepts(path: Path, *, checks_values: bool = True) -> bool:
    """Whether slm would hand the file to llama.cpp; without `checks_values` by the structure of its header alone."""
    from slmchat.catalog import model_kind
    from slmchat.catalog.gguf import read_header
    from slmchat.errors import SlmError

    try:
        header = read_header(path)
        if checks_values:
            model_kind.check_generates([header], path.name)
    except SlmError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", help="only these, separated by commas")
    parser.add_argument("--seconds", type=float, default=8.0, help="a child that takes longer hangs")
    parser.add_argument("--all", action="store_true", help="also what slm refuses")
    parser.add_argument("--structure", action="store_true", help="let through whatever is a sound GGUF")
    parser.add_argument("--every", type=int, default=1, help="only each N-th header")
    given = parser.parse_args()
    os.environ["GGML_NO_BACKTRACE"] = "1"  # no debugger for every abort; read when the library is loaded
    for module in (
        "engine.llama",
        "engine.session",
        "engine.sampler",
        "catalog.model_kind",
    ):  # once, not in every child
        importlib.import_module(f"slmchat.{module}")
    total: collections.Counter[str] = collections.Counter()
    folder = Path(tempfile.mkdtemp(prefix="slm-headers-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    file = folder / "x.gguf"
    for name, tiny in _models().items():
        if given.architectures and name not in given.architectures.split(","):
            continue
        try:
            whole = completed(tiny, file, _load)
        except ValueError as error:
            print(f"{name}: cannot be built: {str(error).strip()}", flush=True)
            continue
        whole.write(file)
        verdict = in_child(file, 30)
        if verdict != "fine" or not accepts(file):
            print(f"{name}: the sound one is {verdict}, accepted {accepts(file)}", flush=True)
            if verdict != "fine":
                continue
        counts: collections.Counter[str] = collections.Counter()
        for word, changed in itertools.islice(
            mutations(whole, has_tokenizer=name in ("llama", "mamba")), 0, None, given.every
        ):
            changed.write(file)
            is_accepted = accepts(file, checks_values=not given.structure)
            if not is_accepted and not given.all:
                counts["not accepted"] += 1
                continue
            verdict = in_child(file, given.seconds)
            counts[verdict if is_accepted else f"not accepted, {verdict}"] += 1
            if verdict not in ("fine", "refused") and is_accepted:
                print(f"{name}: {verdict}: {word}", flush=True)
            if verdict == "fine" and not is_accepted:
                print(f"{name}: needlessly refused: {word}", flush=True)
        print(f"{name}: {dict(counts)}", flush=True)
        total += counts
    file.unlink(missing_ok=True)
    folder.rmdir()
    print(f"all: {sum(total.values())} headers, {dict(total)}")
    return (
        1
        if sum(
            count
            for verdict, count in total.items()
            if verdict not in ("fine", "refused") and not verdict.startswith("not")
        )
        else 0
    )


if __name__ == "__main__":
    raise SystemExit(main())
