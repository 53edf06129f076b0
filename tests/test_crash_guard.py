"""Which steps of a model are guarded by a crash marker, and what proves it."""

from pathlib import Path

import pytest
from fake_engine import FakeEngine, FakeSession

from slmchat.engine import crash_guard, crash_markers
from slmchat.engine.api import Embedder, Engine, Pool, Session, StreamPool, TextLogits
from slmchat.engine.crash_guard import CrashGuard, Ended
from slmchat.engine.requests import Image, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Result
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError

HI = Prompt((Part("hi"),))


@pytest.fixture
def guard(tmp_path: Path) -> CrashGuard:
    return CrashGuard(tmp_path / "m.gguf", tmp_path)


def _is_marked(data: Path) -> bool:
    return any(crash_markers.directory(data).glob("*"))


@pytest.mark.parametrize("protocol", [Engine, Session, Pool, StreamPool, TextLogits, Embedder])
def test_what_computes_has_a_way_through_the_guard(protocol: type) -> None:
    """Whoever adds a method says here or in `_WAYS` whether llama.cpp computes in it."""
    methods = {name for name in vars(protocol) if not name.startswith("_")}
    assert methods - set(crash_guard._WAYS) <= {
        *("cancel", "close", "info", "n_ctx", "report", "tokens", "most", "has_room", "is_idle"),
        *("keep", "keep_one", "resubmit"),  # of what has been computed
        "count",  # has a way of its own
    }


def test_every_first_step_is_guarded_and_nothing_between_them(guard: CrashGuard, tmp_path: Path) -> None:
    steps: list[str] = []

    def note(step: str) -> None:
        steps.append(step.upper() if _is_marked(tmp_path) else step)

    class Noting(FakeEngine):
        def count(self, prompt: Prompt, most: int | None = None) -> int:
            note("count")
            return 2

        def open_session(self, settings: SessionSettings) -> FakeSession:
            note("open")
            return super().open_session(settings)

    def load() -> Noting:
        note("load")
        return Noting(replies=[("one", "two"), ("three",)])

    engine = guard.load(load)
    note("idle")
    engine.count(HI)
    engine.count(HI)
    engine.count(Prompt((Part("", image=Image.of(1, 1, bytes(3))),)))  # the first image opens the projector
    session = engine.open_session(SessionSettings(n_ctx=512, threads=1, threads_batch=1))
    note("idle")
    assert steps == ["LOAD", "idle", "COUNT", "count", "COUNT", "OPEN", "idle"]
    for expected in ("PREFILL PREFILL chunk chunk finish", "prefill prefill chunk finish"):
        steps.clear()
        for event in session.generate(HI, SamplerSettings(), Limits()):
            note(type(event).__name__.lower())
        assert [step for step in steps if step.lower() != "count"] == expected.split()
    assert not guard.is_on


def test_a_row_that_fails_proves_nothing(guard: CrashGuard) -> None:
    records = guard.watch(iter([Result(1, error=SlmError("no", exit_code=ExitCode.BUG)), Result(2, text="yes")]))
    next(records)
    assert guard.is_on
    assert next(records).text == "yes"
    assert not guard.is_on


def test_a_step_that_ends_inside_another_leaves_that_one_guarded(guard: CrashGuard, tmp_path: Path) -> None:
    with guard:
        with guard:
            pass
        assert _is_marked(tmp_path)
    assert not _is_marked(tmp_path)


def test_a_load_that_fails_leaves_no_marker(guard: CrashGuard, tmp_path: Path) -> None:
    def load() -> FakeEngine:
        raise SlmError("no", exit_code=ExitCode.BUG)

    with pytest.raises(SlmError):
        guard.load(load)
    assert not _is_marked(tmp_path)


def test_private_in_the_middle_of_a_step_leaves_no_marker_from_there_on(guard: CrashGuard, tmp_path: Path) -> None:
    engine = guard.load(FakeEngine)
    with crash_guard.examined(engine):
        assert _is_marked(tmp_path)
        guard.stop()
        assert not _is_marked(tmp_path)
    with crash_guard.examined(engine):
        assert not _is_marked(tmp_path)


def test_without_a_directory_nothing_stands_around_the_engine(tmp_path: Path) -> None:
    engine = FakeEngine()
    assert CrashGuard(tmp_path / "m.gguf", None).load(lambda: engine) is engine


def test_untold_ends_are_those_of_each_model_and_of_the_others(tmp_path: Path) -> None:
    folder = crash_markers.directory(tmp_path)
    folder.mkdir()
    models = [tmp_path / name for name in ("a.gguf", "b.gguf", "c.gguf")]
    for model, content in [(models[0], b""), (models[0], b"Fatal"), (models[1], b"Terminated"), (models[2], b"")]:
        number = 999_999_990 + len(content)  # no process has it
        (folder / f"{crash_markers._stem(model)}-{number}").write_bytes(content)
    assert crash_guard.untold_ends(tmp_path, models[:2]) == {models[0]: Ended.CRASHED, None: Ended.KILLED}
    assert crash_guard.last_end(tmp_path, models[0]) is Ended.CRASHED
    assert crash_guard.last_end(tmp_path, models[1]) is None
    crash_guard.forget_last_end(tmp_path, models[0])
    assert crash_guard.untold_ends(tmp_path, models) == {models[2]: Ended.KILLED}


def test_nobody_but_the_guard_sees_markers() -> None:
    root = Path(crash_markers.__file__).parents[1]
    assert [file.name for file in root.rglob("*.py") if "import crash_markers" in file.read_text()] == [
        "crash_guard.py"
    ]
