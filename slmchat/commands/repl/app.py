"""The chat in the terminal: what its loop and its slash commands share.

The story: the prompt opens at once while the model loads behind it; each message goes to the model and its answer
streams; slash commands do the rest. Ctrl-C stops an answer and keeps what came of it; an error leaves you in the chat
with the conversation as it was and your message back in the line.

Knows: the loop, how an answer is shown and how it ended. Refuses to know: single slash commands (slash_commands.py),
how a conversation goes on (generation/chat_session.py).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.commands.inputs import read_text, system_text
from slmchat.commands.repl.hints import in_chat
from slmchat.conversation import pictures, window
from slmchat.conversation.archive import Archive
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Conversation, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.engine.cancellable import Cancellable
from slmchat.engine.requests import counting_adapters
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.chat_session import ChatSession, Overflow
from slmchat.generation.response import Response, StreamHandler, describe, silence
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import adapters
from slmchat.models.backend import Backend, BackendModel
from slmchat.models.open import OpenModel
from slmchat.models.session_settings import DRAFT_AUTO
from slmchat.options import ChatOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.answer_screen import AnswerScreen
from slmchat.terminal.answer_view import ChatView
from slmchat.terminal.console import Console
from slmchat.terminal.early_prompt import EarlyPrompt
from slmchat.terminal.interrupts import cancelled_by_ctrl_c
from slmchat.terminal.line_editor import LineEditor
from slmchat.terminal.sentence_view import SentenceView
from slmchat.terminal.slash_commands import CommandTable, as_typed, message_of
from slmchat.terminal.typed_ahead import TypedAhead
from slmchat.user_paths import user_path
from slmchat.wording import counted

if TYPE_CHECKING:
    from slmchat.commands.repl.chat_documents import ChatDocuments

# What helps when all of an answer was thought.
THOUGHT_HELP = ", /think N limits the thought, /think off leaves it out"
# An answer that takes so long is not watched, in seconds.
_LONG_S = 10.0
# What people type to leave other programs.
_LEAVING_WORDS = ("exit", "quit", "bye", ":q")


def usage(message: str, hint: str | None = None) -> SlmError:
    """An error of what was typed."""
    return SlmError(message, hint=hint, exit_code=ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class MessageHooks:
    """What commands do around a message. `before`: what goes along is attached; `behind`: an answer is there;
    `resting`: while the user reads it and types the next one."""

    before: "Callable[[ChatApp, str], None]" = lambda _chat, _text: None
    behind: "Callable[[ChatApp], None]" = lambda _chat: None
    resting: "Callable[[ChatApp], AbstractContextManager[None]]" = lambda _chat: nullcontext()


class ChatApp:
    """What the loop and the commands share. Implements `ChatDelegate`."""

    def __init__(
        self,
        place: Backend,
        options: GenerationOptions,
        chat_options: ChatOptions,
        settings: Settings,
        console: Console,
        table: "CommandTable[ChatApp]",
        hooks: MessageHooks | None = None,
        exports: Path | None = None,
        model: BackendModel | None = None,
        early: EarlyPrompt | None = None,
    ) -> None:
        """`place`: where the models are; `table`: the slash commands; `hooks`: what happens around a message;
        `exports`: where `/export` writes, None: in slm's own directory for that; `model`: that of a new conversation,
        None: it is to be found; `early`: the prompt that may stand there already.

        Raises `SlmError` (interrupted) when a conversation may not leave for the place.
        """
        self.place = place
        self._table = table
        self._hooks = hooks or MessageHooks()
        self.titled: set[str] = set()  # conversations for which the model has been asked for a title
        self.exports = exports or settings.paths.exports
        self.console = console
        self.settings = settings
        self.options = options
        self._has_bell = chat_options.bell
        self.is_plain = console.is_dumb or not console.has_color
        self.shows_thinking = True
        self.shows_doubt = False
        self.shows_stats = console.is_verbose
        self.is_private = settings.is_private
        self.next_text = ""
        self._typed = early.typed if early is not None else TypedAhead()
        self._sends_typed = True  # what was typed ahead, if Enter was pressed behind it
        self._progress = AnswerProgress()
        self.screen = AnswerScreen(console, self._typed, self._progress_line, is_redrawn=not self.is_plain)
        self._told_problem: str | None = None
        self._editing_mode = "vi" if chat_options.vi else "emacs"
        self._overflow = params.overflow_choice(options) if options.on_overflow else None
        self._is_leaving = False
        self.archive = Archive(settings.paths.sessions)
        self.recorder: ArchiveRecorder | None = None
        if not self.is_private:
            self.recorder = ArchiveRecorder(self.archive, console.warn)
        conversation = self._first_conversation(chat_options)
        # before the model: its loading would share the interpreter with the imports that the prompt waits for
        self.editor = self._new_editor(early)
        if not self.may_send(conversation):
            raise SlmError("nothing of the conversation has been sent.", exit_code=ExitCode.INTERRUPTED)
        model = (model or self._model_of(conversation)).with_projector(options.mmproj)
        self.session = ChatSession(self._opened(model), conversation, options, self)
        self.session.examples = params.example_messages(params.persona_of(options, settings))
        for file in map(Path, options.files):
            path = user_path(file)
            if pictures.is_picture(path):
                self.session.pictures.append(pictures.read(path))
            else:
                self.session.attachments.append(Attachment(read_text(str(file)), file.name))
        if self.session.pictures:
            self.session.model.check_vision(settings)
        self.session.opened.loading.when_done(self.editor.refresh)

    @cached_property
    def documents(self) -> "ChatDocuments":
        """The documents of this chat. All of retrieval is imported for them: not before the first `/docs`."""
        from slmchat.commands.repl.chat_documents import ChatDocuments

        return ChatDocuments()

    @property
    def has_documents(self) -> bool:
        """Whether there has been a `/docs`."""
        return "documents" in self.__dict__

    # The loop

    def loop(self) -> None:
        """Read, dispatch, answer. Ctrl-C empties the line, Ctrl-D leaves."""
        is_over = False
        while not is_over:
            with suppress(KeyboardInterrupt):  # one more, while the one before is told: a key that is held down
                is_over = self._take_turns()
        if self.session.opened.loading.is_failed:
            self.session.opened.loading.engine()  # raises what went wrong

    def _take_turns(self) -> bool:
        """Until the chat is over: True. Raises KeyboardInterrupt for one that comes between two turns."""
        while not self._is_leaving:
            try:
                line = self._next_line()
            except EOFError:
                break
            self._handle(line)
        return True

    def _next_line(self) -> str:
        """What is entered, "" for Ctrl-C. Raises EOFError for Ctrl-D."""
        text, self.next_text = self.next_text, ""
        line = ""
        try:
            with self._hooks.resting(self):
                line = self.editor.read(default=text, sends_typed=self._sends_typed)
        except KeyboardInterrupt:
            self.next_text = line  # it was entered, and what rested had not ended yet
            self.console.note("(cancelled; your message is back in the line)" if line else "(Ctrl-D or /exit leaves)")
            return ""
        self._warn_of_history()
        self._sends_typed = True
        return line

    def _warn_of_history(self) -> None:
        """Once: the history of what is typed cannot be kept."""
        problem = self.editor.history_problem
        if problem and problem != self._told_problem:
            self._told_problem = problem
            self.console.warn(problem)

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        try:
            parsed = self._table.parse(line)
            if parsed is None:
                self.send(message_of(line))
            else:
                command, arguments = parsed
                command.run(self, arguments)
        except SlmError as error:
            if self.session.opened.loading.is_failed:
                raise
            self.console.error(in_chat(error))
        except KeyboardInterrupt:  # while the model is loading, or a second one while an answer stops
            self.console.status("")
            self.console.note("(cancelled)")

    @property
    def can_redraw(self) -> bool:
        """Whether something may stand on the terminal for a while and go again."""
        return not self.is_plain and self.editor.is_full

    def send(self, text: str) -> None:
        """A message to the model. When nothing comes of it, the text is back in the line."""
        if text.strip().lower() in _LEAVING_WORDS and not self._is_meant(text.strip()):
            return
        with self.answering():
            try:
                self._hooks.before(self, text)
                answer = self.session.send(text)
            except (SlmError, KeyboardInterrupt):
                self.next_text = as_typed(text)
                raise
            if answer is None:
                self.next_text = as_typed(text)
                self.console.note("(cancelled; your message is back in the line)")
            else:
                self._hooks.behind(self)
            self.told(answer)

    def _is_meant(self, word: str) -> bool:
        """Whether a lone `exit` is a message. Most people who type it want to leave."""
        choices = [("y", "leave the chat"), ("s", f"send '{word}' to the model")]
        answer = self.editor.ask(f"'{word}' by itself:", choices)
        if answer == "y":
            self.leave()
        return answer == "s"

    @contextmanager
    def answering(self) -> Iterator[None]:
        """From Enter to the next prompt: the terminal says what is being done, and keeps what is typed."""
        self._progress = AnswerProgress()
        with self.screen.held():
            yield

    def told(self, answer: Response | None) -> None:
        """Say how an answer ended, when the user should know; the chat rests until the next message."""
        if answer is None or answer.finish is None:
            return
        self._sends_typed = answer.finish.reason is not FinishReason.INTERRUPTED
        reasons = {
            FinishReason.LENGTH: "cut at the limit of tokens; /continue goes on",
            FinishReason.CONTEXT: f"{self._window()} is full; /continue makes room",
            FinishReason.REPETITION: "ended, since it went round in circles; /retry asks again, /continue goes on",
            FinishReason.INTERRUPTED: "stopped; /continue goes on",
        }
        empty = silence(answer, answer.finish.usage, answer.finish.reason)
        if empty:
            self.console.note(f"({empty}; /retry asks again{THOUGHT_HELP if answer.thinking else ''})")
        elif not answer.text:
            self.console.note("(stopped before the answer; /retry asks again)")
        elif answer.finish.reason in reasons:
            self.console.note(f"({reasons[answer.finish.reason]})")
        if self.shows_stats:
            self.console.note(describe(answer.finish.reason, answer.finish.usage, answer.finish.timings))
        if self._has_bell and (self.console.is_accessible or self._progress.elapsed() >= _LONG_S):
            self.console.ring()
        if not self.console.is_accessible:
            self.console.note("")
        self.session.keep(is_resting=True)

    def _window(self) -> str:
        return f"the context window of {self.session.n_ctx:,} tokens" if self.session.n_ctx else "the context window"

    def leave(self) -> None:
        self._is_leaving = True

    def close(self) -> None:
        """Write down what is left, free everything."""
        if self.has_documents:
            self.documents.close()
        self.session.close()
        if self.recorder is not None:
            self.recorder.close()
            if self.recorder.error:
                self.console.warn(f"what was said last is not saved: {self.recorder.error.message}")
        else:
            self.archive.close()

    # Conversations and models

    def _first_conversation(self, asked: ChatOptions) -> Conversation:
        if asked.session:
            return self.resumed(self.archive.find(asked.session).id)
        if asked.goes_on:
            latest = self.archive.latest()
            if latest is None:
                raise SlmError("there is no saved conversation to go on with.", exit_code=ExitCode.USAGE)
            return self.resumed(latest.id)
        return Conversation(system_text(self.options.system), self.recorder)

    def resumed(self, id: str) -> Conversation:
        """A saved conversation, recorded from now on unless this chat is private."""
        conversation = self.archive.load(id) if self.recorder is None else self.recorder.resume(id)
        given = system_text(self.options.system)
        if given is not None:
            conversation.system = given
        return conversation

    def may_send(self, conversation: Conversation) -> bool:
        """Whether this conversation may leave for where the models are: the user is asked if it is not here."""
        if self.place.host is None or not conversation.roots:
            return True
        messages = counted(len(conversation.as_messages()), "message")
        question = f"To go on at {self.place.host}, {messages} of this conversation would {self.place.what_happens}."
        return self.editor.ask(question, [("y", "send them"), ("n", "keep them here")]) == "y"

    def _model_of(self, conversation: Conversation) -> BackendModel:
        """The model asked for, else the one that answered last in this conversation if it can answer here."""
        if not self.options.model:
            answered = conversation.last(Role.ASSISTANT)
            if answered is not None and answered.message.model:
                try:
                    return self.place.find_again(answered.message.model, self.settings, self.console)
                except SlmError as error:
                    self.console.warn(error.message)
        return self.place.find(self.options.model, self.settings, self.console)

    def _opened(self, model: BackendModel) -> OpenModel:
        return OpenModel(
            self.place.warmed(model, self.options, self.settings), self.options, self.settings, self.console
        )

    def switch_model(self, model: BackendModel) -> None:
        """Let another model go on, with its own adapters and without the draft model of the one before."""
        draft = self.options.draft if self.options.draft == DRAFT_AUTO else None
        if self.options.draft != draft:
            self.console.note(f"{self.options.draft} no longer drafts: it was chosen for the model before")
        self.options = replace(self.options, draft=draft, lora=[])
        self.session.switch_model(lambda: self._opened(model))

    def go_private(self) -> None:
        """From now on nothing is written: no recorder, the history in memory, no core dump."""
        from slmchat.privacy import dumps

        dumps.switch_off()
        self.is_private = True
        if self.recorder is not None:
            self.recorder.flush()
        self.recorder = self.session.conversation.recorder = None
        self.session.go_private()
        self.settings = self.session.opened.settings
        self.editor = self._new_editor()

    def _new_editor(self, early: EarlyPrompt | None = None) -> LineEditor:
        return LineEditor(
            history_file=None if self.is_private else self.settings.paths.input_history,
            table=self._table,
            state=self,
            toolbar=self.toolbar,
            typed=self._typed,
            is_plain=self.console.is_accessible,
            is_over=lambda: self.session.opened.loading.is_failed,
            editing_mode=self._editing_mode,
            early=early,
        )

    # The host of the session

    def handler(self) -> StreamHandler:
        self._progress = AnswerProgress()
        if self.console.is_accessible and not self.session.options.raw_output:
            return SentenceView(
                self.console, shows_thinking=self.shows_thinking, progress=self._progress, screen=self.screen
            )
        return ChatView(
            self.console,
            is_plain=self.is_plain,
            shows_thinking=self.shows_thinking,
            progress=self._progress,
            screen=self.screen,
            shows_doubt=self.shows_doubt,
            is_raw=self.session.options.raw_output,
        )

    def reading(self) -> StreamHandler:
        """What shows that a prompt is read, and nothing of what is generated."""
        from slmchat.retrieval.steps import ReadingHandler  # asked for documents alone

        self._progress = AnswerProgress()
        return ReadingHandler(self._progress.reads)

    @contextmanager
    def _quiet(self, work: Cancellable) -> Iterator[None]:
        with cancelled_by_ctrl_c(work), self.screen.held():
            yield

    def cancellable(self, session: Cancellable) -> AbstractContextManager[None]:
        return self._quiet(session)

    def is_saved(self, id: str) -> bool:
        return self.recorder is not None and self.archive.has(id)

    def on_overflow(self, overflow: Overflow) -> str:
        what = "The conversation with this message is" if overflow.can_begin_afresh else "The conversation is"
        numbers = f"{window.overflow(what, overflow.n_prompt, overflow.n_ctx, about=self.session.about)}."
        if self._overflow == "trim":
            self.console.note(numbers)
            return "drop"
        if self._overflow == "fail":
            raise SlmError(numbers, hint="/clear starts afresh; /set ctx N makes it larger", exit_code=ExitCode.CONTEXT)
        choices = [("d", "drop the oldest exchanges (the model forgets them, you keep them; /compact undo goes back)")]
        if overflow.can_summarise:
            choices.append(("s", "summarise them with the model; you see the summary before it stands for them"))
        if overflow.can_begin_afresh:
            choices.append(("f", "start a fresh conversation with this message"))
        choices.append(("c", "cancel"))
        answer = self.asked(numbers, choices)
        return {"d": "drop", "s": "summarise", "f": "fresh"}.get(answer or "c", "cancel")

    def on_summary(self, summary: str) -> str:
        choices = [
            ("y", "let it stand for what was said before (/compact undo goes back)"),
            ("d", "drop what was said before, without the summary"),
            ("c", "cancel"),
        ]
        answer = self.asked("The summary is above.", choices)
        return {"y": "keep", "d": "drop"}.get(answer or "c", "cancel")

    def asked(self, question: str, choices: list[tuple[str, str]]) -> str | None:
        with self.screen.released():
            return self.editor.ask(question, choices)

    def toolbar(self) -> str:
        """The line below the prompt: model, window, what is attached, whether anything is written."""
        session = self.session
        state = [session.label]
        if session.opened.loading.is_failed:
            state.append("could not be loaded")
        elif not session.opened.loading.is_done:
            state.append("loading …")
        state += self._meter(session.tokens_used)
        if counting := counting_adapters(session.adapters):
            state.append(f"lora {adapters.labels(counting)}")
        if session.attachments:
            state.append(f"{counted(len(session.attachments), 'file')} attached")
        if session.pictures:
            state.append(f"{counted(len(session.pictures), 'picture')} attached")
        if self.is_private:
            state.append("private: nothing is written")
        elif self.recorder is not None and self.recorder.error:
            state.append("NOT SAVED")
        return " · ".join(state)

    def _meter(self, n_used: int) -> list[str]:
        """How full the window is: `131/8,192 (2 %)`; nothing while nothing is known."""
        about, n_ctx = self.session.about, self.session.window_size
        if n_ctx:
            return [f"{about}{n_used:,}/{n_ctx:,} ({100 * n_used // n_ctx} %)"]
        return [f"{about}{n_used:,} tokens"] if n_used else []

    def _progress_line(self) -> str:
        """The same while an answer is made. Asked from another thread."""
        progress, label = self._progress, self.session.label
        if self.console.is_accessible:
            return progress.reading()
        if not progress.is_answering:
            return f"{label} · {progress.reading()} · Ctrl-C cancels"
        speed = progress.speed()
        return " · ".join([label, *self._meter(progress.n_used), *([speed] if speed else []), "Ctrl-C stops"])
