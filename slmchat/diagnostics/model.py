"""The checks of `slm doctor MODEL` that need its file and its vocabulary: kind, template, turns, tokens, sampler.

Knows: what a chat model must state about itself so that a conversation begins and ends well.
Refuses to know: what the weights answer (diagnostics/smoke_test.py), how a model is loaded (models/loader.py).
"""

import os
import re
from collections.abc import Iterator

from slmchat import ranges
from slmchat.catalog import model_kind
from slmchat.catalog.gguf_header import Header
from slmchat.catalog.records import BASE_TAG, Installed
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.diagnostics.findings import Check, Finding, fine, note, wrong
from slmchat.engine.llama import LlamaEngine
from slmchat.engine.sampler import SamplerSettings
from slmchat.errors import SlmError
from slmchat.fit.plan import FitPlan, FitVerdict
from slmchat.lazy_dataclasses import dataclass
from slmchat.models.tuning import Tuning

# What stands between two messages: words that no template writes by itself.
_SYSTEM, _ASKED, _ANSWERED, _AGAIN = "Rule one.", "Question one?", "Answer one.", "Question two?"

# What looks like a control token: <|im_end|>, <end_of_turn>, </s>. [INST] and <<SYS>> are plain text in Llama 2.
_MARKER = re.compile(r"<\|[^<>|\s]{1,40}\|>|(?<!<)</?[A-Za-z_]{1,40}>(?!>)|<｜[^<>]{1,40}｜>")

# Keys of a GGUF that state sampler settings (llama-arch.cpp: general.sampling.*) -> slm's names.
_STATED = {
    "temp": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "penalty_repeat": "repeat_penalty",
}  # fmt: skip

_OTHER_CONVERSION = "pull another conversion of the model (slm list --available); slm show MODEL prints the template"


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """A model under examination.

    `sampler`: the settings that a chat with it would take; `tuning`: what `slm tune` found, None: nothing yet.
    """

    installed: Installed
    header: Header
    plan: FitPlan
    sampler: SamplerSettings
    tuning: Tuning | None = None

    @property
    def is_base(self) -> bool:
        """Whether the catalog or the file's own name says that it was not made to chat; a template may be lost."""
        name = (self.header.name or "").lower()
        return (self.installed.is_fetched and BASE_TAG in self.installed.tags) or bool(
            re.search(r"(^|[-_ ])(base|pt|pretrained)([-_ .]|$)", name)
        )


def _files(tested: ModelUnderTest) -> Iterator[Finding]:
    installed = tested.installed
    if installed.changed():
        why = "it is no longer what was checked when it was pulled"
        yield wrong(f"{installed.path} has changed since it was installed", why, f"slm verify {installed.key}")
    elif any(installed.path in file.path.parents or not os.path.exists(file.path) for file in installed.files):
        yield wrong("a part of it is missing", "llama.cpp needs all parts", f"slm pull {installed.key}")
    else:
        yield fine(
            f"{installed.path}, unchanged since it was installed" if installed.admitted_at else str(installed.path)
        )


def _kind(tested: ModelUnderTest) -> Iterator[Finding]:
    header, key = tested.header, tested.installed.key
    kind = model_kind.kind_of([header])
    if not kind.can_generate:
        error = kind.refusal("this file")
        yield wrong(error.message.rstrip("."), "nothing can be answered with it", error.hint or "slm list --available")
    elif tested.is_base:
        yield note(
            "a base model: it completes text and was not taught to answer or to end its turn",
            "in a chat it goes on talking, for both sides",
            f'slm run --raw -m {key} "Once upon a time"; for a chat take its instruction-tuned sister',
        )
    else:
        yield fine(f"{header.architecture}, {header.quantization or 'unknown quantization'}")


def _context(tested: ModelUnderTest) -> Iterator[Finding]:
    length = tested.header.context_length
    if length is None:
        yield wrong(
            "the file does not say for which context length the model was trained",
            "beyond that length answers turn to nonsense, and slm cannot keep below it",
            "set it yourself, --ctx N; " + _OTHER_CONVERSION,
        )
    else:
        yield fine(f"trained for {length:,} tokens; {tested.plan.load.n_ctx:,} taken on this device")


def _memory(tested: ModelUnderTest) -> Iterator[Finding]:
    from slmchat.wording import in_bytes

    plan = tested.plan
    numbers = f"{in_bytes(plan.memory.needed)} of memory, {in_bytes(plan.room.available)} available"
    largest = plan.largest_ctx
    do = f"a smaller window: --ctx {largest}" if largest else "a smaller quantization or model: slm list --available"
    if plan.verdict is FitVerdict.NO:
        yield wrong(f"it needs {numbers}", "slm refuses to load it, because the system would begin to swap", do)
    elif plan.verdict is FitVerdict.FITS:
        yield fine(f"it needs {numbers}")
    else:
        yield note(f"{plan.verdict}: it needs {numbers}", "other programs may be pushed out of memory", do)


