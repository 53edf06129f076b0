"""The check of the seal: a sealed child that tries to get out in every way we can think of, and a parent that watches.

Knows: how the child is started, what counts as refused, that what arrives at the parent's server overrules the child's
word.
Refuses to know: the probes themselves (network_probes.py, bypass_probes.py, server_probes.py, ...), how the result is
shown (commands/privacy.py).

The same attempts run without a seal too (`is_sealed=False`, for the tests): a check that cannot fail proves nothing.
Every attempt goes to the loopback device or to local sockets of our own.
"""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy import android, bypass_probes, network_probes, persistence_probes, seal, server_probes
from slmchat.privacy.landlock import SCOPE_ABI
from slmchat.privacy.probe_context import Probe, ProbeContext, ProbeOutcome, ProbeResult, Promise, Refused, Unavailable
from slmchat.privacy.probe_server import ProbeServer
from slmchat.privacy.seal import SealStatus
from slmchat.privacy.steps import KeptSockets

_TIMEOUT_S = 60.0
_IS_LINUX = sys.platform.startswith(("linux", "android"))

# A replaced socket is no socket any more (ENOTSOCK), a closed one no descriptor (EBADF).
_REFUSALS = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOTSOCK, errno.EBADF)
_ABSENCES = (errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT, errno.EADDRNOTAVAIL)

# The child imports slmchat from where the parent has it, whatever its current directory is.
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from slmchat.privacy.seal_check import child; child()"


@dataclass(frozen=True, slots=True)
class SealCheck:
    """What the child had in force, and what became of each attempt."""

    status: SealStatus
    results: tuple[ProbeResult, ...]

    @property
    def is_tight(self) -> bool:
        """Nothing got out, behind a seal that the kernel enforces."""
        return self.status.is_enforced_by_kernel and not any(
            result.outcome in (ProbeOutcome.OUT, ProbeOutcome.BROKEN) for result in self.results
        )


def check_seal(*, is_sealed: bool = True, is_server: bool = False) -> SealCheck:
    """Run every attempt in a child; `is_server`: in one that listens, as `slm serve` does, and that has to be reached.

    Raises `SlmError` (UNSEALED) when the check itself cannot be carried out.
    """
    try:
        with ProbeServer(is_sealed, is_for_server=is_server) as server:
            answers = _answers(server)
            server.settle()
            results = [_witnessed(_result(answer), server) for answer in answers[1:]]
    except OSError as error:
        raise _not_possible(f"the listeners that it tries to reach cannot be opened: {error.strerror}") from error
    names = [probe.name for probe in _probes(network_probes.EarlyThread(), is_server=is_server)]
    missing = [name for name in names if name not in {result.name for result in results}]
    results += [ProbeResult(name, name, ProbeOutcome.OUT, "no answer: the child ended before") for name in missing]
    return SealCheck(_status(answers[0]), tuple(results))


def _not_possible(why: str) -> SlmError:
    return SlmError(
        f"the check cannot be made: {why}.",
        hint="run slm privacy --check outside of other sandboxes, without --offline",
        exit_code=ExitCode.UNSEALED,
    )


def _answers(server: ProbeServer) -> list[dict[str, Any]]:
    """The child's lines: its status, then one for each attempt."""
    root = str(Path(seal.__file__).parents[2])
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, root],
            input=json.dumps(asdict(server.context)),
            capture_output=True,
            encoding="utf-8",
            cwd=server.context.here,
            timeout=_TIMEOUT_S,
            check=False,
            pass_fds=server.inherited if os.name == "posix" else (),
        )
    except subprocess.TimeoutExpired as error:
        raise _not_possible(f"the child did not end within {_TIMEOUT_S:.0f} s") from error
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not answers:
        said = done.stderr.strip().splitlines()
        raise _not_possible(f"the child ended with {done.returncode}" + (f" ({said[-1]})" if said else ""))
    return answers


