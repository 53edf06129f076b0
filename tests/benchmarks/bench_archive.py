"""Measure the archive at the size of years of chatting: 10,000 sessions with 200,000 messages.

Milliseconds: the best of five, in one process, beyond Python's start; the commands as a whole (`slm sessions list`) too.
"""

import io
import itertools
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from targets import Target

from slmchat import settings
from slmchat.commands import sessions
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.terminal.console import Console

EACH = 20  # messages of a session
SESSIONS = 10_000
# The figures with a target; the other ones explain them.
LIMITED = ("command: list, all, piped", "command: list --json", "command: search")


def measure(repeat: int) -> list[Target]:
    """What must answer at once; the raw numbers hold everything else that was measured."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        archive = Archive(home / "data" / "sessions.db")
        words = _fill(archive, SESSIONS)
        results = _measure(archive, words, home)
        archive.close()
    raw = {f"{what} ms": [milliseconds] for what, milliseconds in results.items()}
    return [
        Target(f"{SESSIONS:,} sessions, {what}", 200, [results[what]], raw if what == LIMITED[0] else {}, False, "ms")
        for what in LIMITED
    ]


def _fill(archive: Archive, count: int) -> list[str]:
    """Sessions of words that are as frequent as in a language (Zipf); the words, most frequent first."""
    pick = random.Random(1)
    words = ["".join(pick.choices("etaoinshrdlucm", k=pick.randint(2, 9))) for _ in range(30_000)]
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(words) + 1)))
    for _ in range(count):
        conversation = Conversation("You are a helpful assistant.")
        for number in range(EACH):
            text = " ".join(pick.choices(words, cum_weights=weights, k=pick.choice((15, 60, 120))))
            role, model = (Role.ASSISTANT, "smollm2:135m@Q4_1") if number % 2 else (Role.USER, None)
            conversation.add(Message(role, text, tuple(range(len(text) // 4)) if model else None, model=model))
        archive.store(conversation, conversation.nodes(), is_synced=False)
    return words


def _measure(archive: Archive, words: list[str], home: Path) -> dict[str, float]:
    results: dict[str, float] = {"index all messages, once": _once(archive.refresh_index)}
    results["list, all"] = _best(archive.list)
    results["list, newest"] = _best(archive.latest)
    queries = {
        "the most frequent word": words[0],
        "two frequent words": f"{words[5]} {words[9]}",
        "a rare word": words[20_000],
        "a phrase": f'"{words[3]} {words[7]}"',
        "one letter, as a prefix": "e",
        "a word that is nowhere": "zzzzzz",
        "a script without spaces (every message is read)": "你好",
    }
    for what, query in queries.items():
        results[f"search: {what}"] = _best(lambda query=query: archive.search(query))
    titles = archive.list()
    results["find by title"] = _best(lambda: archive.find(titles[len(titles) // 2].title))
    results["load a session"] = _best(lambda: archive.load(titles[0].id))
    recorder = ArchiveRecorder(archive, print)
    talk = recorder.resume(titles[0].id)
    results["save a question (with fsync)"] = _best(lambda: talk.add(Message(Role.USER, "What about the sky?")))
    answer = talk.add(Message(Role.ASSISTANT, "word " * 4_000))

    def grow() -> None:
        recorder._tried_at = float("-inf")
        talk.update(answer, Message(Role.ASSISTANT, answer.message.text + "more "))

    results["write a growing answer of 20 kB"] = _best(grow)
    results["flush it"] = _best(recorder.flush)
    results |= _commands(home, words)
    results["remove one session, leaving no trace"] = _once(lambda: archive.remove([titles[5].id]))
    return results


def _commands(home: Path, words: list[str]) -> dict[str, float]:
    world = settings.load({"SLM_HOME": str(home)})

    def console() -> Console:
        return Console(io.StringIO(), io.StringIO(), io.StringIO(), environ={})

    results = {
        "command: list, all, piped": _best(lambda: sessions.list_sessions(world, console())),
        "command: list --json": _best(lambda: sessions.list_sessions(world, console(), is_json=True)),
        "command: search": _best(lambda: sessions.search([words[0]], world, console())),
    }
    env = {**os.environ, "SLM_HOME": str(home)}
    for arguments in (("--version",), ("sessions", "list"), ("sessions", "search", words[0])):
        command = [sys.executable, "-m", "slmchat", *arguments]
        if subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0:
            results[f"process: slm {' '.join(arguments)}"] = _best(
                lambda command=command: subprocess.run(command, env=env, capture_output=True, check=True)
            )
    return results


def _once(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def _best(function: Callable[[], object]) -> float:
    return min(_once(function) for _ in range(5))
