"""llama.cpp is tried before it is trusted: what crashes, hangs or computes wrongly is left out, and the rest is kept."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import planted_library as planted
import pytest
from conftest import run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat import load, settings
from slmchat.catalog.gguf import read_header
from slmchat.catalog.library import from_path
from slmchat.engine import crash_markers, devices, library, native, self_test, verdicts
from slmchat.engine.library import LibraryKind
from slmchat.engine.limits import ALL, FEATURES, LEAST, Attempt, EngineLimits, SelfTestVerdict
from slmchat.engine.requests import SessionSettings
from slmchat.engine.self_test import Ending, step_down
from slmchat.engine.throughput import Workload
from slmchat.errors import ExitCode, SlmError
from slmchat.fit.memory import Load, memory
from slmchat.fit.shape import shape_of
from slmchat.hardware import cores
from slmchat.hardware.facts import Fact
from slmchat.interpreter import interpreter
from slmchat.models import autotune, device_fit, engine_trial
from slmchat.privacy import seal

GOOD, OFF = [1.0, -2.0, 3.0, 0.5], [1.0, 2.0, 3.0, 0.5]


# The order in which less is tried, with a runner that computes nothing


class Fake:
    """A library in which a feature is at fault, or several together, by a function of the limits."""

    def __init__(self, fault: Callable[[EngineLimits], str], rows: Sequence[float] = GOOD) -> None:
        self.fault, self.rows = fault, rows
        self.tried: list[tuple[str, ...]] = []

    def __call__(self, runs: Sequence[EngineLimits]) -> Ending:
        rows: list[Sequence[float]] = []
        for each in runs:
            if each != LEAST or len(runs) == 1:
                self.tried.append(each.forbidden)
            fault = self.fault(each)
            if fault == "wrong":
                rows.append(OFF)
            elif fault:
                return Ending(tuple(rows), fault, is_foreign="SIGKILL" in fault)
            else:
                rows.append(self.rows)
        return Ending(tuple(rows))


FAULTS = ("crashes (SIGSEGV)", "hangs", "wrong", "the model was refused: no reason given")


def test_where_all_is_well_one_child_is_enough() -> None:
    fake = Fake(lambda _limits: "")
    assert step_down(fake, tuple(FEATURES)).limits == ALL
    assert fake.tried == [()]


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_single_feature_at_fault_is_the_only_one_left_out(feature: str, fault: str) -> None:
    fake = Fake(lambda limits: fault if getattr(limits, feature) else "")
    found = step_down(fake, tuple(FEATURES))
    assert found.limits.forbidden == (feature,)
    assert found.fault == (
        fault if fault != "wrong" else f"computes wrongly (off by {self_test.deviation(OFF, GOOD):.0%})"
    )
    assert not found.is_broken
    names = list(FEATURES)
    assert fake.tried == [(), *((name,) for name in names[: names.index(feature) + 1])]


def test_of_several_faults_what_works_is_given_back() -> None:
    fake = Fake(lambda limits: "hangs" if limits.has_extra_buffers or limits.has_gpu else "")
    assert step_down(fake, tuple(FEATURES)).limits.forbidden == ("has_extra_buffers", "has_gpu")
    assert len(fake.tried) <= 8
    assert len(set(fake.tried)) == len(fake.tried)


def test_what_is_not_there_is_never_left_out() -> None:
    fake = Fake(lambda limits: "hangs" if limits.has_extra_buffers or limits.has_flash_attention else "")
    features = ("has_extra_buffers", "has_flash_attention")
    assert step_down(fake, features).limits.forbidden == features


def test_a_library_that_does_not_even_work_plainly_is_broken() -> None:
    found = step_down(Fake(lambda _limits: "crashes (SIGILL)"), tuple(FEATURES))
    assert found.is_broken
    assert found.fault == "crashes (SIGILL)"


@pytest.mark.parametrize("fault", ["crashes (SIGKILL)", "hangs"])
def test_what_says_nothing_about_the_library_is_no_verdict(fault: str) -> None:
    """The system kills when memory runs out; a machine that is very busy cannot finish even the plain way."""
    found = step_down(Fake(lambda _limits: fault), tuple(FEATURES))
    assert found.untried == fault
    assert found.limits == ALL
    assert not found.is_broken
    killed = step_down(Fake(lambda limits: "" if limits == LEAST else "crashes (SIGKILL)"), tuple(FEATURES))
    assert killed.untried


def test_numbers_that_are_none_are_a_fault() -> None:
    runs = iter((Ending((GOOD, [1.0, float("nan"), 3.0, 0.5])), Ending((GOOD,))))
    assert "NaN" in step_down(lambda _runs: next(runs), tuple(FEATURES)).fault


def test_a_model_is_tried_without_comparing_and_with_less_than_what_has_crashed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = Fake(lambda limits: "crashes (SIGSEGV)" if limits.has_flash_attention else "")
    monkeypatch.setattr(self_test, "_runner", lambda *_: fake)
    monkeypatch.setattr(self_test, "features_here", lambda _threads: tuple(FEATURES))
    assert self_test.try_model(Path("m"), 2, None).limits.forbidden == ("has_flash_attention",)
    again = self_test.try_model(Path("m"), 2, ALL.without("has_extra_buffers"))
    assert again.limits.forbidden == ("has_extra_buffers", "has_flash_attention")
    fake.tried.clear()
    within = ALL.without("has_extra_buffers")
    assert self_test.try_model(Path("m"), 2, None, within).limits.forbidden == ("has_flash_attention",)
    assert all("has_extra_buffers" in tried for tried in fake.tried)
    fake.fault = lambda _limits: "crashes (SIGABRT)"
    assert self_test.try_model(Path("m"), 2, None).is_broken
    assert self_test.try_model(Path("m"), 2, LEAST).is_broken


# What the limits are applied to


def test_parameters_are_kept_within_the_limits() -> None:
    api = native.bindings()
    model, context = api.llama_model_default_params(), api.llama_context_default_params()
    context.n_threads = context.n_threads_batch = 4
    assert LEAST.model_params(model).use_extra_bufts is False
    assert model.n_gpu_layers == 0
    assert model.devices
    assert LEAST.context_params(context).flash_attn_type == api.LLAMA_FLASH_ATTN_TYPE_DISABLED
    assert (context.n_threads, context.n_threads_batch) == (1, 1)
    untouched = ALL.model_params(api.llama_model_default_params())
    assert untouched.use_extra_bufts is True
    assert not untouched.devices


def test_a_session_is_kept_within_the_limits() -> None:
    wanted = SessionSettings(512, 4, 6, kv_type="q8_0", flash_attention=True)
    assert ALL.session(wanted) == wanted
    kept = LEAST.session(wanted)
    assert (kept.threads, kept.threads_batch, kept.kv_type, kept.flash_attention) == (1, 1, "f16", False)


def test_tune_does_not_compare_what_is_forbidden() -> None:
    usual = LEAST.session(SessionSettings(512, 4, 4))
    work = Workload(2, 2)
    others = ({"flash_attention": True}, {"flash_attention": False}, {"kv_type": "q8_0"}, {"threads": 2})
    group = autotune.TuneGroup("all", others, work, lambda found: found.prompt_s)
    assert autotune.allowed(group, usual, LEAST).others == ({"flash_attention": False},)
    assert autotune.allowed(group, usual, ALL).others == others


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE, context_length=2048)


def test_memory_is_counted_as_it_is_used(tiny: Path) -> None:
    shape = shape_of([read_header(tiny)])
    plain, fast = (Load(2048, has_flash_attention=is_fast) for is_fast in (False, True))
    scores = memory(shape, plain).compute_reserved - memory(shape, fast).compute_reserved
    assert 0 < scores <= 4 * 512 * 2048 * shape.heads


# When it is tried, and what is kept


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.setattr(verdicts, "_known", None)
    monkeypatch.setattr(verdicts, "_directory", None)
    monkeypatch.delenv("SLM_VERDICTS", raising=False)


@pytest.mark.parametrize(
    ("built", "here", "is_needed"),
    [
        ({"AVX2", "AVX512", "REPACK"}, ("AVX2", "AVX512"), False),
        ({"AVX2", "AMX_INT8"}, ("AVX2", "AMX_INT8"), True),
        ({"AVX2", "AMX_INT8"}, ("AVX2",), False),
        ({"AVX2"}, ("AVX2", "AMX_INT8"), False),
        ({"AMX_INT8"}, None, True),
        ({"NEON", "DOTPROD", "MATMUL_INT8"}, ("NEON", "DOTPROD", "MATMUL_INT8"), False),
        ({"NEON", "SVE"}, ("NEON", "SVE"), True),
        ({"NEON", "KLEIDIAI"}, ("NEON",), True),
    ],
)
def test_it_is_tried_where_build_and_processor_have_something_special(
    built: set[str], here: tuple[str, ...] | None, is_needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "library_features", lambda: frozenset(built))
    monkeypatch.setattr(cores, "instruction_sets", lambda: Fact(here, "planted"))
    assert verdicts._is_needed() == is_needed


def test_a_library_of_ones_own_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "library_features", frozenset)
    assert not verdicts._is_needed()
    monkeypatch.setattr(library, "_loaded", replace(native.library(), kind=LibraryKind.EXPLICIT))
    assert verdicts._is_needed()


@pytest.fixture
def tried(fresh: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The self-test, which finds flash attention at fault, and a count of how often it was made."""
    times: list[int] = []

    def try_library(threads: int) -> SelfTestVerdict:
        times.append(threads)
        attempts = (Attempt(ALL, "crashes (SIGSEGV)"), Attempt(ALL.without("has_gpu"), ""))
        return SelfTestVerdict(ALL.without("has_flash_attention"), attempts, 0.5)

    monkeypatch.setattr(self_test, "try_library", try_library)
    monkeypatch.setenv("SLM_SELF_TEST", "always")
    return times


