"""`slm eval --best-of N` and the energy of its answers. On the fake engine."""

from pathlib import Path

import pytest
from test_eval_run import Bench

from slmchat.errors import ExitCode, SlmError
from slmchat.evaluation import model_run
from slmchat.hardware.energy import EnergyMeter


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_the_number_that_most_answers_end_with_is_graded(bench: Bench) -> None:
    said = iter(["It is 1.", "0", "So 0.", "1", "2", "2"])
    bench.engine("a").answer = lambda _prompt: next(said)
    told = bench("a", tasks=[bench.numbers(2)], best_of=3, sampler="maker")
    task = told.task()
    assert [answer["answer"] for answer in task["answers"]] == ["0", "2"]
    assert (task["right"], told.report["method"]["best_of"]) == (1, 3)
    assert [request.sampler.seed for request in bench.engine("a").requests] == [1, 3, 5] * 2


def test_instructions_have_a_program_that_verifies_them(bench: Bench) -> None:
    said = iter(["far too many words here", "few", "also few"])
    bench.engine("a").answer = lambda _prompt: next(said)
    bench.engine("a").logprob = lambda word: -0.1 if word in ("far", "few") else -2.0
    task = bench.task("instructions", {"question": "Be brief.", "checks": {"words": [1, 2]}})
    told = bench("a", tasks=[task], best_of=3, sampler="maker")
    assert [answer["answer"] for answer in told.task()["answers"]] == ["few"]
    assert told.task()["score"] == 1


def test_greedy_answers_would_all_be_the_same(bench: Bench) -> None:
    with pytest.raises(SlmError, match=r"so are the answers of --best-of") as caught:
        bench("a", tasks=[bench.numbers(1)], best_of=2)
    assert caught.value.exit_code is ExitCode.USAGE


class TestEnergy:
    def test_joules_are_kept_with_what_they_were_used_for(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_run, "energy_meter", lambda: EnergyMeter((lambda: 2.0,), "all of it", "planted"))
        bench.engine("a").answer = lambda _prompt: "just 3 words"
        report = bench("a", tasks=[bench.numbers(4)]).report["models"][0]
        assert report["energy_tokens"] == 12
        # read once for each answer and once behind the last
        assert (report["energy_j"], report["tasks"][0]["energy_j"], report["energy_not_readable"]) == (10.0, 10.0, None)
        told = bench("a", tasks=[bench.numbers(4)], tty=True)
        assert "joules a token" in told.out and "0.83" in told.out

    def test_where_nobody_counts_the_reason_is_told(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(model_run, "energy_meter", lambda: EnergyMeter(why_not="nobody counts"))
        told = bench("a", tasks=[bench.numbers(1)], tty=True)
        assert "energy: not readable here (nobody counts)" in told.out and "joules" not in told.out
