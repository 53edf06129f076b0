"""Where a sealed process may write, and where it never may: what it writes there would be run by somebody else.

Knows: slm's own places, the devices, which directories hold code that another program runs unasked.
Refuses to know: how the kernel keeps a process to them (landlock.py).

Behind the seal there may be a hostile model or library. If it could write where Python, a shell or git look for code,
it would come back in a process that is not sealed. So nothing is writable but slm's own directories and what the user
has named; the current directory and the system's temporary one are not.
"""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from slmchat.errors import SlmError, usage_error
from slmchat.lazy_patterns import lazy_pattern
from slmchat.user_paths import home_directory, user_path

# Memory, not disk: semaphores live here (multiprocessing, OpenMP), and behind the seal temporary files.
_MEMORY = Path("/dev/shm")

# Where `tempfile` looks for a temporary directory, before it takes the current one.
_TEMPORARY_NAMES = ("TMPDIR", "TEMP", "TMP")
_TEMPORARY = ("/tmp", "/var/tmp", "/usr/tmp")

_held: int | None = None  # the descriptor of `_THREADS`

# Writing here stores nothing.
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/tty")

# What drivers open for writing: NVIDIA, DRI (Intel, AMD, Mesa), AMD compute, WSL, Mali, Adreno, Apple on Asahi by DRI.
_GPU_PATTERNS = ("nvidia*", "nvidia-caps/*", "dri", "kfd", "dxg", "mali*", "kgsl*")

# The threads of this process: NVIDIA's driver gives its own a name (/proc/self/task/…/comm), and finds no GPU where it
# may not. What can be written below belongs to this process alone.
_THREADS = "/proc/self/task"

# What shells, sessions and tools read when they start, below the home directory: whatever is in a hidden directory
# (~/.config, ~/.vim, ~/.local), hidden files that are called so, and what other systems have in plain sight.
_START_UP_FILE = lazy_pattern(
    r"\.([\w.-]*(rc|profile|login|logout|env|environment|aliases|init|conf|config|session)|emacs|crontab)"
)
_START_UP = ("library/launchagents", "documents/powershell", "documents/windowspowershell", "appdata/roaming/microsoft")

# A named directory with more directories than this is not one for exports, and takes too long to look through.
_MOST_DIRECTORIES = 1000


