"""A small chat in the files of other tools, written from their public schemas: the same words in each."""

import json
import sqlite3
from pathlib import Path
from typing import Any

QUESTION, ANSWER, MORE, LAST = "What is a fjord?", "A long, narrow inlet.", "In which country?", "Mostly in Norway."


def chatgpt(n_more: int = 0) -> str:
    """`conversations.json` of ChatGPT: a tree with an answer made twice, a hidden root, a tool and a picture."""

    def node(id: str, parent: str | None, children: list[str], role: str | None, content: Any = None) -> dict[str, Any]:
        if role is None:
            return {"id": id, "message": None, "parent": parent, "children": children}
        text = {"content_type": "text", "parts": [content]}
        message = {
            "id": id, "author": {"role": role, "name": None, "metadata": {}}, "create_time": 1700000000.5,
            "content": content if isinstance(content, dict) else text,
            "status": "finished_successfully", "metadata": {"model_slug": "gpt-4o"} if role == "assistant" else {},
        }  # fmt: skip
        return {"id": id, "message": message, "parent": parent, "children": children}

    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1"}
    nodes = [
        node("root", None, ["sys"], None),
        node("sys", "root", ["q1"], "system", ""),
        node("q1", "sys", ["a1", "a1b"], "user", {"content_type": "multimodal_text", "parts": [picture, QUESTION]}),
        node("a1", "q1", [], "assistant", "An old answer."),
        node("a1b", "q1", ["q2"], "assistant", ANSWER),
        node("q2", "a1b", ["think"], "user", MORE),
        node("think", "q2", ["code"], "assistant",
             {"content_type": "thoughts", "thoughts": [{"summary": "Look", "content": "Look it up"}]}),
        node("code", "think", ["tool"], "assistant", {"content_type": "code", "language": "python", "text": "find()"}),
        node("tool", "code", ["a2"], "tool", {"content_type": "execution_output", "text": "Norway"}),
        node("a2", "tool", [], "assistant", LAST),
    ]  # fmt: skip
    for number in range(n_more):
        nodes[-1]["children"] = [f"m{number}"]
        nodes.append(
            node(f"m{number}", nodes[-1]["id"], [], "user" if number % 2 == 0 else "assistant", f"more {number}")
        )
    chat = {
        "title": "Fjords", "create_time": 1700000000.0, "update_time": 1700000100.0, "conversation_id": "c-1",
        "mapping": {each["id"]: each for each in nodes}, "current_node": nodes[-1]["id"],
    }  # fmt: skip
    return json.dumps([chat])


def claude() -> str:
    """`conversations.json` of Claude."""

    def said(id: str, sender: str, blocks: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"uuid": id, "sender": sender, "text": "", "content": blocks, "attachments": [], "files": [],
                "created_at": "2026-01-02T03:04:05.678Z", **more}  # fmt: skip

    messages = [
        said("1", "human", [{"type": "text", "text": QUESTION}],
             attachments=[{"file_name": "notes.txt", "extracted_content": "my notes"}]),
        said("2", "assistant", [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": ANSWER}]),
        said("3", "human", [{"type": "text", "text": MORE}], files=[{"file_name": "map.png"}]),
        said("4", "assistant", [{"type": "tool_use", "name": "atlas", "input": {"q": "fjord"}},
                                {"type": "tool_result", "content": [{"type": "text", "text": "Norway"}]},
                                {"type": "text", "text": LAST}]),
    ]  # fmt: skip
    return json.dumps([{"uuid": "c-1", "name": "Fjords", "created_at": "2026-01-02T03:04:05.678Z",
                        "updated_at": "2026-01-02T04:04:05.678Z", "chat_messages": messages}])  # fmt: skip


def open_webui() -> str:
    """The export of Open WebUI."""
    texts = (("user", QUESTION), ("assistant", ANSWER), ("user", MORE), ("assistant", LAST))
    messages = {
        f"m{number}": {
            "id": f"m{number}", "parentId": f"m{number - 1}" if number else None, "role": role, "content": text,
            "childrenIds": [], "timestamp": 1700000000 + number,
            **({"model": "llama3:8b"} if role == "assistant" else {"files": []}),
        }
        for number, (role, text) in enumerate(texts)
    }  # fmt: skip
    chat = {"title": "Fjords", "models": ["llama3:8b"], "params": {"system": "Be brief."},
            "history": {"messages": messages, "currentId": "m3"}, "messages": list(messages.values())}  # fmt: skip
    return json.dumps([{"id": "c-1", "title": "Fjords", "chat": chat, "created_at": 1700000000,
                        "updated_at": 1700000100}])  # fmt: skip


def llm(file: Path) -> None:
    """`logs.db` of llm."""
    database = sqlite3.connect(file)
    database.executescript(
        """
        CREATE TABLE conversations (id TEXT PRIMARY KEY, name TEXT, model TEXT);
        CREATE TABLE responses (id TEXT PRIMARY KEY, model TEXT, prompt TEXT, system TEXT, prompt_json TEXT,
            options_json TEXT, response TEXT, response_json TEXT, conversation_id TEXT, duration_ms INTEGER,
            datetime_utc TEXT);
        CREATE TABLE fragments (id INTEGER PRIMARY KEY, hash TEXT, content TEXT, datetime_utc TEXT, source TEXT);
        CREATE TABLE prompt_fragments (response_id TEXT, fragment_id INTEGER, "order" INTEGER);
        """
    )
    database.execute("INSERT INTO conversations VALUES ('c-1', 'Fjords', 'gpt-4o-mini')")
    database.execute("INSERT INTO fragments VALUES (1, 'h', 'a fragment', '', '')")
    database.execute("INSERT INTO prompt_fragments VALUES ('r2', 1, 0)")
    for id, prompt, answer, time in (("r1", QUESTION, ANSWER, "10:00:00"), ("r2", MORE, LAST, "10:01:00")):
        database.execute(
            "INSERT INTO responses VALUES (?, 'gpt-4o-mini', ?, 'Be brief.', NULL, '{}', ?, NULL, 'c-1', 1, ?)",
            (id, prompt, answer, f"2026-01-02T{time}.123456+00:00"),
        )
    database.commit()
    database.close()


AICHAT = f"""\
model: openai:gpt-4o
temperature: 0.5
save_session: true
messages:
- role: system
  content: Be brief.
- role: user
  content: {QUESTION}
- role: assistant
  content: |-
    {ANSWER}
- role: user
  content:
  - type: text
    text: {MORE}
- role: assistant
  content: {LAST}
"""
