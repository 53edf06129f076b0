"""The GGUF header: what it says of real and tiny models, and how every kind of damage is refused."""

import ctypes
import os
import struct
import tracemalloc
from pathlib import Path

import gguf_samples as samples
import pytest
from gguf import GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES
from gguf_samples import (
    ARCHITECTURE,
    ARR,
    F32,
    I32,
    STR,
    U8,
    U32,
    array,
    entry,
    gguf,
    string,
    tensor,
    write_big_vocabulary,
)
from properties import given, settings
from properties import strategies as st

from slmchat.catalog import gguf as gguf_module
from slmchat.catalog.gguf import read_header, read_header_bytes, read_remote_header, split_parts
from slmchat.catalog.gguf_header import FILE_TYPES, GGML_TYPES, Header, SkippedArray, is_projector
from slmchat.catalog.gguf_parser import MAX_ARRAY, MAX_TEXT_BYTES, MAX_TOKENIZER_ARRAY, NeedMore
from slmchat.errors import ExitCode, SlmError
from slmchat.wording import part_in_bytes

# What the message of each kind of damage says. Every kind that `samples.hostile` builds must stand here.
SAYS = {
    "empty": "it is empty",
    "text": "it is text",
    "html": "web page",
    "git_lfs": "Git LFS pointer",
    "zip": "zip archive",
    "pytorch": "PyTorch",
    "pickle": "PyTorch",
    "safetensors": "safetensors",
    "ggjt": "ggjt",
    "ggml": "ggml",
    "ggla": "ggla",
    "ggsn": "ggsn",
    "zeros": "filled with zeros",
    "wrong_magic": "47 47 55 58",
    "cut_magic": "cut after 3 bytes",
    "big_endian": "big-endian",
    "version_0": "version 0",
    "version_1": "version 1",
    "version_4": "version 4",
    "header_cut": "cut short inside its header, 40 of at least 52 bytes",
    "counts_cut": "cut short inside its header, 10 of at least 16 bytes",
    "tensor_count": "claims 1152921504606846976 tensors",
    "key_count": "claims 1152921504606846976 metadata keys",
    "key_count_one_more": "a length of 0 bytes",
    "key_length": "a length of 1152921504606846976 bytes",
    "empty_key": "a length of 0 bytes",
    "string_length": "claims 1152921504606846976 bytes",
    "string_length_max": "claims 18446744073709551615 bytes",
    "array_length": "claims 1152921504606846976 elements",
    "string_array_length": "claims 1152921504606846976 elements",
    "string_array_cut": "cut short inside its header",
    "string_in_array": "cut short inside its header",
    "value_type": "unknown value type 13",
    "array_value_type": "unknown value type 99",
    "nested_array": "arrays inside an array",
    "duplicate_key": "'general.architecture' twice",
    "key_utf8": "not valid UTF-8",
    "alignment_odd": "alignment",
    "alignment_zero": "alignment",
    "alignment_text": "alignment",
    "huge_template": "chat template has 1048577 bytes",
    "tensor_data_cut": "cut short, 415 bytes of 416 bytes are there",
    "tensor_beyond_the_end": "cut short",
    "too_many_dims": "5 dimensions",
    "overflowing_dims": "impossible shape",
    "negative_dim": "impossible shape",
    "partial_block": "whole blocks of Q8_0",
    "misaligned_offset": "not aligned to 32",
    "overlapping_tensors": "overlaps",
    "gap_between_tensors": "gap before the tensor 'b'",
    "offset_beyond_the_end": "gap before the tensor 'a'",
    "duplicate_tensor": "'a' twice",
    "tensor_name_length": "a length of 64 bytes",
    "tensor_name_utf8": "not valid UTF-8",
}


