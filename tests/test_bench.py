"""`slm bench`: the walk through the context window, what is told, and the real program on real weights."""

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, run_slm
from fake_engine import FakeEngine, FakeSession, Ready
from gguf_samples import write_tiny_llama
from terminal import Terminal

from slmchat import settings
from slmchat.catalog.library import from_path
from slmchat.commands import bench
from slmchat.commands.bench_view import bar
from slmchat.engine import arithmetic_limit
from slmchat.engine.api import Session
from slmchat.engine.requests import Limits, Prompt, SessionSettings
from slmchat.engine.results import Finish, FinishReason
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import bench_report, bench_walk, benchmark
from slmchat.generation.bench_walk import Followed, Steps, Stop
from slmchat.hardware.energy import EnergyMeter
from slmchat.hardware.facts import Fact
from slmchat.models import loader, resolve, sandbox
from slmchat.options import BenchOptions
from slmchat.terminal.console import Console

WORDS = (" word",) * 80


class Follower:
    """Runs generations and remembers what was asked for."""

    def __init__(self) -> None:
        self.limits: list[int | None] = []
        self.finishes: list[Finish] = []

    def __call__(self, session: Session, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Followed:
        self.limits.append(limits.max_tokens)
        *_, finish = session.generate(prompt, sampler, limits)
        assert isinstance(finish, Finish)
        self.finishes.append(finish)
        return Followed(finish, prompt_j=2.0, generation_j=0.5)


def walked(engine: FakeEngine, steps: Steps, follow: Follower) -> list[Stop]:
    session = engine.open_session(SessionSettings(n_ctx=20_000, threads=1, threads_batch=1))
    return list(bench_walk.walk(session, engine, steps, SamplerSettings(), follow))


def test_the_walk_only_ever_adds_to_the_prompt() -> None:
    engine, follow = FakeEngine(replies=[WORDS] * 8), Follower()
    stops = walked(engine, Steps((0, 3000, 9000), n_prompt=500, n_generation=20), follow)
    assert len(stops) == 3
    # a token of the fake engine is a character; before each stop but the first there is a walk to its depth
    assert [round(len(prompt), -1) for prompt in engine.prompts] == [500, 3000, 3500, 9000, 9500]
    assert follow.limits == [20, 1, 20, 1, 20]
    for before, after in zip(engine.prompts, engine.prompts[1:], strict=False):
        assert after.startswith(before)
    assert [stop.generation_tokens for stop in stops] == [19, 19, 19]


def test_another_walk_reads_another_text() -> None:
    texts = []
    for _ in range(2):
        engine = FakeEngine(replies=[WORDS])
        walked(engine, Steps((0,), n_prompt=400, n_generation=20), Follower())
        texts.append(engine.prompts[0])
    assert texts[0][:150] != texts[1][:150]


def test_a_model_that_ends_its_turn_early_is_asked_again() -> None:
    short = (" no",) * 8
    engine, follow = FakeEngine(replies=[short] * 9), Follower()
    (stop,) = walked(engine, Steps((0,), n_prompt=300, n_generation=20), follow)
    assert follow.limits == [20, 12, 4]
    assert stop.generation_tokens == 8 + 8 + 3
    assert 296 < stop.prompt_tokens <= 300
    assert stop.generation_tps == pytest.approx(19 / 0.3)
    assert (stop.prompt_j, stop.generation_j) == (2.0, 1.5)  # of the questions in between nothing counts


def test_a_model_that_says_nothing_has_no_rate() -> None:
    engine, follow = FakeEngine(replies=[()] * 9), Follower()
    (stop,) = walked(engine, Steps((0,), n_prompt=300, n_generation=20), follow)
    assert len(follow.limits) == 4
    assert stop.generation_tps is None


@pytest.mark.parametrize(
    ("n_ctx", "depths"), [(4096, (0, 512, 2048)), (600, (0,)), (16, (0,)), (40_000, (0, 512, 2048, 8192, 32_768))]
)
def test_the_usual_depths_are_those_that_fit(n_ctx: int, depths: tuple[int, ...]) -> None:
    steps = bench_walk.plan(n_ctx, [])
    assert steps.depths == depths
    assert steps.depths[-1] + steps.n_prompt + steps.n_generation <= n_ctx


def test_a_depth_that_does_not_fit_is_a_usage_error_with_the_window_that_would_do() -> None:
    assert bench_walk.plan(4096, [700, 100, 100]).depths == (100, 700)
    with pytest.raises(SlmError, match="--depth 4000 does not fit") as caught:
        bench_walk.plan(4096, [100, 4000])
    assert caught.value.exit_code is ExitCode.USAGE
    asked = int(re.search(r"--ctx (\d+)", caught.value.hint or "").group(1))  # type: ignore[union-attr]
    assert bench_walk.plan(asked, [4000]).depths == (4000,)


@pytest.mark.parametrize(
    ("value", "plain", "blocks"),
    [(10, "########", "████████"), (5, "####", "████"), (0.001, "#", "▏"), (0, "", ""), (5.2, "####", "████▏")],
)
def test_bars(value: float, plain: str, blocks: str) -> None:
    assert bar(value, 10, 8, is_plain=True) == plain
    assert bar(value, 10, 8, is_plain=False) == blocks


class InterruptedSession(FakeSession):
    """The second generation is interrupted."""

    def generate(self, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Iterator[object]:  # type: ignore[override]
        events = list(super().generate(prompt, sampler, limits))
        if len(self.engine.prompts) < 2:
            return iter(events)
        last = events[-1]
        assert isinstance(last, Finish)
        return iter([*events[:-1], Finish(FinishReason.INTERRUPTED, last.usage, last.timings, last.seed, last.tokens)])


class InterruptedEngine(FakeEngine):
    def open_session(self, settings: SessionSettings) -> InterruptedSession:
        return InterruptedSession(self, settings)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ExitCode, str, str]]:
    """Run the command in this process on a fake engine, unsealed: code, stdout, stderr."""
    installed = from_path(write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None))
    monkeypatch.setattr(sandbox, "seal", lambda settings: None)
    monkeypatch.setattr(resolve, "find", lambda name, settings, console: installed)
    monkeypatch.setattr(bench_report, "measure_copy_bandwidth", lambda: 1e9)
    monkeypatch.setattr(arithmetic_limit, "measure", lambda *_: 1e9)

    def call(engine: FakeEngine, options: BenchOptions) -> tuple[ExitCode, str, str]:
        monkeypatch.setattr(loader, "start_loading", lambda *_, **__: Ready(engine))
        console = Console(io.StringIO(), io.StringIO(), io.StringIO(), environ={})
        code = bench.bench(None, options, settings.load({"SLM_HOME": str(tmp_path)}), console)
        return code, console.stdout.getvalue(), console.stderr.getvalue()  # type: ignore[attr-defined]

    return call


