"""`slm privacy`: what keeps what you type on this device, what is written where, and with `--check` the check of it.

Knows: which command may reach what, every place where slm writes.
Refuses to know: how the seal works (privacy/), how the check is carried out (privacy/seal_check.py).
"""

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slmchat.catalog.hub_cache import hub_cache_directories
from slmchat.errors import ExitCode, SlmError
from slmchat.lazy_dataclasses import dataclass
from slmchat.privacy import forked, server_probes
from slmchat.privacy.probe_context import ProbeOutcome
from slmchat.privacy.seal import SealStatus, seal
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.terminal.tables import Column
from slmchat.wording import in_bytes

if TYPE_CHECKING:
    from slmchat.privacy.seal_check import SealCheck


@dataclass(frozen=True, slots=True)
class Reach:
    """What a command may reach beyond this device, and whether it is sealed without being asked.

    `takes_endpoint`: with `--endpoint` it is not sealed; then one way stays open, to that endpoint.
    """

    command: str
    network: str
    is_sealed: bool
    takes_endpoint: bool = False

    @property
    def when_sealed(self) -> str:
        if not self.is_sealed:
            return "--offline"
        return "without --endpoint" if self.takes_endpoint else "always"


_NOTHING = "nothing"
_NOTHING_ELSE = "nothing; with --endpoint that endpoint, and with --offline only if it is on this device"
COMMANDS = (
    Reach("pull", "the sources of the model asked for: the Hub or a package index; nothing with --offline", False),
    Reach("run", _NOTHING_ELSE, True, takes_endpoint=True),
    Reach("chat", _NOTHING_ELSE, True, takes_endpoint=True),
    Reach("batch", _NOTHING_ELSE, True, takes_endpoint=True),
    Reach("ask", _NOTHING_ELSE, True, takes_endpoint=True),
    Reach("serve", "nothing; it is reached by programs of this device, with --host ADDRESS and a key by others", True),
    Reach("embed", _NOTHING_ELSE, True, takes_endpoint=True),
    Reach("bench", _NOTHING, True),
    Reach("eval", "nothing, once the public tasks that were asked for are fetched from the Hub", True),
    Reach("doctor", _NOTHING, True),
    Reach("tune", _NOTHING, True),
    Reach("list", _NOTHING_ELSE, False, takes_endpoint=True),
    Reach("show", _NOTHING, False),
    Reach("add", _NOTHING, False),
    Reach("rm", _NOTHING, False),
    Reach("verify", _NOTHING, False),
    Reach("sessions", _NOTHING, False),
    Reach("docs", _NOTHING, False),
    Reach("completion", _NOTHING, False),
    Reach("help", _NOTHING, False),
    Reach("privacy", "nothing; --check talks to itself on the loopback device", True),
)


# By whether this system has processes that make the connections (privacy/forked.py).
_WITH_ENDPOINT = {
    True: "With --endpoint, a process of its own connects to that place; the one with your words makes no connections.",
    False: "With --endpoint, a guard inside Python keeps connections to that place; native code passes it.",
}


@dataclass(frozen=True, slots=True)
class WrittenPlace:
    """A place where slm writes, how big it is now, and what `--private` changes. Size 0: nothing is there."""

    what: str
    path: Path
    size: int
    with_private: str


@dataclass(frozen=True, slots=True)
class Known:
    """An endpoint of the config."""

    name: str
    url: str
    is_here: bool
    key_from: str


def privacy(settings: Settings, console: Console, *, is_check: bool, is_json: bool, is_sealed: bool = True) -> ExitCode:
    """Show the report, or carry out the check. Returns UNSEALED when the check finds a way out.

    The check starts a sealed child and listens for it, so this process must not be sealed before it. `is_sealed`
    False leaves the child open: tests see with it that the check can fail.
    Raises `SlmError` (UNSEALED) when `--offline` asks for what the kernel does not offer.
    """
    return _check(console, is_json, is_sealed) if is_check else _report(settings, console, is_json)


