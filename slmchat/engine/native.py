"""The door to llama.cpp: its low-level bindings, and its log lines kept off the terminal.

Knows: how the declarations are imported alone and on top of which library, that both belong together, what the library
last said. Refuses to know: where libraries lie (library.py), models and sessions (llama.py).
"""

import contextlib
import ctypes
import importlib
import importlib.util
import os
import re
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from slmchat.engine import crash_report, native_calls, structures
from slmchat.engine import library as libraries
from slmchat.engine.callbacks import guarded
from slmchat.engine.library import DECLARATIONS, PREBUILT, LibraryKind, NativeLibrary
from slmchat.engine.library import has_gpu_backend as has_gpu_backend
from slmchat.engine.native_symbols import LLAMA, MULTIMODAL
from slmchat.engine.shared_object import fault_of
from slmchat.errors import ExitCode, SlmError

# Lines of the library's log kept for `-v` and for error messages: one load prints about 150.
LOG_LINES = 400

# enum ggml_log_level { GGML_LOG_LEVEL_NONE = 0, DEBUG = 1, INFO = 2, WARN = 3, ERROR = 4, CONT = 5 };  (ggml.h)
# Debug lines (one for each tensor) are not kept. CONT goes on with the line before.
_DEBUG, _CONTINUED = 1, 5

# What llama_version() says of the libraries that the declarations were tried with: the prebuilt one is 0.4.1-dev, the
# one that llama-cpp-python builds 0.5.0-dev. Between minor versions llama.cpp changes structures and functions.
_VERSIONS = ("0.4.", "0.5.")
_CPU_DEVICE = 0  # enum ggml_backend_dev_type { GGML_BACKEND_DEVICE_TYPE_CPU, … };  (ggml-backend.h)

_lock = threading.Lock()
_bindings: types.ModuleType | None = None
_log: deque[str] = deque(maxlen=LOG_LINES)
_log_callback: Any = None  # referenced for as long as the library may call it


def bindings() -> types.ModuleType:
    """`llama_cpp.llama_cpp`, the ctypes declarations, imported once and without the package around them.

    `llama_cpp/__init__.py` imports its own high-level `Llama`, and with it numpy, jinja2 and diskcache: 160-320 ms
    in which a sentence could have been answered. The declarations alone take 30-45 ms. Raises `SlmError` (BUG) when
    there is no library, when it cannot be loaded on this machine and when it does not belong to the declarations.
    """
    global _bindings
    with _lock:
        if _bindings is None:
            crash_report.no_debugger()
            used, module = _import_declarations("llama_cpp.llama_cpp")
            crash_report.install(module)
            _capture_log(module)
            _register_backends(Path(module._lib._name))
            module.llama_backend_init()
            libraries.note_loaded(used)
            _bindings = module
        return _bindings


def multimodal() -> types.ModuleType:
    """`llama_cpp.mtmd_cpp`, the declarations of libmtmd (images), imported once. Raises as `bindings`."""
    bindings()
    with _lock:
        _, module = _import_declarations("llama_cpp.mtmd_cpp")
        native_calls.follow(module)
    # MTMD_API void mtmd_log_set(ggml_log_callback log_callback, void * user_data);
    module.mtmd_log_set(_log_callback, None)
    return module


def library() -> NativeLibrary:
    """The library in use: the one that is loaded, else the one that would be. Raises `SlmError` when there is none."""
    return libraries.in_use()


def _import_declarations(name: str) -> tuple[NativeLibrary, types.ModuleType]:
    """The module of declarations on top of the library in use, both known to belong together."""
    loaded = sys.modules.get(name)
    if loaded is not None:  # by an earlier call, or with all of llama_cpp by the program that slm is a part of
        used = libraries.loaded() or libraries.at(Path(loaded._lib._name))
        _check_belongs(loaded, used)
        return used, loaded
    used = library()
    _check_package(used)
    with _loading(used):
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            raise _not_loaded(used, error) from error
    try:
        _check_belongs(module, used)
    except SlmError:
        del sys.modules[name]
        raise
    return used, module


def _check_package(used: NativeLibrary) -> None:
    """Whether the packages have the versions that go together and their files are whole. Raises `SlmError`."""
    version = used.version.partition("+")[0]
    if used.kind is LibraryKind.PREBUILT and (version, libraries.declared_version()) != (PREBUILT, DECLARATIONS):
        raise SlmError(
            f"xllamacpp {used.version} does not belong to llama-cpp-python {libraries.declared_version()}: "
            f"slm needs {PREBUILT} and {DECLARATIONS}.",
            hint=libraries.reinstall_command(),
            exit_code=ExitCode.BUG,
        )
    for file in (used.path, *used.ggml):
        fault = fault_of(file)
        if fault is not None:
            raise _unusable(f"the llama.cpp library {file} {fault}", used)


