"""What the line at the bottom of a chat says: the model, how full its window is, what goes along, what is not written.

Knows: the facts and their order. Refuses to know: where and when the line is drawn (terminal/).
"""

from collections.abc import Sequence

from slmchat.engine.requests import counting_adapters
from slmchat.generation.chat_session import ChatSession
from slmchat.models import adapters
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.markdown_layout import text_width
from slmchat.wording import counted


def below_prompt(session: ChatSession, columns: int, *, is_private: bool, is_unsaved: bool) -> str:
    """The line while a message is typed, in a window of so many columns. `is_unsaved`: what was said could not be."""
    state = ["NOT SAVED"] if is_unsaved else []
    if session.opened.loading.is_failed:
        state.append("could not be loaded")
    elif not session.opened.loading.is_done:
        state.append("loading …")
    state += _meter(session, session.tokens_used)
    if counting := counting_adapters(session.adapters):
        state.append(f"lora {adapters.labels(counting)}")
    if session.attachments:
        state.append(f"{counted(len(session.attachments), 'file')} attached")
    if session.pictures:
        state.append(f"{counted(len(session.pictures), 'picture')} attached")
    if is_private:
        state.append("private: nothing is written")
    return _with_label(session, state, columns)


def while_answering(session: ChatSession, progress: AnswerProgress, columns: int) -> str:
    """The line while an answer is made. Asked from another thread."""
    if not progress.is_answering:
        return _with_label(session, [progress.reading(), "Ctrl-C cancels"], columns)
    speed = progress.speed()
    state = [*_meter(session, progress.n_used), *([speed] if speed else []), "Ctrl-C stops"]
    return _with_label(session, state, columns)


def _with_label(session: ChatSession, state: Sequence[str], columns: int) -> str:
    """The name of the model before all of it, where the window has room: it is what the user knows best."""
    whole = " · ".join([session.label, *state])
    return whole if not state or text_width(whole) < columns else " · ".join(state)


def _meter(session: ChatSession, n_used: int) -> list[str]:
    """How full the window is: `131/8,192 (2 %)`; nothing while nothing is known."""
    about, n_ctx = session.about, session.window_size
    if n_ctx:
        return [f"{about}{n_used:,}/{n_ctx:,} ({100 * n_used // n_ctx} %)"]
    return [f"{about}{n_used:,} tokens"] if n_used else []
