"""The door to llama.cpp: its low-level bindings, and its log lines kept off the terminal.

Knows: how to import the bindings alone, what the library last said.
Refuses to know: models and sessions (llama.py).
"""

import ctypes
import importlib
import importlib.util
import sys
import threading
import types
from collections import deque
from pathlib import Path
from typing import Any

from slmchat.engine import crash_report
from slmchat.errors import ExitCode, SlmError

# Lines of the library's log kept for `-v` and for error messages: one load prints about 150.
LOG_LINES = 400

# enum ggml_log_level { GGML_LOG_LEVEL_NONE = 0, DEBUG = 1, INFO = 2, WARN = 3, ERROR = 4, CONT = 5 };  (ggml.h)
# Debug lines (one for each tensor) are not kept. CONT goes on with the line before.
_DEBUG, _CONTINUED = 1, 5

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
            crash_report.no_debugger()
            module = _import_declarations()
            crash_report.install(module)
            _capture_log(module)
            module.llama_backend_init()
            _bindings = module
        return _bindings


def multimodal() -> types.ModuleType:
    """`llama_cpp.mtmd_cpp`, the declarations of libmtmd (images), imported once. Raises as `bindings`."""
    bindings()
    module = _import_declarations("llama_cpp.mtmd_cpp")
    crash_report.follow(module)
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
