"""Hostile templates, by what they are after. Add yours: a text in a list is a test.

`MANY` is a loop of 100,000 rounds in one of 100,000: with anything in it, more than any template may do.
"""

MANY = "{% for a in range(99999) %}{% for b in range(99999) %}"
END = "{% endfor %}{% endfor %}"
BIG = "{% set big = 'ab ' * 300000 %}"
NUMBERS = "{% set numbers = range(99999) | list %}"


def _again(text: str, times: int = 99999) -> str:
    return f"{{% for i in range({times}) %}}{text}{{% endfor %}}"


def _grown(step: str, start: str = "'a'", times: int = 200) -> str:
    return f"{{% set ns = namespace(x={start}) %}}" + _again(f"{{% set ns.x = {step} %}}", times)


def _sets(*expressions: str) -> list[str]:
    return [f"{{% set x = {expression} %}}" for expression in expressions]


# One operation that would make gigabytes, or take minutes. Refused before it begins.
LARGE = _sets(
    "'a' * 10**10", "'a' * 10**9", "10**9 * 'a'", "['a'] * 10**9", "('a',) * 10**9", "[[1] * 9999] * 10**9",
    "'a' * 2**62", "'ab' * 9223372036854775807", "9**9**9", "10**100000", "10**10**10", "2**64**9", "7**7**7**7",
    "(2**63) * (2**63)", "9223372036854775807 + 1 + 1", "-(2**62) * 4", "(-8) ** 0.5", "10 ** -10 ** 10",
    "'%99999999d' % 1", "'%099999999d' % 1", "'%-99999999d' % 1", "'%.99999999f' % 1", "'%*d' % (999999999, 1)",
    "'%.*f' % (999999999, 1)", "'%(a)99999999d' % {'a': 1}", "'%(a(b)c)99999999d' % {'a(b)c': 1}",
    "'%(a%b)99999999d' % {'a%b': 1}", "'%(a)99999999d )' % {'a': 1}", "'%#99999999x' % 1", "'% 99999999d' % 1",
    "'%+099999999.9f' % 1", "'%l99999999d' % 1", "'%999999999d' | format(1)", "'%(a)999999999s' | format(a=1)",
    "('%s' * 999) % (['a' * 99999] * 999)", "('%(a)s' * 9999) % {'a': 'a' * 99999}", "'%s' % ([['a' * 9999] * 9999])",
    "'{:999999999}'.format(1)", "'{:>999999999}'.format('a')", "'{:{}}'.format(1, 999999999)", "'{:.999999999f}'.format(1)",
    "'{:0999999999d}'.format(1)", "'{:{w}}'.format(1, w=999999999)", "'{0:{1}{2}}'.format(1, '>99999', 9999)",
    "('{0}' * 9999).format('a' * 99999)", "('{0!r}' * 9999).format('a' * 99999)", "'{:a<999999999}'.format('b')",
    "'{!a:>999999999}'.format('b')", "('{0}' * 300000).format('')", "('{{' * 490000).format() * 9",
    "'a'.ljust(999999999)", "'a'.rjust(999999999)", "'a'.center(999999999)", "'1'.zfill(999999999)",
    "('\\t' * 9999).expandtabs(999999)", "'a\\tb'.expandtabs(999999999)", "'a' | center(999999999)",
    "'a\\nb' | indent(999999999)", "'a' | indent(999999999, true)", "('a\\n' * 99999) | indent('b' * 9999)",
    "('a' * 999999).replace('a', 'b' * 999999)", "('a' * 999999).replace('', 'b' * 99)",
    "('a' * 999999) | replace('a', 'b' * 999999)", "('a' * 999999) | replace('', 'b' * 9999)",
    "('a' * 999999).join(range(99999) | map('string'))", "('a' * 99999).join(['b'] * 9999)", "['b'] * 9999 | join('a' * 99999)",
    "['a' * 999999] * 999 | join", "range(99999) | join('a' * 999)", "range(9**9)", "range(-9**9, 9**9, 1)",
    "range(99999) | map('center', 99999) | list", "['a'] | map('center', 999999999) | list",
    "[1] | batch(999999999, 0)", "[1] | batch(99999999, 0) | list", "[1] | slice(999999999)", "[1] | slice(999999999, 0) | list",
    "[[1]] | tojson(indent=999999999)", "range(9999) | list | tojson(indent='a' * 9999)", "[[1] * 9999] * 99 | tojson(indent=999)",
    "[1] * 99999 | tojson(separators=('a' * 99999, ':'))", "['\\u0001' * 999999] | tojson(ensure_ascii=true)",
    "1.5 | round(999999999)", "1 | round(-999999999)", "1e308 * 10 | round(2, 'ceil')", "('9' * 999999) | int * ('9' * 999999) | float",
    "('f' * 999999) | int(0, 16)", "('1' * 4299) | int", "1e400 | int", "'1e308' | int", "lipsum(n=99999)", "lipsum(n=9, min=9**9)",
    "strftime_now('%999999999Y')", "strftime_now('%Y' * 99999)", "strftime_now('%0999d')",
    "dict(a='a' * 10**9)", "cycler(*range(99999)) ~ 'a' * 10**9", "joiner('a' * 10**9)", "namespace(x='a' * 10**9)",
    "('a' * 999999).encode()", "('a' * 999999).encode('utf-32')", "'a'.encode() * 10**9", "'%99999999d' is divisibleby(1)",
    "'%99999999d' is odd", "'%99999999d' is even", "['%99999999d'] | select('odd') | list", "['a'] | sum(start=[]) * 10**9",
    "'a'.translate({97: 'b' * 999999})", "'a' | wordwrap(1, wrapstring='b' * 9999)", "('<' * 999999) | escape | escape",
    "('\\x01' * 999999) | urlencode | urlencode", "('\\U0001f600' * 999999) | tojson(ensure_ascii=true)",
    "'a' * (10**9 | int)", "[none] * 10**9", "{'a': 'b' * 10**9}", "{'a' * 10**9: 1}", "('a' ~ 'b') * 10**9",
    "[namespace(x='a' * 999999)] * 99999 | sort(attribute='x')", "[cycler('a' * 999999)] * 99999 | unique(attribute='current')",
    "[namespace(x='a' * 999999)] * 99999 | join(attribute='x')", "[{}] * 99999 | groupby('x', 'a' * 999999)", "[[namespace(x='a' * 999999)]] * 99999 | max(attribute='0.x')",
    "[{}] * 99999 | map(attribute='a' ~ '.a' * 99999)", "[{}] * 99999 | sort(attribute='a' ~ ',a' * 99999)", "[{}] * 99999 | selectattr('a' ~ '.a' * 99999)",
    "'a' if ('a' * 10**10) else 'b'", "'ǰ' * 999999 | upper * 9", "'%s%%' % ('a' * 999999) * 99",
)  # fmt: skip

