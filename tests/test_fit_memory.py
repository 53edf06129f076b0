"""The memory of a model from its header, against what llama.cpp itself plans and allocates."""

import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from gguf_shapes import ALL, GEMMA3_4B, LLAMA_1B, MIXTRAL, Shape, write_shape
from llama_plan import MIB, planned

from slmchat.catalog.gguf import read_header
from slmchat.engine import devices, native
from slmchat.fit.estimate import requantized
from slmchat.fit.memory import Load, compute_reserved, kv_bytes, memory, repacked_bytes
from slmchat.fit.shape import ModelShape, shape_of

pytestmark = pytest.mark.real


def shape_at(path: Path) -> ModelShape:
    return shape_of([read_header(path)])


@pytest.mark.parametrize("shape", ALL.values(), ids=ALL.keys())
def test_header_alone_gives_the_kv_cache_exactly_and_the_buffers_within_ten_percent(
    shape: Shape, tmp_path: Path
) -> None:
    path = write_shape(tmp_path / "x.gguf", shape)
    for n_ctx, kv_type, outputs in ((700, "f16", 0), (4096, "q8_0", 1), (32768, "f16", 1)):
        found = planned(path, n_ctx, kv_type, outputs)
        load = Load(n_ctx, kv_type, outputs=outputs or 512)
        kv = kv_bytes(shape_at(path).layers, load) / MIB
        assert kv == pytest.approx(sum(found.caches), abs=0.011 * len(found.caches))  # the log has two decimals
        assert compute_reserved(shape_at(path), load) / MIB == pytest.approx(found.compute, rel=0.1)


@pytest.mark.model
@pytest.mark.parametrize(("n_ctx", "kv_type"), [(512, "q8_0"), (4096, "f16"), (32768, "q8_0")])
def test_kv_cache_of_the_real_models(n_ctx: int, kv_type: str, smollm2: Path, gemma3_base: Path) -> None:
    for path in (smollm2, gemma3_base):
        found = planned(path, n_ctx, kv_type)
        kv = kv_bytes(shape_at(path).layers, Load(n_ctx, kv_type)) / MIB
        assert kv == pytest.approx(sum(found.caches), abs=0.011 * len(found.caches))


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q2_K"])
@pytest.mark.parametrize("experts", [0, 4])
def test_repacked_copies_are_those_that_llama_cpp_makes(type_name: str, experts: int, tmp_path: Path) -> None:
    shape = Shape(
        "llama", 2, 512, 1024, 8, 4, 64, 4096, type_name, type_name, is_tied=not experts, experts=experts, used=2
    )
    path = write_shape(tmp_path / "x.gguf", shape)
    api = native.bindings()
    native.clear_log()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    assert model
    said = [line for line in native.log_lines() if re.search("(CPU_REPACK|AMX) model buffer size", line)]
    api.llama_model_free(model)
    real = sum(float(line.split("=")[1].split("MiB")[0]) for line in said)
    load = Load(512, instruction_sets=devices.build_features() or ())
    assert repacked_bytes(shape_at(path).matrices, load) / MIB == pytest.approx(real, abs=0.02)


def test_a_sliding_window_keeps_only_its_window(tmp_path: Path) -> None:
    shape = shape_at(write_shape(tmp_path / "x.gguf", GEMMA3_4B))
    assert [layer.window for layer in shape.layers[:6]] == [1024] * 5 + [None]
    windowed = [layer for layer in shape.layers if layer.window]
    assert kv_bytes(windowed, Load(4096)) == kv_bytes(windowed, Load(32768))


@pytest.mark.parametrize(
    ("architecture", "more", "with_kv", "with_state"),
    [
        ("lfm2", {"shortconv.l_cache": 3, "attention.head_count_kv": [0, 8, 0, 8]}, 2, 2),
        ("qwen35", {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 128, "ssm.group_count": 2}, 1, 3),
        ("falcon-h1", {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 128}, 4, 4),
        ("mamba", {"ssm.conv_kernel": 4, "ssm.inner_size": 512, "ssm.state_size": 16}, 0, 4),
        ("gemma4", {"attention.sliding_window": 512, "attention.shared_kv_layers": 1}, 3, 0),
        ("deepseek2", {"attention.key_length_mla": 192, "attention.value_length_mla": 128}, 4, 0),
        ("phi3", {"attention.sliding_window": 2048}, 4, 0),
    ],
)
def test_layers_without_a_kv_cache_and_layers_with_a_state(
    architecture: str, more: dict[str, int | list[int]], with_kv: int, with_state: int, tmp_path: Path
) -> None:
    shape = shape_at(
        write_shape(tmp_path / "x.gguf", Shape(architecture, 4, 512, 1024, 8, 8, 64, 1024, more=dict(more)))
    )
    assert sum(layer.key > 0 for layer in shape.layers) == with_kv
    assert sum(layer.state_bytes > 0 for layer in shape.layers) == with_state
    if architecture == "deepseek2":
        assert all(layer.value == 0 for layer in shape.layers)
    if architecture == "phi3":  # llama.cpp has switched that off
        assert all(layer.window is None for layer in shape.layers)


def test_only_the_experts_in_use_are_read(tmp_path: Path) -> None:
    shape = shape_at(write_shape(tmp_path / "x.gguf", MIXTRAL))
    assert shape.is_mixture
    assert 0.25 < shape.active_bytes / shape.weight_bytes < 0.32  # 12.9 of 46.7 billion parameters


