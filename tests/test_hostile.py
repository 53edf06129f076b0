"""Files and names that mean harm: one sentence and exit 6, nothing for the terminal to obey, nothing outside models."""

import json
import os
import re
import string
import struct
from pathlib import Path, PureWindowsPath

import gguf_samples as samples
import pytest
from conftest import Outcome, call_slm, run_slm
from properties import example, given
from properties import strategies as st

from slmchat.catalog import registry, schema
from slmchat.catalog.library import Library, from_path
from slmchat.catalog.model_specs import HubFile
from slmchat.catalog.user_file import add_target
from slmchat.commands import models
from slmchat.errors import ExitCode, SlmError
from slmchat.models import resolve
from slmchat.settings import Paths, Settings
from slmchat.terminal.console import Console

# Through the real program: of each group of damage some, and those whose bytes another reader would stumble over.
KINDS = (
    "empty", "html", "pickle", "big_endian", "key_count", "string_length_max", "string_array_length", "nested_array",
    "duplicate_key", "tensor_data_cut", "overflowing_dims", "offset_beyond_the_end",
)  # fmt: skip

# Sequences that a terminal would obey: colour, title, clipboard, C1 CSI, a line drawn over another; and bidi.
OBEYED = (
    "\x1b[31m",
    "\x1b]0;title\x07",
    "\x1b]52;c;aGk=\x1b\\",
    "\x9b2J",
    "a\rb",
    "\b\b",
    "\x90q\x9c",
    "\u202e",
    "\u2066",
)
HOSTILE_TEXT = "x".join(OBEYED)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return samples.hostile(tmp_path_factory.mktemp("hostile"))


def _settings(home: Path) -> Settings:
    return Settings(Paths(home / "data", home / "config", home / "cache"))


def _is_one_sentence(outcome: Outcome) -> bool:
    said = outcome.err.splitlines()
    return (
        outcome.out == ""
        and 1 <= len(said) <= 2
        and said[0].startswith("slm: ")
        and all(line.startswith("hint: ") for line in said[1:])
        and "Traceback" not in outcome.err
    )


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_the_program_refuses_a_hostile_file(hostile: dict[str, Path], kind: str, home: Path) -> None:
    file = hostile[kind]
    for command in (("add", "mine", file), ("show", file), ("run", "-m", file, "hi")):
        outcome = run_slm(*command, home=home)
        assert outcome.code == ExitCode.DAMAGED, outcome
        assert _is_one_sentence(outcome), outcome
    assert not (home / "config" / "models.toml").exists()


@pytest.mark.real
@pytest.mark.parametrize(
    "template",
    [
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**9 }}",
        "{{ messages[0].content.__class__.__mro__ }}",
    ],
)
def test_the_program_does_not_hang_in_a_template(template: str, tmp_path: Path, home: Path) -> None:
    file = samples.write_tiny_llama(tmp_path / "m.gguf", chat_template=template)
    outcome = run_slm("run", "-m", file, "hi", home=home, timeout=300)
    assert outcome.code == ExitCode.DAMAGED, outcome
    assert _is_one_sentence(outcome), outcome
    assert "chat template" in outcome.err


def test_every_kind_is_refused_at_every_door(hostile: dict[str, Path], tmp_path: Path) -> None:
    settings, console = _settings(tmp_path), Console()
    doors = (
        lambda file: models.add("mine", str(file), settings, console),
        lambda file: models.show(str(file), settings, console),
        lambda file: resolve.find(str(file), settings, console),
        lambda file: from_path(file),
    )
    assert len(hostile) >= 54
    for kind, file in hostile.items():
        for door in doors:
            with pytest.raises(SlmError) as caught:
                door(file)
            assert caught.value.exit_code is ExitCode.DAMAGED, kind
            assert "\n" not in caught.value.message, kind


