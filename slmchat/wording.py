"""Numbers in sentences: "1 message", "1,024 messages", "98.4 MB", "3:20".

Knows: how a number and its noun agree in English, how sizes and times are written.
Refuses to know: which sentence it is.
"""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number with its noun: `counted(1, "value")` is "1 value". `plural`: where an "s" does not make it."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def in_bytes(size: int | None) -> str:
    """Bytes for people: `98.4 MB`, powers of ten as disks are sold."""
    if size is None:
        return "unknown size"
    if size < 1000:
        return counted(size, "byte")
    number = float(size)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.95:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} TB"


def part_in_bytes(size: int, whole: int) -> str:
    """A part of a whole in bytes: `50.0 MB of 98.4 MB`; to the byte where rounding hides the gap."""
    part, all_of_it = in_bytes(size), in_bytes(whole)
    return f"{size:,} of {whole:,} bytes" if part == all_of_it else f"{part} of {all_of_it}"


def clock_time(seconds: float) -> str:
    """Seconds as minutes and hours: `0:07`, `3:20`, `1:00:05`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
