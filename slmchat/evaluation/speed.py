"""How fast a model answers here, one answer at a time: what a person waits for, not what a pool makes of it.

The walk of `slm bench` with one stop: a message of 256 tokens, then 64 tokens of an answer.
Refuses to know: tasks, scores, how a model was opened.
"""

from slmchat.engine.api import Session
from slmchat.engine.cancellable import CancelScope
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.results import Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import bench_walk
from slmchat.generation.bench_walk import Followed
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.open import OpenModel

# A window that holds the walk: 256 tokens, 64 more, and those of a model that ends early and is asked again.
_N_CTX = 1024


@dataclass(frozen=True, slots=True)
class AnswerSpeed:
    """Tokens a second. `generation_tps` None: the model ended at once, however often it was asked."""

    prompt_tps: float
    generation_tps: float | None


def measure_speed(opened: OpenModel, cancellable: CancelScope) -> AnswerSpeed | None:
    """The speed of an open model; None when that was cancelled. Raises `SlmError`."""
    engine = opened.engine
    trained = engine.info.trained_context_length or _N_CTX
    session = opened.open_plain_session(min(_N_CTX, trained))

    def follow(session: Session, prompt: Prompt, sampler: SamplerSettings, limits: Limits) -> Followed:
        events = session.generate(prompt, sampler, limits)
        with cancellable(session):
            for event in events:
                if isinstance(event, Finish):
                    return Followed(event)
        raise SlmError("the engine ended a generation without saying how.", exit_code=ExitCode.BUG)

    sampler = SamplerSettings(temperature=0.0, seed=1)
    steps = bench_walk.plan(session.n_ctx, [0])
    try:
        (stop,) = bench_walk.walk(session, engine, steps, sampler, follow)
    except bench_walk.Interrupted:
        return None
    finally:
        session.close()
    return AnswerSpeed(stop.prompt_tps, stop.generation_tps)
