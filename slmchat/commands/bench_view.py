"""How the figures of `slm bench` look: a table with bars, a plot on request, sentences for screen readers.

Knows: which figures stand where, and in which words. Refuses to know: how they come about (generation/bench_report.py).
"""

from typing import Any

from slmchat.terminal.console import Console
from slmchat.terminal.plot import plot
from slmchat.terminal.tables import Column
from slmchat.wording import counted, in_bytes

_BAR_WIDTH = 24
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_PLOT_ROWS = 7
_WIDEST_PLOT = 80

# The speeds with how much they differed, which goes first, and a bar for each.
_STOPS = (
    Column("DEPTH"),
    Column("PROMPT tok/s", rank=1),
    Column("FIRST TOKEN", rank=2),
    Column("GENERATION tok/s"),
    Column("", rank=4),
    Column("", rank=3),
)


def show(report: dict[str, Any], console: Console, *, is_plotted: bool, is_plain: bool) -> None:
    """The report for people. `is_plain`: whole sentences, without a table and a plot."""
    load, depths = report["load_s"], report["depths"]
    peak = f"; at most {in_bytes(report['peak_memory'])} of memory" if report["peak_memory"] else ""
    console.tell(
        f"{report['model']}, {in_bytes(report['size'])}; {counted(report['threads'], 'thread')}, "
        f"context window {report['n_ctx']:,}, KV cache {report['kv_type']}"
    )
    console.tell(f"loaded in {load['median']:.2f} s ({load['low']:.2f} to {load['high']:.2f}){peak}")
    if is_plain:
        for entry in depths:
            console.tell(_sentence(entry))
    else:
        has_no_blocks = console.is_dumb or not console.is_stdout_tty
        top = max((entry["generation_tps"]["median"] for entry in depths if entry["generation_tps"]), default=0.0)
        console.print()
        console.table(_STOPS, [_row(entry, top, is_plain=has_no_blocks) for entry in depths])
        console.print()
        if is_plotted:
            _plot(depths, console, is_plain=has_no_blocks)
    console.tell(f"depth: tokens of the conversation before a message of {depths[0]['prompt_tokens']} tokens")
    console.tell(f"medians of {depths[0]['passes']}, in brackets the lowest and the highest")
    _show_limits(report, console)
    _show_energy(report["energy"], console)


def _row(entry: dict[str, Any], top: float, *, is_plain: bool) -> tuple[str, ...]:
    prompt, ttft, generation = entry["prompt_tps"], entry["ttft_s"], entry["generation_tps"]
    return (
        f"{entry['depth']:,}",
        f"{prompt['median']:.0f} ({prompt['low']:.0f}-{prompt['high']:.0f})",
        f"{ttft['median']:.2f} s",
        f"{generation['median']:.1f}" if generation else "-",
        f"({generation['low']:.1f}-{generation['high']:.1f})" if generation else "",
        bar(generation["median"], top, _BAR_WIDTH, is_plain=is_plain) if generation else "",
    )


def bar(value: float, top: float, width: int, *, is_plain: bool) -> str:
    """A bar of at most `width` characters whose length is to `width` as `value` is to `top`.

    Something above zero never vanishes. `is_plain`: `#` instead of block characters.
    """
    if value <= 0 or top <= 0:
        return ""
    eighths = min(8 * width, max(1, round(8 * width * value / top)))
    if is_plain:
        return "#" * max(1, round(eighths / 8))
    whole, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * whole + (_EIGHTHS[rest] if rest else "")


def _sentence(entry: dict[str, Any]) -> str:
    prompt, generation = entry["prompt_tps"], entry["generation_tps"]
    written = f"{generation['median']:.1f} tokens a second generated" if generation else "nothing generated"
    return (
        f"at depth {entry['depth']:,}: {prompt['median']:.0f} tokens a second of the prompt, {written}, "
        f"the first token after {entry['ttft_s']['median']:.2f} seconds."
    )


def _plot(depths: list[dict[str, Any]], console: Console, *, is_plain: bool) -> None:
    """Two curves, one above the other: their numbers differ too much for one field."""
    for title, key in (("generation", "generation_tps"), ("prompt", "prompt_tps")):
        points = [(float(entry["depth"]), float(entry[key]["median"])) for entry in depths if entry[key]]
        if not points:
            continue
        console.print(f"{title}, tokens a second against depth")
        width = min(console.width or _WIDEST_PLOT, _WIDEST_PLOT)
        for line in plot(points, width=width, height=_PLOT_ROWS, is_plain=is_plain):
            console.print(line)
        console.print()


def _show_limits(report: dict[str, Any], console: Console) -> None:
    """How near both speeds come to what this device can do, at the first depth."""
    first = report["depths"][0]
    if first["bandwidth_share"] is not None:
        rate, n_bytes = first["generation_tps"]["median"], first["bytes_per_token"]
        console.tell(
            f"every token reads {in_bytes(n_bytes)} of weights and KV cache: {in_bytes(round(n_bytes * rate))}/s, "
            f"{first['bandwidth_share']:.0%} of the memory bandwidth ({in_bytes(report['copy_bandwidth'])}/s, copying)"
        )
    if first["arithmetic_share"] is not None:
        rate, n_adds = first["prompt_tps"]["median"], first["multiply_adds_per_token"]
        console.tell(
            f"every token of the prompt is {_giga(n_adds)} multiply-adds: {_giga(n_adds * rate)}/s, "
            f"{first['arithmetic_share']:.0%} of the fastest matrix product here "
            f"({_giga(report['multiply_adds_per_second'])}/s, {report['multiply_adds_type']})"
        )


def _show_energy(energy: dict[str, Any], console: Console) -> None:
    if energy["not_readable"] is not None:
        console.tell(f"energy: not readable here ({energy['not_readable']})")
        return
    figures = (
        (energy["prompt_joules_per_token"], "a token of the prompt"),
        (energy["generation_joules_per_token"], "a generated token"),
    )
    told = ", ".join(f"{joules:.3g} J {each}" for joules, each in figures if joules is not None)
    console.tell(f"energy: {told} ({energy['covers']})")


def _giga(count: float) -> str:
    return f"{count / 1e9:,.3g} billion"
