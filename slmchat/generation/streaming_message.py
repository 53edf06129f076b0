"""An answer in the tree of its conversation while it is generated.

Knows: when its node is made, what of it is kept when it was cut. Refuses to know: what generates it.
"""

from slmchat.conversation.messages import Conversation, Message, Node, Role
from slmchat.engine.results import FinishReason
from slmchat.generation.response import Response


class StreamingMessage:
    """An answer in the tree while it is generated: a new node, or one that goes on."""

    def __init__(self, conversation: Conversation, model: str, node: Node | None = None) -> None:
        """`model`: the key of the one that answers. `node`: the answer that goes on."""
        self._conversation = conversation
        self._model = model
        self._node = node
        self._before = node.message if node is not None else Message(Role.ASSISTANT, "", tokens=())

    @property
    def begun(self) -> str:
        """The text of the answer that goes on, "" for a new one."""
        return self._before.text

    def grow(self, answer: Response) -> None:
        """Called at every chunk; the node is made with the first one."""
        if answer.text or answer.thinking:
            self._put(self._message(answer, None, is_cut=True))

    def complete(self, answer: Response) -> bool:
        """The generation has ended; False when it was cancelled before anything came."""
        finish = answer.finish
        assert finish is not None
        has_said = bool(answer.text or answer.thinking)
        if has_said or finish.reason is not FinishReason.INTERRUPTED:
            tokens = None if answer.has_marks else finish.tokens
            self._put(self._message(answer, tokens, is_cut=finish.reason is not FinishReason.STOP))
        if self._conversation.recorder is not None:
            self._conversation.recorder.flush()
        return has_said or finish.reason is not FinishReason.INTERRUPTED

    def _put(self, message: Message) -> None:
        if self._node is None:
            self._node = self._conversation.add(message)
        else:
            self._conversation.update(self._node, message)

    def _message(self, answer: Response, tokens: tuple[int, ...] | None, *, is_cut: bool) -> Message:
        before = self._before
        thinking = before.thinking + answer.thinking
        is_exact = tokens is not None and before.tokens is not None
        return Message(
            Role.ASSISTANT,
            before.text + answer.text,
            (before.tokens or ()) + (tokens or ()) if is_exact else None,
            is_cut,
            thinking,
            self._model,
        )
