"""The door for Python programs, as cli.py is the one for a shell: `slmchat.load` and what it gives.

Knows: names, types and words of the public interface (docs/python.md). Refuses to know: how anything is done; that
is in generation/, where `slm run` and `slm chat` do it too.
"""

from slmchat.api.chat import Chat
from slmchat.api.loading import load, seal
from slmchat.api.model import Model
from slmchat.api.stream import Stream, StreamEvent
from slmchat.conversation.messages import Message
from slmchat.engine.results import FinishReason, Timings, Usage
from slmchat.errors import ExitCode, SlmError
from slmchat.generation.classify import Classification
from slmchat.generation.response import Completion
from slmchat.privacy.seal import SealStatus
from slmchat.retrieval.answers import Answer
from slmchat.retrieval.quotations import Quotation

__all__ = [
    "Answer",
    "Chat",
    "Classification",
    "Completion",
    "ExitCode",
    "FinishReason",
    "Message",
    "Model",
    "Quotation",
    "SealStatus",
    "SlmError",
    "Stream",
    "StreamEvent",
    "Timings",
    "Usage",
    "load",
    "seal",
]
