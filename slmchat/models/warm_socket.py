"""Where a server of this user listens for slm's own commands, and what it must compute with to stand for one.

Knows: the path, the options that matter. Refuses to know: models, what is said over the socket. It is imported by a
start that has 0.2 s in all, so it imports nothing else.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.options import GenerationOptions
from slmchat.settings import Settings

if TYPE_CHECKING:
    from slmchat.engine.warm.connection import WarmConnection

# A server that does not say what it is by then, in seconds, has other things to do: it loads a model, say.
HELLO_S = 1.0


def socket_path(settings: Settings) -> Path:
    """Where a server of this user listens for slm's own commands."""
    return settings.paths.data / "serve" / "socket"


def connect(path: Path) -> "WarmConnection | None":
    """A connection to the server behind this socket; None when there is none."""
    if not path.exists():
        return None
    import socket

    from slmchat.engine.warm.connection import WarmConnection

    if not hasattr(socket, "AF_UNIX"):
        return None
    try:
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:  # this process is closed in already
        return None
    try:
        made.connect(str(path))
    except OSError:  # nobody listens any more, or the path is too long for a socket
        made.close()
        return None
    return WarmConnection(made)


def computed_with(options: GenerationOptions) -> tuple[str, ...]:
    """The options that change what is computed, as a server tells them; those of speed and memory are left out."""
    return tuple(
        f"{name}={value}"
        for name, value in (
            ("lora", ",".join(options.lora)),
            ("kv_type", options.kv_type or "f16"),
            ("device", options.device or ""),
            ("gpu_layers", options.gpu_layers or "auto"),
            ("mmproj", options.mmproj or ""),
        )
    )
