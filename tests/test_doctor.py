"""`slm doctor`: every check finds the fault that is planted for it, and nothing where there is none."""

import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, run_slm
from gguf_samples import CHATML_TEMPLATE, GEMMA_TEMPLATE, write_tiny_llama
from gguf_surgery import with_keys, with_tensor

from slmchat import settings
from slmchat.catalog.library import Library, from_path
from slmchat.catalog.records import Installed
from slmchat.commands import doctor
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.diagnostics import device as device_checks
from slmchat.diagnostics import examination, storage
from slmchat.diagnostics.findings import Finding, Level, run_checks
from slmchat.engine import crash_markers
from slmchat.engine.devices import ComputeDevice
from slmchat.engine.kvstore import KvStore, StateKey
from slmchat.engine.library import no_declarations
from slmchat.engine.limits import ALL, LEAST, Attempt, SelfTestVerdict
from slmchat.fit.plan import Room
from slmchat.hardware import compilers
from slmchat.hardware.facts import Fact
from slmchat.hardware.graphics import Graphics, graphics
from slmchat.models import device_fit
from slmchat.terminal.console import Console

pytestmark = pytest.mark.real

CRASHING = SelfTestVerdict(ALL, (Attempt(ALL, "crashes (SIGSEGV)"), Attempt(ALL.without("has_extra_buffers"), "")), 0.9)

NVIDIA = Graphics("NVIDIA", "NVIDIA GeForce RTX 4060", True)
INTEL = Graphics("Intel", "Intel 0x9a49", False)
KERNEL = "kernel"


@pytest.fixture
def paths(tmp_path: Path) -> settings.Paths:
    home = tmp_path / "home"
    made = settings.Paths(data=home / "data", config=home / "config", cache=home / "cache")
    for place in (made.data, made.models, made.config, made.cache, made.kv_states):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return made


def only(findings: Iterator[Finding], check: str) -> Finding:
    """The one finding of a check; it says what, why and what to do if it is not fine."""
    (finding,) = [finding for finding in findings if finding.check == check]
    assert finding.what
    assert (finding.level is Level.FINE) == (not finding.why) == (not finding.do)
    return finding


# The device


@pytest.fixture
def facts(paths: settings.Paths) -> device_checks.Facts:
    """A device on which nothing is wrong."""
    found = examination.device_facts(settings.Settings(paths=paths))
    sets = ("AVX", "AVX2", "FMA", "F16C", "AVX512")
    device = replace(
        found.device,
        instruction_sets=Fact(sets, "planted"),
        available_memory=Fact(8_000_000_000, "planted"),
        address_space=Fact(None, "planted"),
        is_on_battery=Fact(False, "planted"),
        cpu_quota=Fact(None, "planted"),
    )
    seal = replace(found.seal, mechanism="seccomp", is_enforced_by_kernel=True, landlock_abi=4)
    return replace(
        found,
        device=device,
        features=sets,
        fault=None,
        declared="0.3.36",
        wanted="0.3.36",
        graphics=Fact((), "planted"),
        compute=(),
        has_gpu_backend=False,
        seal=seal,
        self_test=SelfTestVerdict(ALL, (Attempt(ALL, ""),), 0.3),
    )


def test_a_device_on_which_nothing_is_wrong(facts: device_checks.Facts) -> None:
    found = list(run_checks(device_checks.CHECKS, facts))
    assert {finding.level for finding in found} == {Level.FINE}
    assert [finding.check for finding in found] == [check.name for check in device_checks.CHECKS]


def test_without_a_model_the_first_thing_to_do_is_said(facts: device_checks.Facts) -> None:
    found = list(run_checks(device_checks.CHECKS, facts))
    told = doctor._summary(found, has_model=False)
    assert "First: slm pull smollm2:135m" in told and "Nothing is wrong" not in told
    assert doctor._summary(found, has_model=True) == "Nothing is wrong."


