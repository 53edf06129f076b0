"""Writing a conversation into the archive while it happens.

Knows: what has changed since the last write, how often a growing answer is written, what to do when a write fails.
Refuses to know: SQL (archive.py), who talks and what is shown.

An answer that grows is kept as cut until it is complete, so that one interrupted by `kill -9` says so when it is read
again. It is complete with `flush`, or with the next message or move.
"""

import time
from collections.abc import Callable
from dataclasses import field

from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Node, Role
from slmchat.errors import SlmError
from slmchat.lazy_dataclasses import dataclass

# Seconds between two writes of a growing answer: the most that `kill -9` can lose.
INTERVAL_S = 0.5
# Seconds that a write waits for another slm: while an answer grows, which it would hold up, and otherwise.
_SHORT_WAIT_S = 0.1
_WAIT_S = 2.0
# Seconds without a write before a growing answer that finds the archive busy is worth a warning.
_PATIENCE_S = 3.0
# Seconds between two tries once writing has failed.
_RETRY_S = 5.0


@dataclass(slots=True)
class _Unsaved:
    """What the archive does not have yet of one conversation. `growing` are the answers not known to be complete."""

    conversation: Conversation
    nodes: dict[str, Node] = field(default_factory=dict)
    growing: dict[str, Node] = field(default_factory=dict)
    is_moved: bool = False

    def settle(self) -> None:
        """Nothing grows any more: write it once again, without the mark."""
        self.nodes.update(self.growing)
        self.growing.clear()


class ArchiveRecorder:
    """A `Recorder` that writes into the archive. A session is kept from its first message on.

    A write that fails never ends the chat: `warn` is told once, `error` holds the reason until all is saved again,
    and every later change tries again with all that is missing. For one thread: the one that talks.
    """

    def __init__(
        self, archive: Archive, warn: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.archive = archive
        self.error: SlmError | None = None
        self._warn = warn
        self._clock = clock
        self._unsaved: dict[str, _Unsaved] = {}
        self._titles: dict[str, str] = {}  # as the archive has them, as far as this recorder knows
        self._tried_at = self._saved_at = float("-inf")

    def resume(self, id: str) -> Conversation:
        """The conversation with this id, from now on recorded here. Raises `SlmError`."""
        if id in self._unsaved:  # left while it could not be saved: here is more of it than in the archive
            return self._unsaved[id].conversation
        conversation = self.archive.load(id)
        conversation.recorder = self
        self._titles[id] = conversation.title
        return conversation

    def unsaved(self, beginning: str) -> str | None:
        """The id that begins so of a conversation that could not be saved: the archive does not find it."""
        return next((id for id in self._unsaved if id.startswith(beginning)), None) if self.error else None

    def added(self, conversation: Conversation, node: Node) -> None:
        unsaved = self._of(conversation)
        unsaved.settle()
        unsaved.nodes[node.id] = node
        if node.message.role is Role.ASSISTANT:
            unsaved.growing[node.id] = node
        self._write()

    def updated(self, conversation: Conversation, node: Node) -> None:
        unsaved = self._of(conversation)
        unsaved.nodes[node.id] = unsaved.growing[node.id] = node
        if self._clock() - self._tried_at >= (_RETRY_S if self.error else INTERVAL_S):
            self._write(is_growing=True)

    def moved(self, conversation: Conversation) -> None:
        if conversation.roots:
            self._of(conversation).is_moved = True
            self.flush()

    def flush(self) -> None:
        """All that was told is complete: write what is missing now, whatever the interval."""
        for unsaved in self._unsaved.values():
            unsaved.settle()
        self._write()
        if not self.error:
            self.archive.refresh_index()

    def close(self) -> None:
        """The chat is over. What still cannot be written is lost; `error` says why."""
        self.flush()
        self.archive.close()

    def _of(self, conversation: Conversation) -> _Unsaved:
        return self._unsaved.setdefault(conversation.id, _Unsaved(conversation))

    def _write(self, *, is_growing: bool = False) -> None:
        """All that is unsaved. `is_growing`: in the middle of an answer, so be quick; kill -9 is survived all the same,
        a power cut only by what comes at the end."""
        self._tried_at = self._clock()
        for unsaved in list(self._unsaved.values()):
            if not unsaved.nodes and not unsaved.is_moved:
                continue
            conversation = unsaved.conversation
            try:
                self.archive.store(
                    conversation,
                    list(unsaved.nodes.values()),
                    growing=unsaved.growing.keys(),
                    is_title_new=conversation.title != self._titles.get(conversation.id),
                    is_synced=not is_growing,
                    wait_s=_SHORT_WAIT_S if is_growing else _WAIT_S,
                )
            except SlmError as error:
                if not is_growing or self._tried_at - self._saved_at > _PATIENCE_S:
                    self._failed(error)
                return
            self._titles[conversation.id] = conversation.title
            unsaved.nodes.clear()
            unsaved.is_moved = False
            if not unsaved.growing:
                del self._unsaved[conversation.id]
        self.error = None
        self._saved_at = self._tried_at

    def _failed(self, error: SlmError) -> None:
        if self.error is None:
            self._warn(f"the conversation is not being saved: {error.message} slm keeps trying.")
        self.error = error
