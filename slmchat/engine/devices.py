"""The devices that the installed llama.cpp can compute on, asked through its own backends, and its build.

Knows: ggml's device registry (ggml-backend.h), which instruction sets the CPU backend was built with.
Refuses to know: how layers are shared out (fit/plan.py), what a user is told.

llama-cpp-python declares nothing of ggml; the functions are found in the same libraries that it has loaded.
"""

import ctypes
from collections.abc import Iterator
from typing import Any

from slmchat.engine import native
from slmchat.errors import usage_error
from slmchat.lazy_dataclasses import dataclass

# enum ggml_backend_dev_type { CPU, GPU, IGPU, ACCEL, META };  (ggml-backend.h)
_KINDS = ("cpu", "gpu", "igpu", "accelerator", "meta")

# `--device`: on no GPU.
NO_DEVICE = "none"

# int ggml_cpu_has_NAME(void);  (ggml-cpu.h) -> the name as hardware.instruction_sets has it
_CPU_FUNCTIONS = {
    "sse3": "SSE3", "ssse3": "SSSE3", "avx": "AVX", "avx_vnni": "AVX_VNNI", "avx2": "AVX2", "f16c": "F16C",
    "fma": "FMA",
    "bmi2": "BMI2", "avx512": "AVX512", "avx512_vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI",
    "avx512_bf16": "AVX512_BF16", "amx_int8": "AMX_INT8", "neon": "NEON", "fp16_va": "FP16", "dotprod": "DOTPROD",
    "matmul_int8": "MATMUL_INT8", "sve": "SVE", "sme": "SME", "riscv_v": "RVV",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ComputeDevice:
    """One device of llama.cpp's. Bytes of memory: None where the backend does not tell."""

    name: str
    description: str
    kind: str  # one of "cpu", "gpu", "igpu", "accelerator", "meta"
    free_memory: int | None
    total_memory: int | None

    @property
    def is_gpu(self) -> bool:
        return self.kind in ("gpu", "igpu")


def devices() -> tuple[ComputeDevice, ...]:
    """Every device that the backends of the installed llama.cpp report. Raises `SlmError` without llama.cpp."""
    return tuple(device for _, device in _listed())


def start() -> None:
    """Let the GPU backends start: they look for their devices when they are first asked, and CUDA sets up what belongs
    to one device when it is asked for its free memory."""
    devices()


def choose(given: str) -> Any:
    """The devices named in `given` (separated by commas) as llama_model_params takes them: an array that ends in NULL.

    "none" alone is no GPU at all. Raises `SlmError` (USAGE) with the names that there are.
    """
    wanted = [] if given == NO_DEVICE else [name.strip() for name in given.split(",")]
    gpus = {device.name: handle for handle, device in _listed() if device.is_gpu}
    unknown = next((name for name in wanted if name not in gpus), None)
    if unknown is not None:
        raise usage_error(
            f"there is no GPU called '{unknown}' for the installed llama.cpp.",
            f"--device {' or '.join([*gpus, NO_DEVICE])}; slm doctor tells what is missing",
        )
    return (ctypes.c_void_p * (len(wanted) + 1))(*(gpus[name] for name in wanted), None)


def _listed() -> list[tuple[int, ComputeDevice]]:
    """llama.cpp's devices with their handles (ggml_backend_dev_t)."""
    # size_t ggml_backend_dev_count(void);  ggml_backend_dev_t ggml_backend_dev_get(size_t index);
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    # const char * ggml_backend_dev_name(dev), ..._description(dev);  enum ggml_backend_dev_type ..._type(dev);
    name = _function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    # void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t * free, size_t * total);
    memory = _function("ggml_backend_dev_memory", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    if not (count and get and name and description and kind and memory):
        return []
    found = []
    for index in range(count()):
        device = get(index)
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        memory(device, ctypes.byref(free), ctypes.byref(total))
        number = kind(device)
        known = ComputeDevice(
            name=(name(device) or b"").decode("utf-8", "replace"),
            description=(description(device) or b"").decode("utf-8", "replace"),
            kind=_KINDS[number] if 0 <= number < len(_KINDS) else "unknown",
            free_memory=free.value if total.value else None,
            total_memory=total.value or None,
        )
        found.append((device, known))
    return found


def free_gpu_memory(chosen: str | None = None) -> int:
    """Bytes that are free on all GPUs (or on those of `--device`) together.

    0 without one, or when the installed build has no backend for it.
    """
    if not native.has_gpu_backend():
        return 0
    names = None if chosen is None else [name.strip() for name in chosen.split(",")]
    gpus = (device for device in devices() if device.is_gpu)
    return sum(device.free_memory or 0 for device in gpus if names is None or device.name in names)


def build_features() -> tuple[str, ...] | None:
    """Instruction sets that the CPU backend was built with and can use here; None where it does not tell."""
    functions = {label: _function(f"ggml_cpu_has_{name}", ctypes.c_int) for name, label in _CPU_FUNCTIONS.items()}
    if not any(functions.values()):
        return None
    return tuple(label for label, has in functions.items() if has is not None and has())


def library_features() -> frozenset[str]:
    """What llama.cpp says that it was built with and can use here: "AMX_INT8", "REPACK", "KLEIDIAI", …; in 50 µs.

    A GPU backend's own words are among them ("ARCHS"). Raises `SlmError` without llama.cpp.
    """
    # const char * llama_print_system_info(void);  "CPU : SSE3 = 1 | AVX = 1 | … | CUDA : ARCHS = 890 | "
    said = (native.bindings().llama_print_system_info() or b"").decode("utf-8", "replace")
    pairs = (part.rpartition(" : ")[2].partition(" = ") for part in said.split("|"))
    return frozenset(name.strip() for name, _, value in pairs if value.strip() not in ("", "0"))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's libraries, None where none has it."""
    for library in _libraries():
        try:
            function = library[name]
        except AttributeError:
            continue
        function.restype, function.argtypes = result, list(arguments)
        return function
    return None


def _libraries() -> Iterator[ctypes.CDLL]:
    """llama.cpp's library (whose symbols include those of what it links to, but on Windows), then ggml's own."""
    yield native.bindings()._lib
    for file in native.library().ggml:
        try:
            yield ctypes.CDLL(str(file))
        except OSError:  # a backend whose driver is missing here
            continue
