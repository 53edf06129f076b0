"""What a GGUF is, told from its header before a byte of weights is fetched or loaded, and what llama.cpp dies of."""

import math
import os
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import gguf_samples as samples
import pytest
from conftest import Outcome, run_slm
from gguf_builder import ARR, F32, I32, STR, U32, Array, Tiny, completed, start
from gguf_memories import MEMORIES
from gguf_samples import CHATML_TEMPLATE, entry, gguf, string, tensor
from gguf_surgery import with_keys, with_tensor
from hub_server import HubServer

from slmchat.catalog import architectures, header_limits, model_kind
from slmchat.catalog.gguf import read_header, read_header_bytes
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.model_kind import FileKind
from slmchat.commands import models
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Paths, Settings
from slmchat.terminal.console import Console

CHAT = entry("tokenizer.chat_template", STR, string("{{ messages }}"))
WEIGHTS = (tensor("token_embd.weight", [32]),)


def text(key: str, value: str) -> bytes:
    return entry(key, STR, string(value))


def number(key: str, value: int) -> bytes:
    return entry(key, U32, struct.pack("<I", value))


def of(architecture: str, *entries: bytes) -> list[bytes]:
    return [text("general.architecture", architecture), *entries]


def header(entries: Sequence[bytes], tensors: Sequence[bytes] = WEIGHTS) -> Header:
    data = gguf(entries, tensors, data_bytes=4096)
    return read_header_bytes(data, len(data), name="x.gguf")