def _check_belongs(module: types.ModuleType, used: NativeLibrary) -> None:
    """Whether version and structures are those of the declarations, before any of them is passed by value."""
    if hasattr(module, "_libmtmd"):
        other = structures.other_multimodal_structure(module)
    else:
        version = (module.llama_version() or b"").decode("utf-8", "replace")
        if not version.startswith(_VERSIONS):
            wanted = " or ".join(f"{known}x" for known in _VERSIONS)
            raise _unusable(f"the llama.cpp library {used.path} is version {version}, and slm needs {wanted}", used)
        other = structures.other_structure(module)
    if other is not None:
        what = f"its {other} is another one"
        raise _unusable(f"the llama.cpp library {used.path} does not belong to llama-cpp-python: {what}", used)


@contextlib.contextmanager
def _loading(used: NativeLibrary) -> Iterator[None]:
    """While this lasts, the declarations load this library and may declare functions that it lacks.

    llama-cpp-python loads what lies in its own folder, and ends with the first function that is missing.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise libraries.no_declarations()
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    try:
        extensions: Any = importlib.import_module("llama_cpp._ctypes_extensions")
    except ImportError as error:
        raise _not_loaded(used, error) from error
    load, declare = extensions.load_shared_library, extensions.ctypes_function_for_shared_library

    def load_this(base_name: str, _base_path: Path) -> ctypes.CDLL:
        file = used.multimodal if base_name == "mtmd" else used.path
        if file is None:
            raise _unusable(f"the llama.cpp library {used.path} has no libmtmd beside it, which pictures need", used)
        if used.is_extension:
            return ctypes.CDLL(str(file))
        found: ctypes.CDLL = load(base_name, file.parent)  # Windows: it knows where CUDA's libraries lie
        return found

    def declare_leniently(loaded: ctypes.CDLL) -> Callable[..., Any]:
        strictly = declare(loaded)

        def ctypes_function(name: str, *types_and_more: Any, **more: Any) -> Callable[[Any], Any]:
            if hasattr(loaded, name):
                found: Callable[[Any], Any] = strictly(name, *types_and_more, **more)
                return found
            if name in LLAMA or name in MULTIMODAL:
                raise _missing(name, used)
            return lambda _declared: _refusing(name, used)

        return ctypes_function

    extensions.load_shared_library, extensions.ctypes_function_for_shared_library = load_this, declare_leniently
    try:
        yield
    finally:
        extensions.load_shared_library, extensions.ctypes_function_for_shared_library = load, declare


def _refusing(name: str, used: NativeLibrary) -> Callable[..., Any]:
    """What stands for a function that the library lacks: a call is an error, not silence."""

    def refuse(*_: Any) -> Any:
        raise _missing(name, used)

    return refuse


def _missing(name: str, used: NativeLibrary) -> SlmError:
    return _unusable(f"the llama.cpp library {used.path} has no function {name}", used)


def _not_loaded(used: NativeLibrary, error: Exception) -> SlmError:
    said = str(error).rpartition("': ")[2].strip().rstrip(".")
    symbol = re.search(r"undefined symbol: (\w+)|dlsym\(\w+, (\w+)\)", said)
    if symbol is not None:
        return _missing(symbol[1] or symbol[2], used)
    needed = re.match(r"(lib[^:\s]+): cannot open shared object file", said)
    if needed is None:
        return _unusable(f"the llama.cpp library {used.path} cannot be loaded: {said}", used)
    hint = {"libgomp.so.1": "sudo apt install libgomp1 (Debian, Ubuntu), sudo dnf install libgomp (Fedora)"}
    return SlmError(
        f"the llama.cpp library {used.path} needs {needed[1]}, which is not installed.",
        hint=hint.get(needed[1], libraries.mending_command(used)),
        exit_code=ExitCode.BUG,
    )


def _unusable(what: str, used: NativeLibrary) -> SlmError:
    return SlmError(f"{what}.", hint=libraries.mending_command(used), exit_code=ExitCode.BUG)


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
        try:
            _log.append(_log.pop() + line if level == _CONTINUED else line)
        except IndexError:  # nothing to go on with, or cleared by another thread meanwhile
            _log.append(line)

    global _log_callback
    _log_callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(guarded(keep, instead=None))
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


def build() -> tuple[str, int, int]:
    """What tells one build of the library from another. Raises `OSError`, and `SlmError` without a library."""
    return library().build


def log_lines() -> list[str]:
    """What the library has said so far, oldest first, without line ends. Untrusted: it quotes the model file."""
    return [line.rstrip("\n") for line in list(_log) if line.strip()]


def last_said() -> str:
    """The last of it, as a reason in a sentence. Untrusted."""
    return next(iter(reversed(log_lines())), "no reason given")


def n_graph_nodes() -> int:
    """Nodes of the graph of the context that was opened last, as the library has said; 0 when it has not."""
    found = (re.search(r"graph:? nodes\s*=\s*(\d+)", line) for line in reversed(log_lines()))
    return next((int(match[1]) for match in found if match), 0)


def is_out_of_memory() -> bool:
    """Whether the library has said, since the log was cleared, that memory could not be had."""
    words = ("unable to allocate", "failed to allocate", "cannot allocate memory", "out of memory", "bad_alloc")
    return any(word in line.lower() for line in log_lines() for word in words)


def clear_log() -> None:
    _log.clear()
