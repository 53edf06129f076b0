"""What llama.cpp itself plans for a load, told from its log: nothing is allocated (`no_alloc`)."""

import re
from dataclasses import dataclass
from pathlib import Path

from slmchat.engine import native

MIB = 1 << 20
_KV_TYPES = {"f16": 1, "q8_0": 8, "q4_0": 2}


@dataclass(frozen=True)
class Planned:
    """MiB as llama.cpp's log writes them: each KV cache by itself."""

    caches: tuple[float, ...]
    compute: float


def planned(path: Path, n_ctx: int, kv_type: str, outputs: int = 0) -> Planned:
    """Let llama.cpp plan a load as the engine would do it."""
    api = native.bindings()
    native.clear_log()
    params = api.llama_model_default_params()
    params.no_alloc, params.load_mode, params.n_gpu_layers = True, api.LLAMA_LOAD_MODE_NONE, 0
    model = api.llama_model_load_from_file(str(path).encode(), params)
    assert model, native.log_lines()[-3:]
    settings = api.llama_context_default_params()
    settings.n_ctx = n_ctx
    settings.n_batch = settings.n_ubatch = min(512, n_ctx)
    settings.n_seq_max, settings.swa_full, settings.n_outputs_max = 1, False, outputs
    settings.type_k = settings.type_v = _KV_TYPES[kv_type]
    context = api.llama_init_from_model(model, settings)
    assert context, native.log_lines()[-3:]
    api.llama_free(context)
    api.llama_model_free(model)
    text = "\n".join(native.log_lines())
    caches = re.findall(r"size = +([\d.]+) MiB \( *\d+ cells", text)
    compute = re.findall(r"compute buffer size = +([\d.]+) MiB", text)
    return Planned(tuple(map(float, caches)), sum(map(float, compute)))
