"""Telling what a reasoning model thinks from what it answers, while the text streams in.

Knows: how the families mark a thought, where in a completion a mark counts, what white space belongs to it.
Refuses to know: tokens, terminals, whether anybody wants to see the thought.

A mark counts only where models put it: an opening at the beginning of the completion, what closes the answer at its
very end. A `<think>` in the middle of an answer about HTML is text. The result does not depend on where the text is
split into chunks.
"""

import re
from collections.abc import Callable
from dataclasses import replace

from slmchat.engine.thinking import ThoughtMarks, opened_by
from slmchat.lazy_dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of one kind; never empty."""

    text: str
    is_thinking: bool


# Where llama.cpp's own sources say so (models/templates and common/ at the version that pyproject.toml pins):
FAMILIES = (
    # Qwen3 and 3.5 (Qwen-Qwen3-0.6B.jinja, Qwen3.5-4B.jinja), SmolLM3 (HuggingFaceTB-SmolLM3-3B.jinja), LFM2
    # (parsers/lfm2.cpp), DeepSeek R1 (llama-cpp-deepseek-r1.jinja), MiniCPM5 (parsers/minicpm5.cpp). Granite 3.3 wraps
    # its answer too (chat-diff-analyzer.cpp, "Granite 3.3"). Phi-4-mini-reasoning writes
    # these too, though its prompt format does not name them.
    ThoughtMarks(("<think>",), ("</think>",), ("<response>", "</response>"), "\n</think>\n\n"),
    # Magistral and Ministral 3 Reasoning (parsers/ministral3.cpp)
    ThoughtMarks(("[THINK]",), ("[/THINK]",), None, "[/THINK]"),
    # Gemma 4 (parsers/gemma4.cpp); the doubled opening is in tests/test-chat.cpp
    ThoughtMarks(("<|channel>thought", "<|channel><|channel>thought"), ("<channel|>",), None, "\n<channel|>"),
    # gpt-oss (parsers/gpt-oss.cpp). llama.cpp renders <|end|> there, other engines may not.
    ThoughtMarks(
        ("<|channel|>analysis<|message|>",),
        ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
        None,
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    # gpt-oss that answers at once: a thought without a word, closed where it opens
    ThoughtMarks(("<|channel|>final<|message|>",), ("",)),
    # Command R7B and Cohere2 MoE (CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja, parsers/cohere2moe.cpp)
    ThoughtMarks(
        ("<|START_THINKING|>",), ("<|END_THINKING|>",), ("<|START_RESPONSE|>", "<|END_RESPONSE|>"), "<|END_THINKING|>"
    ),
    # Apertus (Apertus-8B-Instruct.jinja)
    ThoughtMarks(("<|inner_prefix|>",), ("<|inner_suffix|>",), None, "<|inner_suffix|>"),
    # Seed-OSS (ByteDance-Seed-OSS.jinja)
    ThoughtMarks(("<seed:think>",), ("</seed:think>",), None, "\n</seed:think>\n"),
    # MiniMax M3 (parsers/minimax-m3.cpp)
    ThoughtMarks(("<mm:think>",), ("</mm:think>",), None, "</mm:think>"),
    # Apriel 1.5 and 1.6 (unsloth-Apriel-1.5.jinja, Apriel-1.6-15b-Thinker-fixed.jinja): in plain words, which another
    # model may begin its answer with
    ThoughtMarks(
        ("Here are my reasoning steps:",),
        ("[BEGIN FINAL RESPONSE]",),
        None,
        "\n[BEGIN FINAL RESPONSE]\n",
        is_prompted=True,
    ),
)

_WRITTEN = tuple(marks for marks in FAMILIES if not marks.is_prompted)

# What the makers have written where a thought is cut short, by the beginning of the architecture's name: Qwen's and
# ByteDance's own documentation of thinking budgets.
_BRIDGES = {
    "qwen3": "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly "
    "now.",
    "seed_oss": "\n<seed:cot_budget_reflect>I have exhausted my token budget, and now I will start answering the "
    "question.</seed:cot_budget_reflect>",
}

_BRIDGED = ("<think>", "<seed:think>")

# What a budget must not cut through: a call of a tool, by the templates of the same folder.
UNBROKEN = (
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call>", "<tool_call|>"),
    ("<|tool_call_start|>", "<|tool_call_end|>"),
    ("<seed:tool_call>", "</seed:tool_call>"),
    ("<|START_ACTION|>", "<|END_ACTION|>"),
)

# Marks that are one control token in some vocabularies. An engine that renders control tokens as nothing has to spell
# these out, or no thought is ever recognised. ("[THINK]" is one in Mistral's; older Gemma 4 files mark theirs so.)
TOKENS = (
    *("<think>", "</think>", "<response>", "</response>", "[THINK]", "[/THINK]", "<|channel>", "<channel|>"),
    *("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<mm:think>", "</mm:think>"),
    *("<|inner_prefix|>", "<|inner_suffix|>", "<seed:think>", "</seed:think>"),
)

# Gemma 4 may end its answer with an empty thought or a lone closing (parsers/gemma4.cpp says so).
_STRAYS = ("<|channel>thought", "<channel|>")


def marks_for(architecture: str) -> tuple[ThoughtMarks, ...]:
    """The marks of all families, with the sentence that the makers of this architecture have where a thought is cut."""
    bridge = next((text for begin, text in _BRIDGES.items() if architecture.startswith(begin)), "")
    if not bridge:
        return FAMILIES
    return tuple(replace(marks, bridge=bridge) if marks.openings[0] in _BRIDGED else marks for marks in FAMILIES)


def _beginnings(mark: str) -> str:
    """A pattern for what `mark` may have come to so far, the longest first."""
    return "|".join(re.escape(mark[:length]) for length in range(len(mark) - 1, 0, -1))


@dataclass(frozen=True, slots=True)
class _Tail:
    """What is not part of an answer when it stands at its very end. Both patterns take white space around it."""

    complete: re.Pattern[str]
    possible: re.Pattern[str]


def _tail(marks: tuple[str, ...]) -> _Tail:
    whole = "|".join(map(re.escape, marks))
    cut = "|".join(map(_beginnings, marks))
    return _Tail(re.compile(rf"(?:\s*(?:{whole}))+\s*"), re.compile(rf"(?:\s|{whole})*(?:{cut})?\Z"))


_PLAIN_TAIL = _tail(_STRAYS)


class ThinkingSplitter:
    """Text of a completion in, thinking and answer out.

    White space around a thought is left out. A completion without a thought comes out as it went in. A thought that
    never closes goes on to the end. `opened`: the prompt has opened the thought already (see `opens_thinking`).

    `has_marks`: something was taken out of the completion or told apart in it, were it only an empty thought. Then
    the tokens of the completion are not those of its answer.
    """

    def __init__(self, opened: bool = False) -> None:
        self._held = ""
        # which family opened the thought in the prompt is not known here: any closing ends it
        self._closings = tuple(closing for marks in FAMILIES for closing in marks.closings if closing)
        self._wrapping: tuple[str, str] | None = None
        self.has_marks = opened
        self._is_opened = opened
        self._is_begun = False
        self._tail = _PLAIN_TAIL
        self._state: Callable[[bool], list[Piece]] = self._before

    def feed(self, text: str) -> list[Piece]:
        """What is certain after this text, in order. Text that may become a mark is held back until it is decided."""
        self._held += text
        return self._advance(is_end=False)

    def flush(self) -> list[Piece]:
        """What was held back, at the end of the completion. What only looked like a mark is text."""
        return self._advance(is_end=True)

    def _advance(self, is_end: bool) -> list[Piece]:
        pieces: list[Piece] = []
        while True:
            state = self._state
            pieces += state(is_end)
            if self._state is state:  # else the rest is for the next one
                return [piece for piece in pieces if piece.text]

    def _before(self, is_end: bool) -> list[Piece]:
        """At the beginning: is there an opening?"""
        text = self._held.lstrip()
        for marks in _WRITTEN:
            for opening in marks.openings:
                if text.startswith(opening):
                    self.has_marks = True
                    self._closings, self._wrapping = marks.closings, marks.answer
                    self._held = text[len(opening) :]
                    self._state = self._thinking
                    return []
                if opening.startswith(text) and not is_end:
                    return []
        self._state = self._thinking if self._is_opened else self._answering
        return []

    def _thinking(self, is_end: bool) -> list[Piece]:
        text = self._held if self._is_begun else self._held.lstrip()
        found = min(((place, mark) for mark in self._closings if (place := text.find(mark)) >= 0), default=None)
        if found:
            place, mark = found
            thought, self._held = text[:place].rstrip(), text[place + len(mark) :]
            self._state = self._after
        elif is_end:
            thought, self._held = text.rstrip(), ""
        else:
            keep = max(overlap(text, mark) for mark in self._closings)
            thought = text[: len(text) - keep].rstrip()
            self._held = text[len(thought) :]
        self._is_begun = self._is_begun or bool(thought)
        return [Piece(thought, is_thinking=True)]

    def _after(self, is_end: bool) -> list[Piece]:
        """Between thought and answer: white space, and what the answer is wrapped in."""
        text = self._held = self._held.lstrip()
        if not text and not is_end:
            return []
        if self._wrapping:
            opening, closing = self._wrapping
            if text.startswith(opening):
                self._wrapping = None
                self._tail = _tail((closing,))
                self._held = text[len(opening) :]
                return self._after(is_end)
            if opening.startswith(text) and not is_end:
                return []
        self._state = self._answering
        return []

    def _answering(self, is_end: bool) -> list[Piece]:
        text = self._held
        found = self._tail.possible.search(text)
        place = found.start() if found else len(text)
        if not is_end:
            self._held = text[place:]
            return [Piece(text[:place], is_thinking=False)]
        self._held = ""
        if self._tail.complete.fullmatch(text, place):
            self.has_marks = True
            text = text[:place]
        return [Piece(text, is_thinking=False)]


def opens_thinking(prompt_tail: str) -> bool:
    """Whether a prompt that ends like this has begun the thought, as templates do that end in `<think>` and a break.

    For the text of the template only: what a user says at the end of a bare prompt opens nothing.
    """
    return opened_by(prompt_tail, FAMILIES) is not None


def closing_of(prompt_tail: str) -> str | None:
    """What closes the thought that a prompt ending like this has begun; None when it has begun none."""
    marks = opened_by(prompt_tail, FAMILIES)
    return None if marks is None else marks.closings[0]


def spelled_in(template: str) -> ThoughtMarks | None:
    """The family whose marks a template spells, in what it writes or in what it takes out of earlier answers."""
    return next((marks for marks in FAMILIES if marks.has_thought and _is_spelled(marks, template)), None)


def _is_spelled(marks: ThoughtMarks, template: str) -> bool:
    return marks.closings[0] in template or marks.openings[0] in template


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of `text` that is a beginning of `mark` (but not all of it)."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)
