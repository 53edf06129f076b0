"""`slm chat`: a conversation in the terminal.

The story: the prompt opens at once while the model loads behind it; each message goes through the chat template, the
answer streams, Ctrl-C keeps what came of it; an error leaves you in the chat with the conversation as it was.
"""

from collections.abc import Sequence

from slmchat.catalog.library import Installed, Library
from slmchat.commands import answering, opening
from slmchat.commands.options import GenerationOptions
from slmchat.commands.run import overflow_choice, read_text, system_text
from slmchat.conversation import window
from slmchat.conversation.attachments import Attachment, compose
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.template import ChatTemplate, raw_prompt
from slmchat.engine.api import Engine, Finish, FinishReason, Limits, Prompt, Session
from slmchat.errors import ExitCode, SlmError
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.line_editor import LineEditor
from slmchat.terminal.slash_commands import CommandTable, SlashCommand, message_of


def chat(name: str | None, options: GenerationOptions, settings: Settings, console: Console) -> ExitCode:
    """Open a conversation and stay in it until Ctrl-D or /exit."""
    if not console.is_interactive:
        raise SlmError(
            "slm chat needs a terminal to type in.",
            hint='in a pipe: echo "text" | slm run "what to do with it"',
            exit_code=ExitCode.USAGE,
        )
    if name and options.model and name != options.model:
        raise SlmError(f"which model: '{name}' or '{options.model}'?", exit_code=ExitCode.USAGE)
    installed = opening.find(name or options.model, settings, console)
    talk = _Chat(installed, options, settings, console)
    try:
        talk.run()
    finally:
        talk.close()
    return ExitCode.DONE


