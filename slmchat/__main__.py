"""The entry: the standard streams first, then the command line.

It is imported inside the try, so that Ctrl-C during imports is clean too.
"""

import gc
import sys

# Objects made between two looks for garbage (Python: 700). Nothing that a start makes is garbage; looking through it
# again and again is a twentieth of a start.
_OBJECTS = 50_000


def main() -> int:
    """Run the command line of this process; the exit code."""
    gc.set_threshold(_OBJECTS)
    try:
        from slmchat.terminal import standard_streams

        standard_streams.open_missing()
        from slmchat.cli import run_program

        return run_program(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
