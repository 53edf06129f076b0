"""`slm --version`: slm's own version, and with `-v` the llama.cpp library that it would compute with.

Knows: how they are told. Refuses to know: where libraries lie (engine/library.py); none is loaded for this.
"""

from slmchat import __version__
from slmchat.errors import SlmError
from slmchat.terminal.console import Console


def version(console: Console, *, is_verbose: bool) -> None:
    """Print the version; a library that is missing is said on stderr, with the command that brings one."""
    console.print(f"slm {__version__}")
    if is_verbose:
        from slmchat.engine import library

        try:
            console.print(f"llama.cpp: {library.find(console.environ).in_words()}")
        except SlmError as error:
            console.warn(error.message, error.hint)