def test_a_key_cannot_forge_a_line_of_its_own(tmp_path: Path) -> None:
    """Found by tests/fuzz/fuzz_gguf.py (seed 3920): a line end in the name of a key stood in the message."""
    file = tmp_path / "x.gguf"
    key = "a\nslm: all is well\u2028\x1b[2J"
    for data in (
        samples.gguf([samples.entry(key, 99, b"")]),
        samples.gguf([samples.entry(key, samples.U32, bytes(4))] * 2),
    ):
        file.write_bytes(data + bytes(64))
        with pytest.raises(SlmError) as caught:
            from_path(file)
        assert caught.value.message.isprintable()


def test_a_number_of_a_header_that_is_none_and_a_list_without_entries(tmp_path: Path, home: Path) -> None:
    """`slm show --json` wrote NaN, which is not JSON; an empty list of heads was a bug of slm."""
    file = tmp_path / "x.gguf"
    keys = {"block_count": 2, "context_length": 128, "embedding_length": 32, "attention.head_count": 4}
    sound = [samples.entry(f"llama.{key}", samples.U32, struct.pack("<I", number)) for key, number in keys.items()]
    token = samples.tensor("token_embd.weight", [32, 100])
    for entry, code in (
        (samples.entry("x.scale", samples.F32, struct.pack("<f", float("nan"))), 0),
        (samples.entry("llama.attention.head_count_kv", samples.ARR, samples.array(samples.U32, 0, b"")), 6),
    ):
        file.write_bytes(samples.gguf([samples.ARCHITECTURE, *sound, entry], [token], data_bytes=12800))
        told = call_slm("show", file, "--json", home=home)
        assert told.code == code, told.err
        facts = json.loads(told.out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert facts["metadata"].get("x.scale", None) is None


def _with_metadata(path: Path) -> Path:
    """A sound header in which every text is hostile."""
    text = samples.string(HOSTILE_TEXT)
    keys = ("general.architecture", "general.name", "general.license", "general.\x1b[2Jkey", "tokenizer.chat_template")
    path.write_bytes(
        samples.gguf(
            [samples.entry(key, samples.STR, text) for key in keys], [samples.tensor("\x1b[5mt", [32])], data_bytes=128
        )
    )
    return path


@pytest.mark.real
@pytest.mark.skipif(os.name != "posix", reason="Windows has no such file names")
def test_nothing_that_a_terminal_obeys_comes_out(tmp_path: Path, home: Path) -> None:
    folder = tmp_path / f"d{HOSTILE_TEXT.replace('/', '')}"
    folder.mkdir()
    sound, bad = _with_metadata(folder / "good.gguf"), folder / "\x1b]0;bad\x07.gguf"
    bad.write_bytes(b"GGUF" + b"\xff" * 60)
    (home / "data" / "models").mkdir(parents=True)
    link = tmp_path / "plain.gguf"
    link.symlink_to(sound)
    add_target(home / "config" / "models.toml", "mine", str(link))  # `slm add` itself knows no such architecture
    record = Library(_settings(home).paths)
    record.admit(from_path(sound))
    for command in (
        ("show", sound), ("show", link), ("show", "mine"), ("show", bad), ("show", f"no{HOSTILE_TEXT}"), ("list",),
        ("show", sound, "--json"), ("show", "mine", "--json"), ("list", "--json"), ("add", "third", link, "--json"),
        ("run", "-m", sound, "hi"), ("run", "-m", bad, "hi"), ("add", "other", bad), ("add", f"o{HOSTILE_TEXT}", link),
        ("verify", bad), ("rm", bad), ("run", "-f", bad, "hi", "-m", link), ("run", f"--{HOSTILE_TEXT}"), (HOSTILE_TEXT,),
    ):  # fmt: skip
        outcome = run_slm(*command, home=home)
        assert not _CONTROLS.search(outcome.out + outcome.err), command
        assert "Traceback" not in outcome.err


def test_list_shows_hostile_records_harmlessly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = _settings(tmp_path)
    settings.paths.models.mkdir(parents=True)
    sound = _with_metadata(tmp_path / "good.gguf")
    from dataclasses import replace

    installed = replace(
        from_path(sound), name=HOSTILE_TEXT, quantization=HOSTILE_TEXT, tags=(HOSTILE_TEXT,), admitted_at="2026"
    )
    Library(settings.paths).admit(installed)
    (settings.paths.models / "\x1b[31mbroken.json").write_text("{")
    models.list_models(settings, Console())
    shown = capsys.readouterr()
    assert "good.gguf" in shown.out
    assert "is damaged and left out" in shown.err
    assert not _CONTROLS.search(shown.out + shown.err)


# Names: nothing leaves the models directory

EVIL_NAMES = (
    "../../etc/passwd", "..", ".", "/etc/passwd", "C:\\Windows\\x", "..\\..\\x", "a/../../b", "CON", "con.gguf", "NUL",
    "nul.tar.gz", "aux.gguf", "COM1", "lpt9.x", "name.", "name...", "name ", " name", "n" * 5000, "n\0x", "", "-rf", "~root/x",
    "a\nb", "x:stream", "é" * 300, "\u202egpj", "$HOME", "hf:../../x", "conin$", "PRN .txt",
)  # fmt: skip
DEVICES = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
    "conin$",
    "conout$",
}
_LIBRARY = Library(Paths(Path("/home/slm/data"), Path("/home/slm/config"), Path("/home/slm/cache")))
_names = st.one_of(
    st.sampled_from(EVIL_NAMES),
    st.text(max_size=200),
    st.lists(st.sampled_from(["..", "/", "\\", ".", "con", "aux", "nul", "a", ":", "\0", " ", "@", "#"])).map("".join),
)


