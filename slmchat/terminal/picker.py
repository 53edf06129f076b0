"""One of many, chosen with arrows: a list with the chosen line marked, letters that narrow it, a preview below.

Knows: keys, how many lines there are, cutting to the window. Refuses to know: what is chosen, and what for.
It stands below the prompt and goes when a choice is made; the scrollback gets one line of it.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slmchat.lazy_dataclasses import dataclass
from slmchat.sanitize import sanitize
from slmchat.terminal import interrupts, restore
from slmchat.terminal.key_input import ignore_mouse
from slmchat.terminal.markdown_layout import cut_to_width, text_width

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

# Lines of the list, and of the preview, where the window has room.
_MOST_LINES, _PREVIEW_LINES = 10, 3
# Columns of a name, before what is told beside it is left out.
_LEAST_NAME = 14
_KEYS = "Up and Down choose, letters search, Enter takes, Esc leaves"


@dataclass(frozen=True, slots=True)
class Pickable:
    """A line of the list: a name, and what is told beside it."""

    name: str
    facts: str = ""


@dataclass(slots=True)
class _State:
    """What is typed, what it leaves of the choices, which of those is marked."""

    choices: Sequence[Pickable]
    typed: str = ""
    at: int = 0

    def found(self) -> list[int]:
        wanted = self.typed.casefold()
        return [place for place, choice in enumerate(self.choices) if wanted in choice.name.casefold()]

    def move(self, lines: int) -> None:
        self.at = max(0, min(self.at + lines, len(self.found()) - 1))

    def search(self, typed: str) -> None:
        self.typed, self.at = typed, 0

    @property
    def chosen(self) -> int | None:
        found = self.found()
        return found[self.at] if found else None


def pick(question: str, choices: Sequence[Pickable], preview: Callable[[int], str]) -> int | None:
    """The place of the choice; None for Esc and Ctrl-C. `preview`: a few lines about one of them."""
    from prompt_toolkit.application import Application, get_app
    from prompt_toolkit.layout import FormattedTextControl, HSplit, Layout, Window

    state = _State(choices)

    def lines() -> str:
        size = get_app().output.get_size()
        return "\n".join(_drawn(question, state, preview, size.columns, size.rows))

    body = Window(FormattedTextControl(lines, focusable=True, show_cursor=False), dont_extend_height=True)
    app: Application[int | None] = Application(
        layout=Layout(HSplit([body])), key_bindings=_keys(state), erase_when_done=True
    )
    app.ttimeoutlen = app.timeoutlen = 0.05
    app.renderer.cpr_not_supported_callback = None  # line_editor.py says why
    with interrupts.left_alone(), restore.undone("picker", restore.PROMPT):
        return app.run()


def _drawn(question: str, state: _State, preview: Callable[[int], str], columns: int, rows: int) -> list[str]:
    """All lines, each cut to the window."""
    room = max(1, min(_MOST_LINES, rows - _PREVIEW_LINES - 4))
    found = state.found()
    first = max(0, min(state.at - room // 2, len(found) - room))
    shown = []
    for number, place in enumerate(found[first : first + room], first):
        choice = state.choices[place]
        mark = "> " if number == state.at else "  "
        name, facts = _safe(choice.name), f"  {choice.facts}" if choice.facts else ""
        if columns - 3 - text_width(facts) < min(text_width(name), _LEAST_NAME):
            facts = ""  # what is chosen is told from the others by its name
        name = cut_to_width(name, columns - 3 - text_width(facts))
        shown.append(cut_to_width(f"{mark}{name}{facts}", columns - 1))
    typed = f" {state.typed}" if state.typed else ""
    head = cut_to_width(f"{question} ({len(found)} of {len(state.choices)}){typed}", columns - 1)
    told = [cut_to_width(f"  {_safe(line)}", columns - 1) for line in _preview(state, preview).split("\n")]
    keys = cut_to_width(_KEYS, columns - 1)
    return [head, *(shown or ["  (nothing has these letters)"]), "", *told[:_PREVIEW_LINES], keys]


def _preview(state: _State, preview: Callable[[int], str]) -> str:
    return preview(state.chosen) if state.chosen is not None else ""


def _safe(text: str) -> str:
    return sanitize(text, one_line=True)


def _keys(state: _State) -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys = KeyBindings()
    ignore_mouse(keys)
    for names, lines in ((("up", "c-p"), -1), (("down", "c-n", "tab"), 1), (("pageup",), -8), (("pagedown",), 8)):
        for name in names:
            keys.add(name)(lambda _event, lines=lines: state.move(lines))
    keys.add("home")(lambda _event: state.move(-len(state.choices)))
    keys.add("end")(lambda _event: state.move(len(state.choices)))
    keys.add("backspace")(lambda _event: state.search(state.typed[:-1]))
    keys.add("c-u")(lambda _event: state.search(""))

    @keys.add("enter")
    def _take(event: "KeyPressEvent") -> None:
        if state.chosen is not None:
            event.app.exit(result=state.chosen)

    @keys.add("escape", eager=True)
    @keys.add("c-c")
    @keys.add("c-d")
    @keys.add("<sigint>")
    def _leave(event: "KeyPressEvent") -> None:
        event.app.exit(result=None)

    @keys.add("c-z")
    def _suspend(event: "KeyPressEvent") -> None:
        event.app.suspend_to_background()

    @keys.add(Keys.Any)
    def _letter(event: "KeyPressEvent") -> None:
        if event.data.isprintable():
            state.search(state.typed + event.data)

    return keys
