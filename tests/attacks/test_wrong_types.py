"""Values of a wrong type in the user's files and in the archive: a sentence, or what can be read of it.

A quick look: every key and column with the values that found something. All of them against all commands were tried
once (docs/decisions.md, 2026-11-25).
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Outcome

from attacks.conftest import has_told
from slmchat import endpoints, personas, settings
from slmchat.catalog import registry
from slmchat.conversation.archive import Archive
from slmchat.conversation.messages import Conversation, Message, Role
from slmchat.conversation.pictures import Picture
from slmchat.conversation.recorder import ArchiveRecorder
from slmchat.engine.requests import Image
from slmchat.errors import ExitCode, SlmError

VALUES = (
    '"x"', '""', "5", "-1", "0", "9" * 30, "1.5", "nan", "inf", "1e400", "true", "[]", "[1]", '["a"]', "[{a=1}]",
    "{}", "{a=1}", "2020-01-01", "07:32:00", '"\\u0000"', '"\\u001b[31m"', '"' + "9" * 400 + '"',
    '"' + "9" * 400 + ' GiB"', '"²"', "'''" + "x" * 100_000 + "'''",
)  # fmt: skip
PERSONA = tuple(f"personas.a.{key}" for key in personas.KEYS)
ENDPOINT = tuple(f"endpoints.a.{key}" for key in ("url", "model", "key_env", "key_keyring", "insecure", "timeout"))
CONFIG = (*(key.name for key in settings.KEYS), "personas.a", "endpoints.a", "sampler.temperature", *PERSONA, *ENDPOINT)


def _is_told(call: Callable[[], object]) -> None:
    """It works, or is refused with a sentence that a terminal can show."""
    refused = None
    try:
        call()
    except SlmError as error:
        refused = error
    if refused is not None:
        assert refused.exit_code in (ExitCode.USAGE, ExitCode.NO_MODEL)
        assert refused.message.isprintable() and len(refused.message) < 1000


@pytest.mark.parametrize("key", CONFIG)
def test_every_key_of_the_config(key: str, tmp_path: Path) -> None:
    file = tmp_path / "config" / "config.toml"
    file.parent.mkdir()
    *table, name = key.split(".")

    def load() -> None:
        found = settings.load({"SLM_HOME": str(tmp_path)})
        personas.load(found.personas, file)
        endpoints.named(found.endpoints, file)

    for value in VALUES:
        url = 'url = "https://h/v1"\n' if table[:1] == ["endpoints"] and name != "url" else ""
        file.write_text((f"[{'.'.join(table)}]\n" if table else "") + f"{url}{name} = {value}\n")
        _is_told(load)


MODEL = (
    "name", "title", "family", "parameters", "parameters_text", "context", "architecture", "license", "gated", "tags",
    "sampler", "sampler_thinking", "draft", "sampler_source", "base_model", "note", "projector", "variant", "target", "base", "lora",
)  # fmt: skip


@pytest.mark.parametrize("key", MODEL)
def test_every_key_of_the_users_models(key: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    for value in VALUES:
        facts = {"name": '"m"', "variant": '[{quantization = "Q4", source = [{hub = "a/b", file = "m.gguf"}]}]'}
        facts |= {"base": {"lora": '["/x.gguf"]'}, "lora": {"base": '"y"'}}.get(key, {})
        if key in ("target", "base", "lora"):
            del facts["variant"]
        lines = (f"{name} = {said}" for name, said in {**facts, key: value}.items())
        file.write_text("[[model]]\n" + "\n".join(lines) + "\n")
        _is_told(lambda: registry.load(file).resolve("m"))


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Notepad writes one."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.toml").write_text("threads = 2\n", encoding="utf-8-sig")
    assert settings.load({"SLM_HOME": str(tmp_path)}).threads == 2


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of an archive with one session of everything."""
    file = tmp_path_factory.mktemp("archive") / "sessions.db"
    recorder = ArchiveRecorder(Archive(file), print)
    talk = Conversation(system="be short", recorder=recorder, id=ID)
    talk.add(Message(Role.USER, "hello there", pictures=(Picture.of("cat.png", Image.of(2, 2, bytes(12))),)))
    talk.add(Message(Role.ASSISTANT, "answer", tokens=(1, 2, 3), thinking="hm", model="m@Q4"))
    talk.see_from(talk.path()[0], "summary")
    recorder.close()
    return file.read_bytes()


ID = "a" * 32
COLUMNS = {
    "sessions": (
        "title",
        "model",
        "message_count",
        "created_at",
        "updated_at",
        "current",
        "seen_from",
        "system",
        "summary",
    ),
    "messages": ("id", "parent", "role", "is_cut", "created_at", "model", "text", "thinking", "tokens"),
    "pictures": ("id", "width", "height", "png"),
    "message_pictures": ("message", "place", "picture", "name"),
}
WRONG = (b"\xff\xfe\x00", "0001-01-01T00:00:00+23:59", "CAST(x'ff41' AS TEXT)")


def _damaged(data: bytes, file: Path, table: str, column: str) -> Iterator[object]:
    """The archive with one wrong value after the other in this column."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for value in WRONG:
        for leftover in file.parent.glob("sessions.db*"):
            leftover.unlink()
        file.write_bytes(data)
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            is_sql = isinstance(value, str) and value.startswith("CAST")
            given = str(value) if is_sql else "?"
            only = "" if table == "message_pictures" else f" WHERE rowid = (SELECT max(rowid) FROM {table})"
            connection.execute(f"UPDATE {table} SET {column} = {given}{only}", () if is_sql else (value,))
        yield value


@pytest.mark.real
@pytest.mark.parametrize(("table", "column"), [(table, column) for table, all in COLUMNS.items() for column in all])
def test_every_column_of_the_archive(
    table: str, column: str, archive: bytes, slm: Callable[..., Outcome], home: Path
) -> None:
    """What can be read is shown; what cannot is a sentence; and the session can always be removed."""
    file = home / "data" / "sessions.db"
    for value in _damaged(archive, file, table, column):
        has_told(slm("sessions", "list"), 0)
        has_told(slm("sessions", "export", ID, "--format", "json"), 0, 6)
        if value == WRONG[0]:
            has_told(slm("sessions", "search", "hello"), 0, 6)
            has_told(slm("sessions", "rm", ID), 0)
            assert Archive(file).list() == []


@pytest.mark.parametrize("text", ["a = " + "[" * 2000 + "]" * 2000, "a = " + "9" * 5000, 'a = "\\ud800"', "= 1", "\0"])
def test_a_file_that_is_not_toml(text: str, tmp_path: Path) -> None:
    for name in ("config.toml", "models.toml"):
        (tmp_path / "config").mkdir(exist_ok=True)
        (tmp_path / "config" / name).write_text(text)
    for call in (
        lambda: settings.load({"SLM_HOME": str(tmp_path)}),
        lambda: registry.load(tmp_path / "config" / "models.toml"),
    ):
        with pytest.raises(SlmError) as caught:
            call()
        assert caught.value.exit_code is ExitCode.USAGE