def _witnessed(result: ProbeResult, server: ProbeServer) -> ProbeResult:
    """The child's word, overruled when something has arrived that the child took for refused."""
    if not server.has_heard(result.name):
        return result
    if result.outcome in (ProbeOutcome.OUT, ProbeOutcome.NOT_PROMISED):
        return replace(result, is_witnessed=True)
    how = f"it arrived, although the child saw {result.how}"
    return replace(result, outcome=ProbeOutcome.OUT, how=how, is_witnessed=True)


def _result(answer: dict[str, Any]) -> ProbeResult:
    return ProbeResult(answer["name"], answer["title"], ProbeOutcome(answer["outcome"]), answer["how"])


def _status(answer: dict[str, Any]) -> SealStatus:
    writable = answer.pop("writable")
    return SealStatus(
        **{**answer, "details": tuple(answer["details"]), "gaps": tuple(answer["gaps"])},
        writable=None if writable is None else tuple(Path(place) for place in writable),
    )


def child() -> None:
    """The child: seal, try, tell. Reads the context from stdin, writes a line of JSON for each answer."""
    values = json.load(sys.stdin)
    context = ProbeContext(**{**values, "cells": tuple(values["cells"])})
    early = network_probes.EarlyThread()
    android.raise_instead_of_ending()
    listening = () if context.listening is None else (context.listening,)
    status = seal.status()
    if context.is_sealed:
        kept = KeptSockets(listening=listening) if listening else None
        status = seal.Seal(is_required=False, writable=(Path(context.allowed),), kept=kept).close_local()
    _tell(asdict(status))
    for result in _tried(context, status, early):
        _tell({"name": result.name, "title": result.title, "outcome": result.outcome.value, "how": result.how})


def _tell(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, default=str) + "\n")
    sys.stdout.flush()


def _probes(early: network_probes.EarlyThread, *, is_server: bool) -> tuple[Probe, ...]:
    usual = (*network_probes.probes(early), *bypass_probes.PROBES, *persistence_probes.PROBES)
    return (server_probes.ACCEPT, *server_probes.PROBES, *usual) if is_server else usual


def _tried(context: ProbeContext, status: SealStatus, early: network_probes.EarlyThread) -> Iterator[ProbeResult]:
    for probe in _probes(early, is_server=context.listening is not None):
        outcome, how = _judged(probe, context)
        if probe is server_probes.ACCEPT:
            outcome = ProbeOutcome.WORKS if outcome is ProbeOutcome.OUT else ProbeOutcome.BROKEN
        if outcome is ProbeOutcome.OUT and context.is_sealed and not _is_promised(probe.promise, status):
            outcome = ProbeOutcome.NOT_PROMISED
        yield ProbeResult(probe.name, probe.title, outcome, how)


def _judged(probe: Probe, context: ProbeContext) -> tuple[ProbeOutcome, str]:
    """What became of one attempt. An error that is not a refusal means: something outside has answered."""
    if probe.is_linux_only and not _IS_LINUX:
        return ProbeOutcome.NOT_OFFERED, "only Linux has it"
    try:
        return ProbeOutcome.OUT, probe.attempt(context, probe.name)
    except Unavailable as reason:
        return ProbeOutcome.NOT_OFFERED, str(reason)
    except Refused as reason:
        return ProbeOutcome.REFUSED, str(reason)
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, str(error))
        if error.errno in _REFUSALS:
            return ProbeOutcome.REFUSED, name
        if error.errno in _ABSENCES:
            return ProbeOutcome.NOT_OFFERED, name
        return ProbeOutcome.OUT, f"not refused: {name}"
    except Exception as error:  # noqa: BLE001 - a broken attempt proves nothing, and must not end the others
        return ProbeOutcome.OUT, f"the attempt failed by itself: {type(error).__name__}: {error}"


def _is_promised(promise: Promise, status: SealStatus) -> bool:
    if promise is Promise.SEAL:
        return True
    return status.landlock_abi is not None and (promise is Promise.LANDLOCK_FILES or status.landlock_abi >= SCOPE_ABI)