# Values that grow round by round, to be written, compared or walked through at the end.
GROWING = [
    _grown("ns.x + ns.x"), _grown("ns.x ~ ns.x"), _grown("ns.x * 2"), _grown("ns.x.replace('a', 'aa')"),
    _grown("ns.x | replace('a', 'aa')"), _grown("'%s%s' % (ns.x, ns.x)"), _grown("'{0}{0}'.format(ns.x)"),
    _grown("ns.x.join([ns.x, ns.x])"), _grown("[ns.x, ns.x] | join"), _grown("ns.x + ns.x[::-1]"), _grown("ns.x | tojson"),
    _grown("[ns.x, ns.x] | string"), _grown("ns.x | escape", "'&'", 9999), _grown("ns.x | urlencode", "'%'", 9999),
    _grown("ns.x | indent(99, true)", times=99999), _grown("ns.x.center(ns.x | length + 9)", times=99999),
    _grown("ns.x * ns.x", "9"), _grown("ns.x ** 2", "9"), _grown("ns.x + ns.x", "[1]"), _grown("ns.x + [ns.x]", "[]", 99999),
    _grown("[ns.x, ns.x]") + "{{ ns.x }}", _grown("(ns.x, ns.x)") + "{{ ns.x }}", _grown("{1: ns.x, 2: ns.x}") + "{{ ns.x }}",
    _grown("dict(a=ns.x, b=ns.x)") + "{{ ns.x | tojson }}", _grown("[ns.x, ns.x]") + "{{ ns.x | tojson }}",
    _grown("[ns.x, ns.x]") + "{{ ns.x == [ns.x[0], [ns.x[1]]] }}", _grown("[ns.x, ns.x]") + "{% set y = ns.x in [ns.x[0]] %}",
    _grown("(ns.x, ns.x)") + "{% set y = {ns.x: 1} %}", _grown("(ns.x, ns.x)") + "{% set y = {}[ns.x] %}",
    _grown("(ns.x, ns.x)") + "{% set y = {}.get(ns.x) %}", _grown("(ns.x, ns.x)") + "{% set y = [ns.x] | unique | list %}",
    _grown("(ns.x,)", times=99999) + "{% set y = {ns.x: 1} %}", _grown("(ns.x,)", times=99999) + "{% set y = {}[ns.x] %}",
    _grown("[ns.x]", times=99999) + "{{ ns.x }}", _grown("[ns.x]", times=99999) + "{{ ns.x | tojson }}",
    _grown("[ns.x]", times=99999) + "{{ ns.x == [ns.x] }}", _grown("(ns.x,)", times=99999) + "{% set y = ns.x is in {} %}",
    _grown("{'a': ns.x}", times=99999) + "{{ ns.x | tojson(indent=9) }}", _grown("[ns.x, ns.x]") + "{% set y = [ns.x, ns.x] | sort %}",
    _grown("[ns.x, ns.x]") + "{% set y = [ns.x, ns.x] | max %}", _grown("[ns.x, ns.x]") + "{{ loop }}{{ '%s' % ns.x }}",
    _grown("[ns.x, ns.x]") + "{% set y = '{}'.format(ns.x) %}", _grown("[ns.x, ns.x]") + "{% set y = ns.x ~ '' %}",
    _grown("[ns.x, ns.x]") + "{% set y = ns.x is lower %}", _grown("[ns.x, ns.x]") + "{% set y = ns.x | upper %}",
    _grown("[ns.x, ns.x]") + "{% for i in [1, 2] %}{% set y = loop.changed(ns.x) %}{% endfor %}",
    _grown("[ns.x, ns.x]") + "{% set y = [1].index(ns.x) %}", _grown("[ns.x, ns.x]") + "{% set y = [{'a': ns.x}] | groupby('a') %}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}{{ [ns] | string }}" + MANY + "{{ ns.x.x }}" + END,
    "{% set ns = namespace(x=[]) %}" + _again("{% set ns.x = ns.x + ['a' * 99999] %}"),
    "{% macro m(n, t) %}{% if n %}{{ m(n - 1, t ~ 'a' * 99999) }}{% endif %}{% endmacro %}{{ m(90, '') }}",
]  # fmt: skip

