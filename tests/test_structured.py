"""Schemas, expressions and field lists as grammars: what they let through, and what is refused by name."""

import gc
import json
import random
import re
from typing import Any

import pytest
from schema_samples import PATTERNS, described, expression, random_schema, sample, with_references

from slmchat.commands import structured_options
from slmchat.engine.results import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.generation.told import told
from slmchat.options import FormatOptions
from slmchat.schemas import fields, json_rules, json_schema, python_regex, regex
from slmchat.schemas.check import SchemaCheck
from slmchat.schemas.gbnf_writer import gbnf_of
from slmchat.schemas.grammar import Chars, Grammar, Repeat, Text


def _texts(schema: Any, count: int = 40) -> list[str]:
    grammar = json_schema.to_grammar(schema)
    rng = random.Random(1)
    return [sample(grammar, rng) for _ in range(count)]


def _longest(value: Any) -> int:
    """The most values that a list or an object in it has."""
    if not isinstance(value, list | dict):
        return 0
    inside = value if isinstance(value, list) else list(value.values())
    return max([len(value), *map(_longest, inside)])


def _refusal(schema: Any) -> str:
    with pytest.raises(SlmError) as caught:
        json_schema.to_grammar(schema)
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value.message


class TestSchemas:
    @pytest.mark.slow
    def test_whatever_a_schema_lets_through_is_right_for_two_validators(self) -> None:
        import jsonschema

        # jsonschema's own "time" is that of draft 3, without a zone
        formats = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])
        for seed in range(150):
            rng = random.Random(seed)
            schema = with_references(rng) if seed % 7 == 0 else random_schema(rng)
            grammar = json_schema.to_grammar(schema)
            check = SchemaCheck(schema)
            other = jsonschema.Draft202012Validator(schema, format_checker=formats)
            for _ in range(3):
                text = sample(grammar, rng)
                value = json.loads(text)
                assert check.problem(value) is None, (described(schema), text)
                assert other.is_valid(value), (described(schema), text)

    @pytest.mark.parametrize(
        ("schema", "right", "wrong"),
        [
            ({"type": "integer", "minimum": 3, "maximum": 12}, {str(n) for n in range(3, 13)}, set()),
            ({"type": "integer", "exclusiveMinimum": -2, "exclusiveMaximum": 2}, {"-1", "0", "1"}, {"-0"}),
            ({"enum": ["a", 1, None]}, {'"a"', "1", "null"}, set()),
            ({"type": "string", "enum": ["a", 1]}, {'"a"'}, {"1"}),
            ({"const": {"a": [1]}}, {'{"a": [1]}'}, set()),
            ({"type": ["boolean", "null"]}, {"true", "false", "null"}, set()),
            ({"type": "array", "items": {"const": 1}, "maxItems": 2}, {"[]", "[1]", "[1, 1]"}, set()),
            (
                {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["b"]},
                {'{"b": 2}', '{"a": 1, "b": 2}'},
                set(),
            ),
            ({"type": "string", "pattern": '^["\\\\]$'}, {'"\\""', '"\\\\"'}, set()),
            (
                {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": False, "minItems": 1},
                {"[1]", "[1, 2]"},
                {"[]"},
            ),
        ],
    )
    def test_everything_that_is_right_can_come_out_and_nothing_else(
        self, schema: Any, right: set[str], wrong: set[str]
    ) -> None:
        found = set(_texts(schema, 400))
        assert found == right
        assert not found & wrong

    def test_names_beyond_the_declared_ones_never_repeat_them(self) -> None:
        schema = {"properties": {"a": {"const": 1}, "ab": {"const": 2}}, "type": "object", "additionalProperties": True}
        for text in _texts(schema, 200):
            pairs: list[tuple[str, object]] = json.loads(text, object_pairs_hook=list)
            names = [name for name, _ in pairs]
            assert names.count("a") <= 1 and names.count("ab") <= 1

    def test_a_schema_may_refer_to_itself(self) -> None:
        tree = {
            "type": "object",
            "properties": {"kids": {"type": "array", "items": {"$ref": "#"}}},
            "required": ["kids"],
        }
        depths = {text.count("kids") for text in _texts(tree, 100)}
        assert 1 in depths and max(depths) > 2

    @pytest.mark.parametrize(
        ("schema", "says"),
        [
            ({"$ref": "#"}, "circle"),
            ({"anyOf": [{"type": "null"}, {"$ref": "#"}]}, "circle"),
            ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "circle"),
            (
                {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
                "contains itself without an end",
            ),
            ({"$ref": "https://example.org/schema"}, "leads outside of the schema"),
            ({"$ref": "#/$defs/none"}, "which is not there"),
            ({"type": "text"}, '"text" is not a type (at the top)'),
            ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength in # is above maxLength"),
            ({"type": "integer", "minimum": 5, "maximum": 2}, "no number lies between the bounds"),
            ({"type": "integer", "enum": ["a"]}, "no value of the enum"),
            ({"enum": []}, "enum in # is not a list with something in it"),
            (False, "is false"),
            ([], "not a schema"),
            ({"enum": ["a", "\ud800"]}, "half of a surrogate pair"),
        ],
    )
    def test_the_rest_is_refused_by_name_and_place(self, schema: Any, says: str) -> None:
        assert says in _refusal(schema)

    @pytest.mark.parametrize(
        ("schema", "said"),
        [
            ({"type": "array", "uniqueItems": True}, ("uniqueItems",)),
            ({"type": "object", "properties": {"a": {"not": {"const": 1}}}}, ("not",)),
            ({"type": "string", "pattern": "^(?!x)a+$"}, ("pattern",)),
            ({"type": "string", "pattern": "^[a-z]+-[0-9]+$", "maxLength": 9}, ("maxLength",)),
            ({"type": "integer", "multipleOf": 7}, ("multipleOf",)),
            ({"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}, ("if",)),
        ],
    )
    def test_what_a_grammar_cannot_hold_is_named(self, schema: Any, said: tuple[str, ...]) -> None:
        assert json_schema.compiled(schema).only_checked == said

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 9},
            {"type": "string", "format": "date", "maxLength": 30},
            {"type": "string", "pattern": "(^a$|^b$)"},
            {"type": "integer", "minimum": 0, "maximum": 100, "multipleOf": 5},
            {"type": "number", "multipleOf": 0.01},
            {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1, "maxProperties": 3},
            {"type": "object", "patternProperties": {"^x-": {"type": "null"}}, "additionalProperties": False},
            {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
        ],
    )
    def test_and_what_it_can_hold_is_held(self, schema: Any) -> None:
        assert json_schema.compiled(schema).only_checked == ()
        check = SchemaCheck(schema)
        assert [text for text in _texts(schema) if not check.is_right(json.loads(text))] == []

    @pytest.mark.parametrize(("least", "most", "count"), [(0, None, 16), (1, 2, 9), (3, None, 6)])
    def test_a_few_values_come_once_each_in_any_order(self, least: int, most: int | None, count: int) -> None:
        schema: dict[str, Any] = {
            "type": "array",
            "items": {"enum": ["a", 1, None]},
            "uniqueItems": True,
            "minItems": least,
        }
        made = json_schema.compiled(schema | ({} if most is None else {"maxItems": most}))
        found = {sample(made.grammar, random.Random(seed)) for seed in range(600)}
        assert len(found) == count and made.only_checked == ()

    def test_one_of_several_properties_comes_alone(self) -> None:
        only = {
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "properties": {"a": {"const": 1}, "b": {"const": 2}},
        }
        assert set(_texts(only)) == {'{"a": 1}', '{"b": 2}'}

    def test_keywords_that_say_nothing_about_the_type_have_no_effect(self) -> None:
        assert json_schema.compiled({"type": "integer", "maxLength": 3, "maximum": 1, "minimum": 1}).only_checked == ()

    def test_words_that_nobody_knows_are_named(self) -> None:
        schema = {"type": "string", "maxLenght": 3, "x-own": 1, "title": "t", "format": "colour"}
        assert json_schema.compiled(schema).unknown == ('"maxLenght"', 'the format "colour"')

    def test_alternatives_without_a_value_are_left_out(self) -> None:
        schema = {"type": "integer", "anyOf": [{"type": "string"}, {"minimum": 1, "maximum": 2}]}
        assert set(_texts(schema)) == {"1", "2"}

    def test_what_has_no_end_is_left_out_where_something_else_is_left(self) -> None:
        endless = {"type": "object", "properties": {"e": {"$ref": "#/$defs/e"}}, "required": ["e"]}
        schema = {"properties": {"a": {"$ref": "#/$defs/e"}, "b": {"const": 1}}, "$defs": {"e": endless}}
        assert set(_texts(schema)) == {"{}", '{"b": 1}'}

    def test_a_choice_that_comes_to_itself_through_what_stands_beside_it_ends(self) -> None:
        schema = {
            "$ref": "#/$defs/c",
            "$defs": {
                "c": {
                    "type": "object",
                    "oneOf": [
                        {"properties": {"not": {"$ref": "#/$defs/c"}}, "required": ["not"]},
                        {"properties": {"is": {"const": 1}}, "required": ["is"]},
                    ],
                }
            },
        }
        assert {'{"is": 1}', '{"not": {"is": 1}}', '{"not": {"not": {"is": 1}}}'} <= set(_texts(schema, 200))

    def test_a_long_chain_of_references_is_not_nesting(self) -> None:
        links = {f"d{n}": {"type": "object", "properties": {"x": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(300)}
        schema = {"$ref": "#/$defs/d0", "$defs": links | {"d300": {"const": 1}}}
        assert '"x"' in "".join(_texts(schema, 10))

    @pytest.mark.slow
    def test_soft_limits_end_what_has_no_end(self) -> None:
        for schema in ({"type": "array", "items": {"const": 1}}, {"type": "object"}, {"type": "array"}, True):
            made = json_schema.compiled(schema, is_capped=True)
            assert made.has_soft_limits
            longest = max(_longest(json.loads(sample(made.grammar, random.Random(n), budget=3000))) for n in range(20))
            assert longest <= json_rules.SOFT_ITEMS
        assert not json_schema.compiled(
            {"type": "array", "items": {"const": 1}, "maxItems": 9}, is_capped=True
        ).has_soft_limits

    def test_a_compiled_schema_leaves_nothing_to_the_collector(self) -> None:
        lists = {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b", "c"]}}
        nothing = {"allOf": [{"type": "string"}, {"type": "integer"}]}
        schema = {
            "properties": {"some": lists, "none": {"$ref": "#/$defs/none"}, "any": {"anyOf": [nothing, {"const": 1}]}},
            "$defs": {"none": nothing},
        }
        json_schema.compiled(schema)  # what is kept for the next ones is made
        gc.collect()
        gc.disable()
        try:
            json_schema.compiled(schema)
            assert gc.collect() == 0
        finally:
            gc.enable()

    def test_a_schema_without_soft_limits_has_one_grammar(self) -> None:
        for schema, is_one in (({"type": "integer"}, True), ({"type": "string"}, False)):
            capped, open_ = (
                json_schema.to_gbnf(json.dumps(schema), is_capped=is_capped) for is_capped in (True, False)
            )
            assert (capped is open_) == is_one
            assert open_.gbnf == gbnf_of(json_schema.to_grammar(schema))

    def test_a_schema_nested_without_measure_is_refused(self) -> None:
        schema: Any = {"type": "null"}
        for _ in range(300):
            schema = {"type": "array", "items": schema}
        assert "nested too deep" in _refusal(schema)


class TestExpressions:
    def test_texts_of_an_expression_match_it(self) -> None:
        rng = random.Random(3)
        for pattern in (
            *PATTERNS,
            "(a|b)*c{2,}",
            "x{3}",
            "[^\\d]{2}",
            "\\x41\\u00e9\\.",
            "(?:ab)?",
            "(?P<n>a)",
            "a{,2}",
        ):
            grammar = Grammar({"root": regex.parse(pattern, is_search=True)})
            for _ in range(60):
                assert re.search(pattern.replace("$", "\\Z"), sample(grammar, rng), re.ASCII), pattern

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("pattern", "right", "wrong"),
        [
            ("[[:alpha:]]+[[:digit:]]", "ab1", "1"),
            (r"a\012b", "a\nb", "a012b"),
            ("(?i)yes|no", "NO", "n"),
            (r"\p{Lu}\p{L}*", "Élan", "élan"),
            ("(?<year>[0-9]{4})", "2026", "x"),
            (r"[\w-.]+", "a-b.c", "a b"),
            ("(^a$|^b$)", "b", "ab"),
            ("(a*)*b", "aab", "a"),
            (r"\u{1F600}|\uD83D\uDE01", "😁", "x"),
        ],
    )
    def test_what_other_dialects_write(self, pattern: str, right: str, wrong: str) -> None:
        node = regex.parse(pattern)
        matches = python_regex.compiled(pattern).fullmatch
        for text, is_right in ((right, True), (wrong, False)):
            assert bool(re.fullmatch(expression(node), text)) is is_right
            assert bool(matches(text)) is is_right

    def test_a_whole_match_has_nothing_around_it(self) -> None:
        rng = random.Random(3)
        grammar = Grammar({"root": regex.parse("abc|d")})
        assert {sample(grammar, rng) for _ in range(50)} == {"abc", "d"}

    @pytest.mark.parametrize(
        ("pattern", "place", "what"),
        [
            ("ab(?=c)", 3, "a lookahead"),
            ("(?<!c)", 1, "a lookbehind"),
            ("(a)\\1", 4, "a reference back"),
            ("a\\b", 2, "\\b"),
            ("a^b", 2, "^ in the middle"),
            ("*a", 1, "nothing before it"),
            ("a**", 3, "a repetition of a repetition"),
            ("(ab", 1, "without its )"),
            ("ab)", 3, "without its ("),
            ("[ab", 1, "without its ]"),
            ("[z-a]", 2, "a range whose ends"),
            ("a{3,2}", 1, "minimum is above its maximum"),
            ("a\\", 2, "ends in the middle"),
            ("\\p{Greek}", 1, "not a general category"),
            ("a(?i)b", 2, "flags"),
            ("a\\i", 2, "the escape"),
            ("[[:klingon:]]", 2, "not one of POSIX"),
            ("(a$b)", 3, "$ in the middle"),
        ],
    )
    def test_what_cannot_become_a_grammar_is_named_with_its_position(self, pattern: str, place: int, what: str) -> None:
        with pytest.raises(SlmError) as caught:
            regex.parse(pattern)
        assert what in caught.value.message
        assert f"at position {place} of" in caught.value.message
        assert caught.value.exit_code is ExitCode.USAGE


class TestGrammars:
    @pytest.mark.parametrize(("least", "most"), [(0, 1650), (1234, 1234), (700, 1999), (3, 503), (1600, None)])
    def test_long_repetitions_keep_their_bounds(self, least: int, most: int | None) -> None:
        """llama.cpp refuses more than 2,000 repetitions, so long ones are written in blocks."""
        gbnf = gbnf_of(Grammar({"root": Repeat(Chars(((97, 97),)), least, most)}))
        counts = [int(count) for count in re.findall(r"\{\d*,?(\d+)\}", gbnf)]
        assert max(counts, default=0) <= 1_000
        expression = _as_expression(gbnf)
        assert re.fullmatch(expression, "a" * least) and not (least and re.fullmatch(expression, "a" * (least - 1)))
        if most is not None:
            assert re.fullmatch(expression, "a" * most) and not re.fullmatch(expression, "a" * (most + 1))

    def test_texts_are_escaped(self) -> None:
        assert gbnf_of(Grammar({"root": Text('a"\\\n\u202e')})) == 'root ::= "a\\"\\\\\\n\\u202E"\n'


def _as_expression(gbnf: str) -> str:
    """Non-recursive rules over the letter a as one regular expression."""
    rules = dict(line.split(" ::= ") for line in gbnf.strip().splitlines())
    text = rules["root"]
    while "part-" in text:
        text = re.sub(r"part-\d+", lambda found: f"({rules[found.group()]})", text)
    return text.replace(" ", "").replace('""', "")


class TestFields:
    def test_the_short_form(self) -> None:
        made = fields.parse(
            "name, age int?, tags[], scores float[]?, mood enum(good|so so), born date, ok bool: is it?"
        )
        assert made == {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer"},
                "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 20},
                "scores": {"type": "array", "items": {"type": "number"}, "maxItems": 20},
                "mood": {"enum": ["good", "so so"]},
                "born": {"type": "string", "format": "date"},
                "ok": {"type": "boolean", "description": "is it?"},
            },
            "required": ["name", "tags", "mood", "born", "ok"],
            "additionalProperties": False,
        }

    def test_types_behind_a_colon_and_ranges(self) -> None:
        made = fields.parse("name: string, age: integer?, mark int(1-5), share: float(0-1): of all, temp int(-5..5)[]")
        assert made["properties"] == {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "mark": {"type": "integer", "minimum": 1, "maximum": 5},
            "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "of all"},
            "temp": {"type": "array", "items": {"type": "integer", "minimum": -5, "maximum": 5}, "maxItems": 20},
        }
        assert made["required"] == ["name", "mark", "share", "temp"]

    def test_fields_on_lines_of_their_own_may_have_commas_in_descriptions(self) -> None:
        made = fields.parse("a: one, two\nb int")
        assert made["properties"] == {"a": {"type": "string", "description": "one, two"}, "b": {"type": "integer"}}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " , ",
            "a, a",
            "a text",
            "1a",
            "a enum",
            "a enum(x||y)",
            "a int(3)",
            "a int(5-1)",
            "a int(1.5-2)",
            "a str(1-5)",
            "a b c",
            "a[][]",
        ],
    )
    def test_mistakes_are_quoted(self, text: str) -> None:
        with pytest.raises(SlmError) as caught:
            fields.parse(text)
        assert caught.value.exit_code is ExitCode.USAGE
        assert "--fields cannot be read" in caught.value.message


