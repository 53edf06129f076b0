"""The checks of `slm doctor MODEL` that let it compute: five tokens, and whether it knows where an answer ends.

Knows: a few harmless questions, what figures of a sound model look like.
Refuses to know: headers and templates (diagnostics/model.py), how sessions are opened (models/loader.py).
"""

import math
from array import array
from collections.abc import Iterator
from dataclasses import replace

from slmchat.conversation.layouts import raw_prompt
from slmchat.conversation.messages import Message, Role
from slmchat.diagnostics.findings import Check, Finding, fine, note, wrong
from slmchat.diagnostics.model import Loaded
from slmchat.engine.requests import Limits, Prompt, SessionSettings
from slmchat.engine.results import Chunk, Finish
from slmchat.engine.sampler import SamplerSettings
from slmchat.lazy_dataclasses import dataclass
from slmchat.sanitize import sanitize
from slmchat.wording import counted

_TOKENS = 5
_N_CTX = 1024

# Questions with their whole answers. Behind one of them a model that was taught to chat with this template ends its
# turn: SmolLM2-135M gives the end 0.70 and 0.68. A base model of Gemma 3 gives it 0.001 to 0.0024, whatever template
# it is shown (docs/decisions.md).
_ANSWERS = (
    ("What is the capital of France?", "The capital of France is Paris."),
    ("Say hello.", "Hello! How can I help you today?"),
)
_KNOWS_ITS_END = 0.03


@dataclass(frozen=True, slots=True)
class Trial:
    """A loaded model and the settings with which it is tried."""

    loaded: Loaded
    session: SessionSettings

    def prompt(self, *said: Message, goes_on: bool = False) -> Prompt:
        """A prompt through the template, or the bare text where there is none that works."""
        if not self.loaded.has_template:
            return raw_prompt(said)
        return self.loaded.template().render(said, goes_on=goes_on)

    def probabilities(self, prompt: Prompt) -> "array[float] | None":
        """How probable each token is behind a prompt, None when the model computes no numbers. Raises `SlmError`."""
        engine = self.loaded.engine
        context = engine.open_context(replace(self.session, n_ctx=_N_CTX), lambda: False)
        try:
            for _ in context.prefill(engine.vocabulary.tokenize(prompt)[-_N_CTX + 1 :]):
                pass
            logits = array("f", context.logits(-1))
        finally:
            context.close()
        top = max(logits)
        if not all(map(math.isfinite, logits)):
            return None
        weights = array("d", (math.exp(logit - top) for logit in logits))
        total = math.fsum(weights)
        return array("d", (weight / total for weight in weights))


def _smoke(trial: Trial) -> Iterator[Finding]:
    """Five tokens through the same door as every answer."""
    prompt = trial.prompt(Message(Role.USER, "What is the capital of France?"))
    if trial.probabilities(prompt) is None:
        yield wrong(
            "the model computes no numbers (NaN or infinite)",
            "its weights are damaged, or the build of llama.cpp computes wrongly: answers are noise",
            f"slm verify {trial.loaded.tested.installed.key}; slm doctor tells about the build",
        )
        return
    session = trial.loaded.engine.open_session(replace(trial.session, n_ctx=_N_CTX))
    try:
        text, finish = "", None
        for event in session.generate(prompt, SamplerSettings(temperature=0), Limits(_TOKENS)):
            text += event.text if isinstance(event, Chunk) else ""
            finish = event if isinstance(event, Finish) else finish
    finally:
        session.close()
    assert finish is not None
    count, seconds = finish.usage.completion_tokens, finish.timings.generation_s
    shown = sanitize(" ".join(text.split()), one_line=True)
    if not count:
        yield wrong(
            "it ended its answer before the first word",
            "the template or the tokens that end an answer do not suit this model",
            "see the findings above; slm run --raw completes text without the template",
        )
    elif len(set(finish.tokens or ())) == 1 and count == _TOKENS:
        why = "damaged weights and wrong builds of llama.cpp answer so"
        yield wrong(f"it repeats one token: “{shown}”", why, f"slm verify {trial.loaded.tested.installed.key}")
    else:
        speed = f", {count / seconds:.0f} tokens/s" if seconds > 0 else ""
        yield fine(f"{counted(count, 'token')}: “{shown}”{speed}")


def _babbling(trial: Trial) -> Iterator[Finding]:
    """How probable the end is behind a whole answer: whether this model was taught to chat with this template."""
    if not trial.loaded.has_template:
        return
    ends = trial.loaded.engine.vocabulary.ends
    best = 0.0
    for question, answer in _ANSWERS:
        found = trial.probabilities(
            trial.prompt(Message(Role.USER, question), Message(Role.ASSISTANT, answer), goes_on=True)
        )
        best = max(best, sum(found[token] for token in ends) if found is not None else 0.0)
    if best >= _KNOWS_ITS_END:
        yield fine(f"it ends its turn behind a whole answer (probability {best:.2f})")
        return
    what = f"babbling: behind a whole answer the end of the turn has a probability of {best:.4f}"
    why = "answers go on until the limit of tokens"
    if trial.loaded.tested.is_base:
        yield note(f"{what}; it is a base model", why, "take its instruction-tuned sister: slm list --available")
        return
    yield wrong(
        f"{what}; it is a base model, or the template is that of another model",
        why,
        "pull an instruction-tuned variant (slm list --available); -n N and --stop TEXT keep answers short meanwhile",
    )


CHECKS: tuple[Check[Trial], ...] = (Check("smoke test", _smoke), Check("babbling", _babbling))
