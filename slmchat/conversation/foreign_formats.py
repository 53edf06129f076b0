"""Chats of other tools in their files: ChatGPT and Claude exports, Open WebUI, llm's logs.db, sessions of aichat.

Each format is told by what is in it, not by the name of the file. What slm has no place for (a picture that is not in
the file, the call of a tool) stands in the text as a word in brackets or as a block of code: nothing said is lost.

Knows: these formats as their tools write them. Refuses to know: what becomes of the chats (foreign_chat.py).
"""

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slmchat.archives import NOT_READABLE
from slmchat.conversation.attachments import fence_around
from slmchat.conversation.exchange import FORMAT, Times
from slmchat.conversation.foreign_chat import ForeignChat, ForeignMessage
from slmchat.conversation.messages import Role, now
from slmchat.errors import ExitCode, SlmError

# Bytes that are read of a file, and of a member of an archive.
MOST_BYTES = 2 * 1024**3
_SQLITE = b"SQLite format 3\0"
_ROLES = {"user": Role.USER, "human": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM}

Json = Mapping[str, Any]


def chats_in(data: bytes, file: Path | None) -> Iterator[ForeignChat] | None:
    """The chats in a file of one of the tools; None when it is an export of slm's own.

    `file`: where the data came from, for a database. Raises `SlmError` (DAMAGED) for anything else.
    """
    if data.startswith(_SQLITE) and file is not None:
        return _llm(file)
    if data.startswith(b"PK"):
        data = _member(data)
    text = data.decode("utf-8-sig", "replace")
    value = _parsed(text)
    if isinstance(value, dict) and value.get("format") == FORMAT:
        return None
    if isinstance(value, dict) and isinstance(value.get("messages"), list) and "mapping" not in value:
        return iter([_aichat(value, file.stem if file is not None else "aichat")])
    listed = value if isinstance(value, list) else [value]
    first = next((each for each in listed if isinstance(each, dict)), {})
    for mark, read in _BY_KEY.items():
        if mark in first:
            return (read(each) for each in listed if isinstance(each, dict) and mark in each)
    raise _unknown()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    import yaml  # type: ignore[import-untyped]

    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:  # also: a day that no month has
        raise _unknown() from error
    if not isinstance(value, dict):
        raise _unknown()
    return value


