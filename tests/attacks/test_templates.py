"""Templates of somebody else's making: no way to Python, no time without end, no memory without end.

All hostile ones run in one process of their own, with the kernel's limits on its memory and its processor time: a hole
costs a failed test, not the machine. Its budgets are small parts of the real ones; what nobody counts shows all the same,
because it has no limit at all.
"""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from attacks.template_corpus import ESCAPES, ESCAPING_STATEMENTS, HOSTILE
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.errors import ExitCode, SlmError

MAX_CPU = 1.0  # seconds of one template; most take milliseconds
MAX_OUTPUT = 50_000  # characters

_CHILD = """
import json, sys, time
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (600 << 20, 600 << 20))
except ImportError:
    pass
from attacks.template_corpus import HOSTILE
from slmchat.conversation import template_budget, template_sandbox
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.errors import SlmError

template_budget.MAX_STEPS //= 50
template_budget.MAX_MADE //= 8
template_sandbox.MAX_TOKENS //= 4
for name, source in HOSTILE.items():
    print(json.dumps({"name": name}), flush=True)
    begin = time.process_time()
    outcome = {"name": name}
    try:
        template = ChatTemplate("{{ messages[0].content }}" + source, bos_text="", eos_text="")
        prompt = template.render([Message(Role.USER, "hi")])
        outcome["output"] = sum(len(part.text) for part in prompt.parts)
    except SlmError as error:
        outcome |= {"refused": error.message, "exit_code": int(error.exit_code)}
        cause = error
        while cause is not None:
            if isinstance(cause, MemoryError) and "resource" in sys.modules and "compil" not in name:
                outcome["memory"] = True
            cause = cause.__cause__ or cause.__context__
    except BaseException as error:
        outcome["raised"] = repr(error)[:200]
    outcome["cpu"] = time.process_time() - begin
    print(json.dumps(outcome), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes() -> Mapping[str, dict[str, object]]:
    """What became of each hostile template; one that ended the process has nothing but its name."""
    tests = Path(__file__).parents[1]
    child = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n" + _CHILD],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert lines, child.stderr
    return {line["name"]: line for line in lines}


@pytest.mark.real
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_or_does_no_harm(name: str, outcomes: Mapping[str, dict[str, object]]) -> None:
    outcome = outcomes.get(name, {})
    source = HOSTILE[name][:300]
    assert "cpu" in outcome, f"it ended the process: {source}"
    assert "raised" not in outcome and "memory" not in outcome, (outcome, source)
    assert float(str(outcome["cpu"])) < MAX_CPU, (outcome, source)
    if "refused" in outcome:
        assert outcome["exit_code"] == ExitCode.DAMAGED
        assert "\n" not in str(outcome["refused"])
    else:
        assert int(str(outcome["output"])) < MAX_OUTPUT, (outcome, source)


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 250
    assert len(ESCAPES) + len(ESCAPING_STATEMENTS) >= 500


@pytest.mark.slow
def test_no_template_reaches_python() -> None:
    """The words of Python's own texts for its objects; `<helper …>`, `<method>` and their like are slm's."""
    escaped = []
    for source in [*("{{ " + reach + " }}" for reach in ESCAPES), *ESCAPING_STATEMENTS]:
        template = "{{ messages[0].content }}{% macro m() %}{% endmacro %}" + source
        try:
            prompt = ChatTemplate(template, bos_text="", eos_text="").render([Message(Role.USER, "hi")])
        except SlmError as error:
            if error.exit_code is not ExitCode.DAMAGED:
                escaped.append((source, error.message))
            continue
        text = "".join(part.text for part in prompt.parts)
        if re.search(
            r"<class|<built-in|<bound|<function|<module|<code|<frame|<generator| at 0x|root:|object>|uid=|b'", text
        ):
            escaped.append((source, text))
    assert not escaped