CAUSAL = "attention.causal"
KINDS: dict[str, tuple[list[bytes], Sequence[bytes], FileKind, ExitCode | None, str]] = {
    "chat": (of("llama", CHAT), WEIGHTS, FileKind.CHAT, None, ""),
    "base": (of("llama"), WEIGHTS, FileKind.BASE, None, ""),
    "no pooling": (of("qwen3", CHAT, number("qwen3.pooling_type", 0)), WEIGHTS, FileKind.CHAT, None, ""),
    "bert": (of("bert"), WEIGHTS, FileKind.EMBEDDING, ExitCode.USAGE, "an embedding model"),
    "embedding decoder": (of("qwen3", CHAT, number("qwen3.pooling_type", 3)), WEIGHTS, FileKind.EMBEDDING, ExitCode.USAGE, "qwen3"),
    "not causal": (of("llama", entry(f"llama.{CAUSAL}", 7, b"\0")), WEIGHTS, FileKind.EMBEDDING, ExitCode.USAGE, "embedding"),
    "reranker": (of("qwen3", number("qwen3.pooling_type", 4)), WEIGHTS, FileKind.RERANKER, ExitCode.USAGE, "a reranker"),
    "encoder": (of("t5encoder"), WEIGHTS, FileKind.ENCODER, ExitCode.DAMAGED, "the encoder"),
    "encoder-decoder": (of("t5"), WEIGHTS, FileKind.ENCODER_DECODER, ExitCode.DAMAGED, "an encoder-decoder model"),
    "diffusion": (of("llada"), WEIGHTS, FileKind.DIFFUSION, ExitCode.DAMAGED, "a diffusion model"),
    "image": (of("flux"), WEIGHTS, FileKind.IMAGE, ExitCode.DAMAGED, "an image model"),
    "nameless image": ([], (tensor("model.diffusion_model.a", [32]),), FileKind.IMAGE, ExitCode.DAMAGED, "an image model"),
    "speech": (of("whisper"), WEIGHTS, FileKind.SPEECH, ExitCode.DAMAGED, "a speech model"),
    "draft head": (of("eagle3"), WEIGHTS, FileKind.DRAFT_HEAD, ExitCode.DAMAGED, "a draft head"),
    "projector": (of("clip"), WEIGHTS, FileKind.PROJECTOR, ExitCode.DAMAGED, "a projector (mmproj)"),
    "adapter": (of("llama", text("general.type", "adapter")), WEIGHTS, FileKind.ADAPTER, ExitCode.DAMAGED, "a LoRA adapter"),
    "imatrix": ([text("general.type", "imatrix")], WEIGHTS, FileKind.IMATRIX, ExitCode.DAMAGED, "an importance matrix"),
    "control vector": (of("controlvector"), WEIGHTS, FileKind.CONTROL_VECTOR, ExitCode.DAMAGED, "a control vector"),
    "vocabulary": (of("llama"), (), FileKind.VOCABULARY, ExitCode.DAMAGED, "a vocabulary without weights"),
    "nameless": ([], WEIGHTS, FileKind.NAMELESS, ExitCode.DAMAGED, "does not say which architecture"),
    "later part": (of("llama", entry("split.no", 2, b"\1\0")), WEIGHTS, FileKind.PART, ExitCode.DAMAGED, "later parts"),
    "unknown architecture": (of("gemma9"), WEIGHTS, FileKind.UNKNOWN_ARCHITECTURE, ExitCode.DAMAGED, "'gemma9', which the installed llama.cpp does not know"),
    "unknown types": (of("llama"), (tensor("a", [32], kind=77),), FileKind.UNKNOWN_TYPES, ExitCode.DAMAGED, "type 77, newer than it"),
    "removed types": (of("llama"), (tensor("a", [32], kind=31),), FileKind.UNKNOWN_TYPES, ExitCode.DAMAGED, "type 31, removed"),
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_named_as_what_it_is(name: str) -> None:
    entries, tensors, kind, code, says = KINDS[name]
    found = header(entries, tensors)
    assert model_kind.kind_of([found]).kind is kind
    if code is None:
        model_kind.check_generates([found], "x.gguf")
        return
    with pytest.raises(SlmError) as raised:
        model_kind.check_generates([found], "x.gguf")
    assert raised.value.exit_code is code
    assert says in raised.value.message and raised.value.message.startswith("x.gguf")
    assert raised.value.hint


def test_every_kind_is_tried() -> None:
    assert {row[2] for row in KINDS.values()} == set(FileKind)


def test_the_first_part_of_a_split_model_may_hold_no_tensors() -> None:
    first = header(of("llama", entry("split.count", 2, struct.pack("<H", 2))), ())
    assert model_kind.kind_of([first]).kind is FileKind.BASE  # the rest is not known yet
    assert model_kind.kind_of([first, header(of("llama"))]).kind is FileKind.BASE


def test_the_table_of_architectures_is_that_of_the_pinned_library() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert f"llama-cpp-python=={architectures.VERSION}" in project["dependencies"]
    for names in (
        architectures.EMBEDDING, architectures.ENCODER, architectures.ENCODER_DECODER, architectures.DIFFUSION,
        architectures.DRAFT_HEAD, architectures.SPEECH, architectures.RECURRENT, architectures.RECURRENT_WITHOUT_KV_HEADS,
        architectures.SAME_LENGTHS, architectures.TURNS_WHOLE_HEADS, architectures.WITHOUT_ROPE, architectures.LATENT,
        architectures.IN_SECTIONS,
    ):  # fmt: skip
        assert names <= architectures.KNOWN
    assert not architectures.IMAGE & architectures.KNOWN


def _said(path: Path) -> str:
    """What llama.cpp says of a file that it cannot load; "" when it can."""
    from slmchat.engine import native

    api = native.bindings()
    native.clear_log()
    params = api.llama_model_default_params()
    params.use_mmap = False
    model = api.llama_model_load_from_file(str(path).encode(), params)
    if model:
        api.llama_model_free(model)
        return ""
    lines = native.log_lines()
    return next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])


@pytest.mark.real
def test_the_library_knows_these_architectures_and_no_other(tmp_path: Path) -> None:
    from slmchat.engine import native

    file = tmp_path / "x.gguf"
    # the prebuilt library is a few builds older; what it lacks is the same sentence when it is loaded
    newer = {"glm5-next"} if native.library().is_extension else set()
    for name in [*sorted(architectures.KNOWN), *sorted(architectures.IMAGE), "whisper", "controlvector"]:
        file.write_bytes(gguf(of(name), WEIGHTS, data_bytes=256))
        is_known = "unknown model architecture" not in _said(file)
        assert is_known == (name in architectures.KNOWN - newer), name


# Values in a header


