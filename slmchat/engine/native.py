"""The door to llama.cpp: its low-level bindings, and its log lines kept off the terminal.

Knows: how to import the bindings alone, what the library last said.
Refuses to know: models and sessions (llama.py).
"""

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
import types
from collections import deque
from pathlib import Path
from typing import Any

from slmchat.errors import ExitCode, SlmError

# Lines of the library's log kept for `-v` and for error messages: one load prints about 150.
LOG_LINES = 400

# enum ggml_log_level { GGML_LOG_LEVEL_NONE = 0, DEBUG = 1, INFO = 2, WARN = 3, ERROR = 4, CONT = 5 };  (ggml.h)
# Debug lines (one for each tensor) are not kept. CONT goes on with the line before.
_DEBUG, _CONTINUED = 1, 5

_CPU_DEVICE = 0  # enum ggml_backend_dev_type { GGML_BACKEND_DEVICE_TYPE_CPU, … };  (ggml-backend.h)

_GPU_BACKENDS = ("cuda", "vulkan", "metal", "hip", "sycl", "opencl", "musa", "cann")

_lock = threading.Lock()
_bindings: types.ModuleType | None = None
_log: deque[str] = deque(maxlen=LOG_LINES)
_log_callback: Any = None  # referenced for as long as the library may call it


def bindings() -> types.ModuleType:
    """`llama_cpp.llama_cpp`, the ctypes declarations, imported once and without the package around them.

    `llama_cpp/__init__.py` imports its own high-level `Llama`, and with it numpy, jinja2 and diskcache: 160-320 ms
    in which a sentence could have been answered. The declarations alone take 30-45 ms. Raises `SlmError` (BUG) when
    llama-cpp-python is missing or cannot be loaded on this machine.
    """
    global _bindings
    with _lock:
        if _bindings is None:
            module = _import_declarations()
            _capture_log(module)
            _register_backends(Path(module._lib._name))
            module.llama_backend_init()
            _bindings = module
        return _bindings


def multimodal() -> types.ModuleType:
    """`llama_cpp.mtmd_cpp`, the declarations of libmtmd (images), imported once. Raises as `bindings`."""
    bindings()
    module = _import_declarations("llama_cpp.mtmd_cpp")
    # MTMD_API void mtmd_log_set(ggml_log_callback log_callback, void * user_data);
    module.mtmd_log_set(_log_callback, None)
    return module


def _import_declarations(name: str = "llama_cpp.llama_cpp") -> types.ModuleType:
    try:
        if "llama_cpp" not in sys.modules:
            spec = importlib.util.find_spec("llama_cpp")
            if spec is None or spec.submodule_search_locations is None:
                raise ModuleNotFoundError("No module named 'llama_cpp'")
            package = types.ModuleType("llama_cpp")
            package.__path__ = list(spec.submodule_search_locations)
            package.__spec__ = spec
            sys.modules["llama_cpp"] = package
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise SlmError(
            f"llama.cpp cannot be loaded on this machine: {error}.",
            hint="reinstall it: pip install --force-reinstall --no-cache-dir llama-cpp-python",
            exit_code=ExitCode.BUG,
        ) from error


def _capture_log(module: types.ModuleType) -> None:
    # typedef void (*llama_log_callback)(enum llama_log_level level, const char * text, void * user_data);
    is_kept = True

    def keep(level: int, text: bytes | None, _user_data: int | None) -> None:
        nonlocal is_kept
        if level != _CONTINUED:
            is_kept = level != _DEBUG
        if not is_kept:
            return
        line = (text or b"").decode("utf-8", "replace")
        if level == _CONTINUED and _log:
            _log[-1] += line
        else:
            _log.append(line)

    global _log_callback
    _log_callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(keep)
    module.llama_log_set(_log_callback, None)


def _register_backends(library: Path) -> None:
    """Let ggml take its backends from the directory of the library, where they are files of their own.

    A build with GGML_BACKEND_DL (`.ci/wheel`) has one file for each kind of processor (`libggml-cpu-haswell.so`), and
    ggml loads the best that this one can run. Left to `llama_backend_init`, it would look beside the Python
    interpreter and in the working directory: the wrong places, and a planted file there would run before the seal
    closes. Other builds have their backends registered when they are loaded; nothing happens then.

    Raises `SlmError` (BUG) when there is no backend for this processor.
    """
    registry = library.with_name(library.name.replace("llama", "ggml"))
    if not registry.exists():  # everything in one file: nothing to look for
        return
    ggml = ctypes.CDLL(str(registry))  # the one that llama.cpp has loaded
    # GGML_API ggml_backend_dev_t ggml_backend_dev_by_type(enum ggml_backend_dev_type type);
    ggml.ggml_backend_dev_by_type.restype = ctypes.c_void_p
    if ggml.ggml_backend_dev_by_type(_CPU_DEVICE):
        return
    # GGML_API void ggml_backend_load_all_from_path(const char * dir_path);
    ggml.ggml_backend_load_all_from_path.argtypes = (ctypes.c_char_p,)
    ggml.ggml_backend_load_all_from_path.restype = None
    ggml.ggml_backend_load_all_from_path(os.fsencode(library.parent))
    if not ggml.ggml_backend_dev_by_type(_CPU_DEVICE):
        raise SlmError(
            f"the llama.cpp in {library.parent} has no backend for this processor.",
            hint="install one that has: pip install --force-reinstall --no-cache-dir llama-cpp-python",
            exit_code=ExitCode.BUG,
        )


def has_gpu_backend() -> bool:
    """Whether the installed llama.cpp was built with a GPU backend, told from its libraries without loading them."""
    spec = importlib.util.find_spec("llama_cpp")
    places = list(spec.submodule_search_locations or ()) if spec else []
    names = (file.name.lower() for place in places for file in Path(place, "lib").glob("*ggml-*"))
    return any(backend in name for name in names for backend in _GPU_BACKENDS)


def build() -> tuple[int, int]:
    """What tells one build of the library from another: size and time (ns) of its file. Raises `OSError`."""
    file = Path(bindings()._lib._name).stat()
    return file.st_size, file.st_mtime_ns


def start_devices() -> None:
    """Let the GPU backends start: they look for their devices when llama.cpp is first asked about them."""
    bindings().llama_supports_gpu_offload()


def log_lines() -> list[str]:
    """What the library has said so far, oldest first, without line ends. Untrusted: it quotes the model file."""
    return [line.rstrip("\n") for line in list(_log) if line.strip()]


def is_out_of_memory() -> bool:
    """Whether the library has said, since the log was cleared, that memory could not be had."""
    words = ("unable to allocate", "failed to allocate", "cannot allocate memory", "out of memory", "bad_alloc")
    return any(word in line.lower() for line in log_lines() for word in words)


def clear_log() -> None:
    _log.clear()
