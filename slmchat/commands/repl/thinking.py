"""`/think` in the chat: let the model think or not, limit the thought, fold or show it.

Knows: what is typed and told. Refuses to know: how a model is told (conversation/thinking_switch.py).
"""

from collections.abc import Iterable

from slmchat.commands.repl.app import ChatApp
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.errors import ExitCode, SlmError
from slmchat.ranges import THINK_BUDGET
from slmchat.wording import counted

_WORDS = {
    "on": "let the model think before it answers",
    "off": "let it answer at once",
    "auto": "as the model's maker has it",
    "hide": "fold the thoughts",
    "show": "show the thoughts",
}


def command(chat: ChatApp, arguments: str) -> None:
    """`/think`, `/think on|off|auto`, `/think N`, `/think hide|show`. Raises `SlmError` (USAGE)."""
    word = arguments.strip().casefold()
    asked = chat.session.thinking
    if word in ("hide", "show"):
        chat.answers.shows_thinking = word == "show"
    elif word in list(ThinkingMode):
        mode = ThinkingMode(word)
        budget = 0 if mode is ThinkingMode.OFF else asked.budget or None
        chat.session.set_thinking(Thinking(mode, budget))
    elif word.isdecimal() and THINK_BUDGET.holds(int(word)):
        is_switched = int(word) == 0 or asked.mode is ThinkingMode.OFF
        mode = ThinkingMode.OFF if int(word) == 0 else ThinkingMode.ON if is_switched else asked.mode
        chat.session.set_thinking(Thinking(mode, int(word)))
    elif word:
        raise SlmError(
            f"/think cannot be '{arguments.strip()}'.",
            hint=f"{', '.join(_WORDS)}, or a number of tokens (0: none)",
            exit_code=ExitCode.USAGE,
        )
    chat.console.note(_state(chat.session.thinking, is_shown=chat.answers.shows_thinking))


def _state(asked: Thinking, *, is_shown: bool) -> str:
    limit = f", at most {counted(asked.budget, 'token')}" if asked.budget else ""
    return f"Thinking: {asked.mode}{limit}; thoughts are {'shown' if is_shown else 'folded'}."


def complete(_chat: ChatApp, text: str) -> Iterable[tuple[str, str]]:
    """The words, each with what it does."""
    return ((word, what) for word, what in _WORDS.items() if word.startswith(text))
