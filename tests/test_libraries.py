"""The llama.cpp library: which one is used, what is said of one that cannot be, and that two of them answer the same."""

import ast
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import environment, run_slm
from gguf_vision import write_tiny_gemma3, write_tiny_siglip

from slmchat.engine import library, native, native_symbols, structures
from slmchat.engine.library import DECLARATIONS, PREBUILT, LibraryKind, NativeLibrary, find
from slmchat.engine.library_comparison import Comparison
from slmchat.engine.shared_object import fault_of
from slmchat.errors import SlmError
from slmchat.models import own_build

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "slmchat"
is_elf = pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="the system's loader checks its files itself")


# Which one


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """`packages(own=True, prebuilt=True)`: a place with these libraries installed, and nothing else."""

    def install(*, own: bool, prebuilt: bool, declared: bool = True) -> Path:
        if declared:
            (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
            (tmp_path / "llama_cpp" / "__init__.py").write_text('from .llama import *\n\n__version__ = "0.3.36"\n')
        if own:
            for name in ("libllama.so", "libggml-base.so", "libmtmd.so", "libggml-base.so.0"):
                (tmp_path / "llama_cpp" / "lib" / name).write_bytes(name.encode())
        if prebuilt:
            (tmp_path / "xllamacpp").mkdir()
            (tmp_path / "xllamacpp" / "xllamacpp.abi3.so").write_bytes(b"all")
            (tmp_path / "xllamacpp" / "_version.py").write_text('version_json = \'{\n "version": "2026.9.11063"\n}\'\n')
        monkeypatch.setattr(library, "_folder", lambda name: place if (place := tmp_path / name).exists() else None)
        return tmp_path

    return install


def test_a_build_of_ones_own_comes_before_the_prebuilt_library(packages: Callable[..., Path]) -> None:
    place = packages(own=True, prebuilt=True)
    found = find({})
    assert found == NativeLibrary(place / "llama_cpp" / "lib" / "libllama.so", LibraryKind.OWN, "0.3.36")
    assert found.multimodal == place / "llama_cpp" / "lib" / "libmtmd.so"
    assert [file.name for file in found.ggml] == ["libggml-base.so"]
    assert "own build, llama-cpp-python 0.3.36: /" in found.in_words()


def test_declarations_without_a_library_take_the_prebuilt_one(packages: Callable[..., Path]) -> None:
    place = packages(own=False, prebuilt=True)
    file = place / "xllamacpp" / "xllamacpp.abi3.so"
    found = find({"LLAMA_CPP_LIB_PATH": ""})
    assert found == NativeLibrary(file, LibraryKind.PREBUILT, "2026.9.11063")
    assert (found.multimodal, found.ggml) == (file, ())


@pytest.mark.parametrize("given", ["xllamacpp", "xllamacpp/xllamacpp.abi3.so", "llama_cpp/lib"])
def test_the_variable_comes_first(packages: Callable[..., Path], given: str) -> None:
    place = packages(own=True, prebuilt=True)
    found = find({"LLAMA_CPP_LIB_PATH": str(place / given)})
    assert found.kind is LibraryKind.EXPLICIT
    assert found.path.is_file() and str(found.path).startswith(str(place / given))


def test_where_the_variable_names_nothing(packages: Callable[..., Path]) -> None:
    place = packages(own=True, prebuilt=True)
    for given in (place / "nothing", place):
        with pytest.raises(SlmError, match=r"LLAMA_CPP_LIB_PATH is .* no llama.cpp library is there") as caught:
            find({"LLAMA_CPP_LIB_PATH": str(given)})
        assert caught.value.hint == "unset LLAMA_CPP_LIB_PATH"


@pytest.mark.parametrize(("has_wheel", "words"), [(True, f"xllamacpp=={PREBUILT}"), (False, "--force-reinstall")])
def test_no_library_is_a_sentence_with_the_command_that_brings_one(
    packages: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, has_wheel: bool, words: str
) -> None:
    monkeypatch.setattr(library, "has_prebuilt_wheel", lambda: has_wheel)
    packages(own=False, prebuilt=False)
    with pytest.raises(SlmError, match=r"no llama.cpp library is installed") as caught:
        find({})
    assert caught.value.hint and words in caught.value.hint and f"{sys.executable} -m pip" in caught.value.hint


def test_without_llama_cpp_python_both_are_brought(
    packages: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "has_prebuilt_wheel", lambda: True)
    packages(own=False, prebuilt=False, declared=False)
    with pytest.raises(SlmError, match="llama-cpp-python is not installed") as caught:
        find({})
    assert caught.value.hint and caught.value.hint.startswith("SKBUILD_WHEEL_CMAKE=0 ")
    assert f"llama-cpp-python=={DECLARATIONS} xllamacpp=={PREBUILT}" in caught.value.hint


def test_builds_differ_by_any_of_their_files(packages: Callable[..., Path]) -> None:
    place = packages(own=True, prebuilt=True)
    own, other = find({}), find({"LLAMA_CPP_LIB_PATH": str(place / "xllamacpp")})
    before = own.build
    assert before != other.build
    for name in ("libllama.so", "libggml-base.so", "libmtmd.so"):
        file = place / "llama_cpp" / "lib" / name
        file.write_bytes(file.read_bytes() + b"!")
        assert find({}).build != before
        before = find({}).build


def test_the_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    assert f"llama-cpp-python=={DECLARATIONS}" in project["dependencies"]
    (entry,) = project["optional-dependencies"]["prebuilt"]
    assert entry.startswith(f"xllamacpp=={PREBUILT};")


@pytest.mark.slow
def test_the_names_are_those_that_slm_calls() -> None:
    declared: set[str] = set()
    folder = library._folder("llama_cpp")
    assert folder is not None
    for name in ("llama_cpp.py", "mtmd_cpp.py"):
        declared |= set(re.findall(r'@ctypes_function\(\s*"([^"]+)"', (folder / name).read_text(encoding="utf-8")))
    called: set[str] = set()
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if not any(name in text for name in declared):  # nearly all of them: parsing takes two seconds
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute):
                called.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and file.name == "structures.py":
                called.add(node.value)
    assert called & declared == native_symbols.LLAMA | native_symbols.MULTIMODAL