# Work that never ends, without a value that is large.
ENDLESS = [
    MANY + END, MANY + "{% set x = a %}" + END, MANY + "{% if a %}{% endif %}" + END, MANY + "{% if loop.last %}{% endif %}" + END,
    MANY + "x" + END, MANY + "{{ '' }}" + END, MANY + "{{ none }}" + END, MANY + "{% set x %}a{% endset %}" + END,
    MANY + "{% break %}{% endfor %}{% endfor %}", MANY + "{% continue %}" + END, MANY + "{# nothing #}" + END,
    "{% for a in range(99999) %}{% for b in range(99999) if a > b %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{% for b in range(99999) if false %}{% else %}{% endfor %}{% endfor %}",
    "{% for a in [range(99999)] recursive %}{% if a is iterable %}{{ loop(a) }}{% else %}{{ loop(range(99999)) }}{% endif %}{% endfor %}",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{% for a in 'ab' recursive %}{{ loop('ab') }}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ m() ~ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{% set x = m(n - 1) %}{% set x = m(n - 1) %}{% endif %}{% endmacro %}{{ m(60) }}",
    "{% macro m(x=m()) %}{% endmacro %}{{ m() }}", "{% macro m() %}{{ caller() }}{% endmacro %}" + MANY + "{% call m() %}{% endcall %}" + END,
    "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}",
    "{% macro m() %}{% endmacro %}" + MANY + "{{ m(*range(9999)) }}" + END, "{% macro m() %}" + "a" * 9999 + "{% endmacro %}" + MANY + "{% set x = m() %}" + END,
    "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}", "{% block b %}{{ self.b() }}{% endblock %}", "{% block b %}" + MANY + END + "{% endblock %}",
    BIG + _again("{% set x = big | upper %}"), BIG + _again("{% set x = big.split() %}"), BIG + _again("{% set x = big.split(' ') %}"),
    BIG + _again("{% set x = big == (big ~ 'a') %}"), BIG + "{% set y = big[:-1] ~ 'c' %}{% set z = big[:-1] ~ 'd' %}" + _again("{% set x = y == z %}"),
    BIG + _again("{% set x = big.count('b a') %}"), BIG + _again("{% set x = 'zz' in big %}"), BIG + _again("{% set x = big.rfind('b' * 99) %}"),
    "{% set x = ('a' * 999999).rfind('b' + 'a' * 499999) %}" * 9, "{% set x = ('a' * 999999).rsplit('b' + 'a' * 499999) %}" * 9,
    "{% set x = ('a' * 999999).rpartition('b' + 'a' * 9999) %}" * 9, "{% set x = ('a' * 29999).find('a' * 50 + 'b' + 'a' * 48) %}" * 500,
    "{% set x = ('a' * 999999).strip('b' * 499999 + 'a') %}", "{% set x = ('a' * 999999) | trim('b' * 499999 + 'a') %}",
    "{% set x = ('a' * 999999).lstrip(('b' * 99999) ~ 'a') %}", BIG + _again("{% set x = big | title %}"), BIG + _again("{% set x = big | list %}"),
    BIG + _again("{% set x = big | wordcount %}"), BIG + _again("{% set x = big | truncate(99999) %}"), BIG + _again("{% set x = big | reverse %}"),
    BIG + _again("{% set x = big.isalpha() %}"), BIG + _again("{% set x = big[::-1] %}"), BIG + _again("{% for c in big %}{% break %}{% endfor %}"),
    BIG + _again("{% set x = big | urlencode %}"), BIG + _again("{% set x = big | escape %}"), BIG + _again("{% set x = big | tojson %}"),
    BIG + _again("{% set x = big is lower %}"), BIG + _again("{% set x = '%s' % big %}"), BIG + _again("{% set x = '{}'.format(big) %}"),
    BIG + _again("{% set x = ('%%' * 99999) % () %}"), BIG + _again("{% set x = big.splitlines() %}"), BIG + _again("{% set x = {big ~ i: 1} %}"),
    NUMBERS + _again("{% set x = numbers | sort %}"), NUMBERS + _again("{% set x = numbers | sort(reverse=true) %}"), NUMBERS + _again("{% set x = numbers | unique %}"),
    NUMBERS + _again("{% set x = numbers | min %}"), NUMBERS + _again("{% set x = numbers | map('string') %}"), NUMBERS + _again("{% set x = numbers | join %}"),
    NUMBERS + _again("{% set x = numbers | select('odd') %}"), NUMBERS + _again("{% set x = numbers | reject %}"), NUMBERS + _again("{% set x = numbers | batch(2) %}"),
    NUMBERS + _again("{% set x = numbers | slice(999) %}"), NUMBERS + _again("{% set x = numbers[1:] %}"), NUMBERS + _again("{% set x = numbers + numbers %}"),
    NUMBERS + _again("{% set x = 'a' in numbers %}"), NUMBERS + _again("{% set x = numbers.index(99998) %}"), NUMBERS + _again("{% set x = numbers.count(1) %}"),
    NUMBERS + _again("{% set x = numbers == numbers[:] %}"), NUMBERS + _again("{% set x = numbers < numbers[:] %}"), NUMBERS + _again("{% set x = 1.5 in range(99999) %}"),
    NUMBERS + _again("{% set x = numbers | last %}{% set x = numbers | reverse %}"), NUMBERS + _again("{% set x = numbers | tojson %}"), NUMBERS + _again("{% set x = numbers ~ '' %}"),
    NUMBERS + _again("{% set x = numbers | groupby(0) %}"), NUMBERS + _again("{% set x = numbers | map(attribute='a.b.c') %}"), NUMBERS + _again("{% set x = numbers is in [numbers] %}"),
    NUMBERS + "{% set d = dict(numbers | map('string') | map('list') | map('batch', 2) | map('first') | list) %}" + _again("{% set x = numbers | map('string') | list %}"),
    _again("{% set x = range(9999) | map('map', 'string') | list %}"), _again("{% set x = dict([[i, i]] * 9999) %}"), _again("{% set x = {'a': 1}.items() | list %}" * 99),
    _again("{% set x = 'a' | list %}" * 999), _again("{% set x = namespace(a=1) %}" * 999), _again("{% set x = cycler(1, 2) %}{{ x.next() }}" * 99),
    _again("{% set x = strftime_now('%Y' * 90) %}"), _again("{% set x = '{:1000}'.format(1) %}"), _again("{% set x = '%1000d' % 1 %}"),
    _again("{% set x = 1.1 | round(9) | string | float | int %}" * 99), "{% filter upper %}" * 15 + MANY + "a" + END + "{% endfilter %}" * 15,
    "{% for a in range(99999) %}{% set x = loop | urlencode %}{% set x = [loop] | first | list %}{% endfor %}", "{% set ns = namespace(items=1) %}" + MANY + "{% set x = ns | dictsort %}" + END,
    "{% for i in range(9) %}" * 19 + "{% endfor %}" * 19, "{% set r = range(99999) %}" + "{% for a in r %}" * 9 + "{% endfor %}" * 9,
    _again("{{ range(99999) | map('slm tick', -999999999, 0) | list }}"), _again("{{ 1 | slm_tick(-9999999) }}"),
    "{% for i in range(99999) %}" + "{% set x = i %}" * 3000 + "{% endfor %}", "{% for i in range(99999) %}" + "a" * 9999 + "{% endfor %}",
    "{% macro m(a=" + "+".join(["1"] * 30) + ") %}{% endmacro %}" + MANY + "{% set x = m() %}" + END,
    _again("{% if " + " or ".join(["i < 0"] * 500) + " %}{% endif %}"), _again("{% set x = [" + "1," * 5000 + "] %}"),
    _again("{% set x = {" + ",".join(f"'{i}': 1" for i in range(3000)) + "} %}"), _again("{{ '" + "a" * 9999 + "' == '" + "a" * 9998 + "b' }}"),
]  # fmt: skip