def parse(data: bytes) -> Header:
    return read_header_bytes(data, len(data), name="x.gguf")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return samples.hostile(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def phi3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return samples.write_tiny_phi3(tmp_path_factory.mktemp("phi3") / "tiny.gguf")


def test_every_kind_of_damage_is_known(hostile: dict[str, Path]) -> None:
    assert hostile.keys() == SAYS.keys()


@pytest.mark.parametrize("kind", SAYS)
def test_damage_is_one_sentence(hostile: dict[str, Path], kind: str) -> None:
    with pytest.raises(SlmError) as raised:
        read_header(hostile[kind])
    error = raised.value
    assert error.exit_code == ExitCode.DAMAGED
    assert error.message.startswith(str(hostile[kind]))
    assert SAYS[kind] in error.message
    assert "\n" not in error.message
    assert "Traceback" not in error.message
    assert error.hint


def test_tiny_phi3(phi3: Path) -> None:
    header = read_header(phi3)
    assert header.version == 3
    assert header.architecture == "phi3"
    assert header.name == "Tiny Phi-3 Instruct"
    assert header.license == "mit"
    assert header.quantization == header.tensor_type == "F16"
    assert (header.context_length, header.block_count) == (256, 2)
    heads = (header.metadata[f"phi3.attention.head_count{kv}"] for kv in ("", "_kv"))
    assert (header.metadata["phi3.embedding_length"], *heads) == (64, 4, 4)
    tokens, scores = (header.metadata[f"tokenizer.ggml.{part}"] for part in ("tokens", "scores"))
    assert header.vocab_size is not None
    assert tokens == SkippedArray("str", header.vocab_size)
    assert scores == SkippedArray("f32", header.vocab_size)
    assert header.chat_template == samples.PHI3_TEMPLATE
    assert header.named_templates == {}
    assert (header.split_count, header.split_no) == (None, None)
    assert header.base_model_names == ()
    assert header.unknown_types == ()
    assert header.tensor_count == 3 + 2 * 6
    block = 64 * 3 * 64 + 64 * 64 + 128 * 64 + 64 * 64 + 2 * 64
    assert header.parameters == 2 * header.vocab_size * 64 + 64 + 2 * block
    assert header.file_size == phi3.stat().st_size < 300_000
    assert header.data_offset % GGUF_DEFAULT_ALIGNMENT == 0
    assert header.data_offset + header.tensor_bytes <= header.file_size
    assert not is_projector(header)
    with pytest.raises(TypeError):
        header.metadata["x"] = 1  # type: ignore[index]


@pytest.mark.parametrize("tokenizer", ["spm", "bpe"])
@pytest.mark.parametrize("template", [None, samples.CHATML_TEMPLATE, samples.BROKEN_TEMPLATE])
def test_tiny_llama(tmp_path: Path, tokenizer: str, template: str | None) -> None:
    path = samples.write_tiny_llama(
        tmp_path / "llama.gguf",
        chat_template=template,
        tokenizer="bpe" if tokenizer == "bpe" else "spm",
        extra_control_tokens=["<|im_start|>", "<|im_end|>"],
    )
    header = read_header(path)
    assert header.architecture == "llama"
    assert [header.metadata[f"llama.attention.head_count{kv}"] for kv in ("", "_kv")] == [4, 2]
    assert header.chat_template == template
    assert header.file_size < 300_000
    text = _decode(path, "<|im_start|>hello world", steps=4)
    assert len(text) == 4


def test_llama_cpp_decodes_the_tiny_phi3(phi3: Path) -> None:
    prompt = "<|user|>\nhello world<|end|>\n<|assistant|>\n"
    first, again = (_decode(phi3, prompt, steps=6) for _ in range(2))
    assert first == again
    assert len(first) == 6


def _decode(path: Path, prompt: str, *, steps: int) -> list[int]:
    """Greedy tokens of the real llama.cpp, on the low-level bindings."""
    from slmchat.engine import native

    llama = native.bindings()

    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), params)
    assert model
    context_params = llama.llama_context_default_params()
    context_params.n_ctx, context_params.n_threads = 64, 1
    context = llama.llama_init_from_model(model, context_params)
    assert context
    vocab = llama.llama_model_get_vocab(model)
    data = prompt.encode()
    tokens = (llama.llama_token * 64)()
    count = llama.llama_tokenize(vocab, data, len(data), tokens, 64, True, True)
    assert 0 < count < 40
    control = [token for token in tokens[:count] if llama.llama_vocab_is_control(vocab, token)]
    assert len(control) >= prompt.count("<|")
    sampler = llama.llama_sampler_init_greedy()
    out: list[int] = []
    batch = llama.llama_batch_get_one(tokens, count)
    for _ in range(steps):
        assert llama.llama_decode(context, batch) == 0
        token = int(llama.llama_sampler_sample(sampler, context, -1))
        assert not llama.llama_vocab_is_control(vocab, token)
        out.append(token)
        one = (llama.llama_token * 1)(token)
        batch = llama.llama_batch_get_one(ctypes.cast(one, ctypes.POINTER(llama.llama_token)), 1)
    llama.llama_sampler_free(sampler)
    llama.llama_free(context)
    llama.llama_model_free(model)
    return out


def test_tensor_types_are_those_of_ggml() -> None:
    for kind, (block, size) in GGML_QUANT_SIZES.items():
        assert GGML_TYPES[int(kind)] == (kind.name, block, size)
    newer = GGML_TYPES.keys() - {int(kind) for kind in GGMLQuantizationType}
    assert newer <= {42}  # Q2_0: in llama.cpp's ggml.h, not yet in every gguf package


def test_file_types_are_those_of_llama_cpp() -> None:
    for kind in LlamaFileType:
        if kind != LlamaFileType.GUESSED:
            assert FILE_TYPES[int(kind)] == kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")