def _sampler(tested: ModelUnderTest) -> Iterator[Finding]:
    """Settings recommended with the model, by the catalog or the file itself, and those in force."""
    stated = {
        ours: tested.header.metadata[f"general.sampling.{theirs}"]
        for theirs, ours in _STATED.items()
        if f"general.sampling.{theirs}" in tested.header.metadata
    }
    recommended = dict(tested.installed.sampler)
    wrong_ones = [("the file states", name, value) for name, value in stated.items() if not _is_valid(name, value)]
    wrong_ones += [
        ("the record says", name, value) for name, value in recommended.items() if not _is_valid(name, value)
    ]
    for source, name, value in wrong_ones:
        limits = ranges.SAMPLER.get(name)
        yield wrong(
            f"{source} {name} = {value}, which {f'must be {limits}' if limits else 'is no setting'}",
            "answers become random or repeat themselves",
            f"slm pull {tested.installed.key} writes the record again; or set it: config.toml, sampler",
        )
    used = tested.sampler
    told = f"temperature {used.temperature:g}, top-k {used.top_k}, top-p {used.top_p:g}, min-p {used.min_p:g}"
    if not wrong_ones and not recommended and stated:
        values = ", ".join(f"{name} {value:g}" for name, value in stated.items() if isinstance(value, int | float))
        yield note(
            f"the file recommends {values}; slm takes {told}",
            "models answer best with the settings that they were tuned with",
            "set them with flags, /set or in config.toml (sampler)",
        )
    elif not wrong_ones:
        origin = "recommended for this model" if recommended else "slm's defaults; none are recommended for this model"
        yield fine(f"{told} ({origin})")


def _is_valid(name: str, value: object) -> bool:
    """Whether a sampler setting is one and within its range; whole numbers may be written as fractions (40.0)."""
    limits = ranges.SAMPLER.get(name)
    if limits is not None and limits.is_whole and isinstance(value, float) and value.is_integer():
        value = int(value)
    return limits is not None and limits.holds(value)


def _tuned(tested: ModelUnderTest) -> Iterator[Finding]:
    found, command = tested.tuning, f"slm tune {tested.installed.key}"
    if found is None:
        yield fine(f"not measured yet: {command} looks for faster settings")
    elif found.is_disturbed:
        why = "what was the fastest then need not be it on an idle machine"
        yield note("tuned while other programs computed: " + (found.in_words() or "as usual"), why, f"{command}, again")
    else:
        yield fine(f"{found.in_words() or 'the usual settings are the fastest'} (measured {found.measured_at[:10]})")


