"""What need not be evaluated again: a conversation that is resumed, a document that is asked about again.

States go to a temporary directory. Each ratio is a time to first token against that of the same prompt evaluated from
its beginning, in the same process (resuming) or by the same program (`slm run`).
"""

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import programs
from targets import Target, rounds

from slmchat.engine import llama
from slmchat.engine.kvstore import KvStore
from slmchat.engine.requests import Limits, Part, Prompt, SessionSettings
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings

CONVERSATION_TOKENS, DOCUMENT_TOKENS = 3000, 2000
_WORDS = "the river city council plan market engine water price winter report season village bridge garden island"


def measure(repeat: int) -> list[Target]:
    """Both targets for both models."""
    return [
        made
        for model in programs.MODELS
        for made in (
            _target(
                f"{model} first token, resumed conversation", 0.05, repeat, _resuming(Path(programs.path_of(model)))
            ),
            _target(
                f"{model} first token, document seen before", 0.1, repeat, _asking_again(Path(programs.path_of(model)))
            ),
        )
    ]


def _target(name: str, limit: float, repeat: int, once: Callable[[int], tuple[float, float]]) -> Target:
    """`once(number)`: seconds to the first token, fresh and with what is stored."""
    found = [once(number) for number in rounds(repeat)]
    raw = {"fresh s": [fresh for fresh, _stored in found], "stored s": [stored for _fresh, stored in found]}
    return Target(name, limit, [stored / fresh for fresh, stored in found], raw, is_at_least=False)


def _resuming(path: Path) -> Callable[[int], tuple[float, float]]:
    """A conversation and then a question, evaluated afresh; and after the conversation was loaded from the disk."""

    def once(number: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as directory:
            engine = llama.load(path)
            text = Part(_text(number, CONVERSATION_TOKENS + 200))
            said = engine.vocabulary.tokenize(Prompt((text,)))[:CONVERSATION_TOKENS]
            settings = SessionSettings(4096, programs.THREADS, programs.THREADS, store=KvStore(Path(directory)))
            question = Part("\nWhat did we say about the river?\n")

            def ttft(prompt: Prompt, *, is_kept: bool) -> float:
                session = engine.open_session(settings)
                finish = list(session.generate(prompt, SamplerSettings(temperature=0), Limits(1)))[-1]
                assert isinstance(finish, Finish)
                assert finish.timings.ttft_s
                if is_kept:
                    session.keep("a")
                session.close()
                return finish.timings.ttft_s

            conversation = Part("", tokens=tuple(said))
            fresh = ttft(Prompt((conversation,)), is_kept=True)
            stored = ttft(Prompt((conversation, question)), is_kept=False)
            engine.close()
            return fresh, stored

    return once


def _asking_again(path: Path) -> Callable[[int], tuple[float, float]]:
    """`slm run` over a document, twice, with another question."""

    def once(number: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as home:
            document = Path(home, "document.txt")
            document.write_text(_text(number, DOCUMENT_TOKENS))
            first, second = (_run(path, home, document, asked) for asked in ("What is it about?", "Name one season."))
            return first, second

    return once


def _run(path: Path, home: str, document: Path, question: str) -> float:
    arguments = ["run", "-m", str(path), "--temp", "0", "-n", "1", "--json", "--threads", str(programs.THREADS)]
    if "gemma" in path.name:  # a base model
        arguments.append("--raw")
    done = programs.run([*programs.SLM, *arguments, "-f", str(document), question], {"SLM_HOME": home})
    return float(json.loads(done.out)["timings"]["ttft_s"])


def _text(seed: int, n_words: int) -> str:
    """About as many tokens as words, never the same text twice."""
    chance, words = random.Random(seed), _WORDS.split()
    return " ".join(chance.choice(words) for _ in range(n_words))
