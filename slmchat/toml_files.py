"""TOML that people write: `config.toml` and `models.toml`, read whole or refused with one sentence.

Knows: what may be wrong with such a file before its first key counts. Refuses to know: which keys there are.
"""

from pathlib import Path
from typing import Any

from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.private_files import check_readable
from slmchat.text_files import text_of

# The catalog has 75,000 bytes. More than this is another file.
_MOST_BYTES = 16 << 20


def read(file: Path) -> dict[str, Any]:
    """The document in `file`, unchecked; empty when there is no such file.

    Raises `SlmError`: storage when it cannot be read, usage with the line when it is not TOML.
    """
    try:
        check_readable(file, _MOST_BYTES)
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SlmError(
            f"{file} cannot be read: {error.strerror}.",
            hint="set SLM_HOME to a directory of yours",
            exit_code=ExitCode.STORAGE,
        ) from error
    import tomllib  # 4 ms that most starts do without

    try:
        return tomllib.loads(text_of(data, str(file)))
    except RecursionError as error:
        raise usage_error(f"{file} is nested too deeply.") from error
    except ValueError as error:  # TOMLDecodeError states line and column; an endless number is a plain ValueError
        reason = "".join(character if character.isprintable() else "?" for character in str(error)[:200])
        raise usage_error(f"{file} cannot be read as TOML: {reason}.") from error
