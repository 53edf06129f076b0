"""The entry: the standard streams first, then the command line.

It is imported inside the try, so that Ctrl-C during imports is clean too.
"""

import sys


def main() -> int:
    """Run the command line of this process; the exit code."""
    try:
        from slmchat.terminal import standard_streams

        standard_streams.open_missing()
        from slmchat.cli import run_program

        return run_program(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
