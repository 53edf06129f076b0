"""Generation at the limit: 2,000 tokens end to end against the bare loop, and nothing that grows with the answer.

The smaller model is the harder one: what slm does between two tokens is a larger part of its token.
"""

import itertools
import os
import subprocess
import tempfile
import time

import programs
from targets import Target, rounds

N_TOKENS, N_CTX = 2_000, 2_304
N_LONG = 20_000  # chunks of a faked answer; the tenths of it show what a long answer costs at its end


def measure(repeat: int) -> list[Target]:
    return [*_end_to_end(programs.MODELS[0], repeat), *_growth(repeat)]


def _end_to_end(model: str, repeat: int) -> list[Target]:
    """Rate and growth as somebody sees them who reads the answer from a pipe.

    Attention costs more in a longer context, so that the bare loop's own growth is the measure of the growth.
    """
    mine: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for number in rounds(repeat):
        for is_ours in (True, False) if number % 2 == 0 else (False, True):
            (mine if is_ours else theirs).append(_read_slm(model) if is_ours else _read_bare(model))
    what = (
        (f"{model}: {N_TOKENS:,} tokens end to end, rate against the bare loop", "tok/s", 0.98, True),
        (f"{model}: last against first tenth of {N_TOKENS:,} tokens, over the bare loop's", "last/first", 1.05, False),
    )
    return [
        Target(
            name,
            goal,
            [a[index] / b[index] for a, b in zip(mine, theirs, strict=True)],
            {f"slm {unit}": [pair[index] for pair in mine], f"bare loop {unit}": [pair[index] for pair in theirs]},
            is_at_least,
        )
        for index, (name, unit, goal, is_at_least) in enumerate(what)
    ]


def _read_slm(model: str) -> tuple[float, float]:
    return _read(programs.slm_run(model, N_TOKENS, "--raw", "--ctx", str(N_CTX)))


def _read_bare(model: str) -> tuple[float, float]:
    return _read(programs.bare_loop(model, N_TOKENS, N_CTX))


def _read(command: list[str]) -> tuple[float, float]:
    """Tokens a second from the first to the last piece of the text; time of the last tenth over that of the first.

    The reader takes a core from the generation for a moment at every token, from both programs alike.
    """
    times: list[float] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=programs.environment(),
    ) as process:
        assert process.stdout is not None
        while os.read(process.stdout.fileno(), 65_536):
            times.append(time.perf_counter())
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    # slm writes a line end at its end; a token that is no text of its own comes with the next one
    tenth = len(times) // 10
    growth = (times[-1] - times[-1 - tenth]) / (times[tenth] - times[0])
    return (N_TOKENS - 1) / (times[-1] - times[0]), growth


def _growth(repeat: int) -> list[Target]:
    """What slm itself does with a chunk, at the end of a long answer against its beginning, without an engine."""
    ratios, first_us, last_us = [], [], []
    for _ in rounds(repeat):
        first, last = _followed()
        ratios.append(last / first)
        first_us.append(first * 1e6)
        last_us.append(last * 1e6)
    raw = {"first tenth us/token": first_us, "last tenth us/token": last_us}
    return [
        Target(f"slm's own work per token, last against first tenth of {N_LONG:,}", 1.25, ratios, raw, False),
        Target("slm's own work per token at the end of a long answer", 100, last_us, raw, False, "us"),
    ]


def _followed() -> tuple[float, float]:
    """Seconds a chunk in the first and in the last tenth of an answer that goes to a file."""
    from slmchat.engine.results import Chunk, Finish, FinishReason, Timings, Usage
    from slmchat.generation import response
    from slmchat.sanitize import Sanitizer
    from slmchat.terminal.console import Console
    from slmchat.terminal.plain_view import PlainView

    marks: list[float] = []

    def events():  # type: ignore[no-untyped-def]
        for number in range(N_LONG):
            if number % (N_LONG // 10) == 0:
                marks.append(time.perf_counter())
            yield Chunk(" word" if number % 12 else ".\n\nA", (number,))
        marks.append(time.perf_counter())
        yield Finish(FinishReason.STOP, Usage(1, 0, N_LONG), Timings(0.1, 0.1, 0.1), 1, tuple(range(N_LONG)))

    with tempfile.TemporaryFile("w") as out:
        console = Console(stdout=out, stderr=out)
        response.consume_stream(events(), PlainView(console), sanitizer=Sanitizer(show_invisible=False))
    tenths = [after - before for before, after in itertools.pairwise(marks)]
    return tenths[0] / (N_LONG // 10), tenths[-1] / (N_LONG // 10)