LLAMA, MAMBA, GEMMA3, QWEN35, DEEPSEEK = "llama", "mamba2", "gemma3", "qwen35", "deepseek2"
LISTS = ("attention.head_count", "attention.head_count_kv")
# What aborted llama.cpp, or let it compute for ever: found by tests/fuzz/search_headers.py and by reading its asserts.
DEADLY: list[tuple[str, dict[str, tuple[int, object]], str]] = [
    (LLAMA, {"block_count": (U32, 0)}, "block_count is 0"),
    (LLAMA, {"block_count": (U32, 100_000)}, "block_count is 100,000"),
    (LLAMA, {"nextn_predict_layers": (U32, 2)}, "nextn_predict_layers"),
    (LLAMA, {"rope.scaling.type": (STR, "su")}, "rope.scaling.type is 'su'"),
    (LLAMA, {"rope.scaling.type": (STR, "")}, "rope.scaling.type is ''"),
    (LLAMA, {"expert_count": (U32, 8)}, "uses 0 experts of 8"),
    (LLAMA, {"expert_used_count": (U32, 2)}, "uses 2 experts of 0"),
    (LLAMA, {"expert_count": (U32, 5000), "expert_used_count": (U32, 2)}, "expert_count is 5,000"),
    (LLAMA, {"expert_group_count": (U32, 2)}, "groups of experts"),
    (LLAMA, {"expert_gating_func": (U32, 32)}, "expert_gating_func"),
    (LLAMA, {"attention.layer_norm_rms_epsilon": (F32, -1.0)}, "layer_norm_rms_epsilon is -1"),
    (LLAMA, {"attention.layer_norm_rms_epsilon": (F32, math.nan)}, "layer_norm_rms_epsilon is nan"),
    (LLAMA, {"attention.layer_norm_epsilon": (F32, -1e-9)}, "layer_norm_epsilon"),
    (LLAMA, {"attention.head_count": (U32, 0)}, "head_count is 0"),
    (LLAMA, {"attention.head_count_kv": (U32, 0)}, "head_count_kv is 0"),
    (LLAMA, {"attention.head_count_kv": (U32, 3)}, "not a multiple"),
    (LLAMA, {"attention.head_count_kv": (ARR, Array(U32, (2, 1)))}, "layer 1 has 1 heads"),
    (LLAMA, {"attention.head_count_kv": (ARR, Array(U32, (2, 0)))}, "head_count_kv is 0"),
    (LLAMA, {"attention.head_count": (ARR, Array(U32, (4, 2)))}, "layer 1 has 2 heads"),
    (LLAMA, {"attention.key_length": (U32, 32)}, "keys of 32 and values of 16"),
    (LLAMA, {"rope.dimension_count": (U32, 8)}, "rope.dimension_count is 8"),
    (LLAMA, {"attention.sliding_window": (U32, 1 << 31)}, "sliding_window"),
    (GEMMA3, {"rope.dimension_count": (U32, 0)}, "rope.dimension_count is 0"),
    (GEMMA3, {"rope.dimension_count": (U32, 3)}, "must be even"),
    (GEMMA3, {"rope.dimension_count_swa": (U32, 32)}, "rope.dimension_count_swa is 32"),
    (GEMMA3, {"attention.sliding_window": (U32, 64), "attention.sliding_window_pattern": (U32, 1)}, "no layer"),
    (QWEN35, {"full_attention_interval": (U32, 0)}, "full_attention_interval is 0"),
    (QWEN35, {"rope.dimension_sections": (ARR, Array(I32, (0, 0, 0, 0)))}, "sections are all 0"),
    (MAMBA, {"ssm.inner_size": (U32, 128), "ssm.time_step_rank": (U32, 3), "ssm.group_count": (U32, 1)}, "not a multiple"),
    (DEEPSEEK, {"attention.temperature_scale": (F32, 0.1), "attention.key_length": (U32, 32)}, "temperature_length"),
    ("olmoe", {"attention.head_count_kv": (U32, 2)}, "is not its attention.head_count"),
    (DEEPSEEK, {"rope.dimension_count": (U32, 16)}, "rope.dimension_count is 16 of keys of 16"),
]  # fmt: skip