def allowed_paths(writable: Sequence[Path], *, has_gpu: bool) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Where the sealed process may write, and in words what of `writable` is left out, because code is there.

    A path that does not exist is left out. The place of temporary files is among them.
    """
    found, problems = [], []
    home, code = (_home(), _code_places()) if writable else (None, ())
    for path in writable:
        place = Path(os.path.realpath(path))
        held = _held_code(place, home, code) if place.is_dir() else None
        if held is not None:
            problems.append(f"{place} is not writable: it holds {held}")
        elif place.exists():
            found.append(place)
    temporary = temporary_directory()
    if temporary is not None:
        found.append(temporary)
    if _MEMORY.is_dir():
        found.append(_MEMORY)
    found += [Path(name) for name in _DEVICES if os.path.exists(name)]
    found += _own_terminals()
    if has_gpu:
        found += [path for pattern in _GPU_PATTERNS for path in Path("/dev").glob(pattern)]
        found += _own_threads()
    return tuple(dict.fromkeys(found)), tuple(problems)


def temporary_directory() -> Path | None:
    """Where a sealed process has its temporary files: in memory, else in a directory of slm's own. None: nowhere.

    Not the system's temporary directory, where the files of other programs are.
    """
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK):
        return _MEMORY
    import tempfile  # where it is not needed, it is 2 ms of a start

    with suppress(OSError):
        system = tempfile.gettempdir()
        if _is_current(system) and system not in (*map(os.environ.get, _TEMPORARY_NAMES), *_TEMPORARY):
            return None  # it takes the current directory where there is no other: a file of a library there is code
        own = Path(os.path.realpath(system), f"slm-{os.geteuid()}")
        own.mkdir(mode=0o700, exist_ok=True)
        found = own.lstat()
        if own.is_dir() and not own.is_symlink() and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            return own
    return None


def _is_current(directory: str) -> bool:
    try:
        return directory == os.getcwd()
    except OSError:  # it has been deleted
        return False


def use_temporary_directory() -> None:
    """From here on this process and its children make their temporary files where they may."""
    place = temporary_directory()
    if place is not None:
        os.environ["TMPDIR"] = str(place)  # read by `tempfile` when it is first asked
        if "tempfile" in sys.modules:
            sys.modules["tempfile"].tempdir = str(place)  # type: ignore[attr-defined]


def _own_threads() -> Iterator[Path]:
    """The directory of this process' threads. It is held open: the kernel forgets what it has shown of /proc when
    memory is short, and what it then shows anew would not be the place that Landlock was told."""
    global _held
    with suppress(OSError):
        if _held is None:
            _held = os.open(_THREADS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        yield Path(os.path.realpath(_THREADS))


def _own_terminals() -> Iterator[Path]:
    """The terminals of the standard streams: not every terminal of the user."""
    for descriptor in (0, 1, 2):
        with suppress(OSError):
            yield Path(os.ttyname(descriptor))


def check_directory(directory: Path, named_by: str) -> Path:
    """A directory that the user has named for a sealed process to write in, as a whole. Raises `SlmError` (USAGE).

    Refused: what holds code that another program runs (the interpreter, slm, what is on the PATH, a repository), the
    home directory, what is hidden.
    """
    try:
        place = user_path(directory).resolve()
    except RuntimeError as error:  # links in a circle
        raise _unfit(named_by, f"{directory} leads nowhere: {error}") from error
    if not place.is_dir():
        raise _unfit(named_by, f"there is no directory {place}", f"mkdir -p {place}")
    why = _held_code(place, _home(), (*_code_places(), *library_places(), *_path_places())) or _code_around(place)
    why = why or next((f"programs of your PATH ({one})" for one in _path_places() if place.is_relative_to(one)), None)
    if why is None and any(part.startswith(".") for part in place.parts):
        why = "what is hidden"
    why = why or _found_inside(place)
    if why is not None:
        raise _unfit(named_by, f"a sealed slm does not write in {place}, which holds {why}")
    return place


def check_file(file: Path, named_by: str) -> None:
    """A file that the user has named to be written. Raises `SlmError` (USAGE) where a program would run it unasked."""
    place = Path(os.path.realpath(file))
    around = _code_around(place)
    home = _home()
    if around is None and place.parent in _path_places():
        around = f"the programs of your PATH ({place.parent})"
    if around is None and home is not None and place.is_relative_to(home):
        started = _started(place.relative_to(home))
        around = started and f"what starts with your shell, session or tools (~/{started})"
    if around is not None:
        raise usage_error(
            f"{named_by}: {place} is among {around}, and would run without being asked; slm does not write there.",
            f"{named_by} elsewhere; read it, then move it yourself",
        )


def _started(name: Path) -> str | None:
    """What of the home directory this file (relative to it) is or lies in, if that is read unasked by some program."""
    first, folded = name.parts[0], name.as_posix().casefold()  # some file systems do not tell .BASHRC from .bashrc
    if first.startswith(".") and (len(name.parts) > 1 or _START_UP_FILE.fullmatch(folded)):
        return first
    return next((one for one in _START_UP if _is_at(folded, one)), None)


def _is_at(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def _unfit(named_by: str, why: str, hint: str = "a directory of its own: mkdir exports") -> SlmError:
    return usage_error(f"{named_by}: {why}.", hint)


def _home() -> Path | None:
    home = home_directory()
    return None if home is None else Path(os.path.realpath(home))


def _held_code(place: Path, home: Path | None, code: Iterable[Path]) -> str | None:
    """What of the user's or of Python's is this directory or lies in it; None: nothing of the kind."""
    if place == Path("/"):
        return "everything"
    if home is not None and _is_at(str(home), str(place)):
        return f"your home directory {home}"
    return next((f"code ({one})" for one in code if _is_at(str(one), str(place))), None)


def _code_around(place: Path) -> str | None:
    """What this file or directory lies in that is run unasked; None: nothing of the kind."""
    if ".git" in place.parts:
        return "the files of a git repository"
    return next((f"code ({code})" for code in library_places() if place.is_relative_to(code)), None)


def _found_inside(place: Path) -> str | None:
    """What is hidden, or an environment of Python, somewhere in this directory."""
    for number, (folder, folders, files) in enumerate(os.walk(place)):
        hidden = next((name for name in folders if name.startswith(".")), None)
        if hidden is not None:
            return f"what is hidden ({Path(folder, hidden)})"
        if "pyvenv.cfg" in files:
            return f"an environment of Python ({folder})"
        if number >= _MOST_DIRECTORIES:
            return f"more than {_MOST_DIRECTORIES:,} directories"
    return None


def _code_places() -> tuple[Path, ...]:
    """Python's own directories, slm's, and where modules are looked for: one of the user's may be among them."""
    return _real([*sys.path, sys.prefix, os.path.dirname(sys.executable), str(Path(__file__).parents[1])])


def library_places() -> tuple[Path, ...]:
    """Directories with nothing but code: of Python, of its libraries, of slm. No sealed process may write there."""
    import site
    import sysconfig

    names = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    names += [site.getusersitepackages(), os.path.dirname(sys.executable), str(Path(__file__).parents[1])]
    return _real(names)


def _path_places() -> tuple[Path, ...]:
    return _real(name for name in os.environ.get("PATH", "").split(os.pathsep) if os.path.isabs(name))


def _real(names: Iterable[str]) -> tuple[Path, ...]:
    """The directories of these names. An empty one, in the PATH and in sys.path, is the current directory."""
    found = []
    for name in dict.fromkeys(names):
        with suppress(OSError):  # the current directory has been deleted
            path = os.path.realpath(name or os.getcwd())
            if os.path.isdir(path):
                found.append(path)
    return tuple(map(Path, dict.fromkeys(found)))