# Files that are no libraries


@is_elf
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: b"hello, this is a text\n" * 9, "is not a shared library"),
        (lambda whole: b"\x7fELF", "was cut short"),
        (lambda whole: whole[:100], "was cut short"),
        (lambda whole: whole[: len(whole) // 2], "was cut short"),
        (lambda whole: whole[:-1], "was cut short"),
        (lambda whole: whole[:18] + b"\xf3\0" + whole[20:], "another kind of processor"),
        (lambda whole: whole, None),
    ],
)
def test_what_is_wrong_with_a_file(content: Callable[[bytes], bytes], says: str | None, tmp_path: Path) -> None:
    file = tmp_path / "libllama.so"
    file.write_bytes(content(native.library().path.read_bytes()))
    found = fault_of(file)
    assert found is None if says is None else says in (found or "")


# Structures


@pytest.mark.real
def test_every_way_to_look_at_a_structure_sees_the_same() -> None:
    api = native.bindings()
    token = (ctypes.c_int32 * 1)(7)
    assert structures.other_structure(api) is None
    assert structures.other_multimodal_structure(native.multimodal()) is None
    for name, kind, arguments in (
        ("llama_model_default_params", api.llama_model_params, ()),
        ("llama_context_default_params", api.llama_context_params, ()),
        ("llama_batch_get_one", api.llama_batch, (ctypes.addressof(token), 1)),
    ):
        found = structures.returned(api._lib, name, arguments)
        ways = [structures.by_value(api._lib, name, arguments)]
        if (deep := structures.by_libffi(api._lib, name, arguments)) is not None:
            assert deep.is_tail_known
            ways.append(deep)
        for other in ways:
            for field, *_ in kind._fields_:  # what lies between fields is nobody's
                place = getattr(kind, field)
                part = slice(place.offset, place.offset + place.size)
                assert other.data[part] == found.data[part]