def test_layers_on_a_gpu_leave_the_processors_memory(tmp_path: Path) -> None:
    shape = shape_at(write_shape(tmp_path / "x.gguf", LLAMA_1B))
    none, half, all_ = (memory(shape, Load(4096, gpu_layers=layers)) for layers in (0, 8, 17))
    assert none.gpu == 0
    assert none.weights > half.weights > all_.weights
    assert half.kv == none.kv / 2
    assert half.weights + sum(layer.weight_bytes for layer in shape.layers[8:]) == none.weights


# Qwen 3.5 in small: recurrent, attention, recurrent, attention, and a head for multi-token prediction behind them.
_WIDTH, _WIDE, _HEADS, _HEAD, _STATE, _GROUPS, _RANK = 64, 128, 4, 16, 16, 2, 4


def _write_predicting(path: Path) -> Path:
    writer, blocks = GGUFWriter(path, "qwen35"), 5
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(256)
    writer.add_context_length(4096)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(_WIDE)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(2)
    writer.add_key_length(_HEAD)
    writer.add_value_length(_HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_ssm_conv_kernel(4)
    writer.add_ssm_inner_size(_STATE * _RANK)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    writer.add_ssm_group_count(_GROUPS)
    writer.add_uint32("qwen35.full_attention_interval", 2)
    writer.add_uint32("qwen35.nextn_predict_layers", 1)
    writer.add_uint32("qwen35.rope.dimension_count", 4)
    writer.add_array("qwen35.rope.dimension_sections", [2, 0, 0, 0])
    shapes = {"token_embd.weight": (256, _WIDTH), "output_norm.weight": (_WIDTH,)}
    for block in range(blocks):
        is_recurrent = block < blocks - 1 and block % 2 == 0
        own: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (_WIDTH,), "post_attention_norm.weight": (_WIDTH,),
            "ffn_gate.weight": (_WIDE, _WIDTH), "ffn_up.weight": (_WIDE, _WIDTH), "ffn_down.weight": (_WIDTH, _WIDE),
        }  # fmt: skip
        if is_recurrent:
            inner, mixed = _STATE * _RANK, 2 * _STATE * _GROUPS + _STATE * _RANK
            own |= {
                "attn_qkv.weight": (mixed, _WIDTH), "attn_gate.weight": (inner, _WIDTH), "ssm_conv1d.weight": (mixed, 4),
                "ssm_dt.bias": (_RANK,), "ssm_a": (_RANK,), "ssm_beta.weight": (_RANK, _WIDTH),
                "ssm_alpha.weight": (_RANK, _WIDTH), "ssm_norm.weight": (_STATE,), "ssm_out.weight": (_WIDTH, inner),
            }  # fmt: skip
        else:
            own |= {
                "attn_q.weight": (2 * _HEAD * _HEADS, _WIDTH), "attn_k.weight": (2 * _HEAD, _WIDTH),
                "attn_v.weight": (2 * _HEAD, _WIDTH), "attn_output.weight": (_WIDTH, _HEAD * _HEADS),
                "attn_q_norm.weight": (_HEAD,), "attn_k_norm.weight": (_HEAD,),
            }  # fmt: skip
        if block == blocks - 1:
            own |= {"nextn.eh_proj.weight": (_WIDTH, 2 * _WIDTH), "nextn.enorm.weight": (_WIDTH,)}
            own |= {"nextn.hnorm.weight": (_WIDTH,)}
        shapes |= {f"blk.{block}.{name}": sides for name, sides in own.items()}
    for name, sides in shapes.items():
        writer.add_tensor(name, np.ones(sides, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_heads_that_predict_tokens_ahead_stay_in_the_file(tmp_path: Path) -> None:
    """llama.cpp loads the head only where it is asked to (`load_mtp`), and slm does not ask."""
    path = _write_predicting(tmp_path / "x.gguf")
    header, shape = read_header(path), shape_at(path)
    head = sum(tensor.size or 0 for tensor in header.tensors if tensor.name.startswith("blk.4."))
    assert shape.unused_bytes == head == header.tensor_bytes - shape.weight_bytes > 0
    assert shape.weight_bytes / MIB == pytest.approx(_in_memory(path, with_head=False), abs=0.01)
    assert header.tensor_bytes / MIB == pytest.approx(_in_memory(path, with_head=True), abs=0.01)
    assert sum(matrix.bytes for matrix in shape.matrices) < shape.weight_bytes
    found = planned(path, 4096, "f16")
    assert kv_bytes(shape.layers, Load(4096)) / MIB == pytest.approx(sum(found.caches), abs=0.03)
    twice = requantized(shape, 2 * header.tensor_bytes, "Q8_0")
    assert (twice.weight_bytes, twice.unused_bytes) == (2 * shape.weight_bytes, 2 * head)


def _in_memory(path: Path, *, with_head: bool) -> float:
    """MiB of weights that llama.cpp loads."""
    api = native.bindings()
    native.clear_log()
    params = api.llama_model_default_params()
    params.load_mtp, params.load_mode, params.use_extra_bufts = with_head, api.LLAMA_LOAD_MODE_NONE, False
    model = api.llama_model_load_from_file(str(path).encode(), params)
    assert model, native.log_lines()[-3:]
    api.llama_model_free(model)
    sizes = re.findall(r"model buffer size = +([\d.]+) MiB", "\n".join(native.log_lines()))
    return sum(map(float, sizes))
