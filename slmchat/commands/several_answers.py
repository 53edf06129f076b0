"""`--best-of N`: several answers side by side, of which one is shown (`slm run`).

Knows: what goes together with it, what is said meanwhile. Refuses to know: how answers are compared (generation/).
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.options import BestOfOptions, OutputOptions, Wanted

if TYPE_CHECKING:  # most runs have one answer, and begin without this
    from slmchat.engine.requests import Limits
    from slmchat.engine.sampler import SamplerSettings
    from slmchat.generation.best_of import BestOf
    from slmchat.generation.generator import Generator, PreparedPrompt
    from slmchat.generation.response import Completion
    from slmchat.generation.structured import ResponseFormat
    from slmchat.terminal.console import Console

# Between two drawings of the status line, in seconds.
_PERIOD_S = 0.25


def several_of(wanted: Wanted, output: OutputOptions | None = None) -> BestOfOptions | None:
    """What `--best-of` asks for; None: one answer. Raises `SlmError` (USAGE) for what it does not go together with."""
    _, choice, options = wanted
    if options.best_of in (None, 1):
        if options.vote is not None:
            raise usage_error("--vote is between several answers.", "with --best-of 5")
        return None
    if choice.choices:
        raise usage_error(
            "--choices are scored, not sampled: with --best-of all answers would be the same.",
            "without --best-of; or --regex 'yes|no', which samples",
        )
    if output is not None and output.confidence:
        raise usage_error(
            "--confidence underlines an answer while it comes, and that of --best-of comes at once.",
            "--json --logprobs has the probabilities",
        )
    return options


def settled(
    several: BestOfOptions | None,
    response_format: "ResponseFormat | None",
    sampler: "SamplerSettings",
    *,
    is_remote: bool,
) -> "BestOf | None":
    """How many, and what they are compared by. Raises `SlmError` (USAGE) as `best_of` does."""
    if several is None:
        return None
    from slmchat.generation.best_of import best_of

    return best_of(several.best_of or 1, several.vote, response_format, sampler, is_remote=is_remote)


def elected(
    generator: "Generator",
    prepared: "PreparedPrompt",
    sampler: "SamplerSettings",
    limits: "Limits",
    asked: "BestOf",
    console: "Console",
) -> "Completion":
    """The answer that counts; an interrupted one where Ctrl-C came before all were there. Raises `SlmError`."""
    from slmchat.generation.many import ManyCompletions
    from slmchat.generation.response import interrupted
    from slmchat.terminal.interrupts import cancelled_by_ctrl_c

    opened = generator.opened
    many = ManyCompletions(
        [lambda: prepared],
        sampler,
        limits,
        generator.engine.info,
        asked=asked,
        is_sanitized=not opened.options.raw_output,
    )
    with _told(console, asked.n) as came:
        (made,) = many.run(generator.take_pool(), cancelled_by_ctrl_c, came)
    if isinstance(made, SlmError):
        if made.exit_code is ExitCode.INTERRUPTED:
            return interrupted(prepared.n_prompt)
        raise made
    if made.best_of is not None and made.best_of.lacks_scores:
        console.warn(
            f"{opened.model.label} does not tell the probabilities of its tokens: the first answer counts.",
            "--vote text or --vote number compares what the answers say",
        )
    if made.thinking:
        console.aside(f"{made.thinking}\n")
    return made


@contextmanager
def _told(console: "Console", n: int) -> Iterator[Callable[[], None]]:
    """A terminal says how many of `n` answers are there: as often as what is given was called."""
    from slmchat.terminal.ticker import Ticker

    n_there, begun = 0, time.monotonic()

    def came() -> None:
        nonlocal n_there
        n_there += 1

    def tell() -> None:
        console.status(f"{n} answers: {n_there} done, {time.monotonic() - begun:.0f} s (Ctrl-C stops)")

    if not console.has_status_line:
        yield came
        return
    ticker = Ticker(lambda: console.gate.run(tell), _PERIOD_S)
    try:
        yield came
    finally:
        ticker.stop()
        console.status("")
