"""`.ci/wheel` without compiling anything: what it refuses, what it leaves out, what it packs; and how slm starts it."""

import base64
import ctypes
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from slmchat.engine import native
from slmchat.errors import ExitCode, SlmError

SCRIPT = Path(__file__).parents[1] / ".ci" / "wheel"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the wheel is built on Linux")

CMAKE_LISTS = """
function(ggml_add_cpu_backend_variant tag_name)
    ggml_add_cpu_backend_variant_impl(${tag_name})
endfunction()
if (GGML_CPU_ALL_VARIANTS)
    if (GGML_SYSTEM_ARCH STREQUAL "x86")
        ggml_add_cpu_backend_variant(x64)
        if (NOT MSVC)
            ggml_add_cpu_backend_variant(ivybridge      SSE42 AVX F16C)
        endif()
        ggml_add_cpu_backend_variant(haswell            SSE42 AVX F16C FMA AVX2 BMI2)
        ggml_add_cpu_backend_variant(sapphirerapids     SSE42 AVX512_BF16 AMX_TILE AMX_INT8)
    elseif(GGML_SYSTEM_ARCH STREQUAL "ARM")
        if (CMAKE_SYSTEM_NAME MATCHES "Linux")
            ggml_add_cpu_backend_variant(armv8.0_1)
            ggml_add_cpu_backend_variant(armv8.2_1    DOTPROD)
            ggml_add_cpu_backend_variant(armv9.2_1    DOTPROD SVE SME)
        elseif (CMAKE_SYSTEM_NAME MATCHES "Android")
            ggml_add_cpu_backend_variant(android_armv8.0_1)
        endif()
    endif()
endif()
"""


