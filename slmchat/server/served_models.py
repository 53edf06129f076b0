"""All that a server can be asked: the model that it was started with, and the embedding models of this device.

Knows: what is in memory of them, what chats. Refuses to know: what is asked.
"""

from pathlib import PurePath

from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.server.embedders import Embedders
from slmchat.server.on_demand import OnDemand
from slmchat.server.served_model import ServedWeights


def is_called(key: str, name: str) -> bool:
    """Whether a name means the model of this key: it may leave out the quantization, and of a file the directory and
    `.gguf` (some clients refuse slashes, or read them in a way of their own)."""
    file = PurePath(key).name if key.endswith(".gguf") else key
    return name in (key, key.partition("@")[0], file, file.removesuffix(".gguf"))


@dataclass(frozen=True, slots=True)
class ServedModels:
    """What can be asked. `name`: of the model that the server was started with, which stays when the weights are freed.
    `chat` None: that one makes vectors and nothing else."""

    name: str
    chat: OnDemand[ServedWeights] | None
    embedders: Embedders

    @property
    def is_loaded(self) -> bool:
        """Whether anything is in memory."""
        return self.embedders.is_loaded or (self.chat is not None and self.chat.loaded is not None)

    def chatting(self) -> OnDemand[ServedWeights]:
        """What chats. Raises `SlmError` (USAGE) where nothing does."""
        if self.chat is None:
            raise SlmError(f"{self.name} makes vectors: it is not a chat model.", exit_code=ExitCode.USAGE)
        return self.chat

    def unload_if_idle(self) -> float | None:
        """Free what nobody has asked for long; the seconds after which to ask again, None: never."""
        waits = [self.embedders.unload_if_idle(), self.chat.unload_if_idle() if self.chat is not None else None]
        return min((wait_s for wait_s in waits if wait_s is not None), default=None)

    def close(self) -> None:
        """Free everything; what is being answered ends."""
        self.embedders.close()
        if self.chat is not None:
            self.chat.close()
