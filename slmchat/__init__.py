"""slm: talk to a small language model on your own device.

For Python programs: `from slmchat import load` (docs/python.md). Nothing is imported before it is asked for.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as typing has it, whose import would cost more than everything else here
if TYPE_CHECKING:
    from slmchat.api import (
        Answer,
        Chat,
        Classification,
        Completion,
        ExitCode,
        FinishReason,
        Message,
        Model,
        Quotation,
        SealStatus,
        SlmError,
        Stream,
        StreamEvent,
        Timings,
        Usage,
        load,
        seal,
    )

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


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'slmchat' has no attribute '{name}'")
    from slmchat import api

    return getattr(api, name)


def __dir__() -> list[str]:
    # what Tab offers: the rooms of slm, which are there once something has been used, are not for programs
    return sorted([*(name for name in globals() if name.startswith("__")), *__all__])
