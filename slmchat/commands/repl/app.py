"""The chat in the terminal: what its loop and its slash commands share.

The story: the prompt opens at once while the model loads behind it; each message goes to the model and its answer
streams; slash commands do the rest. Ctrl-C stops an answer and keeps what came of it; an error leaves you in the chat
with the conversation as it was and your message back in the line.

Knows: the loop, which conversation and which model it is about. Refuses to know: single slash commands
(slash_commands.py), how an answer is shown (answers.py), how a conversation goes on (generation/chat_session.py).
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.commands.inputs import read_text, system_text
from slmchat.commands.repl import status_line
from slmchat.commands.repl.answers import AnswerDisplay
from slmchat.commands.repl.hints import in_chat
from slmchat.conversation import pictures
from slmchat.conversation.archive import Archive
from slmchat.conversation.attachments import Attachment
from slmchat.conversation.messages import Conversation, Role
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import params
from slmchat.generation.chat_session import ChatSession
from slmchat.generation.response import Response
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.backend import Backend, BackendModel
from slmchat.models.open import OpenModel
from slmchat.models.session_settings import DRAFT_AUTO
from slmchat.options import ChatOptions, GenerationOptions
from slmchat.settings import Settings
from slmchat.terminal.answer_progress import AnswerProgress
from slmchat.terminal.console import Console
from slmchat.terminal.early_prompt import EarlyPrompt
from slmchat.terminal.line_editor import LineEditor
from slmchat.terminal.slash_commands import CommandTable, as_typed, message_of
from slmchat.terminal.typed_ahead import TypedAhead
from slmchat.user_paths import user_path
from slmchat.wording import counted

if TYPE_CHECKING:
    from slmchat.commands.repl.chat_documents import ChatDocuments

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
    """What the loop and the commands share."""

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
        self.is_private = settings.is_private
        self.next_text = ""
        self._typed = early.typed if early is not None else TypedAhead()
        self._sends_typed = True  # what was typed ahead, if Enter was pressed behind it
        self.answers = AnswerDisplay(
            console,
            self._typed,
            options,
            has_bell=chat_options.bell,
            line=self._line_while_answering,
            ask=lambda question, choices: self.editor.ask(question, choices),
            is_saved=self.is_saved,
        )
        self._told_problem: str | None = None
        self._editing_mode = "vi" if chat_options.vi else "emacs"
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
        self.session = ChatSession(self._opened(model), conversation, options, self.answers)
        self.session.examples = params.example_messages(params.persona_of(options, settings))
        self._take_along(options.files)
        self.session.opened.loading.when_done(self.editor.refresh)

    def _take_along(self, files: Iterable[str]) -> None:
        """What `-f` names goes along with the first message. Raises `SlmError`."""
        session = self.session
        for file in map(Path, files):
            path = user_path(file)
            if pictures.is_picture(path):
                session.pictures.append(pictures.read(path))
            else:
                session.attachments.append(Attachment(read_text(str(file)), file.name))
        if session.pictures:
            session.model.check_vision(self.settings)

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
        return not self.answers.is_plain and self.editor.is_full

    def send(self, text: str) -> None:
        """A message to the model. When nothing comes of it, the text is back in the line."""
        if text.strip().lower() in _LEAVING_WORDS and not self._is_meant(text.strip()):
            return
        with self.answers.held():
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

    def told(self, answer: Response | None) -> None:
        """Say how an answer ended, None: before it began; the chat rests until the next message."""
        if answer is None:
            self.console.note("(cancelled; nothing has changed)")
        if answer is None or answer.finish is None:
            return
        self._sends_typed = answer.finish.reason is not FinishReason.INTERRUPTED
        self.answers.tell_end(answer, self.session.n_ctx)
        self.session.keep(is_resting=True)

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

    def is_saved(self, id: str) -> bool:
        """Whether the conversation with this id is on the disk."""
        return self.recorder is not None and self.archive.has(id)

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

    def toolbar(self) -> str:
        """The line below the prompt."""
        is_unsaved = self.recorder is not None and self.recorder.error is not None
        columns = self.console.size[0]
        return status_line.below_prompt(self.session, columns, is_private=self.is_private, is_unsaved=is_unsaved)

    def _line_while_answering(self, progress: AnswerProgress) -> str:
        if self.console.is_accessible:
            return progress.reading()
        return status_line.while_answering(self.session, progress, self.console.size[0])
