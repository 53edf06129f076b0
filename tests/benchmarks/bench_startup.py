"""How long slm takes before the model begins to load, and that a full home changes nothing.

"Of its own": from the start of the process to the moment when llama.cpp opens the model's file, which the kernel tells
(inotify, so this part runs on Linux only). The last interesting thing before is the loading of libllama.
"""

import ctypes
import os
import random
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import programs
from targets import Target, pairs, rounds

N_MANY = 1_000

# Long enough to be worth a stored state.
LONG_PROMPT = "The fox looked at the river, and the river looked back at the fox. " * 30

_IN_OPEN = 0x20  # sys/inotify.h
_PATIENCE_S = 30.0


def measure(repeat: int) -> list[Target]:
    programs.run([*programs.SLM, "--version"])  # the bytecode
    seconds = [programs.run([*programs.SLM, "--version"]).seconds * 1000 for _ in rounds(repeat)]
    python = [programs.run([sys.executable, "-c", "pass"]).seconds * 1000 for _ in rounds(repeat)]
    raw = {"slm --version ms": seconds, "python alone ms": python}
    found = [Target("slm --version", 90, seconds, raw, False, "ms")]
    if sys.platform == "linux":
        found += [*(_until_loading(model, repeat) for model in programs.MODELS), *_with_a_full_home(repeat)]
    return [*found, *(_showing(model, repeat) for model in programs.MODELS)]


def _showing(model: str, repeat: int) -> Target:
    """`slm show`, when what it finds out has been kept. With --private the pace of the device is not measured."""
    command = [*programs.SLM, "show", model]
    programs.run(command)
    taken = [programs.run([*command, "--private"]).seconds * 1000 for _ in rounds(repeat)]
    return Target(f"{model}: slm show", 300, taken, {"slm show ms": taken}, False, "ms")


def _until_loading(model: str, repeat: int) -> Target:
    _milliseconds_until_loading(model, programs.home())
    taken = [_milliseconds_until_loading(model, programs.home()) for _ in rounds(repeat)]
    return Target(f"{model}: slm run until the model loads", 250, taken, {"slm run ms": taken}, False, "ms")


def _milliseconds_until_loading(model: str, home: Path) -> float:
    """From the start of `slm run` to llama.cpp's opening of the file."""
    library = Path(_llama_cpp(), "lib", "libllama.so")
    with _Opened(library) as of_library, _Opened(Path(programs.path_of(model))) as of_model:
        start = time.perf_counter()
        process = subprocess.Popen(
            programs.slm_run(model, 1, "--raw"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=programs.environment({"SLM_HOME": str(home)}),
        )
        of_library.wait()
        of_model.forget()  # what slm itself has read of the header before
        of_model.wait()
        taken = time.perf_counter() - start
        if process.wait():
            raise SystemExit("slm run failed")
    return taken * 1000


def _llama_cpp() -> str:
    import importlib.util

    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None and spec.submodule_search_locations
    return spec.submodule_search_locations[0]


class _Opened:
    """Waits until somebody opens a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> "_Opened":
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_CLOEXEC)
        if libc.inotify_add_watch(self._descriptor, os.fsencode(self._file), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(self._file))
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def wait(self) -> None:
        if not select.select([self._descriptor], [], [], _PATIENCE_S)[0]:
            raise TimeoutError(f"nobody opened {self._file} within {_PATIENCE_S} s")
        os.read(self._descriptor, 4096)

    def forget(self) -> None:
        """Drop what has happened so far."""
        os.set_blocking(self._descriptor, False)
        try:
            while os.read(self._descriptor, 4096):
                pass
        except BlockingIOError:
            pass
        os.set_blocking(self._descriptor, True)


def _with_a_full_home(repeat: int) -> list[Target]:
    """The same with 1,000 models, conversations and cached states in the home as with one model."""
    model = programs.MODELS[0]
    with tempfile.TemporaryDirectory(prefix="slm-benchmark-") as directory:
        small, full = Path(directory, "small"), Path(directory, "full")
        for home in (small, full):
            install(model, home)
        _fill(full)
        homes = {"SLM_HOME": str(small)}, {"SLM_HOME": str(full)}
        for home in homes:
            programs.run([*programs.SLM, "sessions", "list", "--limit", "1"], home)
        measured = {
            "slm run until the model loads": pairs(
                repeat,
                lambda: _milliseconds_until_loading(model, full),
                lambda: _milliseconds_until_loading(model, small),
            ),
            "slm run, one token, to its end": pairs(
                repeat,
                lambda: programs.run(programs.slm_run(model, 1, "--raw", prompt=LONG_PROMPT), homes[1]).seconds * 1000,
                lambda: programs.run(programs.slm_run(model, 1, "--raw", prompt=LONG_PROMPT), homes[0]).seconds * 1000,
            ),
            "slm sessions list --limit 1": pairs(
                repeat,
                lambda: programs.run([*programs.SLM, "sessions", "list", "--limit", "1"], homes[1]).seconds * 1000,
                lambda: programs.run([*programs.SLM, "sessions", "list", "--limit", "1"], homes[0]).seconds * 1000,
            ),
        }
    return [
        Target(
            f"{what}, {N_MANY:,} models, sessions and states over one", 1.1, ratios, {"full ms": a, "one ms": b}, False
        )
        for what, (ratios, a, b) in measured.items()
    ]


def install(model: str, home: Path) -> None:
    """A home with the record of one installed model; its file stays where it is."""
    from slmchat import settings
    from slmchat.catalog.library import Library

    here = Library(settings.load({"SLM_HOME": str(programs.home())}).paths)
    (record,) = here.matching(model)
    Library(settings.load({"SLM_HOME": str(home)}).paths).admit(record)


def _fill(home: Path) -> None:
    from slmchat import settings
    from slmchat.catalog.library import Library
    from slmchat.catalog.records import to_json
    from slmchat.conversation.archive import Archive
    from slmchat.conversation.messages import Conversation, Message, Role

    paths = settings.load({"SLM_HOME": str(home)}).paths
    library = Library(paths)
    (record,) = library.all()
    for number in range(N_MANY):
        other = replace(record, name=f"family{number}:{number % 9 + 1}b")
        file = library.destination(other.name, other.quantization).with_suffix(".json")
        file.write_text(to_json(other))
        file.chmod(0o600)
    archive = Archive(paths.sessions)
    for number in range(N_MANY):
        conversation = Conversation("You are a helpful assistant.")
        for text, role in ((f"Question {number}", Role.USER), (f"Answer {number}. " * 50, Role.ASSISTANT)):
            conversation.add(Message(role, text, (1, 2, 3) if role is Role.ASSISTANT else None, model=None))
        archive.store(conversation, conversation.nodes(), is_synced=False)
    archive.close()
    _fill_states(home, paths.cache)


def _fill_states(home: Path, cache: Path) -> None:
    """Cached KV states: files that are named like a real one. Their names are what a search looks at first."""
    programs.run(programs.slm_run(programs.MODELS[0], 1, "--raw", prompt=LONG_PROMPT), {"SLM_HOME": str(home)})
    real = next(iter(sorted(cache.glob("kv/*/*.kv"))), None)
    if real is None:
        print("    no KV state was stored: states are not part of the full home", file=sys.stderr)
        return
    _, n_tokens, checksum, hashes, suffix = real.name.split(".")
    pick = random.Random(1)
    for number in range(N_MANY):
        others = "".join(pick.choices("0123456789abcdef", k=len(hashes)))
        real.with_name(f"other{number}.{n_tokens}.{checksum}.{others}.{suffix}").touch(mode=0o600)
