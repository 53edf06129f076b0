"""What a token takes of a device: bytes and multiply-adds, from the headers of known models' shapes."""

from pathlib import Path

import pytest
from gguf_shapes import GEMMA3_4B, LLAMA_1B, MIXTRAL, Shape, write_shape

from slmchat.catalog.gguf import read_headers
from slmchat.fit import roofline
from slmchat.fit.shape import ModelShape, shape_of


def _shape(tmp_path: Path, shape: Shape) -> ModelShape:
    return shape_of(read_headers([write_shape(tmp_path / "model.gguf", shape)]))


def test_a_dense_model(tmp_path: Path) -> None:
    """Llama 3.2 1B: 16 layers of 2048 x (2048 + 512 + 512 + 2048) and 3 x 2048 x 8192, without embedding and output."""
    shape = _shape(tmp_path, LLAMA_1B)
    matrices = 16 * (2048 * (2 * 2048 + 2 * 512) + 3 * 2048 * 8192)
    assert roofline.multiply_adds_of_token(shape, 0) == matrices
    assert roofline.multiply_adds_of_token(shape, 1000) - matrices == 16 * 2 * 2048 * 1000
    assert roofline.bytes_of_token(shape, 0, "f16") == shape.active_bytes
    assert roofline.bytes_of_token(shape, 1000, "f16") - shape.active_bytes == 16 * 2 * 512 * 1000 * 2
    assert roofline.bytes_of_token(shape, 1000, "q8_0") - shape.active_bytes == 16 * 2 * 512 * 1000 * 34 // 32
    assert roofline.main_type(shape) == "Q4_K"


def test_a_sliding_window_looks_back_no_further(tmp_path: Path) -> None:
    shape = _shape(tmp_path, GEMMA3_4B)
    n_global = sum(layer.window is None for layer in shape.layers)
    more = roofline.multiply_adds_of_token(shape, 9000) - roofline.multiply_adds_of_token(shape, 8000)
    assert 0 < n_global < len(shape.layers) and more == n_global * 2 * shape.attention * 1000


def test_of_experts_those_count_that_a_token_uses(tmp_path: Path) -> None:
    """Mixtral 8x7B has 46.7 billion weights, of which a token uses 12.9; less 0.13 of each for the embedding and the output."""
    used = roofline.multiply_adds_of_token(_shape(tmp_path, MIXTRAL), 0)
    assert used == pytest.approx(12.9e9 - 0.26e9, rel=0.01)
