"""An item as the prompt that a model gets: through its chat template, or as bare text; examples stand before it.

All items of a task begin alike (system message, functions, examples), so that a pool reads that beginning once.

Knows: the order of what stands in a prompt, both ways of writing it. Refuses to know: engines at work, grades.
"""

from collections.abc import Iterator, Sequence

from slmchat.conversation.layouts import raw_prompt
from slmchat.conversation.messages import Message, Role
from slmchat.engine.api import ModelInfo
from slmchat.engine.requests import Limits, Prompt
from slmchat.engine.sampler import SamplerSettings
from slmchat.engine.thinking import Thinking, ThinkingMode
from slmchat.evaluation.records import EvalItem, EvalTask, TaskKind
from slmchat.generation import params, tools
from slmchat.generation.prompt import Layout
from slmchat.generation.tools import Toolbox

# Where a bare text goes on with another question of its own, the answer has ended.
RAW_STOP = ("\n\n", "\nQuestion:")

# Tokens beside a thought's budget: its marks, and the sentence that closes it.
_CLOSING_ROOM = 64


def instruction_of(task: EvalTask, item: EvalItem) -> str:
    """What stands before everything else: the task's system message, and the functions of an item."""
    parts = [task.system] if task.system else []
    if task.kind is TaskKind.TOOLS:
        parts.append(Toolbox(item.tools).instruction())
    return "\n\n".join(parts)


def shown_answer(item: EvalItem) -> str:
    """The answer of an example, as the model is to give it."""
    if item.worked or item.answers:
        return item.worked or item.answers[0]
    if item.call is None:
        return ""
    chosen = {name: values[0] for name, values in item.call.arguments.items() if values}
    return tools.ToolCall.new(item.call.name, chosen).written()


def prompt_of(task: EvalTask, item: EvalItem, lay_out: Layout, text: str | None = None) -> Prompt:
    """The prompt of an item. `text`: instead of the item's own. Raises `SlmError` as the layout does."""
    instruction = instruction_of(task, item)
    messages = [Message(Role.SYSTEM, instruction)] if instruction else []
    for example in task.examples:
        messages += [Message(Role.USER, example.prompt), Message(Role.ASSISTANT, shown_answer(example))]
    return lay_out([*messages, Message(Role.USER, item.prompt if text is None else text)])


def bare(messages: Sequence[Message]) -> Prompt:
    """The messages as one text that the model completes: an answer follows its question, examples stand apart."""
    return raw_prompt([Message(Role.USER, "".join(_bare_parts(messages)))])


def _bare_parts(messages: Sequence[Message]) -> Iterator[str]:
    last = len(messages) - 1
    for number, message in enumerate(messages):
        follows_question = message.role is Role.ASSISTANT
        yield f" {message.text}" if follows_question else message.text
        is_answered = number < last and messages[number + 1].role is Role.ASSISTANT
        if number < last and not is_answered:
            yield "\n\n"


def limits_of(task: EvalTask, item: EvalItem, info: ModelInfo, thinking: Thinking, *, is_raw: bool) -> Limits:
    """Where an answer ends. A thought has room of its own beside the answer's."""
    most = min(task.max_tokens, item.max_tokens or task.max_tokens)
    limits = Limits(room_of(most, thinking, is_raw=is_raw), RAW_STOP if is_raw else ())
    limits = params.with_thinking(limits, thinking, info.architecture, is_raw=is_raw)
    if task.kind is not TaskKind.TOOLS:
        return limits
    shown = (*limits.shown, tools.OPENING, tools.CLOSING)
    return Limits(
        limits.max_tokens,
        shown=shown,
        constraint=Toolbox(item.tools, most=1).constraint(),
        thinking=limits.thinking,
        marks=limits.marks,
        unbroken=limits.unbroken,
    )


def room_of(max_tokens: int, thinking: Thinking, *, is_raw: bool) -> int:
    """Tokens that an answer of `max_tokens` may take with its thought."""
    is_thinking = thinking.mode is not ThinkingMode.OFF and not is_raw
    return max_tokens + ((thinking.budget or 0) + _CLOSING_ROOM if is_thinking else 0)


def greedy() -> SamplerSettings:
    """The most probable token, always."""
    return SamplerSettings(temperature=0.0, seed=1)