@given(_names, _names)
@example("con.x", "Q4")
@example("aux", "")
def test_the_file_of_a_model_lies_in_the_models_directory_under_a_name_every_system_takes(
    name: str, quant: str
) -> None:
    place = _LIBRARY.destination(name, quant)
    assert place.parent == Path("/home/slm/data/models")
    assert place.suffix == ".gguf"
    assert set(place.name) <= set(string.ascii_letters + string.digits + "._@-")
    assert len(place.name) <= 120
    assert not place.name.startswith(".")
    assert not place.stem.endswith((".", " "))
    assert place.name.partition(".")[0].lower() not in DEVICES
    assert not PureWindowsPath(place.name).drive


@pytest.mark.slow
@given(_names, _names)
def test_two_models_never_share_a_file(first: str, second: str) -> None:
    one, other = (_LIBRARY.destination(name, "Q4").name.lower() for name in (first, second))
    assert (one == other) == (first == second)


@given(_names)
def test_a_path_in_a_repository_stays_below_it(name: str) -> None:
    for file in (name, f"{name}.gguf", f"a/{name}.gguf"):
        if schema.is_hub_file(file):
            for flavour in (Path, PureWindowsPath):
                joined = flavour("base") / file
                assert ".." not in joined.parts
                assert not flavour(file).is_absolute() and not flavour(file).drive
            assert Path(os.path.normpath(Path("/base") / file)).is_relative_to("/base")


@pytest.mark.parametrize("name", EVIL_NAMES)
@pytest.mark.parametrize("key", ["file", "member"])
def test_a_models_toml_cannot_name_a_file_elsewhere(name: str, key: str, tmp_path: Path) -> None:
    import json

    text = json.dumps(f"{name}/x.gguf" if key == "file" else f"{name}/x")
    if key == "file":
        source = f'{{ hub = "a/b", file = {text} }}'
    else:
        source = f'{{ index = [{{ package = "p", version = "1", member = {text} }}], size = 1, sha256 = "{"0" * 64}" }}'
    file = tmp_path / "models.toml"
    file.write_text(f'[[model]]\nname = "m"\nvariant = [{{ quantization = "Q4_0", source = [{source}] }}]\n')
    try:
        spec = registry.load(file).models["m"]
    except SlmError as error:
        assert error.exit_code is ExitCode.USAGE  # noqa: PT017 - refused or harmless, both are right
        return
    (source_spec,) = spec.variants[0].sources
    place = source_spec.file if isinstance(source_spec, HubFile) else source_spec.members[0].member
    assert Path(os.path.normpath(Path("/base") / place)).is_relative_to("/base")
    assert not {"..", "."} & set(re.split(r"[/\\]", place))
    assert not PureWindowsPath(place).drive