@pytest.mark.parametrize(
    ("file_type", "named"), [(15, "Q4_K_M"), (7, "Q8_0"), (3, "Q4_1"), (0, "F32"), (1024 + 15, "Q4_K_M"), (999, "Q8_0")]
)
def test_quantization(file_type: int, named: str) -> None:
    data = gguf(
        [entry("general.file_type", U32, struct.pack("<I", file_type))],
        [tensor("a", [32]), tensor("b", [320], kind=8, offset=128)],
        data_bytes=128 + 340,
    )
    assert parse(data).quantization == named


def test_unknown_tensor_type_is_left_out_of_the_size_check() -> None:
    tensors = [tensor("a", [32]), tensor("b", [1 << 30], kind=200, offset=128), tensor("c", [32], offset=192)]
    header = parse(gguf(tensors=tensors, data_bytes=320))
    assert header.unknown_types == (200,)
    assert header.tensor_bytes == 256
    assert header.parameters == 64 + (1 << 30)
    tensors[2] = tensor("c", [32], offset=128)
    with pytest.raises(SlmError, match="overlaps"):
        parse(gguf(tensors=tensors, data_bytes=320))


def test_metadata_values() -> None:
    def u32(key: str, value: int) -> bytes:
        return entry(key, U32, struct.pack("<I", value))

    header = parse(
        gguf(
            [
                ARCHITECTURE,
                entry("llama.attention.head_count", ARR, array(I32, 80, struct.pack("<80i", *range(80)))),
                entry("general.tags", ARR, array(STR, 2, string("chat") + string("en"))),
                entry("tokenizer.chat_template.tool_use", STR, string("{{ tools }}")),
                entry("general.description", STR, string("ż" * MAX_TEXT_BYTES)),
                entry("general.name", U8, b"\x07"),
                entry("general.license", STR, string(b"a\xffb")),
                entry("general.type", STR, string("mmproj")),
                entry("llama.context_length", F32, struct.pack("<f", float("nan"))),
                entry("x.long", ARR, array(U8, MAX_ARRAY + 1, bytes(MAX_ARRAY + 1))),
                entry("tokenizer.x", ARR, array(U8, MAX_TOKENIZER_ARRAY, bytes(MAX_TOKENIZER_ARRAY))),
                u32("split.no", 0),
                u32("split.count", 3),
                u32("general.base_model.count", 0xFFFFFFFF),
                entry("general.base_model.0.name", STR, string("Phi 3")),
            ]
        )
    )
    assert header.metadata["llama.attention.head_count"] == tuple(range(80))
    assert header.metadata["general.tags"] == ("chat", "en")
    assert header.named_templates == {"tool_use": "{{ tools }}"}
    description = header.metadata["general.description"]
    assert isinstance(description, str)
    assert description == "ż" * (MAX_TEXT_BYTES // 2) + "…"
    assert header.name is None
    assert header.context_length is None
    assert header.license == "a\ufffdb"
    assert header.metadata["x.long"] == SkippedArray("u8", MAX_ARRAY + 1)
    assert header.metadata["tokenizer.x"] == (0,) * MAX_TOKENIZER_ARRAY
    assert (header.split_no, header.split_count) == (0, 3)
    assert header.base_model_names == ("Phi 3",)
    assert (header.chat_template, header.vocab_size, header.quantization) == (None, None, None)
    assert is_projector(header)


def test_a_file_that_says_nothing() -> None:
    header = parse(gguf([]))
    assert (header.architecture, header.context_length, header.block_count, header.quantization) == (None,) * 4
    assert parse(gguf([], version=2)).version == 2


def test_names_of_parts() -> None:
    first, second = Path("d/a-00001-of-00002.gguf"), Path("d/a-00002-of-00002.gguf")
    assert split_parts(first) == split_parts(second) == (first, second)
    for single in ("a.gguf", "a-00003-of-00002.gguf", "a-00000-of-00002.gguf", "a-1-of-2.gguf", "-00001-of-00001.gguf"):
        assert split_parts(Path("d") / single) == (Path("d") / single,)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", Path("a\0b.gguf"), tmp_path / "\ud800.gguf"):
        with pytest.raises(SlmError, match="there is no file") as missing:
            read_header(path)
        assert missing.value.exit_code == ExitCode.NO_MODEL
    with pytest.raises(SlmError, match="is a directory") as directory:
        read_header(tmp_path)
    assert directory.value.exit_code == ExitCode.STORAGE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    with pytest.raises(SlmError, match="not a regular file") as raised:
        read_header(tmp_path / "fifo.gguf")
    assert raised.value.exit_code == ExitCode.STORAGE


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf())

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(SlmError, match="Permission denied") as raised:
        read_header(path)
    assert raised.value.exit_code == ExitCode.STORAGE


