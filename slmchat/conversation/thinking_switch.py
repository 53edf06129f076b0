"""How a chat template is told whether the model shall think, and what is done where a template cannot be told.

Templates read variables of several names, and nothing says which one reads which. So a template gets all of them, and
whether it has a switch is seen from what it writes: a small conversation is rendered with thinking on and off.

Knows: the names of the variables, what closes a thought that a prompt has opened.
Refuses to know: Jinja, messages.
"""

from collections.abc import Callable, Mapping
from typing import Any

from slmchat.conversation.thinking import FAMILIES, closing_of, opens_thinking, spelled_in
from slmchat.engine.thinking import ThinkingMode

Variables = Mapping[str, Any]

# By the public templates: `enable_thinking` (Qwen3 and 3.5, SmolLM3, Gemma 4, GLM, Nemotron 3, MiniCPM5 …), `thinking`
# (Granite 3.3, DeepSeek V3.1, Kimi K3), `thinking_mode` (MiniMax M3), `reasoning` (Cohere2 MoE), `thinking_budget`
# (Seed-OSS, where 0 closes the thought).
_ON: Variables = {"enable_thinking": True, "thinking": True, "thinking_mode": "enabled", "reasoning": True}
_OFF: Variables = {
    "enable_thinking": False,
    "thinking": False,
    "thinking_mode": "disabled",
    "reasoning": False,
    "thinking_budget": 0,
}
# The least that templates with efforts understand, the strongest word first: Hunyuan's, Solar's, gpt-oss's.
_LEAST_EFFORTS = ("no_think", "minimal", "low")
_EFFORT = "reasoning_effort"
# Characters at the end of a prompt by which it is seen that an effort opens no thought.
_SEEN = 16

# gpt-oss cannot be told to think not at all; it answers at once where its answer has begun.
_HARMONY_THOUGHT = "<|channel|>analysis"
_HARMONY_TURN = "<|start|>assistant"
_HARMONY_ANSWER = "<|channel|>final<|message|>"


class ThinkingSwitch:
    """One mode for one template."""

    def __init__(self, mode: ThinkingMode, source: str, render: Callable[[Variables], str]) -> None:
        """`render`: a small conversation that ends where the assistant speaks, with these variables.

        What `render` raises is raised here.
        """
        self._mode = mode
        self._family = spelled_in(source)
        self._is_harmony = _HARMONY_THOUGHT in source
        self.variables: Variables = {}
        self._has_own_switch = True
        if mode is ThinkingMode.AUTO:
            return
        on = render(_ON)
        self.variables, off = self._off(source, render)
        self._has_own_switch = on != off
        self._tail = off
        if mode is ThinkingMode.ON:
            self.variables, self._tail = _ON, on

    @property
    def works(self) -> bool:
        """Whether the answer will come as the mode says: the template has a switch, or the marks are known."""
        if self._mode is ThinkingMode.AUTO or self._has_own_switch:
            return True
        return self._family is not None or opens_thinking(self._tail)

    def thinks(self, render: Callable[[Variables], str]) -> bool:
        """Whether the model thinks before it answers; where nobody says anything, its prompt is then that of `on`."""
        if self._mode is not ThinkingMode.AUTO:
            return self._mode is ThinkingMode.ON and self.works
        plain = render({})
        if opens_thinking(plain) or _is_closed(plain):
            return opens_thinking(plain)
        return plain == render(_ON) and (plain != render(_OFF) or self._family is not None)

    def ending(self, prompt_tail: str) -> str:
        """What is put behind a prompt whose template text ends so, for an answer without a thought."""
        if self._mode is not ThinkingMode.OFF:
            return ""
        closing = closing_of(prompt_tail)
        if closing is not None:
            return f"\n{closing}\n\n"
        if self._is_harmony and prompt_tail.rstrip().endswith(_HARMONY_TURN):
            return _HARMONY_ANSWER
        if self._has_own_switch or self._family is None or _is_closed(prompt_tail):
            return ""
        return f"{self._family.openings[0]}\n\n{self._family.closings[0]}\n\n"

    def opening(self, prompt_tail: str) -> str:
        """What is put behind a prompt whose template text ends so, for an answer that begins with a thought."""
        if opens_thinking(prompt_tail) or self._family is None or _is_closed(prompt_tail):
            return ""
        return f"{self._family.openings[0]}\n"

    @staticmethod
    def _off(source: str, render: Callable[[Variables], str]) -> tuple[Variables, str]:
        """The variables with which this template thinks least, and what it renders with them."""
        off = render(_OFF)
        if _EFFORT not in source or _is_closed(off):
            return _OFF, off
        tried = [(variables := {**_OFF, _EFFORT: effort}, render(variables)) for effort in _LEAST_EFFORTS]
        closed = (one for one in tried if _is_closed(one[1]))
        alike = (one for one in reversed(tried) if one[1][-_SEEN:] == off[-_SEEN:])
        return next(closed, next(alike, (_OFF, off)))


def _is_closed(prompt_tail: str) -> bool:
    """Whether a prompt that ends so has left the thought behind it."""
    tail = prompt_tail.rstrip()
    return any(marks.has_thought and tail.endswith(marks.closings) for marks in FAMILIES)