@pytest.fixture(scope="module")
def wheel() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("ci_wheel", str(SCRIPT))
    spec = importlib.util.spec_from_loader("ci_wheel", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_wheel"] = module  # dataclasses look their module up
    previous, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = previous
    return module


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Plant a compiler that answers what the script asks: `compiler(version, target, is_clang)`."""

    def plant(version: int, target: str = f"{platform.machine()}-linux-gnu", *, is_clang: bool = False) -> None:
        macros = f"#define __GNUC__ {version}" + (f"\n#define __clang_major__ {version}" if is_clang else "")
        program = tmp_path / "planted-cc"
        program.write_text(
            f"#!/bin/sh\ncase $1 in -dumpmachine) echo {target};; -dM) echo '{macros}';; *) echo planted {version};; esac\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("CC", str(program))
        monkeypatch.setenv("CXX", str(program))

    return plant


# Arguments.


def test_help_shows_what_to_type(wheel: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        wheel.main(["--help"])
    said = capsys.readouterr().out
    assert left.value.code == 0
    assert ".ci/wheel --arch aarch64" in said and "--variants" in said and "--build-dir" in said


@pytest.mark.parametrize("arguments", [["--arch", "riscv64"], ["--jobs", "many"], ["surplus"]])
def test_wrong_arguments_are_refused(wheel: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        wheel.main(arguments)
    assert left.value.code == 2


def test_an_unknown_variant_is_answered_with_those_there_are(wheel: ModuleType) -> None:
    known = wheel.read_variants(CMAKE_LISTS, "x86_64")
    with pytest.raises(wheel.Failed, match=r"broadwell: not a variant .* x64, ivybridge, haswell, sapphirerapids"):
        wheel.choose_variants(known, ["haswell", "broadwell"], SimpleNamespace())


@pytest.mark.parametrize(
    ("sdist", "sentence"),
    [
        ("missing.tar.gz", "is not a file."),
        ("llama_cpp_python-0.1.0.tar.gz", "is not the sdist of llama-cpp-python"),
        ("llama_cpp_python-{pin}.tar.gz", "cannot be unpacked"),
    ],
)
def test_a_wrong_sdist_leaves_no_wheel(
    wheel: ModuleType,
    compiler: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    sdist: str,
    sentence: str,
) -> None:
    compiler(14)
    monkeypatch.setattr(wheel.shutil, "which", lambda program: program)
    given = tmp_path / sdist.format(pin=wheel.pinned_version())
    if not sdist.startswith("missing"):
        given.write_bytes(b"no archive")
    status = wheel.main([f"--sdist={given}", f"--out={tmp_path / 'out'}", f"--build-dir={tmp_path / 'build'}"])
    said = capsys.readouterr()
    assert status == 1 and said.out == "" and sentence in said.err
    assert not (tmp_path / "out").exists()


# Compilers.


def test_an_old_gcc_leaves_amx_out_and_says_why(
    wheel: ModuleType, compiler: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler(12)
    known = wheel.read_variants(CMAKE_LISTS, "x86_64")
    chosen = wheel.choose_variants(known, [], wheel.find_compiler(platform.machine()))
    assert [variant.name for variant in chosen] == ["x64", "ivybridge", "haswell"]
    said = capsys.readouterr().err
    assert "left out: sapphirerapids needs GCC 13 or newer or clang" in said and "is GCC 12" in said


def test_an_old_gcc_refuses_amx_that_was_asked_for(wheel: ModuleType, compiler: Any) -> None:
    compiler(12)
    known = wheel.read_variants(CMAKE_LISTS, "x86_64")
    with pytest.raises(wheel.Failed, match=r"sapphirerapids needs GCC 13 .* ends in a crash"):
        wheel.choose_variants(known, ["sapphirerapids"], wheel.find_compiler(platform.machine()))


@pytest.mark.parametrize(("version", "is_clang"), [(13, False), (12, True)])
def test_a_newer_gcc_and_clang_build_amx(wheel: ModuleType, compiler: Any, version: int, is_clang: bool) -> None:
    compiler(version, is_clang=is_clang)
    known = wheel.read_variants(CMAKE_LISTS, "x86_64")
    chosen = wheel.choose_variants(known, ["sapphirerapids"], wheel.find_compiler(platform.machine()))
    assert [variant.name for variant in chosen] == ["x64", "sapphirerapids"]  # the baseline is always there


def test_sme_needs_a_newer_gcc(wheel: ModuleType, compiler: Any) -> None:
    compiler(12, "aarch64-linux-gnu")
    known = wheel.read_variants(CMAKE_LISTS, "aarch64")
    chosen = wheel.choose_variants(known, [], wheel.find_compiler("aarch64"))
    assert [variant.name for variant in chosen] == ["armv8.0_1", "armv8.2_1"]


def test_a_compiler_for_another_architecture_is_refused(wheel: ModuleType, compiler: Any) -> None:
    compiler(14, "riscv64-linux-gnu")
    with pytest.raises(wheel.Failed, match="compiles for riscv64-linux-gnu, not for aarch64: set CC and CXX"):
        wheel.find_compiler("aarch64")


def test_a_missing_compiler_is_answered_with_its_package(wheel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(wheel.shutil, "which", lambda _: None)
    other = "aarch64" if platform.machine() == "x86_64" else "x86_64"
    with pytest.raises(wheel.Failed, match=rf"{other}-linux-gnu-gcc is not installed .*apt install g\+\+-{other}"):
        wheel.find_compiler(other)


def test_only_the_chosen_variants_are_left_for_cmake(wheel: ModuleType, tmp_path: Path) -> None:
    lists = tmp_path / "CMakeLists.txt"
    lists.write_text(CMAKE_LISTS)
    wheel.select_in(lists, CMAKE_LISTS, [wheel.Variant("x64", ()), wheel.Variant("haswell", ())])
    left = [line.strip() for line in lists.read_text().splitlines() if line.strip().startswith("ggml_add")]
    assert [line.split("(")[1].split()[0].rstrip(")") for line in left] == ["${tag_name}", "x64", "haswell"]


# The wheel.


def _sdist(root: Path, wheel: ModuleType) -> Path:
    licence = (
        "This software is available under 2 licences; This software is available as you like; This is free and so */"
    )
    for place, pattern in wheel.LICENCES.values():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        text = f"// MIT of {place}\n\ncode" if pattern.startswith(r"\A") else licence.replace("licences", "licenses")
        (root / place).write_text(text)
    (root / "PKG-INFO").write_text(
        f"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: {wheel.pinned_version()}\n\ntext\n"
    )
    (root / "llama_cpp").mkdir()
    (root / "llama_cpp" / "__init__.py").write_text("pass\n")
    (root / "libllama.so").write_bytes(b"\x7fELF")
    return root


def test_the_wheel_carries_licences_and_a_true_record(wheel: ModuleType, tmp_path: Path) -> None:
    root = _sdist(tmp_path / "sdist", wheel)
    arguments = (
        root,
        [root / "libllama.so"],
        "py3-none-manylinux_2_35_x86_64",
        "notes\n",
        tmp_path / "out",
        1_700_000_000,
    )
    first = wheel.write_wheel(*arguments)
    bytes_of_first = first.read_bytes()
    assert wheel.write_wheel(*arguments).read_bytes() == bytes_of_first
    assert [file.name for file in (tmp_path / "out").iterdir()] == [first.name]

    version = f"{wheel.pinned_version()}+slm.1"
    assert first.name == f"llama_cpp_python-{version}-py3-none-manylinux_2_35_x86_64.whl"
    info = f"llama_cpp_python-{version}.dist-info"
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f"{info}/METADATA").decode()
        record = dict(line.split(",")[:2] for line in archive.read(f"{info}/RECORD").decode().splitlines())
        digests = {name: hashlib.sha256(archive.read(name)).hexdigest() for name in names}
    assert {f"{info}/licenses/{name}" for name in wheel.LICENCES} <= names
    assert {"LICENSE.llama.cpp", "LICENSE.llamafile", "LICENSE.miniaudio"} <= wheel.LICENCES.keys()
    assert "llama_cpp/lib/libllama.so" in names and f"{info}/BUILD.txt" in names
    assert f"\nVersion: {version}\n" in metadata
    assert all(f"License-File: {name}\n" in metadata for name in wheel.LICENCES)
    assert set(record) == names
    for name, digest in record.items():
        if digest:
            raw = base64.urlsafe_b64decode(digest.removeprefix("sha256=") + "=")
            assert raw.hex() == digests[name]


def test_no_half_wheel_and_no_wheel_without_its_licences(
    wheel: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = _sdist(tmp_path / "sdist", wheel), tmp_path / "out"
    arguments = (root, [root / "libllama.so"], "py3-none-linux_x86_64", "", out, 0)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr(wheel.zipfile.ZipFile, "writestr", full)
        with pytest.raises(OSError, match="No space left"):
            wheel.write_wheel(*arguments)
    assert list(out.iterdir()) == []
    (root / "vendor/llama.cpp/LICENSE").unlink()
    with pytest.raises(wheel.Failed, match=r"licence vendor/llama\.cpp/LICENSE is missing"):
        wheel.write_wheel(*arguments)
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("needs", "tag"),
    [
        ("Name: GLIBC_2.14 ", "manylinux_2_17_x86_64"),
        ("Name: GLIBC_2.29 Name: GLIBCXX_3.4.26 ", "manylinux_2_31_x86_64"),
        ("Name: GLIBC_2.34 Name: GLIBCXX_3.4.30 Name: CXXABI_1.3.13 ", "manylinux_2_35_x86_64"),
        ("Name: GLIBC_2.36 Name: GCC_3.0 ", "manylinux_2_36_x86_64"),
    ],
)
def test_the_tag_is_what_the_symbols_ask_for(
    wheel: ModuleType, monkeypatch: pytest.MonkeyPatch, needs: str, tag: str
) -> None:
    monkeypatch.setattr(wheel, "output_of", lambda *_: f"Machine: Advanced Micro Devices X86-64\n{needs}")
    assert wheel.platform_tag([Path("libllama.so")], "x86_64") == tag


@pytest.mark.parametrize(
    ("elf", "sentence"),
    [
        ("Machine: X86-64\n (NEEDED) Shared library: [libgomp.so.1]", "libllama.so needs libgomp.so.1"),
        ("Machine: AArch64", "libllama.so is not a library for x86_64"),
        ("Machine: X86-64\nName: GLIBC_2.99 ", "need glibc 2.99"),
    ],
)
def test_a_library_that_does_not_run_everywhere_is_refused(
    wheel: ModuleType, monkeypatch: pytest.MonkeyPatch, elf: str, sentence: str
) -> None:
    monkeypatch.setattr(wheel, "output_of", lambda *_: elf)
    with pytest.raises(wheel.Failed, match=sentence):
        wheel.platform_tag([Path("libllama.so")], "x86_64")


# How slm starts such a library.


def _start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_own: bool = False, has_any: bool = True
) -> list[bytes]:
    """Start a planted ggml; returns the directories from which it was told to take backends."""
    directories: list[bytes] = []
    ggml = SimpleNamespace(
        ggml_backend_dev_by_type=lambda kind: kind == 0 and (has_own or (bool(directories) and has_any)),
        ggml_backend_load_all_from_path=lambda directory: directories.append(directory),
    )
    for name in ("libllama.so", "libggml.so"):
        (tmp_path / name).touch()
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: ggml)
    native._register_backends(tmp_path / "libllama.so")
    return directories


def test_backends_come_from_the_directory_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _start(tmp_path, monkeypatch) == [os.fsencode(tmp_path)]


def test_a_library_with_its_backends_inside_looks_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _start(tmp_path, monkeypatch, has_own=True) == []


def test_no_backend_for_this_processor_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SlmError, match="has no backend for this processor") as raised:
        _start(tmp_path, monkeypatch, has_any=False)
    assert raised.value.exit_code is ExitCode.BUG and "pip install" in (raised.value.hint or "")