def test_what_is_measured_has_no_states_on_the_disk_and_no_drafts(told: Callable[..., object]) -> None:
    """Neither is read, or a prompt would cost nothing; nor written, or a measurement would leave files."""
    opened: list[SessionSettings] = []

    class Watched(FakeEngine):
        def open_session(self, settings: SessionSettings) -> FakeSession:
            opened.append(settings)
            return super().open_session(settings)

    told(Watched(replies=[WORDS] * 3), BenchOptions(repeat=1, ctx=1024))  # type: ignore[misc]
    assert [(made.store, made.draft_model) for made in opened] == [(None, None)]


def test_the_share_of_the_bandwidth_is_weights_times_rate_over_the_copy(told: Callable[..., object]) -> None:
    engine = FakeEngine(replies=[WORDS] * 3)
    code, out, _ = told(engine, BenchOptions(json=True, repeat=1, ctx=1024))  # type: ignore[misc]
    report = json.loads(out)
    first = report["depths"][0]
    assert code is ExitCode.DONE
    assert first["generation_tps"]["median"] == pytest.approx(first["generation_tokens"] / 0.1)
    share = first["bytes_per_token"] * first["generation_tps"]["median"] / 1e9
    assert first["bandwidth_share"] == pytest.approx(share, abs=0.001)
    assert first["bytes_per_token"] > report["weight_bytes_per_token"]
    share = first["multiply_adds_per_token"] * first["prompt_tps"]["median"] / 1e9
    assert first["arithmetic_share"] == pytest.approx(share, abs=0.001)
    assert engine.is_closed