def _again(place: Path | None) -> verdicts.KnownVerdict:
    verdicts._known = None
    return verdicts.library(place)


def test_it_is_tried_once_and_kept_for_the_owner_alone(tried: list[int], tmp_path: Path) -> None:
    place = tmp_path / "engine"
    first, second = _again(place), _again(place)
    assert len(tried) == 1
    assert first.is_new
    assert not second.is_new
    assert second.verdict == first.verdict
    (file,) = place.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


def test_another_library_processor_or_driver_is_tried_again(
    tried: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _again(tmp_path)
    monkeypatch.setattr(native, "build", lambda: (1, 2))
    _again(tmp_path)
    monkeypatch.setattr(cores, "processor", lambda: Fact("another", "planted"))
    _again(tmp_path)
    _again(tmp_path)
    assert len(tried) == 3


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"format": 1}', b"\xff\xfe"])
def test_a_damaged_verdict_is_found_again(damage: bytes, tried: list[int], tmp_path: Path) -> None:
    _again(tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage)
    _again(tmp_path)
    assert len(tried) == 2
    assert json.loads(file.read_bytes())["limits"] == json.loads(whole)["limits"]


def test_where_nothing_can_be_kept_it_is_tried_again(tried: list[int], tmp_path: Path) -> None:
    place = tmp_path / "a file"
    place.write_text("and no directory")
    assert _again(place).verdict == _again(place).verdict
    assert len(tried) == 2