def _tiny(architecture: str, changes: dict[str, tuple[int, object]]) -> Tiny:
    tiny = start(architecture)
    tiny.keys |= {f"{architecture}.{key}": value for key, value in changes.items()}
    for block in range(2):
        tiny.tensors |= {f"blk.{block}.attn_q.weight": (64, 64), f"blk.{block}.attn_k.weight": (64, 32)}
    return tiny


@pytest.mark.parametrize(("architecture", "changes", "says"), DEADLY, ids=lambda value: str(value)[:60])
def test_what_llama_cpp_dies_of_is_refused(
    architecture: str, changes: dict[str, tuple[int, object]], says: str, tmp_path: Path
) -> None:
    file = _tiny(architecture, changes).write(tmp_path / "x.gguf")
    with pytest.raises(SlmError) as raised:
        header_limits.check([read_header(file)], "x.gguf")
    assert raised.value.exit_code is ExitCode.DAMAGED
    assert says in raised.value.message


@pytest.mark.parametrize("tokenizer", ["none", "no_vocab", "bert", "test"])
def test_a_tokenizer_that_writes_no_text_is_refused(tokenizer: str, tmp_path: Path) -> None:
    tiny = start("llama")
    tiny.keys["tokenizer.ggml.model"] = (STR, tokenizer)
    with pytest.raises(SlmError, match=f"its tokenizer is '{tokenizer}'"):
        header_limits.check([read_header(tiny.write(tmp_path / "x.gguf"))], "x.gguf")


def test_gpt2s_vocabulary_under_the_name_of_sentencepiece_is_refused(tmp_path: Path) -> None:
    sound = samples.write_tiny_llama(tmp_path / "a.gguf", chat_template=None, tokenizer="bpe")
    header_limits.check([read_header(sound)], "a.gguf")
    file = with_keys(sound, tmp_path / "b.gguf", {"tokenizer.ggml.model": "llama"})
    with pytest.raises(SlmError, match="no tokens for single bytes"):
        header_limits.check([read_header(file)], "b.gguf")


@pytest.mark.parametrize("architecture", ["phi3", "falcon-h1", "qwen35", "qwen3next", "rwkv6"])
def test_a_tensor_that_llama_cpp_only_reads_is_asked_for(architecture: str, tmp_path: Path) -> None:
    tiny = start(architecture)
    signs = {"phi3": "attn_output.weight", "rwkv6": "time_mix_w1.weight"}
    tiny.tensors[f"blk.1.{signs.get(architecture, 'ssm_conv1d.weight')}"] = (64, 64)
    with pytest.raises(SlmError, match=r"layer 1 has .* and no "):
        header_limits.check([read_header(tiny.write(tmp_path / "x.gguf"))], "x.gguf")


def test_tensors_that_do_not_begin_at_a_multiple_of_32_are_refused() -> None:
    data = gguf([*of("llama"), number("general.alignment", 1)], WEIGHTS, data_bytes=4096)
    found = read_header_bytes(data, len(data), name="x.gguf")
    if found.data_offset % 32 == 0:
        pytest.skip("this header happens to end there")
    with pytest.raises(SlmError, match="multiple of 32"):
        header_limits.check([found], "x.gguf")


def test_what_is_sound_is_taken(tmp_path: Path) -> None:
    made = [write(tmp_path / f"{name}.gguf") for name, write in MEMORIES.items()]
    made += [samples.write_tiny_phi3(tmp_path / "phi3.gguf"), samples.write_tiny_gemma3(tmp_path / "gemma3.gguf")]
    made.append(samples.write_tiny_mamba(tmp_path / "mamba.gguf"))
    for file in made:
        model_kind.check_generates([read_header(file)], file.name)