def test_ctrl_c_shows_what_was_measured_so_far(told: Callable[..., object]) -> None:
    code, out, err = told(InterruptedEngine(replies=[WORDS] * 9), BenchOptions(json=True, ctx=4096))  # type: ignore[misc]
    report = json.loads(out)
    assert code is ExitCode.INTERRUPTED
    assert [entry["depth"] for entry in report["depths"]] == [0]
    assert report["is_complete"] is False
    assert "interrupted" in err


def test_ctrl_c_in_the_first_pass_says_so(told: Callable[..., object]) -> None:
    engine = InterruptedEngine(replies=[WORDS] * 9)
    engine.prompts.append(Prompt(()))  # the first one is interrupted
    assert told(engine, BenchOptions(json=True, ctx=4096)) == (
        ExitCode.INTERRUPTED,
        "",
        "interrupted; nothing was measured.\n",
    )


def test_a_busy_machine_and_a_battery_are_warned_of(
    told: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watch:
        def share(self) -> float:
            return 0.4

    monkeypatch.setattr(benchmark, "OthersWatch", Watch)
    monkeypatch.setattr(bench, "power", lambda: (Fact(True, "test"), Fact(50, "test")))
    _, out, err = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(repeat=1, ctx=1024))  # type: ignore[misc]
    assert "other programs used 40% of the processors" in err
    assert "battery" in err
    assert "GENERATION tok/s" in out and "runs on its battery" not in out


def test_an_idle_machine_on_mains_is_not(told: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    class Watch:
        def share(self) -> float:
            return 0.02

    monkeypatch.setattr(benchmark, "OthersWatch", Watch)
    monkeypatch.setattr(bench, "power", lambda: (Fact(False, "test"), Fact(None, "test")))
    _, _, err = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(repeat=1, ctx=1024))  # type: ignore[misc]
    assert err == ""


def test_energy_is_told_for_each_token_where_a_counter_counts(
    told: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "energy_meter", lambda: EnergyMeter((lambda: 4.0,), "all of it", "planted"))
    _, out, _ = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(json=True, repeat=1, ctx=1024))  # type: ignore[misc]
    report = json.loads(out)
    first = report["depths"][0]
    # two records of the prompt, 4 J each, and one for all that was generated
    assert first["prompt_joules_per_token"] == pytest.approx(8 / first["prompt_tokens"], abs=1e-5)
    assert first["generation_joules_per_token"] == pytest.approx(4 / first["generation_tokens"], abs=1e-5)
    assert (report["energy"]["covers"], report["energy"]["not_readable"]) == ("all of it", None)
    _, out, _ = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(repeat=1, ctx=1024))  # type: ignore[misc]
    assert re.search(r"energy: [\d.]+ J a token of the prompt, [\d.]+ J a generated token \(all of it\)", out)


def test_energy_that_cannot_be_read_is_no_figure_but_a_reason(
    told: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "energy_meter", lambda: EnergyMeter(why_not="nobody counts"))
    _, out, _ = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(repeat=1, ctx=1024))  # type: ignore[misc]
    assert "energy: not readable here (nobody counts)" in out
    monkeypatch.setattr(benchmark, "energy_meter", lambda: EnergyMeter((lambda: 4.0,), "all", "planted", step=1e3))
    _, out, _ = told(FakeEngine(replies=[WORDS] * 3), BenchOptions(json=True, repeat=1, ctx=1024))  # type: ignore[misc]
    energy = json.loads(out)["energy"]
    assert energy["generation_joules_per_token"] is None and "steps that are too large" in energy["not_readable"]


