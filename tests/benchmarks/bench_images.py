"""Images: a second question about the same one does not encode it again, in the same session and in a new one.

With a two-layer Gemma 3 of random weights and a projector like it: what is counted are calls of the encoder, which a
large model makes as often. How long encoding takes is the projector's own affair.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import programs
from gguf_vision import write_tiny_gemma3, write_tiny_siglip
from targets import Target, rounds

from slmchat.engine import llama, native
from slmchat.engine.requests import Image, Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.session import LlamaSession
from slmchat.engine.vision import Projector

WIDTH, HEIGHT = 80, 50
SETTINGS = SessionSettings(512, programs.THREADS, programs.THREADS)


def measure(repeat: int) -> list[Target]:
    first: list[float] = []
    again: list[float] = []
    elsewhere: list[float] = []
    with tempfile.TemporaryDirectory() as folder, _counted() as calls:
        write_tiny_gemma3(Path(folder, "model.gguf"))
        write_tiny_siglip(Path(folder, "mmproj.gguf"))
        projector = Projector(Path(folder, "mmproj.gguf"), programs.THREADS)
        engine = llama.load(Path(folder, "model.gguf"), projector=projector)
        for number in rounds(repeat):
            session, other = engine.open_session(SETTINGS), engine.open_session(SETTINGS)
            asked = (session, "What is this?", first), (session, "Which colour?", again), (other, "Where?", elsewhere)
            for where, question, found in asked:
                before = len(calls)
                _ask(where, _image(number), question)
                found.append(float(len(calls) - before))
            session.close()
            other.close()
        engine.close()
    assert min(first) >= 1, "the encoder's calls are not counted"
    raw = {"first question": first, "second question": again, "in a new session": elsewhere}
    worst = [max(pair) for pair in zip(again, elsewhere, strict=True)]
    return [Target("a second question about an image: encoder calls", 0, worst, raw, is_at_least=False)]


@contextmanager
def _counted() -> Iterator[list[None]]:
    """One entry for each call of the encoder."""
    calls: list[None] = []
    mtmd = native.multimodal()
    encode = mtmd.mtmd_encode_chunk

    def counted(context: object, chunk: object) -> int:
        calls.append(None)
        return int(encode(context, chunk))

    mtmd.mtmd_encode_chunk = counted
    try:
        yield calls
    finally:
        mtmd.mtmd_encode_chunk = encode


def _image(number: int) -> Image:
    """Another one for each number."""
    places = range(WIDTH * HEIGHT)
    return Image.of(WIDTH, HEIGHT, bytes((x * c + number * 40) % 256 for x in places for c in (1, 2, 3)))


def _ask(session: LlamaSession, image: Image, question: str) -> None:
    prompt = Prompt((Part("", image=image), Part(question)))
    *_, finish = session.generate(prompt, SamplerSettings(temperature=0), Limits(4))
    assert isinstance(finish, Finish)