def test_a_hang_is_believed_for_a_day(tried: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that was very busy then would compute slowly for ever."""
    hung = SelfTestVerdict(ALL.without("has_threads"), (Attempt(ALL, "hangs"),), 10.0)
    monkeypatch.setattr(self_test, "try_library", lambda _threads: hung)
    assert _again(tmp_path).is_new
    assert not _again(tmp_path).is_new
    (file,) = tmp_path.iterdir()
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "tried_at": kept["tried_at"] - 90_000}))
    assert _again(tmp_path).is_new


def test_where_it_cannot_be_tried_amx_is_not_trusted(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(devices, "library_features", lambda: frozenset({"AMX_INT8"}))
    monkeypatch.setattr(cores, "instruction_sets", lambda: Fact(("AMX_INT8",), "planted"))
    known = verdicts.library(tmp_path)
    assert known.verdict.limits.forbidden == ("has_extra_buffers",)
    assert "no Python" in known.verdict.untried
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("program", ["", "/opt/blender/blender", "/usr/sbin/uwsgi"])
def test_a_program_that_carries_its_own_python_is_not_started_again(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    assert interpreter() is None


# After a crash


@pytest.fixture
def here(tmp_path: Path, tiny: Path, fresh: None) -> settings.Settings:
    """A home in which a crash with the tiny model is marked."""
    _mark(tmp_path, tiny, b"Fatal Python error: Segmentation fault\n")
    return settings.Settings(settings.Paths(tmp_path, tmp_path / "config", tmp_path / "cache"))


def _mark(data: Path, model: Path, content: bytes) -> None:
    mark = crash_markers.directory(data) / f"{crash_markers._stem(model)}-999999999"
    mark.parent.mkdir(exist_ok=True)
    mark.write_bytes(content)


def _settled(here: settings.Settings, tiny: Path, *, is_forced: bool = False) -> str:
    verdicts._known = None
    return " ".join(engine_trial.settle(from_path(tiny), here, 2, is_forced=is_forced))


def _finds(
    monkeypatch: pytest.MonkeyPatch, library: SelfTestVerdict, model: SelfTestVerdict
) -> list[EngineLimits | None]:
    at_fault: list[EngineLimits | None] = []
    monkeypatch.setattr(self_test, "try_library", lambda _threads: library)
    monkeypatch.setattr(
        self_test, "try_model", lambda _model, _threads, before, _within: at_fault.append(before) or model
    )
    return at_fault


CRASHED = Attempt(ALL, "crashes (SIGSEGV)")
FINE = SelfTestVerdict(ALL, (Attempt(ALL, ""),), 0.3)


def test_a_program_is_told_once_however_many_models_it_loads(
    tried: list[int], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLM_HOME", str(tmp_path))
    with caplog.at_level("INFO", logger="slmchat"):
        for _ in range(3):
            load(tiny, ctx=128).close()
    assert len(tried) == 1
    assert [line for line in caplog.messages if "slm goes on without" in line] == [
        "llama.cpp crashes on this machine (SIGSEGV) with flash attention; slm goes on without, and that works: "
        "slm doctor tells what mends it."
    ]


def test_a_crash_lets_the_library_be_tried_wherever_that_is(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finds(monkeypatch, SelfTestVerdict(ALL.without("has_extra_buffers"), (CRASHED,), 0.5), FINE)
    told = _settled(here, tiny)
    assert "crashes on this machine (SIGSEGV) with weights repacked for this processor" in told
    assert "that works" in told
    assert "damaged" not in told
    assert crash_markers.left(here.paths.data) == {}
    assert verdicts.limits_of(tiny) == ALL.without("has_extra_buffers")


def test_a_model_that_crashes_slm_is_used_with_less(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    less = SelfTestVerdict(ALL.without("has_flash_attention"), (CRASHED,), 2.0)
    at_fault = _finds(monkeypatch, FINE, less)
    assert "it was tried again without flash attention, and so it works now" in _settled(here, tiny)
    assert verdicts.limits_of(tiny) == less.limits
    assert verdicts.limits_of(tiny.with_name("other.gguf")) == ALL
    assert device_fit.load(here, 512, None, device_fit.limits(here, tiny)).has_flash_attention is False
    _mark(here.paths.data, tiny, b"Fatal")
    _settled(here, tiny)
    assert at_fault == [None, less.limits]


def test_behind_the_seal_a_crash_of_the_gpu_costs_the_gpu(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No child can start it there, so that only what the processor does is known to work."""
    _finds(monkeypatch, FINE, FINE)
    monkeypatch.setattr(native, "has_gpu_backend", lambda: True)
    monkeypatch.setattr(engine_trial, "status", lambda: replace(seal.status(), is_local_closed=True))
    assert "tried again without the GPU, and so it works now" in _settled(here, tiny)
    assert verdicts.limits_of(tiny) == ALL.without("has_gpu")


def test_only_when_nothing_works_the_file_may_be_damaged(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finds(monkeypatch, FINE, SelfTestVerdict(LEAST, (CRASHED, replace(CRASHED, limits=LEAST)), 2.0, is_broken=True))
    with pytest.raises(SlmError, match="even with its most careful settings: the file may be damaged") as raised:
        _settled(here, tiny)
    assert raised.value.exit_code is ExitCode.DAMAGED
    assert crash_markers.left(here.paths.data) != {}
    _settled(here, tiny, is_forced=True)


def test_a_kill_is_not_called_a_crash(here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash_markers.take(here.paths.data, tiny)
    _mark(here.paths.data, tiny, b"")
    assert _finds(monkeypatch, FINE, FINE) == []
    told = _settled(here, tiny)
    assert "was killed" in told
    assert "crash" not in told


def test_private_tries_it_and_writes_nothing(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finds(monkeypatch, FINE, SelfTestVerdict(ALL.without("has_flash_attention"), (CRASHED,), 2.0))
    assert "tried again without" in _settled(replace(here, is_private=True), tiny)
    assert crash_markers.left(here.paths.data) != {}
    assert not any(str(tiny) in file.read_text() for file in here.paths.cache.rglob("*.json"))


def test_a_library_that_does_nothing_right_is_said_and_not_run(
    here: settings.Settings, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _finds(monkeypatch, SelfTestVerdict(LEAST, (Attempt(LEAST, "crashes (SIGILL)"),), 0.2, is_broken=True), FINE)
    with pytest.raises(SlmError, match=r"crashes \(SIGILL\) on this machine even with its most careful") as raised:
        _settled(here, tiny)
    assert raised.value.exit_code is ExitCode.BUG


# The real thing


@pytest.mark.real
def test_the_installed_library_works_here_as_slm_uses_it() -> None:
    """Whatever the processor: what is kept is a verdict, and the numbers of the fast way are those of the plain one."""
    found = self_test.try_library(2)
    assert not found.untried
    assert not found.is_broken
    assert found.attempts[-1].fault == ""


@pytest.mark.real
@pytest.mark.skipif(
    "AMX_INT8" not in (cores.instruction_sets().value or ()),
    reason="this processor has no AMX, which crashes in some builds",
)
def test_amx_is_tried_and_what_is_kept_answers(tiny: Path, tmp_path: Path) -> None:
    own = {"SLM_VERDICTS": str(tmp_path / "verdicts")}
    first, second = (run_slm("run", "-m", tiny, "-n", "2", "hi", home=tmp_path / "home", env=own) for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert second.err == ""


@pytest.mark.real
@pytest.mark.parametrize(
    ("when", "what", "fault", "left_out"),
    [
        (planted.EXTRA, planted.COMPUTES_WRONGLY, "computes wrongly", ("has_extra_buffers",)),
        (planted.FLASH, planted.COMPUTES_NAN, "computes no numbers", ("has_flash_attention",)),
        (planted.THREADS, planted.ABORTS, "crashes (SIGABRT)", ("has_threads",)),
        ("extra || flash", planted.CRASHES, "crashes (SIGSEGV)", ("has_extra_buffers", "has_flash_attention")),
    ],
)
def test_what_goes_wrong_is_left_out(
    when: str, what: str, fault: str, left_out: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in planted.plant(tmp_path / "library", when, what).items():
        monkeypatch.setenv(name, value)
    found = self_test.try_library(2)
    assert fault in found.fault
    assert found.limits.forbidden == left_out
    assert not found.is_broken


@pytest.mark.real
def test_a_library_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in planted.plant(tmp_path / "library", planted.EXTRA, planted.HANGS).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(self_test, "_SECONDS", 8.0)
    found = self_test.try_library(1)
    assert (found.fault, found.limits.forbidden, found.is_broken) == ("hangs", ("has_extra_buffers",), False)


@pytest.mark.real
def test_slm_answers_with_a_library_that_crashes(tiny: Path, home: Path, tmp_path: Path) -> None:
    env = planted.plant(tmp_path / "library", planted.EXTRA, planted.CRASHES)
    first, second = (run_slm("run", "-m", tiny, "-n", "2", "hi", home=home, env=env) for _ in range(2))
    assert first.code == second.code == 0, first.err
    assert "(SIGSEGV) with weights repacked for this processor; slm goes on without, and that works" in first.err
    assert first.err.count("\n") == 1
    assert second.err == ""


@pytest.mark.real
def test_a_library_that_only_crashes_is_said(tiny: Path, home: Path, tmp_path: Path) -> None:
    env = planted.plant(tmp_path / "library", planted.ALWAYS, planted.CRASHES)
    done = run_slm("run", "-m", tiny, "-n", "2", "hi", home=home, env=env)
    assert done.code == 1
    assert "even with its most careful settings" in done.err
    assert "Traceback" not in done.err


@pytest.mark.real
def test_behind_the_seal_of_private_it_is_tried_as_well(tiny: Path, home: Path, tmp_path: Path) -> None:
    env = planted.plant(tmp_path / "library", planted.EXTRA, planted.CRASHES)
    env["SLM_VERDICTS"] = str(home / "cache" / "engine")
    done = run_slm("run", "--private", "-m", tiny, "-n", "2", "hi", home=home, env=env)
    assert done.code == 0, done.err
    assert "that works" in done.err


@pytest.mark.real
@pytest.mark.parametrize(
    ("what", "fault"), [(planted.CRASHES, "crashes (SIGSEGV)"), (planted.HANGS, "hangs while it is loaded")]
)
def test_a_library_that_ends_whoever_loads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, fault: str
) -> None:
    for name, value in planted.plant_at_load(tmp_path / "library", what).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(self_test, "_SECONDS", 4.0)  # half of them are for the processor
    verdict = self_test.try_library(1)
    assert (verdict.is_broken, verdict.fault) == (True, fault)


@pytest.mark.real
def test_commands_survive_a_library_that_nobody_can_load(tmp_path: Path, home: Path) -> None:
    model = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)
    env = planted.plant_at_load(tmp_path / "library", planted.CRASHES)
    run = run_slm("run", "-m", model, "Hi", home=home, env=env)
    assert run.code == ExitCode.BUG and "llama.cpp crashes (SIGSEGV) on this machine" in run.err
    assert run_slm("show", model, home=home, env=env).code == ExitCode.DONE
    doctor = run_slm("doctor", home=home, env=env)
    assert doctor.code == ExitCode.WRONG and "unset LLAMA_CPP_LIB_PATH" in doctor.out