@pytest.mark.real
@pytest.mark.parametrize("is_tail_known", [True, False])
def test_another_structure_is_seen(is_tail_known: bool) -> None:
    api = native.bindings()
    data = structures.returned(api._lib, "llama_context_default_params", ()).data
    found = structures.Returned(data, is_tail_known)
    fields = list(api.llama_context_params._fields_)
    defaults = {"n_batch": 2048, "n_ubatch": 512, "type_k": 1, "defrag_thold": -1.0, "op_offload": True}

    def fits(declared: list[tuple[str, Any]]) -> bool:
        return structures.is_declared(found, type("other", (ctypes.Structure,), {"_fields_": declared}), defaults)

    assert fits(fields)
    assert not fits([("new", ctypes.c_int32), *fields])
    assert not fits([fields[0], *fields[2:3], *fields[1:2], *fields[3:]])  # two that changed places
    assert not fits([field for field in fields if field[0] != "n_batch"])
    if is_tail_known:  # the library's has a field more, or one less
        assert not fits(fields[:-1])
        assert not fits([*fields, ("new", ctypes.c_void_p)])


_FAULTS = r"""
import json, os, sys
from slmchat.engine import native
from slmchat.errors import SlmError
said = {}
for place in sys.argv[1:]:
    os.environ["LLAMA_CPP_LIB_PATH"] = place
    try:
        native.bindings()
        said[place] = ["", ""]
        break
    except SlmError as error:
        said[place] = [error.message, error.hint]
print(json.dumps(said))
"""


