"""What the fuzzers share: inputs from a seed, the loop, the command line.

A target is a function that takes a `random.Random` and raises when something is wrong. Every input has a seed of its
own, so that a failure is repeated with `--seed S --count 1`.
"""

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Sequence

Target = Callable[[random.Random], None]

CHARACTERS = "aA0 _.,:;/\\|<>[]{}()'\"%#@!-+=*~`\n\r\t\0\x07\x08\x18\x1a\x1b\x7f\x80\x90\x9b\x9c\x9d\u00ad\u200d\u202e\u2028\ufe0f\ufeffé東🙂\ud800"


def failures(target: Target, count: int, seed: int, *, seconds: float | None = None) -> tuple[int, list[int]]:
    """How many inputs were tried, and the seeds of those that failed (each is printed)."""
    found: list[int] = []
    end = None if seconds is None else time.monotonic() + seconds
    for done in range(count):
        if end is not None and time.monotonic() > end:
            return done, found
        try:
            target(random.Random(seed + done))
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            found.append(seed + done)
            print(f"seed {seed + done}:\n{traceback.format_exc()}", file=sys.stderr)
    return count, found


def main(target: Target) -> int:
    """The command line of a fuzzer; 1 when an input failed."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after this many seconds")
    given = parser.parse_args()
    start = time.monotonic()
    count, found = failures(target, given.count, given.seed, seconds=given.seconds)
    print(f"{count:,} inputs in {time.monotonic() - start:.1f} s, {len(found)} failures {found[:20]}")
    return 1 if found else 0


def text(random: random.Random, longest: int = 40) -> str:
    return "".join(random.choices(CHARACTERS, k=random.randrange(longest)))


def damaged(random: random.Random, data: bytes) -> bytes:
    """The bytes with some of them changed, cut out, doubled or made a large number."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3, 8))):
        place = random.randrange(len(changed) + 1)
        length = random.choice((1, 1, 2, 4, 8, random.randrange(1, 64)))
        with_what = random.choice((
            random.randbytes(length), b"", b"\xff" * length, bytes(length), bytes(changed[place : place + length]) * 2,
            random.choice((0, 1, 2, 8, 9, 13, 31, 32, 33, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)).to_bytes(8, "little"),
        ))  # fmt: skip
        changed[place : place + (length if random.random() < 0.8 else 0)] = with_what
    return bytes(changed)


def mixed(random: random.Random, pieces: Sequence[str], longest: int) -> str:
    """Pieces of a grammar in any order, some of them broken."""
    chosen = random.choices(pieces, k=random.randrange(1, longest))
    for _ in range(random.randrange(3)):
        place = random.randrange(len(chosen))
        chosen[place] = random.choice((text(random, 8), chosen[place][: random.randrange(1 + len(chosen[place]))]))
    return "".join(chosen)
