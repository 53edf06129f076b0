"""Schemas, expressions and field lists as grammars: what they let through, and what is refused by name."""

import json
import random
import re
from typing import Any

import jsonschema
import pytest
from schema_samples import PATTERNS, described, random_schema, sample, with_references

from slmchat.commands import structured_options
from slmchat.engine.api import FinishReason
from slmchat.errors import ExitCode, SlmError
from slmchat.generation import structured
from slmchat.options import FormatOptions
from slmchat.schemas import fields, json_schema, regex
from slmchat.schemas.check import SchemaCheck
from slmchat.schemas.grammar import Chars, Grammar, Repeat, Text

# jsonschema's own "time" is that of draft 3, without a zone
FORMATS = jsonschema.FormatChecker([name for name in jsonschema.FormatChecker.checkers if name != "time"])


def _texts(schema: Any, count: int = 40) -> list[str]:
    grammar = json_schema.to_grammar(schema)
    rng = random.Random(1)
    return [sample(grammar, rng) for _ in range(count)]


def _refusal(schema: Any) -> str:
    with pytest.raises(SlmError) as caught:
        json_schema.to_grammar(schema)
    assert caught.value.exit_code is ExitCode.USAGE
    return caught.value.message


class TestSchemas:
    def test_whatever_a_schema_lets_through_is_right_for_two_validators(self) -> None:
        for seed in range(150):
            rng = random.Random(seed)
            schema = with_references(rng) if seed % 7 == 0 else random_schema(rng)
            grammar = json_schema.to_grammar(schema)
            check = SchemaCheck(schema)
            other = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
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
        ],
    )
    def test_the_rest_is_refused_by_name_and_place(self, schema: Any, says: str) -> None:
        assert says in _refusal(schema)

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
    @pytest.mark.parametrize(("least", "most"), [(0, 650), (1234, 1234), (700, 1999), (3, 503), (600, None)])
    def test_long_repetitions_keep_their_bounds(self, least: int, most: int | None) -> None:
        """llama.cpp refuses more than 2,000 repetitions, so long ones are written in blocks."""
        gbnf = Grammar({"root": Repeat(Chars(((97, 97),)), least, most)}).gbnf()
        counts = [int(count) for count in re.findall(r"\{\d*,?(\d+)\}", gbnf)]
        assert max(counts, default=0) <= 500
        expression = _as_expression(gbnf)
        assert re.fullmatch(expression, "a" * least) and not (least and re.fullmatch(expression, "a" * (least - 1)))
        if most is not None:
            assert re.fullmatch(expression, "a" * most) and not re.fullmatch(expression, "a" * (most + 1))

    def test_texts_are_escaped(self) -> None:
        assert Grammar({"root": Text('a"\\\n\u202e')}).gbnf() == 'root ::= "a\\"\\\\\\n\\u202E"\n'


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

    def test_fields_on_lines_of_their_own_may_have_commas_in_descriptions(self) -> None:
        made = fields.parse("a: one, two\nb int")
        assert made["properties"] == {"a": {"type": "string", "description": "one, two"}, "b": {"type": "integer"}}

    @pytest.mark.parametrize(
        "text", ["", " , ", "a, a", "a text", "1a", "a enum", "a enum(x||y)", "a int(3)", "a b c", "a[][]"]
    )
    def test_mistakes_are_quoted(self, text: str) -> None:
        with pytest.raises(SlmError) as caught:
            fields.parse(text)
        assert caught.value.exit_code is ExitCode.USAGE
        assert "--fields cannot be read" in caught.value.message


class TestShape:
    def _shape(self, **options: Any) -> structured.ResponseFormat:
        made = structured_options.response_format_of(FormatOptions(**options))
        assert made is not None
        return made

    def test_no_option_no_shape(self) -> None:
        assert structured_options.response_format_of(FormatOptions()) is None

    def test_two_shapes_are_one_too_many(self) -> None:
        with pytest.raises(SlmError, match=r"--json-output and --regex cannot be combined"):
            self._shape(json_output=True, regex="a")

    def test_a_value_is_checked_again(self) -> None:
        shape = self._shape(fields="a int")
        assert shape.value('{"a": 1}', FinishReason.STOP) == {"a": 1}
        for text in ('{"a": "1"}', '{"a": 1', "{}", "[]"):
            with pytest.raises(SlmError) as caught:
                shape.value(text, FinishReason.STOP)
            assert caught.value.exit_code is ExitCode.UNSATISFIED
        with pytest.raises(SlmError, match="cut off"):
            shape.value('{"a": 1}', FinishReason.LENGTH)

    def test_one_of_several_right_answers_is_not_oneOf(self) -> None:
        shape = self._shape(schema='{"oneOf": [{"type": "integer"}, {"type": "number"}]}')
        with pytest.raises(SlmError, match="exactly one of the schemas of oneOf"):
            shape.value("3", FinishReason.STOP)

    def test_an_expression_is_matched_again(self) -> None:
        shape = self._shape(regex="[ab]+")
        assert shape.value("abba", FinishReason.STOP) == "abba"
        with pytest.raises(SlmError, match="does not match"):
            shape.value("abc", FinishReason.STOP)

    @pytest.mark.parametrize("text", ["{", '{"type": "nul"}', "/no/such/file"])
    def test_a_schema_that_is_none(self, text: str) -> None:
        with pytest.raises(SlmError) as caught:
            self._shape(schema=text)
        assert caught.value.exit_code is ExitCode.USAGE

    def test_the_model_is_told_the_names_of_the_fields(self) -> None:
        shape = self._shape(fields="name, mood enum(good|bad): how they feel")
        assert shape.instruction == "Answer with JSON that has these fields: name, mood (how they feel; good or bad)."
        assert self._shape(schema='{"enum": ["a"]}').instruction == ""
