"""Which call of llama.cpp runs at this moment, and on which file: for whoever has to say what ended the process.

Knows: the calls that are followed, what stands for a file after them, files that something was computed with.
Refuses to know: how the process ends and what is said then (crash_report.py).
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)  # a comparison in Python would let two threads into `_running.remove`
class NativeCall:
    """What a call of llama.cpp does with a file. `words`: "loading {}" where {} is the name of the file."""

    words: str
    file: Path | None
    is_computing: bool = False  # with weights; else it only reads what the file says of itself

    @property
    def doing(self) -> str:
        return self.words.format(self.file.name if self.file is not None else "a model")


before_the_first: Callable[[], None] | None = None
"""Done before the first call that is followed: what waits for a crash is started there."""

_running: list[NativeCall] = []
_files: dict[int, Path] = {}  # a model, its vocabulary or its context -> its file
_proven: set[Path] = set()  # files that something was computed with


def now() -> NativeCall | None:
    """What runs: slm's own errand if there is one, else the innermost call."""
    return next((work for work in _running if work.file is None), _running[-1] if _running else None)


def only_file() -> Path | None:
    """The file of the only model there is; None where there is none, or several."""
    files = set(_files.values())
    return files.pop() if len(files) == 1 else None


def is_proven(file: Path) -> bool:
    """Whether something was computed with the file already: then it is not the file that is to blame."""
    return file in _proven


@contextlib.contextmanager
def own_errand(words: str) -> Iterator[None]:
    """While this lasts, models are slm's own: no file is to blame. `words`: "measuring the speed of this device"."""
    work = NativeCall(words, None)
    _running.append(work)
    try:
        yield
    finally:
        _running.remove(work)


def follow(api: ModuleType) -> None:
    """Note when one of these calls runs, and on which file. Names that the module does not have are left out.

    A second call for the same module changes nothing.
    """
    if "_is_followed_by_slm" in api.__dict__:
        return
    api.__dict__["_is_followed_by_slm"] = True
    for name, followed in _FOLLOWED.items():
        function = getattr(api, name, None)
        if function is not None:
            setattr(api, name, followed(function))


# Which calls, and what they do. Each takes the function of the bindings and gives the one that stands in its place.


def _reading(words: str, position: int) -> Callable[[Any], Any]:
    """A call that reads the file named by its argument `position`; what it returns stands for that file."""

    def followed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            file = Path(os.fsdecode(arguments[position]))
            result = _run(NativeCall(words, file), function, arguments)
            if result and isinstance(result, int):
                _files[result] = file
            return result

        return call

    return followed


def _working(words: str, *, is_computing: bool = False, is_kept: bool = False) -> Callable[[Any], Any]:
    """A call on what stands for a file, its first argument. `is_kept`: what it returns stands for the file, too."""

    def followed(function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            file = _files.get(arguments[0])
            result = _run(NativeCall(words, file, is_computing), function, arguments)
            if is_kept and result and file is not None:
                _files[result] = file
            if is_computing and result == 0 and file is not None:
                _proven.add(file)
            return result

        return call

    return followed


def _blameless(words: str) -> Callable[[Any], Any]:
    """A call on something of slm's own: no file of the user's is to blame."""
    work = NativeCall(words, None)
    return lambda function: lambda *arguments: _run(work, function, arguments)


def _freeing(function: Any) -> Any:
    """A call after which what stands for the file stands for nothing."""

    def call(*arguments: Any) -> Any:
        result = function(*arguments)
        file = _files.pop(arguments[0], None)
        for handle in [handle for handle, known in _files.items() if known == file]:
            del _files[handle]
        return result

    return call


_FOLLOWED: dict[str, Callable[[Any], Any]] = {
    "llama_model_load_from_file": _reading("loading {}", 0),
    "llama_adapter_lora_init": _reading("loading {}", 1),
    "mtmd_init_from_file": _reading("loading {}", 0),
    "llama_model_get_vocab": _working("loading {}", is_kept=True),
    "llama_init_from_model": _working("opening a context window for {}", is_kept=True),
    "llama_tokenize": _working("tokenizing text for {}"),
    "llama_decode": _working("computing with {}", is_computing=True),
    "llama_state_seq_load_file": _blameless("reading a stored state"),
    "llama_model_free": _freeing,
    "mtmd_tokenize_from_parts": _working("taking in an image with {}"),
    "mtmd_encode_chunk": _working("encoding an image with {}", is_computing=True),
    "mtmd_free": _freeing,
}


def _run(work: NativeCall, function: Any, arguments: tuple[Any, ...]) -> Any:
    global before_the_first
    if before_the_first is not None:
        begin, before_the_first = before_the_first, None
        begin()
    _running.append(work)
    try:
        return function(*arguments)
    finally:
        _running.remove(work)