# Of a file that cannot answer, where the rest makes no sense.
OTHER_CHECKS: tuple[Check[ModelUnderTest], ...] = (Check("file", _files), Check("kind", _kind))
FILE_CHECKS: tuple[Check[ModelUnderTest], ...] = (
    *OTHER_CHECKS,
    Check("context", _context),
    Check("memory", _memory),
    Check("sampler", _sampler),
    Check("tuning", _tuned),
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model under examination, loaded."""

    tested: ModelUnderTest
    engine: LlamaEngine

    def template(self) -> ChatTemplate:
        """Its chat template. Raises `SlmError`."""
        info = self.engine.info
        return ChatTemplate(info.chat_template, bos_text=info.bos_text, eos_text=info.eos_text)

    @property
    def has_template(self) -> bool:
        try:
            self.template()
        except SlmError:
            return False
        return True

    def spelled(self, text: str) -> int | None:
        """The token with this spelling, None when the vocabulary has none."""
        return next(iter(self.engine.vocabulary.tokens_of([text])), None)


def _exchange(first: Message | None = None) -> list[Message]:
    said = [Message(Role.USER, _ASKED), Message(Role.ASSISTANT, _ANSWERED), Message(Role.USER, _AGAIN)]
    return [first, *said] if first is not None else said


def _template(loaded: Loaded) -> Iterator[Finding]:
    """Present, valid, and it says everything that was said, in order, ending where the assistant speaks."""
    if not loaded.engine.info.chat_template:
        what, why = "the file has no chat template", "slm chat cannot tell the model who speaks"
        do = "slm run --raw completes text; " + _OTHER_CONVERSION
        yield note(what, why, do) if loaded.tested.is_base else wrong(what, why, do)
        return
    try:
        template = loaded.template()
        text = template.written(_exchange())
    except SlmError as error:
        yield wrong(error.message.rstrip("."), "slm chat cannot lay out a conversation", _OTHER_CONVERSION)
        return
    places = [text.find(said) for said in (_ASKED, _ANSWERED, _AGAIN)]
    if -1 in places or places != sorted(places):
        lost = "forgets part of what was said" if -1 in places else "changes the order of what was said"
        yield wrong(f"the chat template {lost}", "the model answers without knowing it", _OTHER_CONVERSION)
    elif not _gives_the_turn(template, text):
        yield wrong(
            "the chat template does not say that it is the assistant's turn",
            "the model goes on with the user's message instead of answering it (babbling)",
            _OTHER_CONVERSION,
        )
    else:
        yield fine("it renders a conversation")


def _gives_the_turn(template: ChatTemplate, text: str) -> bool:
    """Whether the prompt ends with what stands before an answer, or the template heeds `add_generation_prompt`."""
    if text != template.written(_exchange(), adds_generation_prompt=False):
        return True
    before_answer = text[text.index(_ASKED) + len(_ASKED) : text.index(_ANSWERED)].strip()
    return text[text.index(_AGAIN) + len(_AGAIN) :].strip().startswith(before_answer)


def _system_role(loaded: Loaded) -> Iterator[Finding]:
    if not loaded.has_template:
        return
    try:
        text = loaded.template().written(_exchange(Message(Role.SYSTEM, _SYSTEM)))
        reason = "" if _SYSTEM in text else "the template leaves it out"
    except SlmError as error:
        reason = error.message.rstrip(".")
    if not reason:
        yield fine("the template has a place for it")
        return
    try:
        loaded.template().render(_exchange(Message(Role.SYSTEM, _SYSTEM)))
    except SlmError as error:
        yield wrong(error.message.rstrip("."), "conversations with a system message fail", _OTHER_CONVERSION)
        return
    yield note(
        f"no place for a system message ({reason})",
        "slm puts it at the beginning of the first user message, as the makers of Gemma advise; it weighs less there",
        "nothing needs to be done",
    )


def turn_end(template: ChatTemplate) -> str | None:
    """The marker that the template writes behind an answer, None when it writes none. Raises `SlmError`."""
    text = template.written(_exchange())
    between = text[text.index(_ANSWERED) + len(_ANSWERED) : text.index(_AGAIN)]
    found = _MARKER.search(between)
    return found[0] if found else None


def _turns(loaded: Loaded) -> Iterator[Finding]:
    """The template's markers are tokens, and the one behind an answer ends the generation."""
    if not loaded.has_template:
        return
    text = loaded.template().written(_exchange())
    if _ANSWERED not in text or _AGAIN not in text:
        return  # said by the check of the template
    end = turn_end(loaded.template())
    vocabulary = loaded.engine.vocabulary
    strangers = sorted({marker for marker in _MARKER.findall(text) if loaded.spelled(marker) is None})
    if end is None:
        yield note(
            "the template writes no marker behind an answer",
            "the model may not know where its turn ends",
            'if it babbles: --stop "TEXT", with what it writes before the next turn',
        )
    elif end in strangers:
        yield wrong(
            f"wrong template: it ends a turn with {end}, which is no token of this model's vocabulary",
            "the model was taught other markers: it does not see who speaks, and babbles on after its answer",
            _OTHER_CONVERSION,
        )
    elif not vocabulary.is_end(loaded.spelled(end) or 0):
        yield wrong(
            f"missing stop: the template ends a turn with {end}, which the file does not declare as an end",
            "after its answer the model goes on, with the next question of its own (babbling)",
            f"--stop '{end}' may help; {_OTHER_CONVERSION}",
        )
    else:
        yield fine(f"an answer ends with {end}, and so does the generation")
    if strangers and end not in strangers:
        yield note(
            f"the template writes {', '.join(strangers[:4])}, which are no tokens of this vocabulary",
            "some models were trained so; for others it is the wrong template",
            "compare with the template of the model's makers: slm show MODEL",
        )


def _tokens(loaded: Loaded) -> Iterator[Finding]:
    """The end-of-sequence token is named and is no ordinary text. (llama.cpp ends a generation with it in any case.)"""
    vocabulary, header = loaded.engine.vocabulary, loaded.tested.header
    eos, named = vocabulary.eos, header.metadata.get("tokenizer.ggml.eos_token_id")
    if named is None or named != eos:
        said = "names no end-of-sequence token" if named is None else f"names {named} as its end, which is no token"
        yield wrong(
            f"the file {said}; llama.cpp takes token {eos}, “{vocabulary.text_of(eos)}”",
            "answers may end in the middle, or not at all (babbling)",
            _OTHER_CONVERSION,
        )
    elif vocabulary.is_plain_text(eos):
        yield wrong(
            f"the end-of-sequence token is “{vocabulary.text_of(eos)}”, a piece of ordinary text",
            "answers end wherever that text comes, and not where they should",
            _OTHER_CONVERSION,
        )
    else:
        yield fine(f"{vocabulary.text_of(eos)} ends a sequence")


LOADED_CHECKS: tuple[Check[Loaded], ...] = (
    Check("template", _template),
    Check("system role", _system_role),
    Check("turns", _turns),
    Check("end tokens", _tokens),
)
