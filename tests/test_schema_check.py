"""The check of a finished value: right and wrong as the public suite says, and it reaches nothing.

tests/data/schema_suite.jsonl: json-schema-org/JSON-Schema-Test-Suite, draft2020-12, without what needs other documents
(MIT, Copyright (c) 2012 Julian Berman).
"""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from slmchat.errors import ExitCode, SlmError
from slmchat.schemas import json_schema
from slmchat.schemas.check import SchemaCheck

SUITE = [json.loads(line) for line in (Path(__file__).parent / "data" / "schema_suite.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_public_suite() -> None:
    wrong = []
    for name, schema, tests in SUITE:
        check = SchemaCheck(schema)
        for value, is_valid in tests:
            if check.is_right(value) != is_valid:
                wrong.append((name, value))
    assert wrong == []


@pytest.mark.slow
def test_the_grammar_takes_each_schema_of_the_suite_or_says_why_not() -> None:
    refusals: dict[str, SlmError] = {}
    for name, schema, _ in SUITE:
        try:
            json_schema.to_grammar(schema)
        except SlmError as error:
            refusals[name] = error
    assert len(refusals) < len(SUITE) / 8
    assert {error.exit_code for error in refusals.values()} == {ExitCode.USAGE}
    assert all(error.message.startswith("this schema cannot be used: ") for error in refusals.values())


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": "string", "default": {"$ref": "http://127.0.0.1:9/x"}}}},
        {"properties": {"a": {"examples": [{"$ref": "file:///etc/passwd"}]}}},
        {"properties": {"a": {"enum": [{"$ref": "http://127.0.0.1:9/x"}]}}},
        {"properties": {"a": {"const": {"$ref": "file:///etc/passwd"}}}},
        {"$id": "http://127.0.0.1:9/", "properties": {"a": {"enum": [{"$ref": "other.json"}, 1]}}},
        {"$schema": "http://127.0.0.1:9/meta", "x-more": {"$ref": "http://127.0.0.1:9/x"}},
    ],
)
def test_a_schema_reaches_nothing(schema: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("something was reached")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr("builtins.open", refused)
    json_schema.to_grammar(schema)
    SchemaCheck(schema).problem({"a": {"$ref": "http://127.0.0.1:9/x"}})


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:9/x", "file:///etc/passwd", "other.json", "#nowhere", "//host/x"]
)
def test_a_reference_out_of_the_schema_is_refused(reference: str) -> None:
    with pytest.raises(SlmError, match="leads outside of the schema"):
        json_schema.to_grammar({"properties": {"a": {"$ref": reference}}})
    with pytest.raises(SlmError, match="leads outside of the schema"):
        SchemaCheck({"not": {"$ref": reference}}).problem(1)


@pytest.mark.parametrize(
    ("schema", "value", "says"),
    [
        ({"type": "integer"}, "1", "the value must be an integer"),
        ({"properties": {"a": {"items": {"type": "string"}}}}, {"a": ["x", 1]}, "the value.a[1] must be a string"),
        ({"required": ["b"]}, {}, 'the value must have "b"'),
        ({"minimum": 3}, 2, "the value must be >= 3"),
        ({"uniqueItems": True}, [1, 2, 1.0], "the value must not have 1.0 twice"),
        ({"not": {"type": "null"}}, None, "must not be right for the schema of not"),
        ({"additionalProperties": False, "properties": {"a": {}}}, {"b": 1}, "the value.b is not allowed"),
        ({"multipleOf": 0.01}, 0.015, "must be a multiple of 0.01"),
        ({"type": "number"}, float("inf"), "the value must be a number"),
        ({"pattern": "^a$"}, "a\n", "the value must match ^a$"),
    ],
)
def test_a_problem_says_where_and_why(schema: Any, value: Any, says: str) -> None:
    assert says in str(SchemaCheck(schema).problem(value))


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"exclusiveMinimum": True, "minimum": 3}, 4, 3),
        ({"exclusiveMaximum": False, "maximum": 3}, 3, 4),
        ({"items": [{"type": "null"}], "additionalItems": False}, [None], [None, 1]),
        ({"dependencies": {"a": ["b"]}}, {"a": 1, "b": 2}, {"a": 1}),
        (
            {
                "id": "http://example.com/root",
                "definitions": {"n": {"id": "#n", "type": "null"}},
                "items": {"$ref": "#n"},
            },
            [None],
            [1],
        ),
        ({"definitions": {"n": {"id": "n.json", "type": "null"}}, "items": {"$ref": "n.json"}}, [None], [1]),
    ],
)
def test_older_drafts(schema: Any, right: Any, wrong: Any) -> None:
    check = SchemaCheck(schema)
    assert check.is_right(right) and not check.is_right(wrong)
    json_schema.to_grammar(schema)


def test_values_are_judged_as_the_reference_judges_them() -> None:
    import jsonschema

    values: list[Any] = [
        *(None, True, False, 0, 1, -1, 2.5, 1.0, "", "a", "abc", "ab1", [], [1], [1, 1], ["a", 1], [[1]]),
        *({}, {"a": 1}, {"a": "x", "b": [1]}, {"ab": 1}, {"a": {"a": 1}}, [{"a": 1}, {"a": 1}], {"b": None}),
    ]
    for _, schema, _ in SUITE:
        if "$ref" in json.dumps(schema) or "\\\\" in json.dumps(schema):  # Python's own regular expressions differ
            continue
        reference = jsonschema.Draft202012Validator(schema)
        check = SchemaCheck(schema)
        for value in values:
            assert check.is_right(value) == reference.is_valid(value), (schema, value)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"not": 5}, r'"not" \(at #\) must be a schema'),
        ({"properties": {"a": {"if": []}}}, r'"if" \(at #/properties/a\) must be a schema'),
        ({"not": {"contains": 7}}, r'"contains" \(at #/not\) must be a schema'),
        ({"$defs": {"a": {"propertyNames": "b"}}}, r'"propertyNames" \(at #/\$defs/a\) must be a schema'),
        ({"type": "array", "contains": {}, "minContains": "x"}, r'"minContains" \(at #\) must be a count'),
        ({"type": "array", "uniqueItems": 3}, r'"uniqueItems" \(at #\) must be true or false'),
        ({"type": "object", "dependentRequired": {"a": 3}}, "must be an object of lists of names"),
        ({"type": "object", "dependentSchemas": {"a": []}}, "must be an object of schemas"),
        ({"type": "object", "dependencies": {"a": "b"}}, "must be an object of schemas or lists of names"),
    ],
)
def test_what_only_the_check_knows_is_refused_before_anything_is_generated(schema: Any, says: str) -> None:
    with pytest.raises(SlmError, match=says) as caught:
        json_schema.compiled(schema)
    assert caught.value.exit_code is ExitCode.USAGE


def test_the_same_words_as_names_and_texts_are_no_keywords() -> None:
    schema = {
        "properties": {"not": {"enum": ["if"]}, "contains": {"const": {"uniqueItems": 3}}},
        "examples": [{"if": 3}],
    }
    assert json_schema.compiled(schema).grammar.rules["root"]
