"""Settings: defaults < config.toml < SLM_* environment < flags, and every path that slm may write to.

Knows: the keys of `config.toml`, the environment variables, where data, config and cache live.
Refuses to know: what the values do. Nothing here opens a model, a terminal or the network.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from slmchat import ranges, toml_files
from slmchat.errors import ExitCode, SlmError, usage_error
from slmchat.lazy_dataclasses import dataclass
from slmchat.ranges import Range
from slmchat.user_paths import home_directory, user_path

KV_TYPES = ("f16", "q8_0", "q4_0")
SPECULATION = ("auto", "always", "off")
THINK = ("on", "off", "auto")


@dataclass(frozen=True, slots=True)
class Paths:
    """The three directories of slm. Everything below them is owner-only: 0700 directories, 0600 files.

    `home`: the directory of SLM_HOME, which holds all three; None where the system's own places are used.
    """

    data: Path
    config: Path
    cache: Path
    home: Path | None = None

    @property
    def models(self) -> Path:
        """Weights fetched from a package index, and one small record for each installed model."""
        return self.data / "models"

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def user_registry(self) -> Path:
        return self.config / "models.toml"

    @property
    def input_history(self) -> Path:
        return self.data / "input-history"

    @property
    def chat_settings(self) -> Path:
        """What `/set … --save` keeps for later chats."""
        return self.data / "chat-settings.json"

    @property
    def sessions(self) -> Path:
        """The saved conversations."""
        return self.data / "sessions.db"

    @property
    def documents(self) -> Path:
        """The index of documents: their text in pieces, the words in it."""
        return self.data / "documents.db"

    @property
    def evaluations(self) -> Path:
        """What `slm eval` has measured, run by run, with the answers of the models."""
        return self.data / "evaluations"

    @property
    def kv_states(self) -> Path:
        """States of the KV cache: what was evaluated before. They hold the tokens of what was said."""
        return self.cache / "kv"

    @property
    def file_facts(self) -> Path:
        """What has been found out about model files, so that no header is read twice."""
        return self.cache / "files"

    @property
    def priors(self) -> Path:
        """What models prefer among choices whatever they read, under hashes of the questions."""
        return self.cache / "choices.json"

    @property
    def last_model(self) -> Path:
        return self.data / "last-model"

    @property
    def exports(self) -> Path:
        """Where `/export` writes when nobody has named another directory."""
        return self.data / "exports"

    def private(self) -> Iterator[Path]:
        """What must be the owner's alone and exists: the directories, the files of the data directory, the records.

        Records in a directory that only the owner may enter are left out: nobody reaches them, there may be a thousand,
        and every command asks.
        """
        places = [(self.data, "*"), (self.config, "*.toml")]
        if _is_open(self.models):
            places.append((self.models, "*.json"))
        if self.home is not None and not _is_of_others_too(self.home):
            yield self.home
        yield from (self.data, self.config, self.cache, self.models)
        for directory, pattern in places:
            yield from (path for path in directory.glob(pattern) if os.path.isfile(path))


def _is_open(directory: Path) -> bool:
    """Whether others than the owner may enter or read it; False where it does not exist."""
    try:
        return bool(directory.stat().st_mode & 0o077)
    except OSError:
        return False


def _is_of_others_too(directory: Path) -> bool:
    """Whether SLM_HOME was set to a place that is not slm's: the home directory or one above it, or one like /tmp."""
    try:
        place, user = directory.resolve(), home_directory()
        above = (Path(place.anchor),) if user is None else (user.resolve(), *user.resolve().parents)
        return place in above or bool(place.stat().st_mode & stat.S_ISVTX)
    except (OSError, RuntimeError):  # not there yet; links in a circle
        return True


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the user has set, resolved once at the door. None means: not set, slm decides."""

    paths: Paths
    model: str | None = None
    is_offline: bool = False
    is_private: bool = False
    is_accessible: bool = False
    threads: int | None = None
    n_ctx: int | None = None
    gpu_layers: int | None = None
    device: str | None = None
    kv_type: str | None = None
    has_kv_cache: bool = True
    kv_cache_limit: int | None = None
    speculation: str = "auto"
    export_dir: str | None = None
    think: str | None = None
    think_budget: int | None = None
    sampler: Mapping[str, float] = field(default_factory=dict)
    personas: Mapping[str, object] = field(default_factory=dict)
    endpoints: Mapping[str, object] = field(default_factory=dict)


class _Wrong(ValueError):
    """A value that a setting cannot take; the message is the reason."""


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong("must be a non-empty string")
    return value


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on"):
        return True
    if isinstance(value, str) and value.lower() in ("0", "false", "no", "off", ""):
        return False
    raise _Wrong("must be true or false")


def _count(allowed: Range) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,20}\s*", value):
            value = int(value)
        if not isinstance(value, int) or not allowed.holds(value):
            raise _Wrong(f"must be a whole number of at least {allowed.low} and at most {allowed.high}")
        return value

    return parse


def _gpu_layers(value: object) -> int | None:
    if value == "auto":
        return None
    try:
        return _count(ranges.GPU_LAYERS)(value)
    except _Wrong as wrong:
        raise _Wrong(f'{wrong}, or "auto"') from wrong


def _one_of(allowed: tuple[str, ...]) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in allowed:
            raise _Wrong(f"must be one of {', '.join(allowed)}")
        return str(value)

    return parse


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def _bytes(value: object) -> int:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,15})?) *([KMG]i?B)?", str(value).strip())
    if match is None or isinstance(value, bool):
        raise _Wrong('must be a size such as "2 GiB" or "500 MB"')
    return int(float(match[1]) * _UNITS[match[2] or ""])


def _sampler(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        raise _Wrong("must be a table such as { temperature = 0.7 }")
    for key, number in value.items():
        if key not in ranges.SAMPLER:
            raise _Wrong(f"has no setting '{key}' (it has {', '.join(ranges.SAMPLER)})")
        if not ranges.SAMPLER[key].holds(number):
            raise _Wrong(f"{key} must be {ranges.SAMPLER[key]}")
    return {key: float(number) for key, number in value.items()}


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _Wrong("must be a table")
    return value


@dataclass(frozen=True, slots=True)
class Key:
    """One key of `config.toml`: the field of `Settings` it sets, its environment variable, what it means."""

    name: str
    field: str
    parse: Callable[[object], Any]
    variable: str | None
    meaning: str


KEYS = (
    Key("model", "model", _text, "SLM_MODEL", "the model used when a command names none"),
    Key("offline", "is_offline", _flag, "SLM_OFFLINE", "never use the network, not even in `slm pull`"),
    Key("private", "is_private", _flag, "SLM_PRIVATE", "write nothing about conversations to the disk"),
    Key(
        "accessible",
        "is_accessible",
        _flag,
        "SLM_ACCESSIBLE",
        "for screen readers: plain lines, nothing is drawn twice (as `slm chat --plain`)",
    ),
    Key(
        "threads",
        "threads",
        _count(ranges.THREADS),
        "SLM_THREADS",
        "exactly so many threads; unset: as many as there are free cores",
    ),
    Key(
        "ctx",
        "n_ctx",
        _count(ranges.CTX),
        None,
        "context window in tokens; unset: up to 8192 in a chat, 2048 behind the prompt in `slm run`, 4096 for a row of "
        "`slm batch`; less if the model or the memory has less",
    ),
    Key("gpu-layers", "gpu_layers", _gpu_layers, None, 'layers offloaded to a GPU, or "auto"'),
    Key(
        "device", "device", _text, None, 'GPUs to use, as `slm doctor` names them, separated by commas; "none": no GPU'
    ),
    Key("kv-type", "kv_type", _one_of(KV_TYPES), None, "type of the KV cache: " + ", ".join(KV_TYPES)),
    Key("kv-cache", "has_kv_cache", _flag, None, "keep states of the KV cache on disk, so that nothing is read twice"),
    Key(
        "kv-cache-limit",
        "kv_cache_limit",
        _bytes,
        None,
        'how much disk they may take, as "2 GiB"; unset: a tenth of the free disk, at most 4 GiB',
    ),
    Key(
        "speculation",
        "speculation",
        _one_of(SPECULATION),
        None,
        "drafts from the conversation, where they make it faster: " + ", ".join(SPECULATION),
    ),
    Key(
        "export-dir",
        "export_dir",
        _text,
        None,
        "where `/export` writes: a directory for that alone; unset: `exports` beside slm's data",
    ),
    Key(
        "think",
        "think",
        _one_of(THINK),
        None,
        "whether reasoning models think before they answer: " + ", ".join(THINK) + " (as the model's maker has it)",
    ),
    Key(
        "think-budget",
        "think_budget",
        _count(ranges.THINK_BUDGET),
        None,
        "at most so many tokens of thinking, then the answer; 0: none",
    ),
    Key(
        "sampler",
        "sampler",
        _sampler,
        None,
        "table of sampler settings that replace the model's own: " + ", ".join(ranges.SAMPLER),
    ),
    Key("personas", "personas", _table, None, "named system prompts with their settings (docs/personas.md)"),
    Key("endpoints", "endpoints", _table, None, "named endpoints for `--endpoint`, without keys (docs/remote.md)"),
)


def load(environ: Mapping[str, str], **flags: object) -> Settings:
    """Resolve the settings of this call.

    `flags` are fields of `Settings` given on the command line; None means: not given.
    Raises `SlmError` (usage) that names the file or variable, the key and the reason.
    """
    paths = paths_of(environ)
    settings = Settings(paths=paths)
    values = {**_from_file(paths.config_file), **_from_environment(environ)}
    values.update({name: value for name, value in flags.items() if value is not None})
    settings = replace(settings, **values)
    if settings.endpoints:
        from slmchat import endpoints

        endpoints.named(settings.endpoints, paths.config_file)  # a key in the file is told at once
    return settings


def paths_of(environ: Mapping[str, str]) -> Paths:
    """Where slm's files are: below SLM_HOME, or where this system keeps such files.

    Raises `SlmError` (storage) where nobody knows the user's home directory: a container's user without an entry.
    """
    home = environ.get("SLM_HOME")
    if home:
        root = user_path(home).absolute()
        return Paths(data=root / "data", config=root / "config", cache=root / "cache", home=root)
    import platformdirs

    dirs = platformdirs.PlatformDirs("slm", appauthor=False)
    try:
        return Paths(data=dirs.user_data_path, config=dirs.user_config_path, cache=dirs.user_cache_path)
    except RuntimeError as error:
        raise SlmError(
            "this user has no home directory: HOME is not set, and the system does not know the user.",
            hint="SLM_HOME=DIRECTORY has everything that slm writes in one place",
            exit_code=ExitCode.STORAGE,
        ) from error


def _from_file(file: Path) -> dict[str, Any]:
    table = toml_files.read(file)
    by_name = {key.name: key for key in KEYS}
    values: dict[str, Any] = {}
    for name, value in table.items():
        key = by_name.get(name)
        if key is None:
            known = ", ".join(by_name)
            raise usage_error(f"{file}: there is no setting '{name}'.", f"the settings are {known}")
        values[key.field] = _parsed(key, value, f"{file}: '{name}'")
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {
        key.field: _parsed(key, environ[key.variable], key.variable)
        for key in KEYS
        if key.variable and environ.get(key.variable)
    }


def _parsed(key: Key, value: object, where: str) -> Any:
    try:
        return key.parse(value)
    except _Wrong as wrong:
        raise usage_error(f"{where} {wrong}.") from wrong