def test_a_plot_has_more_depths_and_a_screen_reader_gets_sentences(told: Callable[..., object]) -> None:
    _, out, _ = told(FakeEngine(replies=[WORDS] * 20), BenchOptions(repeat=1, ctx=4096, plot=True))  # type: ignore[misc]
    assert "generation, tokens a second against depth" in out
    assert len(re.findall(r"^[\d,]+ +\d+ \(", out, re.MULTILINE)) == 6
    assert max(map(len, out[out.index("generation, tokens") : out.index("depth: tokens")].splitlines())) <= 80
    _, out, _ = told(  # type: ignore[misc]
        FakeEngine(replies=[WORDS] * 20), BenchOptions(repeat=1, ctx=4096, plot=True, plain=True)
    )
    assert len(re.findall(r"^at depth [\d,]+: \d+ tokens a second of the prompt, ", out, re.MULTILINE)) == 6
    assert "against depth" not in out and "DEPTH" not in out


@pytest.mark.real
@pytest.mark.model
def test_real_weights_as_json(model_home: Path) -> None:
    done = run_slm(
        *("bench", "smollm2:135m", "--json", "--repeat", "2", "--ctx", "128", "--depth", "0", "--depth", "60"),
        *("--threads", "1", "--kv-type", "q8_0"),
        home=model_home,
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["model"], report["threads"], report["kv_type"]) == ("smollm2:135m@Q4_1", 1, "q8_0")
    assert (report["n_ctx"], report["repeat"], report["is_complete"]) == (128, 2, True)
    near, far = report["depths"]
    assert near["depth"] == 0 and 28 <= near["prompt_tokens"] <= 32
    assert 55 <= far["depth"] < 128 and far["passes"] == 2  # the exchange that passes 60; its length is the model's
    for entry in (near, far):
        for figure in ("prompt_tps", "generation_tps", "ttft_s"):
            assert 0 < entry[figure]["low"] <= entry[figure]["median"] <= entry[figure]["high"]
        # a token takes longer than evaluating one of many, and the first one waits for the whole message
        assert entry["ttft_s"]["low"] >= 0.9 * entry["prompt_tokens"] / entry["prompt_tps"]["high"]
    assert 90e6 < report["weight_bytes_per_token"] < 98.4e6
    assert 95e6 < report["peak_memory"] < 2e9
    assert 0 < near["bandwidth_share"] < 2
    assert 0 < near["arithmetic_share"] < 2
    assert near["multiply_adds_per_token"] == pytest.approx(106e6, rel=0.05)  # 135M less 28M of embeddings, attention
    assert report["multiply_adds_type"] == "Q4_1"
    assert ("not_readable" in report["energy"]) and report["energy"]["covers"] != ""
    assert report["copy_bandwidth"] > 1e8


@pytest.mark.real
@pytest.mark.model
def test_a_real_terminal_shows_the_chart_and_ctrl_c_keeps_it(model_home: Path) -> None:
    arguments = ["bench", "smollm2:135m", "--repeat", "100", "--ctx", "64"]
    with Terminal(arguments, home=model_home, columns=120) as terminal:
        terminal.wait_for(r"pass ([2-9]|[1-9]\d) of 100")
        terminal.interrupt()
        terminal.wait_for("interrupted")
        assert terminal.end() == 130
        shown = terminal.everything
    assert "GENERATION tok/s" in shown
    assert "█" in shown
    assert re.search(r"medians of [1-9]", shown)


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nothing:1b",), 3, "nothing:1b"),
        (("TINY", "--kv-type", "f64"), 2, "--kv-type cannot be 'f64'"),
        (("TINY", "--gpu-layers", "some"), 2, "--gpu-layers cannot be 'some'"),
        (("TINY", "--depth", "100000"), 2, "--depth 100000 does not fit"),
        (("TINY", "--repeat", "0"), 2, "--repeat"),
    ],
)
def test_mistakes_are_a_sentence_and_a_code(
    slm: Callable[..., Outcome], tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    tiny = write_tiny_llama(tmp_path / "tiny.gguf", chat_template=None)
    done = slm("bench", *(str(tiny) if word == "TINY" else word for word in arguments))
    assert (done.code, done.out) == (code, "")
    assert says in done.err