LEGAL: list[tuple[str, dict[str, tuple[int, object]]]] = [
    ("llama", {"rope.scaling.type": (STR, "longrope")}),
    ("llama", {"expert_count": (U32, 0), "expert_used_count": (U32, 0)}),
    ("llama", {"attention.head_count_kv": (ARR, Array(U32, (2, 2)))}),
    ("phi2", {"rope.dimension_count": (U32, 8)}),
    ("gemma3", {"attention.key_length": (U32, 16), "attention.value_length": (U32, 8)}),
    ("deci", {"attention.head_count": (ARR, Array(U32, (4, 0))), "attention.head_count_kv": (ARR, Array(U32, (2, 0)))}),
    ("hunyuan-dense", {"expert_count": (U32, 1)}),
    (
        "plamo2",
        {"attention.head_count": (ARR, Array(U32, (0, 4))), "attention.head_count_kv": (ARR, Array(U32, (0, 2)))},
    ),
    ("nemotron", {"rope.dimension_count": (U32, 8)}),
    ("minimax-m2", {"rope.dimension_count": (U32, 8)}),
    ("gpt2", {"rope.dimension_count": (U32, 0)}),
]


@pytest.mark.parametrize(("architecture", "changes"), LEGAL, ids=lambda value: str(value)[:40])
def test_what_is_odd_and_legal_is_taken(
    architecture: str, changes: dict[str, tuple[int, object]], tmp_path: Path
) -> None:
    tiny = start(architecture)
    tiny.keys |= {f"{architecture}.{key}": value for key, value in changes.items()}
    header_limits.check([read_header(tiny.write(tmp_path / "x.gguf"))], "x.gguf")


@pytest.mark.real
def test_llama_cpp_takes_a_model_with_an_empty_tensor_and_one_without_dimensions(tmp_path: Path) -> None:
    """ggml-org/llama.cpp #25596: both are legal GGUF, and no damage. The model does not use them, so it is refused."""
    tiny = completed(start("llama"), tmp_path / "x.gguf", lambda path: _said(path) or None)
    tiny.tensors |= {"empty": (64, 0), "number": ()}
    found = read_header(tiny.write(tmp_path / "y.gguf"))
    assert [found.tensors[-2].size, found.tensors[-1].size] == [0, 4]
    assert "wrong number of tensors" in _said(tmp_path / "y.gguf")


@pytest.mark.real
@pytest.mark.skipif(not hasattr(os, "fork"), reason="its children are forked")
def test_a_short_search_finds_nothing_that_ends_llama_cpp() -> None:
    """The long ones: python tests/fuzz/search_headers.py."""
    script = Path(__file__).parent / "fuzz" / "search_headers.py"
    command = [sys.executable, str(script), "--architectures", "llama,gemma3", "--every", "200", "--seconds", "60"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'fine'" in done.stdout


# At the doors


@pytest.fixture(scope="module")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_tiny_llama(
        tmp_path_factory.mktemp("tiny") / "tiny.gguf",
        chat_template=CHATML_TEMPLATE,
        extra_control_tokens=("<|im_start|>", "<|im_end|>"),
    )


def _settings(home: Path) -> Settings:
    return Settings(Paths(home / "data", home / "config", home / "cache"))


def test_add_and_show_name_it(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_chat: Path) -> None:
    settings = _settings(tmp_path / "home")
    for architecture in ("t5", "gemma9"):
        file = tmp_path / f"{architecture}.gguf"
        file.write_bytes(gguf(of(architecture), WEIGHTS, data_bytes=4096))
        for door in (models.add, models.show):
            arguments = ("mine", str(file)) if door is models.add else (str(file),)
            with pytest.raises(SlmError) as raised:
                door(*arguments, settings, Console())
            assert raised.value.exit_code is ExitCode.DAMAGED
            assert architecture in raised.value.message
    assert "kind:            an encoder-decoder model (t5), " in capsys.readouterr().out
    embedding = with_keys(tiny_chat, tmp_path / "e.gguf", {"llama.pooling_type": 1})
    models.add("mine", str(embedding), settings, Console())
    models.list_models(settings, Console())
    models.show("mine", settings, Console())
    shown = capsys.readouterr()
    assert "is an embedding model" in shown.err and "next: slm embed -m mine" in shown.err
    assert "tags:            embedding" in shown.out


def test_a_template_that_is_not_valid_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_chat: Path
) -> None:
    settings = _settings(tmp_path / "home")
    broken = with_keys(tiny_chat, tmp_path / "b.gguf", {"tokenizer.chat_template": "{% for m in"})
    models.add("mine", str(broken), settings, Console())
    said = capsys.readouterr().err
    assert "chat template is not valid Jinja" in said and "slm run --raw" in said
    models.add("sound", str(tiny_chat), settings, Console())
    assert "Jinja" not in capsys.readouterr().err


