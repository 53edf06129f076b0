"""Which llama.cpp library slm computes with, found without loading it.

Knows: where a library may lie and in which order, what tells one from another, the commands that bring one.
Refuses to know: how it is loaded and whether it belongs to the declarations (native.py).

llama-cpp-python brings the declarations, and the library too where it was built on this device. Where it was not, the
extension module of xllamacpp is one: a single file that exports the functions of llama.cpp, mtmd and ggml. slm never
imports that package; it only loads the file. A build of one's own comes first, since it was made for this processor or
GPU; `LLAMA_CPP_LIB_PATH` comes before both.
"""

import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass

# The versions that slm is made for; pyproject.toml has the same. The structures of the second, which is compiled, are
# those that the first declares.
DECLARATIONS = "0.3.36"
PREBUILT = "2026.9.11063"

# As llama-cpp-python names this variable. Here it may also be the library itself.
VARIABLE = "LLAMA_CPP_LIB_PATH"

_NAMES = ("libllama.so", "libllama.dylib", "llama.dll", "libllama.dll")
_MULTIMODAL = ("libmtmd.so", "libmtmd.dylib", "mtmd.dll", "libmtmd.dll")
_EXTENSION = "xllamacpp*.so"
_SHARED = (".so", ".dylib", ".dll")

# `__version__ = "0.3.36"` in llama_cpp/__init__.py, `"version": "2026.9.11063"` in xllamacpp/_version.py. The metadata
# of the packages would say the same and take 10 ms to read.
_VERSION = re.compile(r"""version(?:__)?["']?\s*[=:]\s*["']([^"']+)["']""")

_GPU_BACKENDS = ("cuda", "vulkan", "metal", "hip", "sycl", "opencl", "musa", "cann")


class LibraryKind(StrEnum):
    """Where a library comes from."""

    EXPLICIT = "LLAMA_CPP_LIB_PATH"
    OWN = "own build"
    PREBUILT = "prebuilt"


@dataclass(frozen=True)
class NativeLibrary:
    """A llama.cpp library: the file with its functions, where it comes from, the version of its package.

    `version` is empty where no package tells one.
    """

    path: Path
    kind: LibraryKind
    version: str

    @property
    def is_extension(self) -> bool:
        """Whether this one file holds everything; else mtmd and ggml are libraries of their own beside it."""
        return self.path.name not in _NAMES

    @property
    def multimodal(self) -> Path | None:
        """The file with the functions of mtmd (pictures); None where there is none."""
        if self.is_extension:
            return self.path
        return next((file for name in _MULTIMODAL if (file := self.path.with_name(name)).exists()), None)

    @property
    def ggml(self) -> tuple[Path, ...]:
        """ggml's own libraries beside this one."""
        if self.is_extension:
            return ()
        return tuple(file for file in sorted(self.path.parent.glob("*ggml*")) if file.suffix in _SHARED)

    @cached_property
    def build(self) -> tuple[str, int, int]:
        """What tells one build from another: name of the file, bytes and newest time (ns) of all that belongs to it.

        Raises `OSError` when the file is gone.
        """
        found = [file.stat() for file in {self.path, self.multimodal or self.path, *self.ggml}]
        return self.path.name, sum(each.st_size for each in found), max(each.st_mtime_ns for each in found)

    def has_gpu_backend(self) -> bool:
        """Whether it was built with a GPU backend. xllamacpp's wheels for Apple's processors have Metal inside."""
        if self.is_extension:
            return sys.platform == "darwin" and os.uname().machine == "arm64"
        return any(backend in file.name.lower() for file in self.ggml for backend in _GPU_BACKENDS)

    def as_json(self) -> dict[str, str]:
        """Kind, version and path, as `slm doctor --json` has them."""
        return {"kind": str(self.kind), "version": self.version, "path": str(self.path)}

    def in_words(self) -> str:
        """Kind, version and path in one line."""
        package = {LibraryKind.OWN: "llama-cpp-python ", LibraryKind.PREBUILT: "xllamacpp "}.get(self.kind, "")
        told = f"{self.kind}, {package}{self.version}" if self.version else str(self.kind)
        return f"{told}: {self.path}"


_loaded: NativeLibrary | None = None


def note_loaded(library: NativeLibrary) -> None:
    """From now on this one is in use: native.py has loaded it."""
    global _loaded
    _loaded = library


def loaded() -> NativeLibrary | None:
    """The library that is loaded; None before."""
    return _loaded


def in_use() -> NativeLibrary:
    """The library that is loaded, else the one that would be. Raises `SlmError` when there is none."""
    return _loaded or find(os.environ)


def has_gpu_backend() -> bool:
    """Whether the library in use was built with a GPU backend, told without loading it. False without a library."""
    try:
        return in_use().has_gpu_backend()
    except SlmError:
        return False


def find(environ: Mapping[str, str] = os.environ) -> NativeLibrary:
    """The library to use: the one that `LLAMA_CPP_LIB_PATH` names, else an own build, else the prebuilt one.

    Nothing is loaded. Raises `SlmError` (BUG) with the command that brings one when there is none.
    """
    given = environ.get(VARIABLE)
    if given:
        return _explicit(Path(given))
    found = own_build() or prebuilt()
    if found is not None:
        return found
    if _folder("llama_cpp") is None:
        raise no_declarations()
    raise SlmError("no llama.cpp library is installed.", hint=install_command(), exit_code=ExitCode.BUG)