def _report(settings: Settings, console: Console, is_json: bool) -> ExitCode:
    own = (settings.paths.data, settings.paths.cache)  # as in a chat
    status = seal(is_required=settings.is_offline, writable=[path for path in own if path.exists()])
    places = _places(settings, console)
    if is_json:
        console.print_json(
            {
                "seal": asdict(status),
                "is_offline": settings.is_offline,
                "is_private": settings.is_private,
                "commands": [asdict(reach) for reach in COMMANDS],
                "endpoints": [asdict(one) for one in _endpoints(settings)],
                "places": [asdict(place) for place in places],
            }
        )
        return ExitCode.DONE
    _print_status(status, console)
    console.print("\nWhat each command may reach (--offline seals every command)")
    console.table(
        (Column("COMMAND"), Column("SEALED", is_prose=True), Column("MAY REACH", is_prose=True)),
        [(f"slm {reach.command}", reach.when_sealed, reach.network) for reach in COMMANDS],
    )
    console.labelled("", _WITH_ENDPOINT[forked.is_possible()])
    known = _endpoints(settings)
    if known:
        console.print("\nEndpoints of the config: reached only with --endpoint NAME")
        console.table(
            (Column("NAME"), Column("WHERE"), Column("ON THIS DEVICE"), Column("ITS KEY COMES FROM", is_prose=True)),
            [(one.name, one.url, "yes" if one.is_here else "no", one.key_from) for one in known],
        )
    console.print("\nWhere slm writes" + (" (--private is on)" if settings.is_private else ""))
    console.table(
        (Column("WHAT", is_prose=True), Column("SIZE"), Column("WITH --private", is_prose=True), Column("WHERE")),
        [
            (place.what, in_bytes(place.size) if place.size else "-", place.with_private, str(place.path))
            for place in places
        ],
    )
    console.labelled(
        "",
        f"A file of -o, --resume or --write is written by itself; /export writes to "
        f"{settings.export_dir or settings.paths.exports}",
    )
    console.print("\nThe proof: slm privacy --check")
    return ExitCode.DONE


def _endpoints(settings: Settings) -> list[Known]:
    if not settings.endpoints:
        return []
    from slmchat import endpoints

    found = endpoints.named(settings.endpoints, settings.paths.config_file)
    return [
        Known(
            name,
            one.url,
            one.is_loopback,
            f"the variable {one.key_env}" if one.key_env else "the keyring" if one.key_keyring else "it has none",
        )
        for name, one in found.items()
    ]


def _print_status(status: SealStatus, console: Console) -> None:
    by = "enforced by the kernel" if status.is_enforced_by_kernel else "NOT enforced by the kernel"
    if status.gaps:
        by = "kept by the kernel, but NOT whole"
    console.labelled("", f"The seal on this device: {status.mechanism or 'none'}, {by}")
    for line in (*(f"NOT closed: {gap}" for gap in status.gaps), *status.details):
        console.labelled("  ", line)
    if status.writable is not None:
        console.labelled("  writable: ", ", ".join(str(place) for place in status.writable))


def _places(settings: Settings, console: Console) -> list[WrittenPlace]:
    """Every place where slm writes. What no line names is in the line for the rest of slm's data."""
    paths = settings.paths
    named = [
        WrittenPlace("models", paths.models, _size(paths.models), "as without: pulled models stay"),
        WrittenPlace("saved conversations", paths.sessions, _database_size(paths.sessions), "not written"),
        WrittenPlace("documents (slm ask)", paths.documents, _database_size(paths.documents), "not written, in memory"),
        WrittenPlace("messages typed in chat", paths.input_history, _size(paths.input_history), "not written"),
        WrittenPlace("chat settings (/set)", paths.chat_settings, _size(paths.chat_settings), "not written"),
        WrittenPlace("exports (/export)", paths.exports, _size(paths.exports), "written when asked for"),
        WrittenPlace("evaluations (slm eval)", paths.evaluations, _size(paths.evaluations), "not written"),
        WrittenPlace("the model used last", paths.last_model, _size(paths.last_model), "not written"),
    ]
    states = WrittenPlace(
        "what was evaluated (KV states)", paths.kv_states, _size(paths.kv_states), "not written, not read"
    )
    priors = WrittenPlace("what models prefer (--choices)", paths.priors, _size(paths.priors), "not written, not read")
    rest = _size(paths.data) - sum(place.size for place in named)
    return [
        *named,
        states,
        priors,
        WrittenPlace(
            "the rest of slm's data", paths.data, rest, "accepted licences as without; no marks of loading models"
        ),
        WrittenPlace("configuration", paths.config, _size(paths.config), "as without: written only on request"),
        WrittenPlace(
            "the rest of the cache", paths.cache, _size(paths.cache) - states.size - priors.size, "as without"
        ),
        *(
            WrittenPlace(what, path, _size(path), "as without: written by slm pull, and slm eval for public tasks")
            for what, path in hub_cache_directories(console.environ)
        ),
    ]


