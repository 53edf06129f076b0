"""`slm pull`: fetch, verify and install models, one after the other."""

from typing import Any

from slmchat.catalog.library import Library
from slmchat.catalog.registry import load
from slmchat.errors import ExitCode, SlmError
from slmchat.models import device_fit
from slmchat.models.pull import pull_name
from slmchat.models.pull_plan import Pulling
from slmchat.options import PullOptions
from slmchat.settings import Settings
from slmchat.terminal.console import Console


def pull(options: PullOptions, settings: Settings, console: Console, *, tells_next: bool = True) -> ExitCode:
    """Fetch, verify and install every name; go on after a failure. Returns the exit code of the first failure.

    `tells_next`: the user is told what to do with them.

    Raises `SlmError` when there is only one name.
    """
    pulling = Pulling(
        options,
        settings,
        console,
        Library(settings.paths, console.warn),
        load(settings.paths.user_registry),
        device_fit.ForDevice(settings, console, is_lasting=True),
        console.print,
        tells_next=tells_next,
    )
    names = options.names
    results: list[dict[str, Any]] = []
    first = ExitCode.DONE
    for name in names:
        try:
            results.append(pull_name(name, pulling))
        except SlmError as error:
            if len(names) == 1:
                raise
            console.error(error)
            results.append({"name": name, "error": error.message, "exit_code": int(error.exit_code)})
            first = first or error.exit_code
        except KeyboardInterrupt:
            console.warn(f"interrupted; nothing half-fetched is installed. `slm pull {name}` goes on where it can.")
            first = ExitCode.INTERRUPTED
            results.append({"name": name, "error": "interrupted", "exit_code": int(first)})
            break
    if options.json and (len(names) > 1 or "error" not in results[0]):
        console.print_json(results[0] if len(names) == 1 else results)
    if options.dry_run and first is not ExitCode.INTERRUPTED:
        pulling.device.measure_more()
    return first