class _Chat:
    """The state of one chat."""

    def __init__(self, installed: Installed, options: GenerationOptions, settings: Settings, console: Console) -> None:
        self.console = console
        self.conversation = Conversation(system=system_text(options.system))
        self._is_trimming = overflow_choice(options) == "trim"
        self._installed = installed
        self._options = options
        self._settings = settings
        self._sampler = opening.sampler_settings(installed, settings, options)
        self._limits = Limits(options.max_tokens, tuple(options.stop))
        self._attachments = [Attachment(read_text(file), file) for file in options.files]
        self._is_leaving = False
        self._tokens_used = 0
        self._n_ctx = 0
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._template: ChatTemplate | None = None
        self._loading = opening.start_loading(installed, options, settings)
        self._editor = LineEditor(
            None if settings.is_private else settings.paths.input_history,
            [(command.name, command.help) for command in COMMANDS.commands],
            self._toolbar,
            is_over=lambda: self._loading.is_failed,
        )
        self._loading.when_done(self._editor.refresh)

    def run(self) -> None:
        """The loop: read, dispatch, answer. Ctrl-C empties the line, Ctrl-D leaves."""
        self.console.note(f"{self._installed.title or self._installed.key}. /help lists the commands, Ctrl-D leaves.")
        while not self._is_leaving:
            try:
                line = self._editor.read()
            except KeyboardInterrupt:
                continue
            except EOFError:
                break
            try:
                self._handle(line)
            except SlmError as error:
                if self._loading.is_failed:
                    raise
                self.console.error(error)
        if self._loading.is_failed:
            self._loading.engine()  # raises what went wrong

    def leave(self) -> None:
        self._is_leaving = True

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        if self._engine is not None:
            self._engine.close()

    def _handle(self, line: str) -> None:
        if not line.strip():
            return
        parsed = COMMANDS.parse(line)
        if parsed is not None:
            command, arguments = parsed
            command.run(self, arguments)
            return
        self._answer(message_of(line))

    def _answer(self, text: str) -> None:
        session = self._open_session()
        question = Message(Role.USER, compose(text, self._attachments))
        messages = [*self.conversation.as_messages(self._installed.key), question]
        prompt, dropped = self._fitted(messages)
        with opening.cancelled_by_ctrl_c(session), self._editor.echo_off():
            answer = answering.show(
                session.generate(prompt, self._sampler, self._limits),
                self.console,
                is_raw_output=self._options.raw_output,
                keeps_space=self._options.raw,
            )
        self.console.write("\n" if answer.text else "")
        self._told_how_it_ended(answer.finish)
        if dropped:
            self.conversation.see_from(self.conversation.visible()[dropped])
        if answer.text:
            self._attachments = []
            is_cut = answer.finish.reason is not FinishReason.STOP
            self.conversation.add(question)
            self.conversation.add(
                Message(Role.ASSISTANT, answer.text, answer.finish.tokens, is_cut, model=self._installed.key)
            )
        usage = answer.finish.usage
        self._tokens_used = usage.prompt_tokens + usage.completion_tokens

    def _open_session(self) -> Session:
        """The session, after waiting for the model if it is still loading."""
        if self._session is None:
            if not self._loading.is_done:
                self.console.status("loading the model …")
            self._engine = self._loading.engine()
            self.console.status("")
            opening.report_native_log(self.console)
            if not self._options.raw:
                info = self._engine.info
                self._template = ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)
            asked = self._options.ctx or self._settings.n_ctx
            self._n_ctx = asked or min(opening.DEFAULT_N_CTX, self._engine.info.trained_context_length)
            self._session = self._engine.open_session(
                opening.session_settings(self._options, self._settings, self._n_ctx)
            )
            if not self._settings.is_private:
                Library(self._settings.paths).remember(self._installed.key)
        return self._session

    def _fitted(self, messages: Sequence[Message]) -> tuple[Prompt, int]:
        """The prompt, and how many of the oldest messages had to go; raises `SlmError` (CONTEXT) unless trimming."""
        assert self._engine is not None
        engine = self._engine
        n_prompt = engine.count(self._prompt(messages))
        if window.fits(n_prompt, self._n_ctx):
            return self._prompt(messages), 0
        if self._is_trimming:
            dropped = window.drop_oldest(messages, lambda kept: engine.count(self._prompt(kept)), self._n_ctx)
            start = 1 if messages[0].role is Role.SYSTEM else 0
            kept = [*messages[:start], *messages[start + dropped :]]
            if dropped and window.fits(engine.count(self._prompt(kept)), self._n_ctx):
                self.console.warn(
                    f"the conversation is {n_prompt:,} tokens and the context window holds {self._n_ctx:,}: "
                    f"the oldest {dropped} messages were dropped."
                )
                return self._prompt(kept), dropped
        raise SlmError(
            f"with this message the conversation is {n_prompt:,} tokens; the context window holds {self._n_ctx:,}.",
            hint="/clear starts afresh; a larger window: slm chat --ctx N; or let the oldest go: --on-overflow trim",
            exit_code=ExitCode.CONTEXT,
        )

    def _prompt(self, messages: Sequence[Message]) -> Prompt:
        return raw_prompt(messages) if self._template is None else self._template.render(messages)

    def _told_how_it_ended(self, finish: Finish) -> None:
        reasons = {
            FinishReason.LENGTH: "the answer was cut at the limit of -n",
            FinishReason.CONTEXT: f"the context window of {self._n_ctx:,} tokens is full; /clear starts afresh",
            FinishReason.INTERRUPTED: "stopped",
        }
        if finish.reason in reasons:
            self.console.note(f"({reasons[finish.reason]})")
        self.console.detail(answering.describe(finish))

    def _toolbar(self) -> str:
        state = [self._installed.key]
        if self._loading.is_failed:
            state.append("could not be loaded")
        elif not self._loading.is_done:
            state.append("loading …")
        elif self._n_ctx:
            state.append(f"{self._tokens_used:,} of {self._n_ctx:,} tokens")
        if self._settings.is_private:
            state.append("private: nothing is written")
        return " · ".join(state)


def _help(chat: _Chat, _arguments: str) -> None:
    for line in COMMANDS.help_lines():
        chat.console.note(line)
    chat.console.note("Enter sends; Alt-Enter or Ctrl-J makes a new line; Ctrl-C stops an answer; Ctrl-D leaves.")


def _exit(chat: _Chat, _arguments: str) -> None:
    chat.leave()


def _clear(chat: _Chat, _arguments: str) -> None:
    chat.conversation.go_to(None)
    chat.console.note("The conversation is empty; the system message stays.")


def _system(chat: _Chat, arguments: str) -> None:
    if not arguments:
        chat.console.note(chat.conversation.system or "There is no system message; /system TEXT sets one.")
        return
    chat.conversation.system = None if arguments == '""' else arguments
    chat.console.note("The system message is set." if chat.conversation.system else "The system message is removed.")


COMMANDS: CommandTable[_Chat] = CommandTable(
    (
        SlashCommand("help", "", "show the commands", _help),
        SlashCommand("exit", "", "leave (also Ctrl-D)", _exit),
        SlashCommand("clear", "", "start the conversation afresh", _clear),
        SlashCommand("system", "[TEXT]", 'show or set the system message; "" removes it', _system),
    )
)
