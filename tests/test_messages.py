"""The tree of messages: retry, undo, edit and branch; what the model sees; what the recorder is told."""

import pytest
from properties import given
from properties import strategies as st

from slmchat.conversation.attachments import Attachment, compose, taken_apart
from slmchat.conversation.messages import Conversation, Message, Node, Role, title_of


class Told:
    """A recorder that remembers what it was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def added(self, conversation: Conversation, node: Node) -> None:
        self.events.append(("added", node.message.text))

    def updated(self, conversation: Conversation, node: Node) -> None:
        self.events.append(("updated", node.message.text))

    def moved(self, conversation: Conversation) -> None:
        self.events.append(("moved", conversation.title))


def user(text: str) -> Message:
    return Message(Role.USER, text)


def answer(text: str, **more: object) -> Message:
    return Message(Role.ASSISTANT, text, **more)  # type: ignore[arg-type]


def texts(nodes: list[Node]) -> list[str]:
    return [node.message.text for node in nodes]


@pytest.fixture
def talk() -> Conversation:
    """Two questions, two answers."""
    conversation = Conversation("Be short.")
    for number in (1, 2):
        conversation.add(user(f"question {number}"))
        conversation.add(answer(f"answer {number}"))
    return conversation


def test_retry_is_another_answer_beside_the_old_one(talk: Conversation) -> None:
    old = talk.last(Role.ASSISTANT)
    assert old is not None
    talk.go_to(old.parent)
    new = talk.add(answer("answer 2, again"))
    assert texts(talk.path()) == ["question 1", "answer 1", "question 2", "answer 2, again"]
    assert talk.alternatives(new) == talk.alternatives(old) == [old, new]
    talk.go_to(old)
    assert texts(talk.path())[-1] == "answer 2"


def test_undo_goes_back_before_the_last_question_and_keeps_it(talk: Conversation) -> None:
    question = talk.last(Role.USER)
    assert question is not None
    talk.go_to(question.parent)
    assert texts(talk.path()) == ["question 1", "answer 1"]
    assert talk.tip_of(talk.roots[0]).message.text == "answer 2"
    assert len(list(talk.nodes())) == 4


def test_undo_of_everything_and_a_second_beginning(talk: Conversation) -> None:
    talk.go_to(None)
    assert talk.path() == talk.visible() == []
    assert talk.last(Role.USER) is None
    talk.add(user("another beginning"))
    assert texts(talk.roots) == ["question 1", "another beginning"]
    assert talk.title == "question 1"


def test_edit_is_another_question_in_the_same_place(talk: Conversation) -> None:
    first = talk.roots[0]
    talk.go_to(first.parent)
    edited = talk.add(user("question 1, better"))
    assert talk.alternatives(edited) == [first, edited]
    assert talk.tip_of(first).message.text == "answer 2"
    assert talk.tip_of(edited) is edited


def test_the_tip_is_the_branch_that_was_continued_last(talk: Conversation) -> None:
    question = talk.path()[2]
    talk.go_to(question)
    talk.add(answer("third"))
    assert talk.tip_of(talk.roots[0]).message.text == "third"


def test_what_the_model_sees(talk: Conversation) -> None:
    path = talk.path()
    talk.see_from(path[2], "they greeted each other")
    assert texts(talk.visible()) == ["question 2", "answer 2"]
    first, *said = talk.as_messages()
    assert first.role is Role.SYSTEM
    assert first.text == "Be short.\n\nWhat was said before, in short: they greeted each other"
    assert [message.text for message in said] == ["question 2", "answer 2"]
    talk.see_from(None)
    assert talk.visible() == path


def test_a_branch_without_the_first_seen_message_is_seen_whole(talk: Conversation) -> None:
    path = talk.path()
    talk.see_from(path[2], "a summary")
    talk.go_to(path[3])
    assert talk.seen_from is path[2]
    talk.go_to(path[1])
    assert (talk.seen_from, talk.summary) == (None, None)
    assert talk.visible() == path[:2]


def test_tokens_go_only_to_the_model_that_sampled_them() -> None:
    talk = Conversation()
    talk.add(user("hi"))
    talk.add(answer("hello", tokens=(1, 2), model="a", thinking="they greet"))
    assert [(message.tokens, message.thinking) for message in talk.as_messages("a")] == [(None, ""), ((1, 2), "")]
    assert [message.tokens for message in talk.as_messages("b")] == [None, None]
    assert talk.path()[1].message.thinking == "they greet"


def test_no_system_message_when_there_is_nothing_to_say() -> None:
    talk = Conversation()
    talk.add(user("hi"))
    assert [message.role for message in talk.as_messages()] == [Role.USER]


def test_the_recorder_is_told_everything_in_order() -> None:
    told = Told()
    talk = Conversation(recorder=told)
    question = talk.add(user("hi"))
    node = talk.add(answer(""))
    talk.update(node, answer("hel"))
    talk.update(node, answer("hello"))
    talk.title = "greeting"
    talk.changed()
    talk.go_to(question)
    talk.see_from(question)
    assert told.events == [
        ("added", "hi"),
        ("added", ""),
        ("updated", "hel"),
        ("updated", "hello"),
        ("moved", "greeting"),
        ("moved", "greeting"),
        ("moved", "greeting"),
    ]
    talk.recorder = None
    talk.add(user("unheard"))
    assert len(told.events) == 7


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("", ""),
        ("\n \n", ""),
        ("\n  Why is the sky blue?\nTell me.", "Why is the sky blue?"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 60 + " …"),
        ("word " * 20, ("word " * 12).strip() + " …"),
    ],
)
def test_titles(text: str, title: str) -> None:
    assert title_of(text) == title


@given(st.lists(st.integers(min_value=-1, max_value=30), max_size=30))
def test_any_tree_has_each_node_once_and_parents_first(places: list[int]) -> None:
    talk = Conversation()
    made: list[Node] = []
    for number, place in enumerate(places):
        talk.go_to(made[place] if 0 <= place < len(made) else None)
        made.append(talk.add(user(str(number))))
    seen = list(talk.nodes())
    assert len(seen) == len(made)
    assert set(seen) == set(made)
    for index, node in enumerate(seen):
        assert node.parent is None or node.parent in seen[:index]
        assert node in talk.alternatives(node)
        assert talk.alternatives(node) == sorted(talk.alternatives(node), key=made.index)


NAMES = st.none() | st.text(alphabet="ab [1],./:", min_size=1).filter(lambda name: name.strip() and name[-1] != ":")


@given(
    st.text(alphabet='a"\n '),
    st.lists(st.builds(Attachment, st.text(alphabet='b"\n:'), NAMES), max_size=3),
)
def test_a_message_is_taken_apart_into_what_it_was_made_of(typed: str, attachments: list[Attachment]) -> None:
    text = compose(typed, attachments)
    instruction, parts = taken_apart(text)
    assert compose(instruction, parts) == text
    if typed.strip() and '"' not in typed:
        assert (instruction, [item.name for item in parts]) == (typed, [item.name for item in attachments])