def own_build() -> NativeLibrary | None:
    """The library that was built inside llama-cpp-python; None when only the declarations are installed."""
    folder = _folder("llama_cpp")
    file = _library_in(folder / "lib") if folder else None
    return NativeLibrary(file, LibraryKind.OWN, declared_version()) if file else None


def prebuilt() -> NativeLibrary | None:
    """The library inside xllamacpp; None without it, and on Windows, where that exports nothing to other programs."""
    folder = _folder("xllamacpp")
    file = next(iter(sorted(folder.glob(_EXTENSION))), None) if folder else None
    return NativeLibrary(file, LibraryKind.PREBUILT, _version_of(file.with_name("_version.py"))) if file else None


def at(path: Path) -> NativeLibrary:
    """The record of a library that is loaded already, by whomever."""
    known = [library for library in (own_build(), prebuilt()) if library is not None and library.path == path]
    return known[0] if known else NativeLibrary(path, LibraryKind.EXPLICIT, "")


def packages() -> Path | None:
    """The directory that llama-cpp-python is installed in; None when it is not."""
    folder = _folder("llama_cpp")
    return folder.parent if folder else None


def declared_version() -> str:
    """The version of llama-cpp-python, whose declarations are used with every library; empty when it tells none."""
    folder = _folder("llama_cpp")
    return _version_of(folder / "__init__.py") if folder else ""


# The commands that bring a library


def install_command() -> str:
    """The command that brings declarations and a library: the prebuilt one where there is a wheel, else a build."""
    if not has_prebuilt_wheel():
        return build_command("")
    if _folder("llama_cpp") is None:  # without its CMake run it is installed in seconds; the cache would keep that
        words = f"install --no-cache-dir llama-cpp-python=={DECLARATIONS} xllamacpp=={PREBUILT}"
        return f"SKBUILD_WHEEL_CMAKE=0 {_pip()} {words}"
    return f"{_pip()} install xllamacpp=={PREBUILT}"


def build_command(options: str, version: str | None = DECLARATIONS, compiler: tuple[str, str] | None = None) -> str:
    """The command that builds llama-cpp-python on this device with these options of CMake.

    `compiler`: the C and the C++ compiler, None for those that CMake finds.
    """
    package = f"llama-cpp-python=={version}" if version else "llama-cpp-python"
    words = f"install --force-reinstall --no-cache-dir --no-deps {package}"
    import shlex

    chosen = {"CC": compiler[0], "CXX": compiler[1]} if compiler and any(compiler) else {}
    if sys.platform == "win32":
        variables = {**chosen, "CMAKE_ARGS": options} if options else chosen
        return "".join(f'$env:{name}="{value}"; ' for name, value in variables.items()) + f"& {_pip()} {words}"
    told = [f"{name}={shlex.quote(value)}" for name, value in chosen.items()]
    return " ".join([*told, *([f'CMAKE_ARGS="{options}"'] if options else []), f"{_pip()} {words}"])


def mending_command(library: NativeLibrary) -> str:
    """The command that puts a sound library in the place of this one."""
    if library.kind is LibraryKind.EXPLICIT:
        return f"unset {VARIABLE}" if sys.platform != "win32" else f"Remove-Item Env:{VARIABLE}"
    if library.kind is LibraryKind.OWN:
        return build_command("")
    return f"{_pip()} install --force-reinstall --no-cache-dir --no-deps xllamacpp=={PREBUILT}"


def reinstall_command() -> str:
    """The command that brings declarations and prebuilt library in the versions that belong together."""
    packages = f"llama-cpp-python=={DECLARATIONS} xllamacpp=={PREBUILT}"
    return f"SKBUILD_WHEEL_CMAKE=0 {_pip()} install --force-reinstall --no-cache-dir --no-deps {packages}"


def has_prebuilt_wheel() -> bool:
    """Whether xllamacpp has a wheel for this system that slm can load: Linux with glibc, macOS."""
    from slmchat.hardware.power import is_android

    machine = os.uname().machine if hasattr(os, "uname") else ""
    return sys.platform in ("linux", "darwin") and machine in ("x86_64", "aarch64", "arm64") and not is_android().value


def no_declarations() -> SlmError:
    """The error where llama-cpp-python itself is missing."""
    return SlmError("llama-cpp-python is not installed.", hint=install_command(), exit_code=ExitCode.BUG)


def _pip() -> str:
    import shlex

    return f"{shlex.quote(sys.executable)} -m pip"


def _explicit(place: Path) -> NativeLibrary:
    """The library that the variable names: a file, or a directory as llama-cpp-python takes it."""
    file: Path | None = place
    if place.is_dir():
        file = _library_in(place) or next(iter(sorted(place.glob(_EXTENSION))), None)
    if file is None or not file.exists():
        raise SlmError(
            f"{VARIABLE} is {place}, and no llama.cpp library is there.",
            hint=mending_command(NativeLibrary(place, LibraryKind.EXPLICIT, "")),
            exit_code=ExitCode.BUG,
        )
    return NativeLibrary(file.absolute(), LibraryKind.EXPLICIT, "")


def _library_in(folder: Path) -> Path | None:
    return next((file for name in _NAMES if (file := folder / name).exists()), None)


def _folder(package: str) -> Path | None:
    """Where a package lies; None when it is not installed. It is not imported."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def _version_of(file: Path) -> str:
    try:
        found = _VERSION.search(file.read_text(encoding="utf-8"))
    except OSError:
        return ""
    return found[1] if found else ""
