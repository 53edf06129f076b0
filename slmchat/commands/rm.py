"""`slm rm`: models that go, with what was kept of them, and names that `slm add` gave.

All names are looked up before the first of them goes: a wrong one among several removes nothing.
"""

from collections.abc import Iterator, Sequence

from slmchat.catalog.file_facts import FileFacts
from slmchat.catalog.library import Library
from slmchat.catalog.records import Installed, with_quantization
from slmchat.catalog.registry import UserName, load, load_user_names, resolve_without_catalog
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.models import adapters
from slmchat.private_files import storage_error
from slmchat.settings import Settings
from slmchat.terminal.console import Console
from slmchat.wording import in_bytes


@dataclass(frozen=True, slots=True)
class _ToRemove:
    """What a name stands for: records, and `forgotten`: the name itself, where the user's own file has it."""

    records: Sequence[Installed]
    forgotten: UserName | None


def rm(names: Sequence[str], settings: Settings, console: Console, *, is_json: bool = False) -> ExitCode:
    """Remove models, and names that `slm add` gave. Raises `SlmError`: no model, before anything goes, when one of them
    is not here; storage."""
    library = Library(settings.paths, console.warn)
    found = [_to_remove(name, library, settings) for name in dict.fromkeys(names)]
    gone: list[dict[str, object]] = []
    try:
        for each in found:
            gone.extend(_remove_records(each.records, gone, library, settings, console))
            if each.forgotten is not None:
                gone.append(_forget_name(each.forgotten, settings, console))
    except SlmError:
        if is_json and gone:  # gone it is
            console.print_json(gone)
        raise
    if is_json:
        console.print_json(gone)
    return ExitCode.DONE


def _to_remove(name: str, library: Library, settings: Settings) -> _ToRemove:
    """What `slm rm` removes under this name. Raises `SlmError`: no model; usage for a file of the user's."""
    own_names = load_user_names(settings.paths.user_registry)
    reference = resolve_without_catalog(name, own_names)
    own = own_names.get(reference.name) if reference is not None else None
    if reference is not None and reference.path is not None and own is None:
        raise usage_error(f"{reference.path} is a file of yours: slm uses it in place and does not delete it.")
    # `NAME@QUANT` means these files alone, also where the name itself stands for one quantization (`slm add`)
    forgets_name = own is not None and own.target is not None and "@" not in name
    records = library.matching(name if forgets_name else reference or name)
    if not records and not forgets_name:
        asked = reference or load(settings.paths.user_registry).resolve(name)
        wanted = with_quantization(asked.name, asked.quantization)
        raise SlmError(f"{wanted} is not installed.", hint="slm list", exit_code=ExitCode.NO_MODEL)
    return _ToRemove(records, own if forgets_name else None)


def _remove_records(
    records: Sequence[Installed],
    gone: Sequence[dict[str, object]],
    library: Library,
    settings: Settings,
    console: Console,
) -> Iterator[dict[str, object]]:
    """Remove the records that are not among those `gone`; yields of each: name, bytes freed, files left."""
    before = {entry["name"] for entry in gone}
    for record in [each for each in records if each.key not in before]:
        _forget_facts(record, settings)
        removed = library.remove(record)
        states = _forget_states(record, settings)
        console.note(f"removed {record.key}; {in_bytes(removed.freed + states)} are free again.")
        if removed.kept:
            kept = ", ".join(str(path) for path in removed.kept)
            console.note(f"left in place, because it is not slm's alone: {kept}")
        needing = adapters.finder(settings, library).needing(record)
        if needing:
            console.warn(f"{', '.join(needing)} needed it; `slm pull {needing[0]}` fetches it again.")
        kept_paths = [str(path) for path in removed.kept]
        yield {"name": record.key, "freed": removed.freed + states, "kept": kept_paths, "needed_by": needing}


def _forget_name(own: UserName, settings: Settings, console: Console) -> dict[str, object]:
    """Take a name out of the user's own file; what it stands for stays."""
    from slmchat.catalog.user_file import remove_name  # with what writes TOML

    assert own.target is not None
    remove_name(settings.paths.user_registry, own.name)
    stays = f" ({own.target.path} stays)" if own.target.path else ""
    if own.target.adapted:
        stays = f" ({own.target.adapted.base} and the adapters stay)"
    console.note(f"forgot the name {own.name}{stays}.")
    return {"name": own.name, "freed": 0, "kept": [str(own.target.path)] if own.target.path else []}


def _forget_facts(record: Installed, settings: Settings) -> None:
    facts = FileFacts(settings.paths.file_facts)
    try:
        for file in record.files:
            facts.forget(file.path)
    except OSError as error:
        raise storage_error(error, settings.paths.file_facts) from error


def _forget_states(record: Installed, settings: Settings) -> int:
    """Delete what this model has evaluated from the disk; the bytes that are free again."""
    from slmchat.engine.kvstore import KvStore  # with what it takes to write states

    try:
        return KvStore(settings.paths.kv_states).forget_model(record.path)
    except OSError as error:
        raise storage_error(error, settings.paths.kv_states) from error
