"""What closes this process before anything untrusted is read: to the network, or to all of it but one endpoint.

Knows: in which order a GPU's start and the seal go, what stays writable. Refuses to know: how the kernel is asked
(privacy/), what is opened afterwards.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slmchat.privacy.steps import KeptSockets
from slmchat.reporting import Reporter
from slmchat.settings import Settings

if TYPE_CHECKING:
    from slmchat.endpoints import Endpoint
    from slmchat.engine.remote.route import Route
    from slmchat.privacy.dialer import DialerProcess


def seal(
    settings: Settings, *, configures: bool = False, writable: Sequence[Path] = (), kept: KeptSockets | None = None
) -> None:
    """Close the process to the network before anything untrusted is read. Raises `SlmError` (UNSEALED) if it must be.

    A GPU backend needs local sockets while it starts, and the child that tries it a place that no sealed process may
    write, so that the seal then closes in three steps, all before a model file is opened. `configures`: this command
    may change the configuration. With `--private` not even slm's own directories stay writable, and core dumps are off.
    `writable`: what else this errand has to write. `kept`: sockets that stay open.
    """
    from slmchat.engine import library, verdict_place
    from slmchat.privacy.seal import Seal, own_directories

    found_out = verdict_place.directory(settings.paths.cache)
    own = () if settings.is_private else own_directories(settings.paths, found_out, configures=configures)
    closing = Seal(is_required=settings.is_offline, writable=(*own, *writable), kept=kept)
    closing.close_network()
    if library.has_gpu_backend():
        from slmchat.engine import devices, verdicts

        known = verdicts.library(found_out)  # the child that tries the GPU
        closing.close_files()
        if not known.verdict.is_broken:
            devices.start()
    closing.close_local()
    if settings.is_private:
        from slmchat.privacy import dumps

        dumps.switch_off()


def restrict(
    endpoint: "Endpoint",
    route: "Route",
    dialer: "DialerProcess | None",
    settings: Settings,
    reporter: Reporter,
    *,
    writable: Sequence[Path],
) -> None:
    """Close every way but the one to this endpoint. Raises `SlmError` (UNSEALED) if it must be and cannot."""
    from slmchat.privacy.egress import Egress, restrict_egress

    status = restrict_egress(
        Egress(route.host, route.port, endpoint.is_loopback, route.addresses),
        is_required=settings.is_offline,
        writable=writable,
        dialer=dialer,
    )
    for line in status.details:
        reporter.detail(line)
    if settings.is_private:
        from slmchat.privacy import dumps

        dumps.switch_off()
