"""The throughput of a device: how it is measured, a little at a time, and when it is not."""

import io
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from gguf_samples import CHATML_TEMPLATE, write_tiny_llama

from slmchat.catalog.library import Library
from slmchat.catalog.registry import load as load_registry
from slmchat.commands import first_run, models
from slmchat.engine import device_throughput, kept_throughput, library
from slmchat.engine.kept_throughput import KeptThroughput
from slmchat.engine.throughput_points import LAYER, MODELS, MOST_SHRUNK, Point
from slmchat.errors import ExitCode, SlmError
from slmchat.models import device_fit, pull_plan, suggestions
from slmchat.options import PullOptions
from slmchat.settings import Paths, Settings
from slmchat.terminal.console import Console

THREADS = 2
KEY = {"threads": THREADS}
POINT = Point(100_000_000, 20_000, 4, 0.01)


def _counted(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Processor time in ticks of 4 ms, of `share` of the time of one thread."""
    start = time.perf_counter()
    monkeypatch.setattr(
        device_throughput.time, "process_time", lambda: int((time.perf_counter() - start) * share * 250) / 250
    )


@pytest.mark.real
class TestMeasuring:
    def test_ticks_of_the_scheduler_do_not_look_like_other_programs(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        _counted(monkeypatch, 1.0)
        wanted = ["Q4_K long", LAYER, "Q4_K short"]
        found = device_throughput.measure(1, tmp_path, wanted, seconds=60)
        found |= device_throughput.measure(1, tmp_path, wanted[2:], seconds=60)
        assert set(found) == set(wanted)
        long, short = found["Q4_K long"], found["Q4_K short"]
        assert long.bytes > short.bytes > 1 << 25 and short.rows > long.rows
        assert found[LAYER].seconds < min(long.seconds, short.seconds)
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_believed_while_others_have_the_processors(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        _counted(monkeypatch, 0.5)
        with pytest.raises(SlmError, match="other programs keep the processor busy"):
            device_throughput.measure(1, tmp_path, [LAYER], seconds=60)
        assert list(tmp_path.iterdir()) == []

    def test_the_end_comes_inside_a_token(self, tmp_path: Path) -> None:
        with device_throughput.Deadline(600) as deadline:
            with device_throughput._opened(LAYER, tmp_path, 1, 1, deadline) as running:
                assert running is not None and running.token() is not None
                deadline._ring()
                assert running.token() is None
            with device_throughput._opened(LAYER, tmp_path, 1, 1, deadline) as running:
                assert running is None  # nor is another one loaded

    def test_too_little_time_finds_nothing_and_leaves_nothing(self, tmp_path: Path) -> None:
        assert device_throughput.measure(THREADS, tmp_path, seconds=0.001) == {}
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What was asked to be measured; one model is found each time, on a quiet machine."""
    calls: list[tuple[str, ...]] = []

    def measure(threads: int, directory: Path, wanted: Iterable[str], **_: object) -> dict[str, Point]:
        calls.append(tuple(wanted))
        return {calls[-1][0]: POINT}

    monkeypatch.setattr(device_throughput, "measure", measure)
    monkeypatch.setattr(kept_throughput.load, "others_running", lambda: 0)
    monkeypatch.setattr(kept_throughput.os, "cpu_count", lambda: THREADS)
    return calls


class TestKept:
    def test_each_command_goes_on_where_the_last_one_stopped(
        self, asked: list[tuple[str, ...]], tmp_path: Path
    ) -> None:
        file = tmp_path / "pace.json"
        for number in range(len(MODELS)):
            kept = kept_throughput.read(file, KEY)
            assert kept.missing == MODELS[number:] and kept.may_go_on
            kept_throughput.go_on(kept, file, tmp_path / "cache")
        kept = kept_throughput.read(file, KEY)
        assert set(kept.points) == set(MODELS)
        assert not kept.may_go_on
        assert [len(wanted) for wanted in asked] == [7, 6, 5, 4, 3, 2, 1]

    def test_a_busy_machine_is_left_alone(
        self, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(kept_throughput.load, "others_running", lambda: 1)
        file = tmp_path / "pace.json"
        kept, told = kept_throughput.go_on(KeptThroughput(KEY), file, tmp_path)
        assert "busy" in told
        assert kept.may_go_on  # the look costs next to nothing
        assert asked == [] and not file.exists()
        monkeypatch.setattr(kept_throughput.os, "cpu_count", lambda: THREADS + 1)  # a processor for everyone
        kept_throughput.go_on(KeptThroughput(KEY), file, tmp_path)
        assert len(asked) == 1

    def test_a_failure_is_remembered_for_an_hour(
        self, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        def fail(*_: object, **__: object) -> dict[str, Point]:
            raise SlmError("other programs keep the processor busy.", exit_code=ExitCode.BUG)

        file = tmp_path / "pace.json"
        kept_throughput.go_on(KeptThroughput(KEY), file, tmp_path)
        monkeypatch.setattr(device_throughput, "measure", fail)
        _, told = kept_throughput.go_on(kept_throughput.read(file, KEY), file, tmp_path)
        assert "busy" in told
        kept = kept_throughput.read(file, KEY)
        assert set(kept.points) == {MODELS[0]}  # what is known stays
        now = time.time()
        for later, may in ((0.0, False), (3500.0, False), (3700.0, True), (-100.0, True)):
            monkeypatch.setattr(kept_throughput.time, "time", lambda at=now + later: at)
            assert kept.may_go_on is may, later

    def test_a_library_that_takes_the_process_down_does_so_once(
        self, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        file = tmp_path / "pace.json"

        def crash(*_: object, **__: object) -> dict[str, Point]:
            assert not kept_throughput.read(file, KEY).may_go_on  # what the next command finds
            raise KeyboardInterrupt

        monkeypatch.setattr(device_throughput, "measure", crash)
        with pytest.raises(KeyboardInterrupt):
            kept_throughput.go_on(KeptThroughput(KEY), file, tmp_path)

    def test_a_slow_device_gets_smaller_models_and_then_some_rest(
        self, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        shrunk: list[object] = []
        monkeypatch.setattr(device_throughput, "measure", lambda *_, **more: shrunk.append(more["shrunk"]) or {})
        file = tmp_path / "pace.json"
        while kept_throughput.read(file, KEY).may_go_on:
            kept_throughput.go_on(kept_throughput.read(file, KEY), file, tmp_path)
        assert shrunk == [1, 2, MOST_SHRUNK]
        assert kept_throughput.read(file, KEY).shrunk == 1

    @pytest.mark.parametrize(
        "content",
        [
            "", "{", "[]", "7", '{"key": {"threads": 2}}',
            json.dumps({"key": KEY, "shrunk": 1, "failed_at": "x", "points": {}}),
            json.dumps({"key": KEY, "shrunk": 1, "failed_at": None, "points": {"layer": {"bytes": 1}}}),
            json.dumps({"key": KEY, "shrunk": 1, "failed_at": None, "points": {
                "layer": {"bytes": 1, "rows": 1, "layers": 0, "seconds": 0.1}}}),
        ],
    )  # fmt: skip
    def test_a_damaged_file_counts_as_none(self, content: str, tmp_path: Path) -> None:
        file = tmp_path / "pace.json"
        file.write_text(content)
        assert kept_throughput.read(file, KEY) == KeptThroughput(KEY)

    def test_another_library_is_measured_again(
        self, asked: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            for file in ("libllama.so", "libggml-cpu.so"):
                (tmp_path / name / file).write_bytes(b"the same")
        (tmp_path / "other" / "libggml-cpu.so").write_bytes(b"for another processor")
        monkeypatch.setattr(library, "_loaded", None)  # as in a process that has loaded none
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path / "one"))
        key = kept_throughput.key_of(THREADS)
        kept_throughput.go_on(KeptThroughput(key), tmp_path / "pace.json", tmp_path)
        assert kept_throughput.read(tmp_path / "pace.json", kept_throughput.key_of(THREADS)).points
        monkeypatch.setenv("LLAMA_CPP_LIB_PATH", str(tmp_path / "other"))
        assert not kept_throughput.read(tmp_path / "pace.json", kept_throughput.key_of(THREADS)).points


class TestCommands:
    """A person has something to read before anything is measured, and a command measures once."""

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(paths=Paths(tmp_path / "data", tmp_path / "config", tmp_path / "cache"), threads=THREADS)

    @pytest.fixture
    def console(self) -> Console:
        return Console(io.StringIO("\n"), io.StringIO(), io.StringIO(), {})

    @pytest.fixture
    def seen(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What stood on stdout and stderr when a measurement began."""
        found: list[str] = []

        def go_on(kept: KeptThroughput, file: Path, cache: Path) -> tuple[KeptThroughput, str]:
            found.append(console.stdout.getvalue() + console.stderr.getvalue())  # type: ignore[attr-defined]
            return kept, ""

        monkeypatch.setattr(kept_throughput, "go_on", go_on)
        return found

    def test_show_and_list_measure_when_all_is_written(
        self, settings: Settings, console: Console, seen: list[str], tmp_path: Path
    ) -> None:
        file = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=CHATML_TEMPLATE)
        commands: list[Callable[[], object]] = [
            lambda: models.show(str(file), settings, console),
            lambda: models.list_models(settings, console, is_available=True, is_json=True),
            lambda: models.list_models(settings, console, is_available=True),
        ]
        for number, command in enumerate(commands, 1):
            command()
            written = console.stdout.getvalue() + console.stderr.getvalue()  # type: ignore[attr-defined]
            assert seen[number - 1 :] == [written]

    def test_show_of_a_model_that_is_not_here(self, settings: Settings, console: Console, seen: list[str]) -> None:
        with pytest.raises(SlmError):
            models.show("gemma3:1b", settings, console)
        assert len(seen) == 1 and "gemma3:1b" in seen[0]

    def test_the_first_run_says_something_first(self, settings: Settings, console: Console, seen: list[str]) -> None:
        console.stdin = io.StringIO("q\n")
        with pytest.raises(SlmError, match="no model is installed"):
            first_run.offer(settings, console)
        assert seen and all(each.startswith("Nothing is installed yet.") for each in seen)

    def test_the_first_run_recommends_what_is_fast_enough(self) -> None:
        known = load_registry(None).models
        suited = [
            suggestions.Suggestion(known[name], known[name].variants[0], speed)
            for name, speed in (("gemma3:4b", 4.0), ("llama3.2:3b", 12.0), ("smollm2:135m", 90.0))
        ]
        assert suggestions.recommended(suited) == (1, "the most capable of these that answers faster than you read")
        assert suggestions.recommended(suited[:1]) == (0, "the fastest of these")

    def test_what_could_not_be_measured_is_not_taken_for_fast(self) -> None:
        """A machine that other programs keep busy: not the largest that fits, which may give a word a second."""
        known = load_registry(None).models
        names = ("gemma3:12b", "gemma3:4b", "gemma3:1b", "smollm2:135m")
        suited = [suggestions.Suggestion(known[name], known[name].variants[0]) for name in names]
        place, why = suggestions.recommended(suited)
        assert names[place] == "gemma3:1b" and "could not be measured" in why

    def test_a_pull_measures_only_to_choose(self, settings: Settings, console: Console, seen: list[str]) -> None:
        pulling = pull_plan.Pulling(
            PullOptions([]), settings, console, Library(settings.paths, console.warn),
            load_registry(settings.paths.user_registry), device_fit.ForDevice(settings, console), console.print,
        )  # fmt: skip
        spec = pulling.registry.models["smollm2:360m"]
        assert len(spec.variants) > 1
        pull_plan.with_best_first(pulling.registry.resolve("smollm2:360m"), spec, pulling)
        pull_plan.with_best_first(pulling.registry.resolve("smollm2:360m"), spec, pulling)
        assert len(seen) == 1

    def test_nothing_is_measured_that_may_not_be_kept(
        self, settings: Settings, console: Console, seen: list[str]
    ) -> None:
        private = Settings(paths=settings.paths, threads=THREADS, is_private=True)
        models.list_models(private, console, is_available=True)
        assert seen == [] and not settings.paths.data.exists()