PLANTED: dict[str, tuple[str, Level, str, str, Callable[[device_checks.Facts], device_checks.Facts]]] = {
    "another version": (
        "library", Level.WRONG, "made for 0.3.36", "llama-cpp-python==0.3.36", lambda facts: replace(facts, declared="0.3.1"),
    ),
    "no library": (
        "library", Level.WRONG, "not installed", "pip install",
        lambda facts: replace(facts, library=None, fault=no_declarations()),
    ),
    "no AVX2": (
        "instruction sets", Level.WRONG, "without AVX2, FMA", "-DGGML_NATIVE=on",
        lambda facts: replace(facts, features=("AVX", "F16C", "AVX512")),
    ),
    "no AVX512": (
        "instruction sets", Level.NOTE, "without AVX512", "-DGGML_NATIVE=on",
        lambda facts: replace(facts, features=("AVX", "AVX2", "FMA", "F16C")),
    ),
    "unknown features": ("instruction sets", Level.NOTE, "not known", "bench", lambda facts: replace(facts, features=None)),
    "a crash in the fast way": (
        "self-test", Level.NOTE, "leaves out weights repacked for this processor", "the prebuilt library: SKBUILD_WHEEL_CMAKE=0",
        lambda facts: replace(facts, self_test=replace(CRASHING, limits=ALL.without("has_extra_buffers"))),
    ),
    "a library that does nothing right": (
        "self-test", Level.WRONG, "even with its most careful settings", "-DGGML_NATIVE=on",
        lambda facts: replace(facts, self_test=replace(CRASHING, limits=LEAST, is_broken=True)),
    ),
    "a library that could not be tried": (
        "self-test", Level.NOTE, "no process can be started", "once more",
        lambda facts: replace(facts, self_test=SelfTestVerdict(untried="no process can be started")),
    ),
    "a GPU without its backend": (
        "gpu", Level.WRONG, "RTX 4060 is here", 'CMAKE_ARGS="-DGGML_CUDA=on"',
        lambda facts: replace(facts, graphics=Fact((NVIDIA,), "planted")),
    ),
    "a small GPU without its backend": (
        "gpu", Level.NOTE, "Intel 0x9a49 is here", "-DGGML_VULKAN=on",
        lambda facts: replace(facts, graphics=Fact((INTEL,), "planted")),
    ),
    "a backend without a GPU": ("gpu", Level.WRONG, "finds none", "driver", lambda facts: replace(facts, has_gpu_backend=True)),
    "unknown GPU": ("gpu", Level.NOTE, "not known", "install.md", lambda facts: replace(facts, graphics=Fact(None, "no"))),
    "hardly any memory": (
        "memory", Level.WRONG, "200.0 MB available", "close other programs",
        lambda facts: replace(facts, device=replace(facts.device, available_memory=Fact(200_000_000, "planted"))),
    ),
    "little memory": (
        "memory", Level.NOTE, "1.0 GB available", "list --available",
        lambda facts: replace(facts, device=replace(facts.device, available_memory=Fact(1_000_000_000, "planted"))),
    ),
    "a limit of the address space": (
        "memory", Level.WRONG, "ulimit -v leaves 100.0 MB", "list --available",
        lambda facts: replace(facts, device=replace(facts.device, address_space=Fact(100_000_000, "planted"))),
    ),
    "a small share of the processor": (
        "processor", Level.NOTE, "0.5 processors", "--cpus",
        lambda facts: replace(facts, device=replace(facts.device, cpu_quota=Fact(0.5, "planted"))),
    ),
    "battery": (
        "power", Level.NOTE, "battery (40 %)", "--threads",
        lambda facts: replace(
            facts, device=replace(facts.device, is_on_battery=Fact(True, "planted"), battery_percent=Fact(40, "planted"))
        ),
    ),
    "no seal": (
        "seal", Level.WRONG, "does not enforce", "privacy.md",
        lambda facts: replace(facts, seal=replace(facts.seal, mechanism="guard", is_enforced_by_kernel=False)),
    ),
    "no Landlock": (
        "seal", Level.NOTE, "no Landlock", "5.13", lambda facts: replace(facts, seal=replace(facts.seal, landlock_abi=None)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", PLANTED)
def test_a_fault_of_the_device_is_found(fault: str, facts: device_checks.Facts) -> None:
    check, level, what, do, plant = PLANTED[fault]
    found = [finding for finding in run_checks(device_checks.CHECKS, plant(facts)) if finding.level is not Level.FINE]
    assert [(finding.check, finding.level) for finding in found] == [(check, level)]
    assert what in found[0].what
    assert do in found[0].do
    assert found[0].why


GCC_12 = "gcc (Debian 12.2.0-14+deb12u1) 12.2.0\nCopyright (C) 2022 Free Software Foundation, Inc."
GCC_14 = "gcc-14 (GCC) 14.1.1 20240507 (Red Hat 14.1.1-1)"
CLANG = "Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu"


@pytest.mark.parametrize(
    ("installed", "do"),
    [
        (
            {"cc": GCC_12, "c++": GCC_12},
            "install clang, or GCC 13 or newer (older ones build AMX kernels that crash); then CC=clang",
        ),
        ({"cc": GCC_12, "c++": GCC_12, "clang": CLANG, "clang++": CLANG}, "CC=clang CXX=clang++ CMAKE_ARGS="),
        ({"cc": GCC_12, "c++": GCC_12, "gcc-14": GCC_14, "g++-14": GCC_14}, "CC=gcc-14 CXX=g++-14 CMAKE_ARGS="),
        ({"cc": GCC_14, "c++": GCC_14}, "CMAKE_ARGS="),
        ({}, "install clang"),
    ],
)
def test_a_build_for_amx_is_advised_with_a_compiler_that_does_it_rightly(
    installed: dict[str, str], do: str, facts: device_checks.Facts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What GCC 11 and 12 make of it ends every program at its first token."""
    monkeypatch.setattr(compilers.for_amx, "__defaults__", (lambda name: installed.get(name, ""),))
    sets = Fact(("AVX2", "AMX_INT8"), "planted")
    amx = replace(facts, device=replace(facts.device, instruction_sets=sets), features=("AVX2",))
    found = only(run_checks(device_checks.CHECKS, amx), "instruction sets")
    assert found.do.startswith(do)
    assert "-DGGML_NATIVE=on" in found.do


def test_the_verdict_is_in_json(paths: settings.Paths) -> None:
    shown = json.loads(run_slm("doctor", "--json", home=paths.data.parent).out)
    assert shown["self_test"]["is_broken"] is False
    assert set(shown["self_test"]["limits"]) == {"has_extra_buffers", "has_flash_attention", "has_gpu", "has_threads"}


def test_a_gpu_that_llama_cpp_uses_is_fine(facts: device_checks.Facts) -> None:
    gpu = ComputeDevice("CUDA0", "NVIDIA GeForce RTX 4060", "gpu", 7_000_000_000, 8_000_000_000)
    used = replace(facts, compute=(gpu,), has_gpu_backend=True, graphics=Fact((NVIDIA,), "planted"))
    assert (
        only(run_checks(device_checks.CHECKS, used), "gpu").what == "NVIDIA GeForce RTX 4060, 7.0 GB of its memory free"
    )


def test_graphics_processors_are_those_that_the_system_names(tmp_path: Path) -> None:
    assert graphics(tmp_path).value == ()
    card = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0"
    card.mkdir(parents=True)
    (card / "information").write_text("Model: \t\t NVIDIA GeForce RTX 4060\nIRQ: 97\n")
    for number, (vendor, memory) in enumerate({"0x10de": 0, "0x1002": 8 << 30, "0x8086": 0, "0x1234": 0}.items()):
        device = tmp_path / f"sys/class/drm/card{number}/device"
        device.mkdir(parents=True)
        (device / "vendor").write_text(vendor + "\n")
        (device / "device").write_text("0x9a49\n")
        if memory:
            (device / "mem_info_vram_total").write_text(f"{memory}\n")
    found = graphics(tmp_path).value
    assert found == (NVIDIA, Graphics("AMD", "AMD 0x9a49", True), INTEL)


# slm's directories


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)


def admitted(paths: settings.Paths, file: Path, name: str = "tiny") -> Installed:
    made = replace(from_path(file), name=name, admitted_at="2026-01-01T00:00:00+00:00")
    Library(paths).admit(made)
    return made


def places(paths: settings.Paths, **environ: str) -> list[Finding]:
    found = storage.Places.of(paths, {"HF_HOME": str(paths.cache / "none"), **environ})
    return list(run_checks(storage.CHECKS, replace(found, disk=Fact(50_000_000_000, "planted"))))


def old(path: Path, age: float = 7200) -> Path:
    stamp = path.stat().st_mtime - age
    os.utime(path, (stamp, stamp))
    return path


def test_places_where_nothing_is_wrong(paths: settings.Paths, tiny: Path) -> None:
    admitted(paths, tiny)
    found = places(paths)
    assert {finding.level for finding in found} == {Level.FINE}, found
    assert [finding.check for finding in found] == [check.name for check in storage.CHECKS]


@pytest.mark.parametrize(
    ("free", "level"), [(100_000_000, Level.WRONG), (2_000_000_000, Level.NOTE), (None, Level.NOTE)]
)
def test_a_disk_that_is_full(free: int | None, level: Level, paths: settings.Paths) -> None:
    found = replace(storage.Places.of(paths, {}), disk=Fact(free, "planted"))
    assert only(run_checks(storage.CHECKS, found), "disk").level is level


def test_directories_that_others_can_look_into(paths: settings.Paths) -> None:
    paths.data.chmod(0o755)
    found = only(iter(places(paths)), "permissions")
    assert found.level is Level.WRONG
    assert f"others can look into {paths.data}" in found.what
    assert f"chmod 700 {paths.data}" in found.do


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_user(paths: settings.Paths) -> None:
    for name in "abcd":
        os.chown(_touched(paths.data / f"{name}.json"), 12345, 12345)
    found = only(iter(places(paths)), "permissions")
    assert found.level is Level.WRONG
    assert "1 more" in found.what
    assert "chown -R" in found.do


def test_a_place_that_cannot_be_written(paths: settings.Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != paths.cache and real(path, mode))
    found = only(iter(places(paths)), "permissions")
    assert found.level is Level.WRONG
    assert f"{paths.cache} cannot be written" in found.what


def _touched(path: Path, size: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_a_model_whose_file_is_gone_and_weights_without_a_record(paths: settings.Paths, tiny: Path) -> None:
    admitted(paths, tiny)
    tiny.unlink()
    found = only(iter(places(paths)), "models")
    assert found.level is Level.WRONG
    assert "is gone" in found.what and "slm pull tiny" in found.do
    Library(paths).remove(admitted(paths, write_tiny_llama(tiny, chat_template=None)))
    _touched(paths.models / "lost.gguf", 5000)
    found = only(iter(places(paths)), "models")
    assert found.level is Level.NOTE
    assert "lost.gguf" in found.what and "5.0 kB" in found.why and str(paths.models / "lost.gguf") in found.do


def test_a_damaged_record(paths: settings.Paths) -> None:
    (paths.models / "broken.json").write_text("{")
    found = only(iter(places(paths)), "models")
    assert found.level is Level.WRONG
    assert "broken.json is damaged" in found.what


def test_what_killed_pulls_and_writes_have_left(paths: settings.Paths) -> None:
    hub = paths.cache / "hub"
    _touched(paths.models / ".partial-abc-x1" / "part", 2_000_000)
    _touched(hub / "models--o--r" / "blobs" / "ab.slm.incomplete", 1_000_000)
    old(_touched(paths.data / ".new-1"))
    _touched(paths.data / ".new-2")  # somebody may be writing it
    found = [finding for finding in places(paths, HF_HUB_CACHE=str(hub)) if finding.check == "leftovers"]
    assert [finding.level for finding in found] == [Level.NOTE] * 3
    assert ".partial-abc-x1" in found[0].what and "2.0 MB" in found[0].why
    assert "1 unfinished download" in found[1].what and "slm pull" in found[1].do
    assert found[2].what.startswith(".new-1:")


def test_a_pull_that_runs_is_left_alone(paths: settings.Paths) -> None:
    from filelock import FileLock

    _touched(paths.models / ".partial-abc-x1" / "part")
    (paths.models / ".locks").mkdir()
    with FileLock(paths.models / ".locks" / "abc.lock"):
        assert only(iter(places(paths)), "leftovers").level is Level.FINE
    assert only(iter(places(paths)), "leftovers").level is Level.NOTE


def test_marks_of_crashes(paths: settings.Paths, tiny: Path) -> None:
    admitted(paths, tiny)
    mark = crash_markers.directory(paths.data) / f"{crash_markers._stem(tiny)}-999999999"
    _touched(mark, 0)
    found = only(iter(places(paths)), "crashes")
    assert found.level is Level.WRONG
    assert "killed while it was loading tiny" in found.what
    mark.write_bytes(b"Fatal Python error: Segmentation fault")
    assert "crashed while it was loading tiny" in only(iter(places(paths)), "crashes").what
    assert mark.exists()  # it is told by the next start of the model, too
    mark.rename(mark.with_name("0123456789abcdef-999999999"))
    assert "not installed" in only(iter(places(paths)), "crashes").what


def test_a_damaged_archive_of_conversations(paths: settings.Paths) -> None:
    assert only(iter(places(paths)), "databases").level is Level.FINE  # there is none
    archive = Archive(paths.sessions)
    conversation = Conversation()
    for n in range(200):
        conversation.add(Message(Role.USER, f"message {n} " * 20))
    archive.store(conversation, conversation.nodes())
    archive.close()
    assert only(iter(places(paths)), "databases").level is Level.FINE
    content = paths.sessions.read_bytes()
    middle = len(content) // 2
    paths.sessions.write_bytes(content[:middle] + b"\xff" * 8192 + content[middle + 8192 :])
    found = only(iter(places(paths)), "databases")
    assert found.level is Level.WRONG and "sessions.db is damaged" in found.what
    assert "mv " in found.do and "sessions.db.damaged" in found.do


def test_states_of_models_that_are_gone(paths: settings.Paths, tiny: Path) -> None:
    admitted(paths, tiny)
    for model in (tiny, tiny.with_name("gone.gguf")):
        _touched(paths.kv_states / StateKey(model, "x").folder / "a.kv", 70_000)
    found = only(iter(places(paths)), "kv states")
    assert found.level is Level.NOTE
    assert "70.0 kB" in found.what
    assert StateKey(tiny.with_name("gone.gguf"), "x").folder in found.do
    KvStore(paths.kv_states).forget_model(tiny.with_name("gone.gguf"))
    assert only(iter(places(paths)), "kv states").level is Level.FINE


# A model


def examined(file: Path | Installed, paths: settings.Paths) -> list[Finding]:
    return list(examining(file, paths))


def examining(file: Path | Installed, paths: settings.Paths) -> Iterator[Finding]:
    console = Console(stdin=io.StringIO(), stdout=io.StringIO(), stderr=io.StringIO(), environ={})
    installed = from_path(file) if isinstance(file, Path) else file
    return examination.examine_model(installed, settings.Settings(paths=paths, threads=1), console)


def faults(findings: list[Finding]) -> dict[str, Finding]:
    found = {finding.check: finding for finding in findings if finding.level is not Level.FINE}
    assert all(finding.why and finding.do for finding in found.values())
    return found


@pytest.mark.model
def test_a_model_in_which_nothing_is_wrong(smollm2: Path, paths: settings.Paths) -> None:
    found = examined(smollm2, paths)
    assert faults(found) == {}
    assert {"file", "kind", "context", "memory", "sampler", "template", "system role", "turns", "end tokens"} <= {
        finding.check for finding in found
    }
    assert "5 tokens" in only(iter(found), "smoke test").what
    assert "probability 0." in only(iter(found), "babbling").what


NO_PROMPT = CHATML_TEMPLATE.replace("add_generation_prompt", "false")
FORGETS = CHATML_TEMPLATE.replace("for message in messages", "for message in messages[-1:]")
NO_SYSTEM = CHATML_TEMPLATE.replace(
    "{% for", "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{% for", 1
)
NO_STOP = CHATML_TEMPLATE.replace("<|im_end|>", "<jupyter_start>")
NO_MARKS = "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}### assistant:"
TEMPLATE = "tokenizer.chat_template"

KEYS: dict[str, tuple[dict[str, str | int | float | None], str, Level, str]] = {
    "projector": ({"general.type": "mmproj"}, "kind", Level.WRONG, "projector"),
    "embeddings": ({"llama.pooling_type": 1}, "kind", Level.WRONG, "embedding model"),
    "base": ({"general.name": "SmolLM2 135M base"}, "kind", Level.NOTE, "base model"),
    "context": ({"llama.context_length": None}, "context", Level.WRONG, "does not say"),
    "sampler": ({"general.sampling.temp": 99.0}, "sampler", Level.WRONG, "temperature = 99"),
    "sampler hint": ({"general.sampling.top_k": 20}, "sampler", Level.NOTE, "top_k 20"),
    "tokenizer": ({"tokenizer.ggml.model": "nonsense"}, "load", Level.WRONG, "nonsense"),
    "no template": ({TEMPLATE: None}, "template", Level.WRONG, "no chat template"),
    "broken template": ({TEMPLATE: "{% for m in"}, "template", Level.WRONG, "not valid Jinja"),
    "unknown filter": ({TEMPLATE: CHATML_TEMPLATE + "{{ 'a' | nosuch }}"}, "template", Level.WRONG, "nosuch"),
    "forgetful": ({TEMPLATE: FORGETS}, "template", Level.WRONG, "forgets"),
    "no generation prompt": ({TEMPLATE: NO_PROMPT}, "template", Level.WRONG, "assistant's turn"),
    "system role": ({TEMPLATE: NO_SYSTEM}, "system role", Level.NOTE, "no system"),
    "wrong template": (
        {TEMPLATE: GEMMA_TEMPLATE},
        "turns",
        Level.WRONG,
        "wrong template: it ends a turn with <end_of_turn>",
    ),
    "missing stop": ({TEMPLATE: NO_STOP}, "turns", Level.WRONG, "missing stop"),
    "no marks": ({TEMPLATE: NO_MARKS}, "turns", Level.NOTE, "no marker"),
    "no end": ({"tokenizer.ggml.eos_token_id": None}, "end tokens", Level.WRONG, "names no end-of-sequence token"),
    "absurd end": ({"tokenizer.ggml.eos_token_id": 10**6}, "end tokens", Level.WRONG, "names 1000000"),
    "end in the text": ({"tokenizer.ggml.eos_token_id": 260}, "end tokens", Level.WRONG, "ordinary text"),
}


@pytest.mark.model
@pytest.mark.parametrize("fault", KEYS)
def test_a_fault_in_a_copy_of_a_real_file_is_found(
    fault: str, smollm2: Path, paths: settings.Paths, tmp_path: Path
) -> None:
    changes, check, level, what = KEYS[fault]
    file = with_keys(smollm2, tmp_path / "planted.gguf", changes)
    found = next((finding for finding in examining(file, paths) if finding.check == check), None)
    file.unlink()
    assert found is not None
    assert (found.level, what in found.what) == (level, True), found
    assert found.why and found.do


@pytest.mark.model
@pytest.mark.parametrize(("value", "what"), [(float("nan"), "no numbers"), (0.0, "ended its answer before")])
def test_weights_that_compute_nonsense(
    value: float, what: str, smollm2: Path, paths: settings.Paths, tmp_path: Path
) -> None:
    file = with_tensor(smollm2, tmp_path / "planted.gguf", "output_norm.weight", value)
    found = faults(examined(file, paths))
    file.unlink()
    assert what in found["smoke test"].what


def test_weights_that_always_say_the_same(tiny: Path, paths: settings.Paths, tmp_path: Path) -> None:
    file = with_tensor(tiny, tmp_path / "planted.gguf", "output_norm.weight", 0.0)
    assert "repeats one token" in faults(examined(file, paths))["smoke test"].what


@pytest.mark.model
def test_a_base_model_with_the_template_of_another_babbles(
    gemma3_base: Path, paths: settings.Paths, tmp_path: Path
) -> None:
    file = with_keys(gemma3_base, tmp_path / "planted.gguf", {TEMPLATE: GEMMA_TEMPLATE})
    found = faults(examined(file, paths))
    file.unlink()
    assert found["babbling"].level is Level.WRONG
    assert "base model, or the template" in found["babbling"].what
    assert "turns" not in found  # its markers are all there


def test_a_file_that_has_changed_a_part_that_is_missing_a_wrong_record(paths: settings.Paths, tiny: Path) -> None:
    installed = admitted(paths, tiny)
    old(tiny)
    assert "has changed" in faults(examined(installed, paths))["file"].what
    odd = replace(from_path(tiny), sampler={"top_p": 5.0, "warmth": 1.0})
    assert [finding.what for finding in examined_sampler(odd, paths)] == [
        "the record says top_p = 5.0, which must be a number from 0 to 1",
        "the record says warmth = 1.0, which is no setting",
    ]


def examined_sampler(installed: Installed, paths: settings.Paths) -> list[Finding]:
    from slmchat.catalog.gguf import read_header
    from slmchat.diagnostics import model as model_checks
    from slmchat.engine.sampler import SamplerSettings

    patient = model_checks.ModelUnderTest(installed, read_header(installed.path), None, SamplerSettings())  # type: ignore[arg-type]
    checks = [check for check in model_checks.FILE_CHECKS if check.name == "sampler"]
    return [finding for finding in run_checks(checks, patient) if finding.level is Level.WRONG]


def test_a_model_that_does_not_fit(paths: settings.Paths, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_fit, "available_memory", lambda device=None: Room(1_000_000, 8_000_000_000))
    found = examined(tiny, paths)
    assert "1.0 MB available" in faults(found)["memory"].what
    assert "smoke test" not in {finding.check for finding in found}


# The command


@pytest.fixture
def slm(home: Path, tmp_path: Path) -> Callable[..., Outcome]:
    def call(*arguments: str | Path) -> Outcome:
        return run_slm(*arguments, home=home, env={"HF_HOME": str(tmp_path / "hf")})

    return call


def test_the_command_tells_what_why_and_what_to_do(slm: Callable[..., Outcome], tiny: Path) -> None:
    done = slm("doctor")
    assert "seal" in done.out and "disk" in done.out
    done = slm("doctor", tiny)
    assert done.code == 1  # random weights babble
    assert "WRONG babbling" in done.out
    assert "why: answers go on" in done.out and "do:  pull" in done.out
    assert done.err == ""


def test_json_has_the_facts_and_every_finding(slm: Callable[..., Outcome], tiny: Path) -> None:
    done = slm("doctor", tiny, "--json")
    told: dict[str, Any] = json.loads(done.out)
    assert done.code == 1 and told["is_fine"] is False
    assert told["model"] == str(tiny)
    assert {"check", "level", "what", "why", "do"} == set(told["model_findings"][0])
    assert told["device"]["total_memory"]["value"] > 0 and told["device"]["total_memory"]["source"]
    assert [finding["check"] for finding in told["findings"]].count("seal") == 1
    assert {finding["level"] for finding in told["model_findings"] if finding["check"] == "babbling"} == {"wrong"}


def test_a_model_that_is_not_here_is_no_finding(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    assert slm("doctor", "smollm2:135m").code == 3
    (tmp_path / "no.gguf").write_bytes(b"GGUF")
    assert slm("doctor", tmp_path / "no.gguf").code == 6


def test_json_has_what_ends_an_examination(slm: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(bytes(100))
    done = slm("doctor", tmp_path / "no.gguf", "--json")
    told: dict[str, Any] = json.loads(done.out)
    assert done.code == 6 and done.err.startswith("slm: ") and told["is_fine"] is False
    (found,) = told["model_findings"]
    assert found["check"] == "file" and found["level"] == "wrong" and "is not a GGUF file" in found["what"]
    assert found["what"] in done.err and found["do"] in done.err


def test_private_leaves_no_trace(slm: Callable[..., Outcome], home: Path, tiny: Path) -> None:
    assert slm("doctor", tiny, "--private").code == 1
    assert [path for path in (home / "data").rglob("*") if path.is_file()] == []