def _planted(folder: Path, source: str, *, is_linked: bool = True) -> Path:
    """A library of our own: the functions in `source`, all others those of the library in use."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler here (cc), or no Linux: no library can be planted")
    folder.mkdir()
    real = native.library().path
    file = folder / "libllama.so"
    (folder / "planted.c").write_text(source)
    linked = ("-Wl,--no-as-needed", real, f"-Wl,-rpath,{real.parent}") if is_linked else ()
    subprocess.run([compiler, "-shared", "-fPIC", "-o", file, folder / "planted.c", *linked], check=True)
    return folder


@pytest.mark.real
@is_elf
def test_every_library_that_cannot_be_used_is_a_sentence(tmp_path: Path, home: Path) -> None:
    """In one process, one after another: a library that was refused leaves nothing behind, and a sound one works."""
    size = ctypes.sizeof(native.bindings().llama_context_params)
    grown = f"struct grown {{ char data[{size + 8}]; }} made; struct grown llama_context_default_params(void) {{ return made; }}"
    whole = native.library().path.read_bytes()
    wrong = {
        "does not belong to llama-cpp-python: its llama_context_params": _planted(tmp_path / "grown", grown),
        "is version 0.9.1, and slm needs 0.4.x or 0.5.x": _planted(
            tmp_path / "newer", 'const char *llama_version(void) { return "0.9.1"; }'
        ),
        "has no function llama_": _planted(
            tmp_path / "poor", 'const char *llama_version(void) { return "0.5.0"; }', is_linked=False
        ),
    }
    for says, data in {"is empty": b"", "is not a shared library": b"text", "was cut short": whole[:-4096]}.items():
        folder = wrong[says] = tmp_path / says.replace(" ", "-")
        folder.mkdir()
        (folder / "libllama.so").write_bytes(data)
    places = [*map(str, wrong.values()), str(native.library().path)]
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS, *places], capture_output=True, text=True, env=environment(home), check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert list(said) == places and said.pop(places[-1]) == ["", ""]
    for words, folder in wrong.items():
        message, hint = said[str(folder)]
        assert words in message and "\n" not in message and str(folder) in message
        assert hint == "unset LLAMA_CPP_LIB_PATH"


@pytest.mark.real
def test_version_and_doctor_name_the_library_and_its_faults(home: Path, tmp_path: Path) -> None:
    used = native.library()
    for arguments in (("--version", "-v"), ("-v", "--version")):
        assert run_slm(*arguments, home=home).out.splitlines()[1] == f"llama.cpp: {used.in_words()}"
    (tmp_path / "libllama.so").write_bytes(b"")
    done = run_slm("doctor", home=home, env={"LLAMA_CPP_LIB_PATH": str(tmp_path)})
    assert done.code != 0 and "Traceback" not in done.err
    (line,) = [line for line in done.out.splitlines() if "library" in line.split()[:2]]
    assert line.split()[0] == "WRONG" and f"{tmp_path}" in done.out
    assert "unset LLAMA_CPP_LIB_PATH" in done.out


# The same answers


def _libraries() -> tuple[Path, ...]:
    """The own build and the prebuilt library, as far as they are here."""
    return tuple(found.path for found in (library.own_build(), library.prebuilt()) if found is not None)


@pytest.mark.real
def test_both_libraries_answer_the_same(tmp_path: Path, home: Path) -> None:
    if len(_libraries()) < 2:
        pytest.skip("only one library is installed")
    (tmp_path / "seeing").mkdir()
    write_tiny_gemma3(tmp_path / "seeing" / "model.gguf")
    write_tiny_siglip(tmp_path / "seeing" / "mmproj-F16.gguf")
    answers = []
    for path in _libraries():
        env = {**environment(home), "LLAMA_CPP_LIB_PATH": str(path), "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, TESTS / "library_probe.py", tmp_path], capture_output=True, text=True, env=env, check=False
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    one, other = answers
    assert [found["library"]["path"] for found in answers] == [str(path) for path in _libraries()]
    assert one["build"] != other["build"]
    assert one["tokens"] == other["tokens"]
    assert "cpu" in one["devices"] and "cpu" in other["devices"]
    assert one["features"] and other["features"]
    assert re.fullmatch(r"[0-9]{3}-[0-9]{2}", one["grammar"]["text"])
    assert one["lora"]["tokens"] != one["plain"]["tokens"]
    assert len({tuple(shown["logprobs"]) for shown in one["picture"]}) == 3
    for name in ("plain", "grammar", "lora", "first", "again"):
        assert one[name]["tokens"] == other[name]["tokens"], name
        assert one[name]["logprobs"] == pytest.approx(other[name]["logprobs"], abs=1e-2)
    for mine, theirs in zip(one["picture"], other["picture"], strict=True):
        assert mine["tokens"] == theirs["tokens"]
        assert mine["logprobs"] == pytest.approx(theirs["logprobs"], abs=1e-2)
    # the second library finds the states of the first one on the disk, and does not read them
    for found in answers:
        assert found["first"]["cached"] == 0
        assert found["again"]["cached"] > 0


# What an own build gains


@pytest.mark.parametrize(
    ("kind", "is_measured", "gain", "missing", "says"),
    [
        (LibraryKind.OWN, True, Comparison((1.5, 1.4, 1.6), (1.0, 0.9, 1.1)), (), "reads prompts at 1.50 times the speed (1.40 to 1.60)"),
        (LibraryKind.OWN, True, None, (), "could not be measured"),
        (LibraryKind.OWN, False, None, ("AVX512",), "no other library"),
        (LibraryKind.PREBUILT, False, None, ("AVX512",), "without AVX512, which this processor has"),
        (LibraryKind.PREBUILT, False, None, (), "nothing to gain"),
    ],
)  # fmt: skip
def test_what_a_build_of_ones_own_gains_is_said(
    kind: LibraryKind, is_measured: bool, gain: Comparison | None, missing: tuple[str, ...], says: str
) -> None:
    told = own_build.OwnBuild(NativeLibrary(Path("/l"), kind, "1"), is_measured, gain, missing).in_words()
    assert says in told
    assert ("pip install" in told) == (kind is LibraryKind.PREBUILT and bool(missing))