def _database_size(file: Path) -> int:
    """The archive with its write-ahead log and shared memory."""
    return sum(_size(Path(f"{file}{end}")) for end in ("", "-wal", "-shm"))


def _size(path: Path) -> int:
    """Bytes of the files below a path; links are not followed, what cannot be read counts nothing."""
    if path.is_file():
        return path.stat().st_size
    total = 0
    for folder, _folders, files in os.walk(path):
        for name in files:
            try:
                total += Path(folder, name).lstat().st_size
            except OSError:  # gone meanwhile
                continue
    return total


def _check(console: Console, is_json: bool, is_sealed: bool) -> ExitCode:
    from slmchat.privacy.seal_check import check_seal

    found = check_seal(is_sealed=is_sealed)
    serving = check_seal(is_sealed=is_sealed, is_server=True)
    if is_json:
        console.print_json({**_as_json(found), "server": _as_json(serving)})
    else:
        _print_status(found.status, console)
        _print_attempts(found, console)
        console.print("\nIn a server (slm serve), which accepts connections and can make none:")
        _print_attempts(serving, console, is_short=True)
    for each in (found, serving):
        if not each.is_tight:
            n_out = sum(result.outcome in (ProbeOutcome.OUT, ProbeOutcome.BROKEN) for result in each.results)
            console.error(_leaking(each.status, n_out, len(each.results)))
            return ExitCode.UNSEALED
    return ExitCode.DONE


def _as_json(found: "SealCheck") -> dict[str, Any]:
    attempts = [{**asdict(result), "outcome": result.outcome.name.lower()} for result in found.results]
    return {"is_tight": found.is_tight, "seal": asdict(found.status), "attempts": attempts}


def _print_attempts(found: "SealCheck", console: Console, *, is_short: bool = False) -> None:
    """`is_short`: of the attempts that have a line above, only those that ended otherwise than refused."""
    own = {probe.name for probe in (server_probes.ACCEPT, *server_probes.PROBES)}
    console.print()
    console.table(
        (Column("ATTEMPT", is_prose=True), Column("OUTCOME"), Column("HOW", rank=1, is_prose=True)),
        [
            (result.title, result.outcome.value, result.how)
            for result in found.results
            if not is_short or result.name in own or result.outcome is ProbeOutcome.OUT
        ],
    )
    counts = Counter(result.outcome for result in found.results)
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items())
    console.print(f"\n{len(found.results)} attempts: {told}")


def _leaking(status: SealStatus, n_out: int, n_attempts: int) -> SlmError:
    if status.gaps:
        return SlmError(
            f"the seal is not whole here: {'; '.join(status.gaps)}.",
            hint="docs/privacy.md says what each system keeps closed",
            exit_code=ExitCode.UNSEALED,
        )
    if not status.is_enforced_by_kernel:
        return SlmError(
            "the kernel of this system does not enforce the seal; only Python code is stopped.",
            hint="docs/privacy.md says which systems have a mechanism",
            exit_code=ExitCode.UNSEALED,
        )
    return SlmError(
        f"{n_out} of {n_attempts} attempts to get out were not refused.",
        hint="please report it with the output of: slm privacy --check --json",
        exit_code=ExitCode.UNSEALED,
    )