# Numbers below zero, given to what counts: nothing may be won back.
BELOW_ZERO = [
    f"{{% set x = {expression} %}}{MANY}{END}"
    for expression in (
        "[1] | slice(-10**15)", "[1] | slice(-10**15) | list", "[1] | batch(-10**15)", "'a' | indent(-10**15)",
        "'a' | center(-10**15)", "'a'.ljust(-10**15)", "'a'.zfill(-10**15)", "'a\\tb'.expandtabs(-10**15)",
        "[[1]] | tojson(indent=-10**15)", "'a' * -10**15", "[1] * -10**15", "'abc'.replace('b', '', -10**15)",
        "'a b'.split(' ', -10**15)", "'a b' | truncate(-10**15)", "'a' | truncate(5, end='', leeway=-10**15)",
        "'a'[:-10**15:-1]", "range(-10**15)", "1 | round(-99)", "'%-5d' % -1", "'{:5}'.format(-1)",
    )
]  # fmt: skip

# What is wrong before anything runs: the compiler has limits, too.
COMPILED = [
    "{{ " + "(" * 9999 + ")" * 9999 + " }}", "{{ " + "(" * 99999, "{{ " + "[" * 300 + "]" * 300 + " }}", "{{ " + "{1:" * 300 + "1" + "}" * 300 + " }}",
    "{{ " + "-" * 9999 + "1 }}", "{{ " + "not " * 9999 + "1 }}", "{{ " + "1 + " * 4999 + "1 }}", "{{ " + "1 ** " * 4999 + "1 }}",
    "{{ a" + ".b" * 9999 + " }}", "{{ a" + "['b']" * 4999 + " }}", "{{ a" + "|upper" * 9999 + " }}", "{{ a" + "()" * 4999 + " }}",
    "{{ " + "1 if 1 else " * 4999 + "1 }}", "{{ " + "a ~ " * 9000 + "a }}", "{{ " + "1 < " * 9000 + "1 }}", "{{ " + "1 and " * 9000 + "1 }}",
    "{{ f(" * 150 + ")" * 150 + " }}", "{% if a %}" * 2000 + "{% endif %}" * 2000, "{% for i in a %}" * 2000 + "{% endfor %}" * 2000,
    "{% if a %}" * 90 + "{% endif %}" * 90, "{% if a %}" + "{% elif a %}" * 4000 + "{% endif %}", "{% set x %}" * 2000 + "{% endset %}" * 2000,
    "{% macro m() %}" * 1500 + "{% endmacro %}" * 1500, "{% with %}" * 1500 + "{% endwith %}" * 1500, "{% filter upper %}" * 1500 + "{% endfilter %}" * 1500,
    "{% call m() %}" * 1500 + "{% endcall %}" * 1500, "{{ a }}" * 37000, "{%if a%}{%endif%}" * 15000, "{%set a=1%}" * 22000, "{{" * 130000, "{%" * 130000,
    "".join(f"{{%set a{i}=1%}}" for i in range(1600)) + "{%if x%}{%endif%}" * 1600, "{#" * 130000, "{% raw" + " " * 250000, "{%" + " " * 250000,
    "{{ " + "1" * 5000 + " }}", "{{ " + "1_" * 99999 + "1 }}", "{{ " + "1" * 200000 + ".5 }}", "{{ " + "1.5e" * 60000 + " }}", "{{ '" * 80000, "{{ '" + "\\" * 200001 + "' }}",
    "{{ " + "a" * 250000 + " }}", "{% block b %}" + "{% block c %}" * 99, "{% macro m(" + ",".join(f"a{i}" for i in range(5000)) + ") %}{% endmacro %}{{ m() }}",
    "{{ f(" + ",".join(f"a{i}=1" for i in range(4000)) + ") }}", "{{ " + "99999999999999999999" + " }}", "{{ 1e999 }}{{ 1e-999 }}" + MANY + END,
    "{% for " + ",".join("abcdefgh" * 500) + " in a %}{% endfor %}", "{% set " + ",".join(f"a{i}" for i in range(5000)) + " = [1] %}", "\n" * 250000 + "{% x %}",
    "{%- if a -%}" + " " * 200000 + "{%- endif -%}" * 99, "{{ 'a' * 10**10 }}", "{{ ('a' * 999999) ~ ('b' * 999999) }}", "{{ 9**9**9 }}",
]  # fmt: skip

