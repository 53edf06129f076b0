"""`slm tune`: what wins, what is kept and when it counts, and the real program on a tiny model."""

import itertools
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, run_slm
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama
from terminal import Terminal

from slmchat import hardware, settings
from slmchat.commands import tune
from slmchat.engine import llama
from slmchat.engine.library import own_build, prebuilt
from slmchat.engine.native import library
from slmchat.engine.requests import SessionSettings
from slmchat.engine.throughput import Workload, WorkloadTimes
from slmchat.errors import ExitCode, SlmError
from slmchat.hardware.facts import Fact
from slmchat.models import autotune, sandbox, tuning
from slmchat.models.autotune import Speed, TuneGroup, TuneOutcome, compare, groups, thread_counts
from slmchat.models.session_settings import session_settings
from slmchat.models.tuning import Tuning
from slmchat.options import GenerationOptions

pytestmark = pytest.mark.real

USUAL = SessionSettings(512, 4, 4)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)


@pytest.fixture
def made(tmp_path: Path) -> settings.Settings:
    home = tmp_path / "home"
    return settings.Settings(settings.Paths(home / "data", home / "config", home / "cache"))


# What wins


def pick(usual: list[float], *others: list[float]) -> TuneOutcome:
    """The outcome of a group whose turns took so many seconds."""
    changes = tuple({"threads": number} for number in range(1, len(others) + 1))
    clocks = {4: iter(usual)} | {number: iter(seconds) for number, seconds in enumerate(others, 1)}

    def measure(made: SessionSettings, work: Workload) -> WorkloadTimes:
        assert work == Workload(2, 30)
        return WorkloadTimes(9.0, next(clocks[made.threads]))

    return compare(TuneGroup("generation", changes, Workload(2, 30), lambda found: found.generation_s), USUAL, measure)


def test_what_is_faster_beyond_the_noise_wins() -> None:
    found = pick([1.00, 1.02, 1.01], [0.90, 0.91, 0.90], [0.80, 0.81, 0.82])
    assert found.chosen == {"threads": 2}
    assert found.gain == pytest.approx(1.25, abs=0.02)


@pytest.mark.parametrize(
    ("usual", "other"),
    [
        ([1.0, 1.0, 1.0], [0.99, 0.98, 0.99]),  # too little to matter
        ([1.0, 1.3, 1.0], [0.85, 0.9, 0.88]),  # less than the usual one differs from itself
        ([1.0, 1.0, 1.0], [0.7, 0.7, 1.1]),  # not in every turn
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]),
    ],
)
def test_what_is_not_surely_faster_does_not(usual: list[float], other: list[float]) -> None:
    assert pick(usual, other).chosen == {}


@pytest.mark.parametrize(("agreement", "chosen"), [(0.99, {"kv_type": "q4_0"}), (0.96, {"kv_type": "q8_0"})])
def test_a_kv_type_that_changes_answers_does_not_win(agreement: float, chosen: dict[str, str]) -> None:
    speeds = {"f16": 1.0, "q8_0": 0.9, "q4_0": 0.7}
    shares = {"q8_0": 0.985, "q4_0": agreement}
    group = TuneGroup(
        "KV type", ({"kv_type": "q8_0"}, {"kv_type": "q4_0"}), Workload(9, 0), lambda found: found.prompt_s
    )
    found = compare(
        group,
        USUAL,
        lambda made, _work: WorkloadTimes(speeds[made.kv_type], 0.0),
        lambda change: shares[change["kv_type"]],
    )
    assert found.chosen == chosen
    assert found.agreement == {"kv type q8_0": 0.985, "kv type q4_0": agreement}


