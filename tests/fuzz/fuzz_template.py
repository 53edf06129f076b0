"""Chat templates of any content: a prompt in which every message is a part of its own, or one error and exit 6."""

# ruff: noqa: PT017 - a target raises, pytest is not there
import random
import re
import time

import runner

from slmchat.conversation import template_budget
from slmchat.conversation.messages import Message, Role
from slmchat.conversation.template import ChatTemplate
from slmchat.errors import ExitCode, SlmError

_PIECES = (
    "{% for m in messages %}", "{% for a in range(99999) %}", "{% for k, v in messages[0].items() %}", "{% endfor %}", "{% else %}",
    "{% if m.role == 'user' %}", "{% if loop.first %}", "{% elif x is defined %}", "{% endif %}", "{{ m.content }}", "{{ m['content'] | trim }}",
    "{{ messages[-1].content }}", "{{ bos_token + 'x' }}", "{{ x }}", "{% set x = 'a' * 999 %}", "{% set x = x ~ x %}", "{% set x = [x, x] %}",
    "{% set ns = namespace(x=[]) %}", "{% set ns.x = [ns.x, ns.x] %}", "{{ ns.x }}", "{% set ns.x = ns.x + ns.x %}", "{{ x | tojson }}",
    "{% macro f(n) %}", "{% endmacro %}", "{{ f(1) }}", "{% set x = f(2) %}", "{{ loop(messages) }}", "{% break %}", "{% continue %}",
    "{% generation %}", "{% endgeneration %}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y') }}", "{{ x.__class__ }}",
    "{{ messages | map(attribute='content') | list }}", "{{ '%9d' % 3 }}", "{{ x | center(9999) }}", "{{ 2 ** 99 }}", "{{ x | attr('y') }}",
    "{{ messages | length }}", "{%- set loop_messages = messages[1:] -%}", "{{ {'a': x} }}", "{{ 1 / 0 }}", "{% call f(1) %}", "{% endcall %}",
    "{% filter upper %}", "{% endfilter %}", "{# c #}", "{% raw %}{{", "{% endraw %}", "{{ (1, 2) | join }}", "<|im_start|>", "\n", " ",
    "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% block b %}", "{% endblock %}", "{{ self.b() }}", "{{ caller() }}",
    "{% set x %}", "{% endset %}", "{{ x.format(x) }}", "{{ cycler(1, 2).next() }}", "{{ joiner() }}", "{{ dict(a=x) }}", "{% with a = 1 %}", "{% endwith %}",
)  # fmt: skip


_OPENING = re.compile(r"{%-? *(end)?(for|if|macro|call|filter|generation|block|with|raw|set (?=x %))")


def _closed(source: str) -> str:
    """The blocks that are open at the end closed: most of what is thrown together would end as a syntax error."""
    is_open: list[str] = []
    for is_end, name in _OPENING.findall(source):
        if not is_end:
            is_open.append(name.strip())
        elif name in is_open:
            is_open.remove(name)
    return source + "".join(f"{{% end{name} %}}" for name in reversed(is_open))


def _is_printed(text: str, said: set[str]) -> bool:
    """A message as a list of Python's shows it: a template that prints one means that."""
    return any(text == repr(each)[1:-1] for each in said)


def target(random: random.Random) -> None:
    template_budget.MAX_SECONDS = 1.0  # thousands of inputs: the limits themselves are tested elsewhere
    template_budget.MAX_STEPS = 5_000
    source = runner.mixed(random, _PIECES, 14) or " "  # no template at all is a usage error
    if random.random() < 0.5:
        source = _closed(source)
    messages = [
        Message(Role.SYSTEM, "s" + runner.text(random)),
        Message(Role.USER, "u" + runner.text(random)),
        Message(Role.ASSISTANT, "a" + runner.text(random)),
        Message(Role.USER, "v" + runner.text(random)),
    ][random.randrange(2) :]
    start = time.thread_time()
    try:
        prompt = ChatTemplate(source, bos_text="<s>", eos_text="</s>").render(messages)
    except SlmError as error:
        assert error.exit_code is ExitCode.DAMAGED
    else:
        said = {text for message in messages for text in (message.text, message.text.strip())}
        folded = any(text.startswith("s") for text in said)
        for part in prompt.parts:
            assert part.is_template or folded or part.text in said or _is_printed(part.text, said), source
            assert not (part.is_template and "slm" in part.text and len(part.text) < 30), source
    assert time.thread_time() - start < 4, source


if __name__ == "__main__":
    raise SystemExit(runner.main(target))
