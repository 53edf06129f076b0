"""Writing names into the user's own `models.toml`: comments and layout survive, or nothing is changed.

Knows: tomlkit, and how to see that an edit meant what it should. Refuses to know: what names stand for (registry.py).
"""

import os
import tomllib
from pathlib import Path
from typing import Any

from slmchat import toml_files
from slmchat.catalog import hub_names, schema
from slmchat.catalog.registry import absolute, is_in_catalog, is_path, load_user_names
from slmchat.errors import usage_error
from slmchat.private_files import write_private
from slmchat.text_files import decode, encode_like
from slmchat.toml_schema import shown


def add_target(user_file: Path, name: str, target: str) -> str:
    """Write `name` for `target` (an `hf:` name or a path to a GGUF) into the user's file; return the name as written.

    An earlier target of the same name is replaced; comments in the file survive. Raises `SlmError`: usage for a
    name of the catalog, a malformed name or target; storage when the file cannot be written.
    """
    name, target = name.strip().lower(), target.strip()
    if not schema.NAME.fullmatch(name):
        reason = "a name is family:size or one word, of letters, digits, '.', '_' and '-'"
        raise usage_error(f"'{shown(name)}' cannot be a name: {reason}.")
    hub_name = hub_names.parse(target)
    if hub_name is not None:
        target = hub_name.text  # an address from a browser as slm writes it
    elif is_path(target):
        target = str(absolute(target))
    if target != target.encode("utf-8", "ignore").decode():
        raise usage_error(
            f"'{shown(target)}' is not UTF-8 text, and {user_file.name} is.",
            "rename the file, or give its path where the name would stand",
        )
    if not schema.is_target(target):
        raise usage_error(f"'{shown(target)}' is neither a path to a file nor a name on the Hub.", hub_names.HINT)
    own = load_user_names(user_file).get(name)
    if own.target is None or own.target.adapted is not None if own else is_in_catalog(name):
        raise usage_error(f"{name} is a model already.", f"slm add my-{name} {target}")

    expected = toml_files.read(user_file)
    entries = expected.setdefault("model", [])
    entry = next((entry for entry in entries if entry["name"] == name), None)
    if entry is None:
        entries.append({"name": name, "target": target})
    else:
        entry["target"] = target
    _edit(user_file, name, target, expected)
    return name


def remove_name(user_file: Path, name: str) -> bool:
    """Take a name that stands for a target out of the user's file; False when it has no such name.

    Entries without a target are the user's own work and stay. Raises `SlmError` as `add_target` does.
    """
    name = name.strip().lower()
    own = load_user_names(user_file).get(name)
    if own is None or own.target is None:
        return False
    expected = toml_files.read(user_file)
    expected["model"] = [entry for entry in expected["model"] if entry["name"] != name]
    _edit(user_file, name, None, expected)
    return True


def _edit(user_file: Path, name: str, target: str | None, expected: dict[str, Any]) -> None:
    """Set the target of `name` (None: take the entry out) and leave the rest of the file as it is written.

    `expected` is what the file must mean afterwards: a layout that cannot be edited safely is refused.
    """
    from tomlkit.exceptions import TOMLKitError

    before = user_file.read_bytes() if user_file.exists() else b""
    try:
        text = _edited(decode(before), name, target)
        is_safe = {"model": [], **tomllib.loads(text)} == expected
    except (ValueError, TOMLKitError):
        is_safe = False
    if not is_safe:
        raise usage_error(
            f"{user_file} is laid out in a way that slm cannot change safely.",
            f'change it by hand: a [[model]] with name = "{name}"',
        )
    write_private(Path(os.path.realpath(user_file)), encode_like(before, text))  # a link stays a link


def _edited(text: str, name: str, target: str | None) -> str:
    import tomlkit
    from tomlkit.items import AoT

    if text and not text.endswith("\n"):  # tomlkit would write the next table onto the last line
        text += "\n"
    document = tomlkit.parse(text)
    entries: Any = document.setdefault("model", tomlkit.aot())
    entry: Any = next((entry for entry in entries if entry["name"] == name), None)
    if target is None and isinstance(entries, AoT):
        return _without(text, entry.as_string())
    if target is None:
        entries.remove(entry)
    elif entry is not None:
        entry["target"] = target
    else:
        entry = tomlkit.table() if isinstance(entries, AoT) else tomlkit.inline_table()
        entry.update({"name": name, "target": target})
        entries.append(entry)
    return tomlkit.dumps(document)


def _without(text: str, body: str) -> str:
    """`text` without the `[[model]]` entry of this `body`.

    tomlkit counts the comments above the next entry as part of this one; they stay.
    """
    start = text.index(body)
    lines = body.splitlines(keepends=True)
    end = len(lines)
    while end and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return text[: text.rindex("[[", 0, start)] + "".join(lines[end:]).lstrip("\n") + text[start + len(body) :]