HOSTILE = {
    f"{kind}-{index}": source
    for kind, sources in (
        ("large", LARGE),
        ("growing", GROWING),
        ("endless", ENDLESS),
        ("zero", BELOW_ZERO),
        ("compiled", COMPILED),
    )
    for index, source in enumerate(sources)
}

# Ways that lead, or once led, from a template to Python. Refused, or nothing comes of it.
ESCAPES = [
    *(f"{value}.{name}" for value in (
        "messages", "messages[0]", "messages[0].content", "''", "[]", "()", "{}", "1", "1.5", "none", "true", "range(3)", "nothing",
        "raise_exception", "strftime_now", "namespace", "namespace()", "cycler", "cycler(1)", "joiner", "joiner()", "dict", "range", "lipsum",
        "messages[0].items", "''.format", "''.strip", "self", "loop", "caller", "m",
    ) for name in (
        "__class__", "__class__.__mro__", "__init__.__globals__", "__globals__", "__subclasshook__", "__reduce_ex__(2)", "__self__", "mro()", "__call__.__func__", "__dict__",
        "function", "owner", "operations", "operations.budget",
    )),
    "messages['__class__']", "messages[0]['__class__']", "''['__class__']", "messages | attr('__class__')", "'' | attr('__class__') | attr('mro')", "'' | attr('format')",
    "['__class__'] | map('attr') | list", "[messages] | map(attribute='__class__') | list", "[''] | map('attr', '__class__') | list", "[''] | map(attribute='__class__.__mro__') | list",
    "[''] | selectattr('__class__') | list", "[''] | rejectattr('__class__') | list", "[''] | groupby('__class__')", "[''] | sort(attribute='__class__')", "[''] | unique(attribute='__class__') | list",
    "[''] | max(attribute='__class__')", "[''] | join(attribute='__class__')", "'{0.__class__}'.format(messages)", "'{0.__class__.__mro__}'.format('')", "'{0[__class__]}'.format(messages)",
    "'{a.__init__.__globals__}'.format(a=raise_exception)", "'{0.format.__self__.__class__}'.format('')", "'{.__class__}'.format(1)", "'{0.__class__}' | format(messages)", "'%(__class__)s' % messages[0]",
    "'{0.__class__}'.format_map({'0': ''})", "'{x.__class__}'.format_map(dict(x=''))", "('{0.__cl' ~ 'ass__}').format('')", "('%s' | attr('format'))('{0.__class__}')", "'{0!r:{1.__class__}}'.format('', '')",
    "''.format.__wrapped__", "''.format.__func__.__globals__", "''.join.__class__", "[].append", "[].append.__self__", "{}.update(a=1)", "{}.pop", "{}.setdefault", "[].sort", "[].__add__",
    "self.__init__.__globals__", "self._TemplateReference__context", "self._TemplateReference__context.environment", "self.blocks", "cycler.__init__.__globals__.os", "cycler(1).__init__.__globals__",
    "joiner.__init__.__globals__.os", "namespace.__init__.__globals__", "namespace().__init__.__globals__", "namespace(__class__=1).__class__.__mro__", "namespace()._Namespace__attrs.__class__",
    "lipsum.__globals__", "lipsum.__globals__['os'].popen('id')", "get_flashed_messages.__globals__", "request.application.__globals__", "config.__class__", "url_for.__globals__",
    "().__class__.__bases__[0].__subclasses__()", "(1).__class__", "1.0.__class__", "true.__class__", "none.__class__", "range.__class__", "range(1).__class__", "''.encode()", "''.encode('idna').__class__",
    "'' is callable.__class__", "raise_exception.__code__", "raise_exception.function.__globals__", "strftime_now.func_globals", "context.environment", "environment.filters", "undefined.__init__.__globals__",
    "nothing.__init__.__globals__", "nothing._undefined_exception", "nothing._fail_with_undefined_error", "messages.gi_frame", "(messages | map('upper')).gi_frame", "(messages | select).gi_code", "(messages | batch(1)).gi_frame.f_back",
    "(messages[0].items()).mapping.__class__", "messages[0].items().__class__", "(messages | groupby('role'))[0].__class__", "(messages | groupby('role'))[0]._fields", "(messages | groupby('role'))[0]._replace.__globals__",
    "1 | filesizeformat | attr('__class__')", "'' | tojson | attr('__html__')", "('' | safe).__class__", "('' | escape).unescape", "('' | safe).format.__globals__", "[].__iter__().__class__", "'a'.maketrans", "'a'.translate",
    "eval('1')", "exec('1')", "open('/etc/passwd')", "__import__('os')", "__builtins__", "globals()", "getattr('', 'x')", "type('')", "super()", "super().__class__", "varargs.__class__", "kwargs", "resolve('x')", "concat", "t_1", "l_0_messages", "Markup", "Macro", "LoopContext",
    "dict.fromkeys([1])", "dict.mro", "dict.__subclasses__()", "dict(a=1).__class__", "dict([['__class__', 1]]).__class__.__mro__", "1.real", "1 .denominator.__class__", "1.5.hex()", "1 .to_bytes(9, 'big')", "1 .bit_length.__self__",
    "messages[0].__getitem__('role')", "messages.__getitem__(0)", "messages.__len__", "''.__add__('a')", "''.__mod__(1)", "''.__format__('')", "[].__class__.__base__", "{}.__class__.__base__", "messages.copy.__self__",
]  # fmt: skip