@pytest.mark.slow
def test_agreement_is_measured_on_a_text(smollm2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = llama.load(smollm2)
    usual = SessionSettings(512, 2, 2)
    agree = autotune._agreement(engine, usual)
    q8_0, q4_0 = (agree({"kv_type": each}) for each in ("q8_0", "q4_0"))
    monkeypatch.setattr(autotune, "_AGREEMENT_TOKENS", 48)
    assert autotune._agreement(engine, usual)({"kv_type": "f16"}) == 1.0
    engine.close()
    # 0.95 to 0.98 by processor: how llama.cpp computes with q8_0 differs
    assert q8_0 > 0.9
    assert min(q8_0, autotune.LEAST_AGREEMENT) > q4_0


def test_turns_are_taken_in_turn_and_a_kind_that_is_refused_is_left_out() -> None:
    asked: list[str] = []

    def measure(made: SessionSettings, work: Workload) -> WorkloadTimes:
        asked.append(made.kv_type)
        if made.kv_type == "q4_0":
            raise SlmError("no", exit_code=ExitCode.NO_FIT)
        return WorkloadTimes(1.0, 0.0)

    group = TuneGroup(
        "KV type", ({"kv_type": "q4_0"}, {"kv_type": "q8_0"}), Workload(9, 0), lambda found: found.prompt_s
    )
    assert compare(group, USUAL, measure).chosen == {}
    assert asked == ["f16", "q4_0", "q8_0", "f16", "q8_0", "f16", "q8_0"]


@pytest.mark.parametrize(
    ("physical", "logical", "quota", "usual", "wanted"),
    [
        (2, 2, None, 2, [1]),
        (8, 16, None, 8, [4, 6, 7, 16]),
        (8, 16, 4.0, 4, []),
        (6, 6, None, 3, [4, 5, 6]),
        (1, 1, None, 1, []),
    ],
)
def test_numbers_of_threads(
    physical: int, logical: int, quota: float | None, usual: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "physical_cores", lambda: physical)
    monkeypatch.setattr(hardware, "usable_cpus", lambda: frozenset(range(logical)))
    monkeypatch.setattr(hardware, "cpu_quota", lambda: quota)
    assert thread_counts(usual) == wanted


def test_the_work_follows_the_speed() -> None:
    fast, slow = (
        {group.name: group.work for group in groups(Speed(*speed), USUAL, has_images=False)}
        for speed in ((2000.0, 100.0), (20.0, 4.0))
    )
    assert (
        fast["generation"] == Workload(2, 64) and fast["prompt"] == Workload(768, 0) and fast["KV type"].n_prompt == 512
    )
    assert (
        slow["generation"] == Workload(2, 12) and slow["prompt"] == Workload(64, 0) and slow["KV type"].n_prompt == 64
    )
    assert "batch" in fast and "batch" not in slow
    assert "batch" not in {group.name for group in groups(Speed(2000, 100), USUAL, has_images=True)}


# What is kept


FOUND = Tuning(3, 5, 256, False, "q8_0", {"generation": 1.2})


def used(model: Path, made: settings.Settings, **options: Any) -> SessionSettings:
    return session_settings(GenerationOptions(**options), made, 512, model=model)


def test_what_was_measured_is_used_unless_the_user_says_otherwise(tiny: Path, made: settings.Settings) -> None:
    before = used(tiny, made)
    tuning.keep(tiny, FOUND, made)
    found = used(tiny, made)
    assert (found.threads, found.threads_batch, found.batch_tokens) == (3, 5, 256)
    assert (found.flash_attention, found.kv_type) == (False, "q8_0")
    assert found.adapts_threads
    asked = used(tiny, made, threads=1, kv_type="f16")
    assert (asked.threads, asked.threads_batch, asked.kv_type) == (1, 1, "f16")
    configured = used(tiny, replace(made, threads=2, kv_type="q4_0"))
    assert (configured.threads, configured.threads_batch, configured.kv_type) == (2, 2, "q4_0")
    assert tuning.forget(made, tiny) == 1
    assert used(tiny, made) == before


def test_it_is_the_owners_alone_and_holds_for_one_model(tiny: Path, made: settings.Settings, tmp_path: Path) -> None:
    tuning.keep(tiny, FOUND, made)
    other = write_tiny_llama(tmp_path / "other.gguf", chat_template=None)
    tuning.keep(other, Tuning(threads=1), made)
    assert tuning.of(tiny, made) == FOUND
    assert tuning.of(other, made) == Tuning(threads=1)
    file = made.paths.data / "tuning.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in made.paths.data.iterdir()] == ["tuning.json"]
    assert (tuning.forget(made), tuning.forget(made)) == (2, 0)


def test_another_file_device_or_build_is_measured_again(
    tiny: Path, made: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slmchat.engine import native

    tuning.keep(tiny, FOUND, made)
    with monkeypatch.context() as patch:
        patch.setattr(hardware, "usable_cpus", lambda: frozenset(range(77)))
        assert tuning.of(tiny, made) == tuning.UNTUNED
    with monkeypatch.context() as patch:
        patch.setattr(native, "build", lambda: (1, 2))
        assert tuning.of(tiny, made) == tuning.UNTUNED
    assert tuning.of(tiny, made) == FOUND
    write_tiny_llama(tiny, chat_template=None)
    assert tuning.of(tiny, made) == tuning.UNTUNED


def test_on_the_battery_threads_are_not_those_of_the_mains(
    tiny: Path, made: settings.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning.keep(tiny, FOUND, made)
    monkeypatch.setattr(hardware.power, "power", lambda: (Fact(True, "planted"), Fact(50, "planted")))
    found = tuning.of(tiny, made)
    assert (found.threads, found.threads_batch, found.batch_tokens, found.kv_type) == (None, None, 256, "q8_0")


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"models": []}', '{"models": {"%s": 3}}', None, {"threads": "many"}, {"kv_type": "f64"}],
)
def test_a_damaged_record_is_none(content: object, tiny: Path, made: settings.Settings) -> None:
    tuning.keep(tiny, FOUND, made)
    file = made.paths.data / "tuning.json"
    if isinstance(content, str):
        file.write_text(content.replace("%s", str(tiny)))
    else:
        told = json.loads(file.read_text())
        told["models"][str(tiny)]["tuning"].update(content or {"nonsense": 1})
        file.write_text(json.dumps(told))
    assert tuning.of(tiny, made) == tuning.UNTUNED
    tuning.keep(tiny, FOUND, made)
    assert tuning.of(tiny, made) == FOUND


def test_a_session_computes_as_it_is_told(tiny: Path) -> None:
    engine = llama.load(tiny)
    session = engine.open_session(SessionSettings(512, 2, 4, batch_tokens=128, flash_attention=False))
    context = session._context
    api = context._api
    assert (api.llama_n_threads(context.handle), api.llama_n_threads_batch(context.handle)) == (2, 4)
    assert (api.llama_n_ubatch(context.handle), context.batch_tokens) == (128, 128)
    context.set_threads(1)  # other programs need the processors
    assert (api.llama_n_threads(context.handle), api.llama_n_threads_batch(context.handle)) == (1, 2)
    context.set_threads(2)
    assert (api.llama_n_threads(context.handle), api.llama_n_threads_batch(context.handle)) == (2, 4)
    session.close()
    engine.close()


# The command


@pytest.fixture
def slm(home: Path) -> Callable[..., Outcome]:
    return lambda *arguments: run_slm(*arguments, home=home, env={"SLM_THREADS": "1"})  # this machine is shared


def test_the_command_measures_keeps_shows_and_forgets(slm: Callable[..., Outcome], home: Path, tiny: Path) -> None:
    done = slm("tune", tiny, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert {group["name"] for group in told["measured"]} == {
        "generation",
        "prompt",
        "batch",
        "flash attention",
        "KV type",
    }
    assert all(seconds > 0 for group in told["measured"] for turns in group["seconds"].values() for seconds in turns)
    assert told["is_kept"]
    assert told["library"] == library().as_json()
    gain = told["own_build"]["gain"]
    if own_build() is not None and prebuilt() is not None and gain is not None:  # None: too busy to be done in time
        assert all(factor > 0 for factor in (*gain["prompt"], *gain["generation"]))
    assert str(tiny) in json.loads((home / "data" / "tuning.json").read_text())["models"]
    shown = json.loads(slm("doctor", tiny, "--json").out)["model_findings"]
    assert (
        "measured 20" in next(finding["what"] for finding in shown if finding["check"] == "tuning")
        or told["tuning"]["is_disturbed"]
    )
    assert slm("run", "-m", tiny, "-n", "3", "hello").code == 0
    done = slm("tune", tiny, "--reset")
    assert done.out == "forgot what was measured for 1 model.\n"
    assert "not measured yet" in slm("doctor", tiny).out
    assert slm("tune", "--reset", "--json").out.split() == ["{", '"forgotten":', "0", "}"]


def test_private_measures_and_keeps_nothing(slm: Callable[..., Outcome], home: Path, tiny: Path) -> None:
    done = slm("tune", tiny, "--private")
    assert done.code == 0, done.err
    assert "not kept (--private)" in done.out
    assert "\nown build         " in done.out
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.model
def test_ctrl_c_leaves_nothing_half_written(smollm2: Path, home: Path) -> None:
    with Terminal(["tune", smollm2], home=home, env={"SLM_THREADS": "1"}) as terminal:
        terminal.wait_for(r"the usual settings: measurement \d")
        terminal.interrupt()
        assert terminal.end() == 130
        assert "interrupted; nothing was changed" in terminal.everything
    assert [path.name for path in (home / "data").rglob("*") if path.is_file()] == []


def test_a_busy_machine_is_said(
    slm: Callable[..., Outcome],
    tiny: Path,
    made: settings.Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from slmchat.terminal.console import Console

    monkeypatch.setattr(sandbox, "seal", lambda _settings: None)
    monkeypatch.setattr(tune, "OthersWatch", lambda: type("Busy", (), {"share": lambda self: 0.4})())
    seconds = itertools.cycle([0.1])
    monkeypatch.setattr(autotune.throughput, "measure", lambda *_given: WorkloadTimes(next(seconds), next(seconds)))
    assert tune.tune(str(tiny), made, Console(), is_reset=False, is_json=False) == 0
    told = capsys.readouterr()
    assert "other programs used 40% of the processors" in told.err
    assert "the usual settings are the fastest" in told.out
    assert tuning.of(tiny, made).is_disturbed


def test_what_cannot_be_kept_is_shown_all_the_same(
    tiny: Path, made: settings.Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from slmchat.terminal.console import Console

    def full(*_: object) -> None:
        raise SlmError("the disk is full.", exit_code=ExitCode.STORAGE)

    monkeypatch.setattr(sandbox, "seal", lambda _settings: None)
    monkeypatch.setattr(tuning, "keep", full)
    seconds = itertools.cycle([0.1])
    monkeypatch.setattr(autotune.throughput, "measure", lambda *_given: WorkloadTimes(next(seconds), next(seconds)))
    for is_json in (False, True):
        with pytest.raises(SlmError, match="the disk is full"):
            tune.tune(str(tiny), made, Console(), is_reset=False, is_json=is_json)
        told = capsys.readouterr().out
        assert ('"is_kept": false' if is_json else "not kept (the disk refuses it)") in told
