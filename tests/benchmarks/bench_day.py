"""A day's use: 50 mixed commands in a home of their own, and the share of all prompt tokens that none of them read.

Translations under one instruction, questions about two documents, a persona with examples, batches, two chats of which
one is resumed, questions to a folder with `slm ask`. The texts are fixed, the temperature is 0. What is counted is what
the commands themselves report as prompt tokens and as cached ones; the shared beginning of a batch, which is read once
for all of its rows, is counted as read unless it came from the disk.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import programs
from bench_startup import install
from targets import Target

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from terminal import Terminal

MODEL = programs.MODELS[0]
LEAST_SHARE = 0.75
N_COMMANDS = 50

_INSTRUCTION = (
    "You are a careful translator for a museum. Translate what the visitor says into plain French, keep names and "
    "numbers as they are, and add nothing of your own. Do not explain the translation. Dates stay in the order of the "
    "original. Where a word has several meanings, take the one that fits a museum of ships, harbours and lighthouses. "
    "Units of measure stay as they are; prices are in euros. Never answer a question: translate it. "
) * 2
_SENTENCES = (
    "Where is the lighthouse of 1823?",
    "Two tickets, please.",
    "Is the old harbour open on Sunday?",
    "How long is the ship?",
    "I have lost my umbrella.",
    "May I take pictures here?",
    "When does the last boat leave?",
    "Who built the model of the frigate?",
    "The map is upside down.",
    "Thank you, it was beautiful.",
)
_QUESTIONS = (
    "Who keeps the light?",
    "What happened in the storm?",
    "How many steps are there?",
    "When was it built?",
    "What is sold in the shop?",
)
_CHAT = ("What is a lighthouse for?", "And how does its lamp turn?", "Name a famous one.", "Who lives in it?")


def _document(number: int) -> str:
    """A text of some 500 tokens, another one for each number."""
    return "\n\n".join(
        f"Part {part}. The lighthouse of island {number} has {100 + 7 * part + number} steps and was built in "
        f"{1800 + 3 * part + number}. Its keeper, the {part}th of the family, sells postcards at {part + 2} euros. In the "
        f"storm of year {1850 + part} the lamp went out for {part + number} hours, and {part + 3} ships waited outside."
        for part in range(1, 9)
    )


class _Day:
    """The commands of a day in one home, what they asked and what of it was not read."""

    def __init__(self, place: Path) -> None:
        self.home = place / "home"
        self.documents = place / "documents"
        self.n_commands = 0
        self.by_kind: dict[str, list[int]] = {}  # prompt tokens, and those not read
        self._rest = ("--temp", "0", "-n", "12")
        self._env = {"SLM_HOME": str(self.home)}
        install(MODEL, self.home)
        self.documents.mkdir()
        self.files = [self.documents / f"island{number}.txt" for number in (1, 2)]
        for number, file in enumerate(self.files, 1):
            file.write_text(_document(number), encoding="utf-8")

    def share(self) -> float:
        """Of all prompt tokens, those that were not read."""
        return sum(cached for _, cached in self.by_kind.values()) / sum(prompt for prompt, _ in self.by_kind.values())

    def _add(self, kind: str, prompt: int, cached: int) -> None:
        of_kind = self.by_kind.setdefault(kind, [0, 0])
        of_kind[0] += prompt
        of_kind[1] += cached

    def run(self, kind: str, *more: str) -> None:
        """`slm run`."""
        done = programs.run([*programs.SLM, "run", "-m", MODEL, "--json", *self._rest, *more], self._env)
        usage = json.loads(done.out)["usage"]
        self._add(kind, usage["prompt_tokens"], usage["cached_tokens"])
        self.n_commands += 1

    def ask(self, question: str) -> None:
        """`slm ask` of the folder with the documents."""
        words = ("ask", "-m", MODEL, "--json", "-d", str(self.documents), question)
        done = subprocess.run(
            [*programs.SLM, *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            env=programs.environment(self._env),
            check=False,  # a document that does not answer is no failure
        )
        usage = json.loads(done.stdout)["usage"]
        self._add("ask", usage["prompt_tokens"], usage["cached_tokens"])
        self.n_commands += 1

    def batch(self, sentences: Sequence[str]) -> None:
        """`slm batch`: what all rows begin with is read once, or was on the disk."""
        done = subprocess.run(
            [*programs.SLM, "batch", "-v", "-m", MODEL, "-s", _INSTRUCTION, *self._rest],
            input="\n".join(sentences),
            capture_output=True,
            text=True,
            env=programs.environment(self._env),
            check=True,
        )
        usages = [json.loads(line)["usage"] for line in done.stdout.splitlines()]
        once = re.search(r"([\d,]+) tokens of every prompt were evaluated once(?:, ([\d,]+))?", done.stderr)
        prompt, cached = (sum(usage[key] for usage in usages) for key in ("prompt_tokens", "cached_tokens"))
        self._add("batch", prompt, cached - (_number(once[1]) - _number(once[2] or "0") if once else 0))
        self.n_commands += 1

    def chat(self, messages: Sequence[str], *more: str) -> None:
        """`slm chat`, until these messages are answered."""
        words = ["chat", MODEL, "-v", *self._rest, "-s", _INSTRUCTION, *more]
        with Terminal(words, home=self.home, lines=60, env=programs.python_environment()) as terminal:
            terminal.wait_for(r"(^|\n)> ?(\n|$)")
            for number, message in enumerate(messages, 1):
                terminal.enter(message)
                terminal.wait_for(lambda number=number: len(_reported(terminal.everything)) >= number)
            terminal.enter("/exit")
            terminal.end()
            for prompt, cached in _reported(terminal.everything):
                self._add("chat", prompt, cached)
        self.n_commands += 1


def measure(repeat: int) -> list[Target]:
    """Once: the counts are the same each time."""
    del repeat
    with tempfile.TemporaryDirectory(prefix="slm-day-") as directory:
        day = _Day(Path(directory))
        _spend(day)
    if day.n_commands != N_COMMANDS:
        raise SystemExit(f"a day has {N_COMMANDS} commands, not {day.n_commands}")
    raw = {
        f"{kind}: read, not read": [float(prompt - cached), float(cached)]
        for kind, (prompt, cached) in day.by_kind.items()
    }
    return [Target(f"{MODEL}: a day's use, prompt tokens not read", LEAST_SHARE, [day.share()], raw, True)]


def _spend(day: _Day) -> None:
    first, second = ("-f", str(day.files[0])), ("-f", str(day.files[1]))
    for sentence in _SENTENCES:
        day.run("run with an instruction", "-s", _INSTRUCTION, sentence)
    for question in _QUESTIONS:
        day.run("run with a document", *first, question)
    day.chat(_CHAT)
    for question in _QUESTIONS:
        day.run("run with a document", *second, question)
    for question in _QUESTIONS[:3]:
        day.run("run with a document", *first, question)
    day.batch(_SENTENCES[:6])
    for sentence in _SENTENCES[:6]:
        day.run("run with a persona", "-p", "translator", sentence)
    day.chat(_CHAT[:2])
    day.batch(_SENTENCES[6:])
    day.chat(_CHAT[2:], "-c")
    for sentence in _SENTENCES[:6]:
        day.run("run with an instruction", "-s", _INSTRUCTION, "Once more: " + sentence)
    for question in _QUESTIONS[:3]:
        day.ask(question)
    day.batch(_SENTENCES)
    for question in _QUESTIONS[3:]:
        day.run("run with both documents", *first, *second, question)
    for sentence in _SENTENCES[:2]:
        day.run("run without anything", sentence)
    for question in _QUESTIONS[:2]:
        day.run("run with a document", *first, question)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _reported(text: str) -> list[tuple[int, int]]:
    """Prompt tokens and cached ones of every answer so far, as the chat tells them with -v."""
    found = re.findall(r"^([\d,]+) prompt tokens(?: \(([\d,]+) cached\))?", text, re.MULTILINE)
    return [(_number(prompt), _number(cached or "0")) for prompt, cached in found]