@pytest.mark.real
@pytest.mark.parametrize("words", [("run", "--raw", "hi"), ("run", "hi"), ("bench",), ("batch", "{}")])
def test_nothing_answers_with_an_embedding_model(
    words: Sequence[str], tiny_chat: Path, tmp_path: Path, home: Path
) -> None:
    file = with_keys(tiny_chat, tmp_path / "e.gguf", {"llama.pooling_type": 1})
    name = [file] if words[0] == "bench" else ["-m", file]
    outcome = run_slm(words[0], *name, *words[1:], home=home, stdin="x\n")
    assert (outcome.code, outcome.out) == (ExitCode.USAGE, "")
    assert "is an embedding model (llama), which turns text into numbers and cannot answer." in outcome.err


@pytest.fixture
def hub() -> "HubServer":  # type: ignore[misc]
    with HubServer() as server:
        yield server


@pytest.mark.real
@pytest.mark.parametrize(
    ("architecture", "code", "says"),
    [("gemma9", ExitCode.DAMAGED, "'gemma9'"), ("t5", ExitCode.DAMAGED, "encoder-decoder"), ("bert", ExitCode.DONE, "embedding")],
)  # fmt: skip
def test_pull_asks_the_header_before_it_fetches(
    architecture: str, code: ExitCode, says: str, hub: HubServer, home: Path
) -> None:
    weights = gguf(of(architecture), [tensor("a", [1 << 20])], data_bytes=4 << 20)
    hub.add("owner/odd", {"odd-Q4_K_M.gguf": weights})
    env = {"HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    outcome = run_slm("pull", "hf:owner/odd", home=home, env=env)
    assert outcome.code == code, outcome
    assert says in outcome.err
    fetched = [request.range for request in hub.asked("storage", "GET")]
    if code:
        assert all(asked is not None and int(asked.rpartition("-")[2]) < 2 << 20 for asked in fetched)
        assert not list((home / "hf").rglob("*.gguf"))
    else:
        assert "embedding" in run_slm("list", home=home).out


# Weights that are no numbers


def _answered(file: Path, run: Callable[..., object]) -> SlmError:
    from slmchat.engine import llama

    engine = llama.load(file)
    try:
        with pytest.raises(SlmError) as raised:
            run(engine)
    finally:
        engine.close()
    return raised.value


@pytest.mark.real
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_that_computes_no_numbers_answers_nothing(
    value: float, temperature: float, tiny_chat: Path, tmp_path: Path
) -> None:
    from slmchat.engine.llama import LlamaEngine
    from slmchat.engine.requests import Limits, Part, Prompt, Request, SessionSettings
    from slmchat.engine.sampler import SamplerSettings

    file = with_tensor(tiny_chat, tmp_path / "nan.gguf", "output_norm.weight", value)
    prompt, limits = Prompt((Part("hello world", is_template=True),)), Limits(5)
    settings = SessionSettings(n_ctx=256, threads=1, threads_batch=1)
    sampler = SamplerSettings(temperature=temperature, seed=1)

    def alone(engine: LlamaEngine) -> None:
        list(engine.open_session(settings).generate(prompt, sampler, limits))

    def among_others(engine: LlamaEngine) -> None:
        (done,) = engine.open_pool(settings, 1).run(iter([Request("a", prompt, sampler, limits)]))
        assert done.error is not None
        raise done.error

    for run in (alone, among_others):
        error = _answered(file, run)
        assert error.exit_code is ExitCode.DAMAGED
        assert error.message.startswith("the model computes no numbers")


@pytest.mark.real
def test_the_program_says_that_it_computes_no_numbers(tiny_chat: Path, tmp_path: Path, home: Path) -> None:
    file = with_tensor(tiny_chat, tmp_path / "nan.gguf", "output_norm.weight", math.nan)
    outcome: Outcome = run_slm("run", "-m", file, "hello", home=home)
    assert (outcome.code, outcome.out) == (ExitCode.DAMAGED, "")
    assert outcome.err.startswith("slm: the model computes no numbers")
