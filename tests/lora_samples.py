"""LoRA adapters for tests: small files as llama.cpp's convert_lora_to_gguf.py writes them, with a known effect."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

Matrices = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Name of a tensor of the model -> (A, B) as numpy has them: the change of the weights is B @ A."""


def write_lora(
    path: Path,
    matrices: Matrices,
    *,
    architecture: str = "llama",
    alpha: float | None = None,
    kind: str = "lora",
    base: str | None = None,
    more: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """`alpha` None: equal to the rank, so that scale 1 means B @ A. `more`: further tensors under any name."""
    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", kind)
    rank = max((a.shape[0] for a, _ in matrices.values()), default=1)
    writer.add_float32("adapter.lora.alpha", float(rank) if alpha is None else alpha)
    if base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
    for name, (a, b) in matrices.items():
        writer.add_tensor(f"{name}.lora_a", a.astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", b.astype(np.float32))
    for name, tensor in (more or {}).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