# The same from statements.
ESCAPING_STATEMENTS = [
    "{% include 'x' %}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}{{ os }}", "{% from 'os' import popen %}", "{% extends 'x' %}", "{% extends messages %}",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}{{ ns.__class__.__mro__ }}", "{% set ns = namespace() %}{% set ns.__init__ = 1 %}{{ ns.__init__.__globals__ }}", "{% set loop.x = 1 %}", "{% set messages.x = 1 %}", "{% set self.x = 1 %}",
    "{% for a in [1] %}{{ loop.__init__.__globals__ }}{% endfor %}", "{% for a in [1] %}{{ loop.__class__ }}{% endfor %}", "{% for a in [1] %}{{ loop._iterator.__class__ }}{% endfor %}", "{% for a in [1] %}{{ loop._undefined.__mro__ }}{% endfor %}",
    "{% for a in [1] %}{{ loop.cycle.__self__ }}{% endfor %}", "{% for a in [1] %}{{ loop.changed.__func__ }}{% endfor %}", "{% for a in [1] recursive %}{{ loop.__call__.__globals__ }}{% endfor %}", "{% for a in [1] %}{{ loop._recurse }}{% endfor %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}", "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}", "{% macro m() %}{% endmacro %}{{ m._environment }}", "{% macro m() %}{% endmacro %}{{ m._func.__code__ }}", "{% macro m() %}{{ varargs.__class__ }}{{ kwargs.__class__ }}{% endmacro %}{{ m(1, a=2) }}",
    "{% macro m() %}{{ caller.__class__ }}{{ caller._func }}{% endmacro %}{% call m() %}{% endcall %}", "{% macro m() %}{{ caller.__call__.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}", "{% macro m(caller=1) %}{{ caller.__class__ }}{% endmacro %}{{ m() }}",
    "{% block b %}{{ super() }}{{ super.__class__ }}{{ self.b.__class__ }}{{ self.b._context }}{% endblock %}", "{% block b %}{{ self.b.super }}{% endblock %}", "{% autoescape true %}{{ ('<' | safe).__class__ }}{% endautoescape %}",
    "{% set x = [] %}{% do x.append(1) %}", "{% set x = [] %}{% if x.append(1) %}{% endif %}{{ x.__class__ }}", "{% debug %}", "{% trans %}a{% endtrans %}", "{% set dict = messages.__class__ %}{{ dict }}", "{% with x = ''.__class__ %}{{ x }}{% endwith %}",
    "{% for k in ''.__class__.__mro__ %}{{ k }}{% endfor %}", "{% if ''.__class__ %}{{ ''.__class__ }}{% endif %}", "{% set x = ''.__class__ or 1 %}{{ x.__base__ }}", "{% filter attr('__class__') %}a{% endfilter %}", "{{ messages | map('slm items') | list }}{{ messages | map('slm tick', 1) | list }}",
]  # fmt: skip