def _member(data: bytes) -> bytes:
    """`conversations.json` of a ZIP file, as ChatGPT and Claude send it."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if Path(name).name == "conversations.json"]
            if names:
                with archive.open(names[0]) as member:
                    return member.read(MOST_BYTES)
    except (*NOT_READABLE, OSError) as error:
        raise _unknown() from error
    raise _unknown()


def _unknown() -> SlmError:
    return SlmError(
        "this is not a chat that slm can read.",
        hint="exports of slm, ChatGPT, Claude and Open WebUI, llm's logs.db, sessions of aichat",
        exit_code=ExitCode.DAMAGED,
    )


# ChatGPT: a tree of nodes in `mapping`, each with a message or none; the branch in use ends at `current_node`.


def _chatgpt(chat: Json) -> ForeignChat:
    mapping = _table(chat.get("mapping"))
    messages: list[ForeignMessage] = []
    system: list[str] = []
    for id, node in mapping.items():
        said = _table(_table(node).get("message"))
        role = str(_table(said.get("author")).get("role", ""))
        text, thinking = _chatgpt_text(said, role)
        if role == "system":
            system += [text] if text.strip() else []
            text = thinking = ""
        model = _table(said.get("metadata")).get("model_slug")
        messages.append(
            ForeignMessage(
                id,
                _id_or_none(_table(node).get("parent")),
                Role.USER if role == "user" else Role.ASSISTANT,
                text,
                _time(said.get("create_time") or chat.get("create_time")),
                thinking,
                str(model) if model and role == "assistant" else None,
            )
        )
    return ForeignChat(
        "chatgpt", str(chat.get("conversation_id") or chat.get("id") or chat.get("create_time")),
        str(chat.get("title") or ""), "\n\n".join(system) or None, messages, _id_or_none(chat.get("current_node")),
        _times(chat.get("create_time"), chat.get("update_time")),
    )  # fmt: skip


def _chatgpt_text(said: Json, role: str) -> tuple[str, str]:
    """Text and thinking of a message, by the kind of its content."""
    content = _table(said.get("content"))
    kind = content.get("content_type")
    if kind == "thoughts":
        thoughts = [_table(each) for each in _items(content.get("thoughts"))]
        return "", "\n\n".join(str(each.get("content") or each.get("summary") or "") for each in thoughts)
    if kind == "reasoning_recap":
        return "", str(content.get("content") or "")
    parts = [_chatgpt_part(part) for part in _items(content.get("parts"))]
    text = "\n\n".join(filter(None, [*parts, str(content.get("text") or content.get("result") or "")]))
    if not text.strip():
        return "", ""
    if kind == "code":
        return _fenced(text, str(content.get("language") or "").replace("unknown", "")), ""
    return (_fenced(text) if role == "tool" else text), ""


def _chatgpt_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    known = _table(part)
    kind = str(known.get("content_type") or "something")
    return str(known.get("text") or f"[{kind.removesuffix('_asset_pointer').replace('_', ' ')}: not in the export]")


# Claude: a list of messages, with the one before each where there are branches.


def _claude(chat: Json) -> ForeignChat:
    messages: list[ForeignMessage] = []
    before: str | None = None
    for number, each in enumerate(_items(chat.get("chat_messages"))):
        said = _table(each)
        id = str(said.get("uuid") or number)
        blocks = [_table(block) for block in _items(said.get("content"))]
        text = "\n\n".join(filter(None, map(_claude_block, blocks))) or str(said.get("text") or "")
        thinking = "\n\n".join(str(block.get("thinking") or "") for block in blocks if block.get("type") == "thinking")
        given = [_table(item) for item in (*_items(said.get("attachments")), *_items(said.get("files")))]
        text = "\n\n".join(filter(None, (*map(_claude_file, given), text)))
        parent = _id_or_none(said.get("parent_message_uuid")) or before
        role = _ROLES.get(str(said.get("sender")), Role.ASSISTANT)
        time = _time(said.get("created_at") or chat.get("created_at"))
        messages.append(ForeignMessage(id, parent, role, text, time, thinking))
        before = id
    return ForeignChat(
        "claude", str(chat.get("uuid")), str(chat.get("name") or ""), None, messages,
        _id_or_none(chat.get("current_leaf_message_uuid")), _times(chat.get("created_at"), chat.get("updated_at")),
    )  # fmt: skip


def _claude_block(block: Json) -> str:
    kind = block.get("type")
    if kind == "text":
        return str(block.get("text") or "")
    if kind == "tool_use":
        called = json.dumps(block.get("input"), ensure_ascii=False, indent=2)
        return f"[tool {block.get('name')}]\n{_fenced(called, 'json')}"
    if kind == "tool_result":
        said = "\n".join(str(_table(part).get("text") or "") for part in _items(block.get("content")))
        return _fenced(said or str(block.get("content") or ""))
    return "" if kind == "thinking" else f"[{kind}: not in the export]"


def _claude_file(item: Json) -> str:
    name, content = str(item.get("file_name") or "file"), item.get("extracted_content")
    return f"[{name}]\n{_fenced(str(content))}" if content else f"[{name}: not in the export]"


# Open WebUI: a tree in `history`.


def _open_webui(entry: Json) -> ForeignChat:
    chat = _table(entry.get("chat"))
    history = _table(chat.get("history"))
    found = _table(history.get("messages"))
    if not found:
        found = {
            str(_table(each).get("id") or number): each for number, each in enumerate(_items(chat.get("messages")))
        }
    messages: list[ForeignMessage] = []
    system = [str(_table(chat.get("params")).get("system") or chat.get("system") or "")]
    for id, each in found.items():
        said = _table(each)
        role = _ROLES.get(str(said.get("role")), Role.ASSISTANT)
        files = [f"[{_table(item).get('name') or 'file'}: not in the export]" for item in _items(said.get("files"))]
        text = "\n\n".join(filter(None, (*files, _text(said.get("content")))))
        if role is Role.SYSTEM:
            system.append(text)
            role, text = Role.ASSISTANT, ""
        model = str(said["model"]) if said.get("model") and role is Role.ASSISTANT else None
        time = _time(said.get("timestamp") or entry.get("created_at"))
        messages.append(ForeignMessage(str(id), _id_or_none(said.get("parentId")), role, text, time, "", model))
    return ForeignChat(
        "open-webui", str(entry.get("id") or chat.get("id")), str(entry.get("title") or chat.get("title") or ""),
        "\n\n".join(filter(None, system)) or None, messages, _id_or_none(history.get("currentId")),
        _times(entry.get("created_at") or chat.get("timestamp"), entry.get("updated_at")),
    )  # fmt: skip


# aichat: a list of messages in YAML, those that were compressed before it.


def _aichat(value: Json, name: str) -> ForeignChat:
    said = [_table(each) for key in ("compressed_messages", "messages") for each in _items(value.get(key))]
    time, model = now(), str(value.get("model") or "") or None
    system = "\n\n".join(_text(each.get("content")) for each in said if each.get("role") == "system")
    messages: list[ForeignMessage] = []
    for number, each in enumerate(said):
        if each.get("role") == "system":
            continue
        role = _ROLES.get(str(each.get("role")), Role.ASSISTANT)
        parent = messages[-1].id if messages else None
        by = model if role is Role.ASSISTANT else None
        messages.append(ForeignMessage(str(number), parent, role, _text(each.get("content")), time, "", by))
    return ForeignChat("aichat", name, name, system or None, messages, None, Times(time, now()))


# llm: one row for each exchange.


def _llm(file: Path) -> Iterator[ForeignChat]:
    import sqlite3

    try:
        database = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        database.row_factory = sqlite3.Row
        database.execute("PRAGMA trusted_schema = OFF")
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "responses" not in tables:
            raise _unknown()
        names = {}
        if "conversations" in tables:
            names = {row["id"]: row["name"] for row in database.execute("SELECT id, name FROM conversations")}
        pieces = _llm_pieces(database, tables)
        rows = database.execute("SELECT * FROM responses ORDER BY datetime_utc, rowid").fetchall()
        database.close()
    except sqlite3.DatabaseError as error:
        raise _unknown() from error
    chats: dict[str, list[Json]] = {}
    for row in rows:
        found = dict(row)
        chats.setdefault(str(found.get("conversation_id") or found.get("id")), []).append(found)
    return (_llm_chat(id, list_, str(names.get(id) or ""), pieces) for id, list_ in chats.items())


def _llm_pieces(database: Any, tables: set[str]) -> dict[str, list[str]]:
    """What stands before the prompts beside their text, by response: fragments, names of attachments."""
    pieces: dict[str, list[str]] = {}
    if {"fragments", "prompt_fragments"} <= tables:
        for row in database.execute(
            "SELECT response_id, content FROM prompt_fragments JOIN fragments ON fragments.id = fragment_id"
            ' ORDER BY response_id, "order"'
        ):
            pieces.setdefault(str(row[0]), []).append(str(row[1]))
    if {"attachments", "prompt_attachments"} <= tables:
        for row in database.execute(
            "SELECT response_id, coalesce(path, url, type) FROM prompt_attachments"
            ' JOIN attachments ON attachments.id = attachment_id ORDER BY response_id, "order"'
        ):
            pieces.setdefault(str(row[0]), []).append(f"[attachment: {row[1]}]")
    return pieces


def _llm_chat(id: str, rows: list[Json], title: str, pieces: Mapping[str, list[str]]) -> ForeignChat:
    messages: list[ForeignMessage] = []
    for row in rows:
        key, time = str(row["id"]), _time(row.get("datetime_utc"))
        prompt = "\n\n".join(filter(None, [*pieces.get(key, ()), str(row.get("prompt") or "")]))
        parent = messages[-1].id if messages else None
        messages.append(ForeignMessage(f"{key}/prompt", parent, Role.USER, prompt, time))
        answer, thinking = str(row.get("response") or ""), str(row.get("reasoning") or "")
        by = str(row["model"]) if row.get("model") else None
        messages.append(ForeignMessage(key, f"{key}/prompt", Role.ASSISTANT, answer, time, thinking, by))
    systems = dict.fromkeys(str(row["system"]) for row in rows if row.get("system"))
    times = _times(rows[0].get("datetime_utc"), rows[-1].get("datetime_utc"))
    return ForeignChat("llm", id, title, "\n\n".join(systems) or None, messages, None, times)


_BY_KEY: Mapping[str, Callable[[Json], ForeignChat]] = {
    "mapping": _chatgpt,
    "chat_messages": _claude,
    "chat": _open_webui,
}


# What any of them may hold, whatever it should be


def _table(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _id_or_none(value: Any) -> str | None:
    return str(value) if value else None


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(content: Any) -> str:
    """A text, or the texts of its parts."""
    if isinstance(content, str):
        return content
    parts = [_table(part) for part in _items(content)]
    return "\n\n".join(str(part.get("text") or f"[{part.get('type') or 'something'}]") for part in parts)


def _fenced(text: str, language: str = "") -> str:
    """A block of code, whatever fences are in it."""
    fence = fence_around(text, "`")
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _times(begun: Any, ended: Any) -> Times:
    first = _time(begun)
    return Times(first, datetime.fromisoformat(_time(ended or begun)).isoformat(timespec="microseconds"))


def _time(value: Any) -> str:
    """ISO 8601 in UTC to the second, from seconds (or thousandths, or billionths) since 1970 or a text; else now."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            seconds = float(value)
            if not math.isfinite(seconds):
                raise ValueError("no time")
            while seconds > 1e11:  # the year 5138
                seconds /= 1000
            return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
        found = datetime.fromisoformat(str(value))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return now()