class TestResponseFormat:
    def _format(self, **options: Any) -> structured.ResponseFormat:
        made = structured_options.response_format_of(FormatOptions(**options))
        assert made is not None
        return made

    def test_no_option_no_format(self) -> None:
        assert structured_options.response_format_of(FormatOptions()) is None

    def test_two_formats_are_one_too_many(self) -> None:
        with pytest.raises(SlmError, match=r"--json-output and --regex cannot be combined"):
            self._format(json_output=True, regex="a")

    def test_a_value_is_checked_again(self) -> None:
        wanted = self._format(fields="a int")
        assert wanted.value('{"a": 1}', FinishReason.STOP) == {"a": 1}
        for text in ('{"a": "1"}', '{"a": 1', "{}", "[]"):
            with pytest.raises(SlmError) as caught:
                wanted.value(text, FinishReason.STOP)
            assert caught.value.exit_code is ExitCode.UNSATISFIED
        with pytest.raises(SlmError, match="cut off"):
            wanted.value('{"a": 1}', FinishReason.LENGTH)

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"a": 1, "a": 2}', 'the name "a" stands twice'),
            ('{"a": 1e400}', "the number 1e400 is too large"),
            ('{"a": NaN}', "JSON has no number NaN"),
        ],
    )
    def test_json_that_others_would_read_differently(self, text: str, says: str) -> None:
        with pytest.raises(SlmError, match=says):
            self._format(json_output=True).value(text, FinishReason.STOP)

    def test_notes_say_what_is_left_to_the_end_and_what_has_no_effect(self) -> None:
        wanted = self._format(schema='{"type": "array", "uniqueItems": true, "maxitems": 3}')
        assert wanted.notes[0] == "only checked at the end: uniqueItems"
        assert '"maxitems"' in wanted.notes[1]

    def test_one_of_several_right_answers_is_not_oneOf(self) -> None:
        wanted = self._format(schema='{"oneOf": [{"type": "integer"}, {"type": "number"}]}')
        with pytest.raises(SlmError, match="exactly one of the schemas of oneOf"):
            wanted.value("3", FinishReason.STOP)

    def test_an_expression_is_matched_again(self) -> None:
        wanted = self._format(regex="[ab]+")
        assert wanted.value("abba", FinishReason.STOP) == "abba"
        with pytest.raises(SlmError, match="does not match"):
            wanted.value("abc", FinishReason.STOP)

    @pytest.mark.parametrize("text", ["{", '{"type": "nul"}', "/no/such/file"])
    def test_a_schema_that_is_none(self, text: str) -> None:
        with pytest.raises(SlmError) as caught:
            self._format(schema=text)
        assert caught.value.exit_code is ExitCode.USAGE

    def test_the_model_is_told_the_names_of_the_fields(self) -> None:
        wanted = self._format(fields="name, mood enum(good|bad): how they feel")
        assert wanted.instruction == "Answer with JSON that has these fields: name, mood (how they feel; good or bad)."
        assert self._format(schema='{"enum": ["a"]}').instruction == ""

    @pytest.mark.parametrize(
        ("schema", "told"),
        [
            ({"type": "string"}, ""),
            ({"type": "array", "items": {"type": "string"}}, ""),
            (
                {"type": "array", "items": {"type": "string", "description": "names of cities"}},
                "Answer with JSON: a list of names of cities.",
            ),
            (
                {"type": "array", "items": {"properties": {"name": {}, "age": {}}}},
                "Answer with JSON: a list of objects with these fields: name, age.",
            ),
            (
                {"type": "object", "additionalProperties": {"type": "integer"}},
                "Answer with JSON: an object of names, each with a whole number.",
            ),
            (
                {"$ref": "#/$defs/p", "$defs": {"p": {"properties": {"name": {"description": "in full"}}}}},
                "Answer with JSON that has these fields: name (in full).",
            ),
            (
                {
                    "anyOf": [
                        {"properties": {"a": {}}},
                        {"type": "array", "items": {"enum": ["x", "y"]}},
                        {"type": "null"},
                    ]
                },
                "Answer with JSON: an object with these fields: a or a list of one of x, y.",
            ),
            (
                {
                    "$ref": "#/$defs/v",
                    "$defs": {"v": {"anyOf": [{"type": "string"}, {"items": {"$ref": "#/$defs/v"}}]}},
                },
                "Answer with JSON: a text or a list of a text or a list of a text or a list of values.",
            ),
            (
                {"properties": {"people": {"type": "array", "items": {"properties": {"name": {}}}}}},
                "Answer with JSON that has these fields: people (each with name).",
            ),
        ],
    )
    def test_the_model_is_told_the_format_wherever_it_stands(self, schema: Any, told: str) -> None:
        assert structured.of_schema(schema).instruction == told


def test_a_large_schema_is_said_in_fewer_words() -> None:
    """The names stay as long as there is room for them; what each is for goes first."""
    about = "a word about it, " * 20
    fields = {f"field{number}": {"type": "string", "description": about} for number in range(40)}
    said = told({"type": "object", "properties": fields})
    assert len(said) <= 6_000
    assert said.count("field") == 41  # and "has these fields"
    assert about not in said
    few = told({"type": "object", "properties": {"field": fields["field0"]}})
    assert about in few
    many = told({"type": "object", "properties": {f"field{number:05}": {} for number in range(5_000)}})
    assert len(many) < 6_100
    assert many.endswith(" and others.")
