"""Images in states that are kept: on the disk, and in snapshots of a sliding window."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_vision import answer, asked, counting, encodings, image, loaded, seeing

from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import Part, Prompt, SessionSettings

pytestmark = pytest.mark.real
__all__ = ["counting", "seeing"]

LONG = " what is there and who are these people and how many of them will come to see it" * 4


@pytest.mark.parametrize("kind", ["gemma", "qwen", "smolvlm"])
def test_a_state_with_images_comes_back_from_the_disk(seeing: Path, tmp_path: Path, kind: str) -> None:
    question = (Part("user" + LONG), Part("", image=image()), Part(LONG + " first"), Part(" answer:", True))
    settings = SessionSettings(1024, 1, 1, flash_attention=False, store=KvStore(tmp_path / "states", 1 << 30))
    engine = loaded(seeing / kind)
    session = engine.open_session(settings)
    first = answer(session, Prompt(question))[0]
    session.keep("someone")
    session.close()
    engine.close()
    before = encodings()
    engine = loaded(seeing / kind)
    session = engine.open_session(settings)
    goes_on = Prompt((*question, Part("", tokens=tuple(first)), Part(" and then" + LONG)))
    tokens, finish, _ = answer(session, goes_on)
    assert finish.usage.cached_tokens >= engine.count(Prompt(question)) + len(first) - 2
    assert encodings() == before  # nothing of the image was needed in this process
    session.close()
    plain = engine.open_session(replace(settings, store=None))
    assert tokens == answer(plain, goes_on)[0]
    plain.close()
    engine.close()


def test_going_back_to_before_and_behind_an_image(seeing: Path) -> None:
    """Longer than the window of 64: only snapshots allow it."""
    engine = loaded(seeing / "gemma")
    settings = SessionSettings(1024, 1, 1, flash_attention=False)
    session = engine.open_session(settings)
    for question in (LONG, LONG + " and", "short", LONG, " "):
        for shown in ((image(),), (image(), image(90)), ()):
            tokens = answer(session, asked(question, *shown))[0]
            plain = engine.open_session(settings)
            assert tokens == answer(plain, asked(question, *shown))[0]
            plain.close()
    session.close()
    engine.close()