def test_need_more_leads_to_the_same_header(phi3: Path) -> None:
    data = phi3.read_bytes()
    header = read_header(phi3)
    lengths = [4]
    while (more := _need_more(data[: lengths[-1]], len(data))) is not None:
        lengths.append(more)
    assert len(lengths) > 10
    assert lengths == sorted(set(lengths))
    assert lengths[-1] <= header.data_offset
    assert read_header_bytes(memoryview(data)[: lengths[-1]], len(data), name="x") == header


def test_a_big_vocabulary_takes_little_memory(tmp_path: Path) -> None:
    """A quarter of Gemma's. How long all of it takes is in benchmarks/bench_parts.py."""
    count = 65_536
    path = write_big_vocabulary(tmp_path / "big.gguf", count)
    tracemalloc.start()
    header = read_header(path)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert header.vocab_size == count
    assert kept < 100_000


def test_of_a_long_header_elsewhere_the_beginning_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_module, "FIRST_REMOTE_READ", 1 << 12)
    monkeypatch.setattr(gguf_module, "MAX_REMOTE_BYTES", 1 << 16)
    words = entry("tokenizer.ggml.tokens", ARR, array(STR, 30_000, string("ab") * 30_000))
    data = gguf([ARCHITECTURE, words], [tensor("a", [32, 2])], data_bytes=256)
    reads: list[tuple[int, int]] = []

    def read(start: int, end: int) -> bytes:
        reads.append((start, end))
        return data[start:end]

    header = read_remote_header(read, len(data), name="x")
    assert header is not None
    assert not header.is_whole
    assert header.architecture == "llama"
    assert header.tensors == ()
    assert reads[-1][1] <= 1 << 16


def _need_more(data: bytes, file_size: int) -> int | None:
    try:
        read_header_bytes(data, file_size, name="x")
    except NeedMore as more:
        return more.at_least
    return None


def _only_slm_errors(data: bytes, file_size: int) -> None:
    codes = {ExitCode.DAMAGED}
    try:
        more = _need_more(data, file_size)
    except SlmError as error:
        codes.add(error.exit_code)
    else:
        assert more is None or len(data) < more <= file_size
    assert codes == {ExitCode.DAMAGED}


@given(st.binary(max_size=300), st.integers(0, 1 << 64))
def test_random_bytes(data: bytes, more: int) -> None:
    _only_slm_errors(data, len(data))
    _only_slm_errors(data, len(data) + more)
    _only_slm_errors(b"GGUF\x03\0\0\0" + data, len(data) + 8)


GOOD = gguf(
    [
        ARCHITECTURE,
        entry("llama.context_length", U32, struct.pack("<I", 256)),
        entry("tokenizer.ggml.tokens", ARR, array(STR, 70, string("ab") * 70)),
        entry("tokenizer.ggml.scores", ARR, array(F32, 70, bytes(280))),
        entry("general.tags", ARR, array(STR, 2, string("chat") + string("en"))),
    ],
    [tensor("a", [32, 2]), tensor("b", [256], kind=12, offset=256)],
    data_bytes=256 + 144,
)
NUMBERS = st.one_of(st.integers(0, 20), st.sampled_from([2**31, 2**32 - 1, 2**60, 2**63 - 1, 2**63, 2**64 - 1]))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(4, len(GOOD) - 409), NUMBERS, st.sampled_from([1, 4, 8])), max_size=4))
def test_mutations_of_a_good_header(changes: list[tuple[int, int, int]]) -> None:
    data = bytearray(GOOD)
    for position, number, width in changes:
        data[position : position + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    tracemalloc.start()
    _only_slm_errors(bytes(data), len(data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


@given(st.integers(0, len(GOOD) - 1))
def test_every_cut_of_a_good_file(length: int) -> None:
    with pytest.raises(SlmError):
        parse(GOOD[:length])


def test_hostile_counts_cost_little_time() -> None:
    """Millions of empty strings: bounded by MAX_STRINGS, not by the size of the file."""
    size = 60 << 20
    body = entry("tokenizer.ggml.tokens", ARR, array(STR, size // 8 - 100, b""))
    data = gguf([body]) + bytes(size)
    tracemalloc.start()
    with pytest.raises(SlmError, match="elements"):
        parse(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # refused by the count, before the first of them


def test_a_part_of_a_file_is_said_so_that_the_gap_shows() -> None:
    assert part_in_bytes(50_000_000, 98_362_432) == "50.0 MB of 98.4 MB"
    assert part_in_bytes(98_362_431, 98_362_432) == "98,362,431 of 98,362,432 bytes"
