"""The entry: imports the command line inside the try, so that Ctrl-C during imports is clean too."""

import sys


def main() -> int:
    """Run the command line of this process; the exit code."""
    try:
        from slmchat.cli import run_program

        return run_program(sys.argv[1:])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
