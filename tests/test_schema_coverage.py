"""Schemas as people have them: what zod and pydantic make, a sample of a public benchmark, the public format tests.

Texts go through llama.cpp's own grammars and through the check of the finished text, as an answer does.

tests/data/maskbench_sample.jsonl: 300 of the schemas of guidance-ai/jsonschemabench (maskbench/data) with at most four tests
each, descriptions cut. Chosen from the collections with a permissive licence: JsonSchemaStore, Snowplow's Iglu Central,
Kubernetes, BFCL, NousResearch/json-mode-eval, glaive-function-calling-v2 (all Apache-2.0), MCP's specification and the
Washington Post's ANS schema (MIT). tests/data/format_suite.json: the texts of json-schema-org/JSON-Schema-Test-Suite,
draft2020-12/optional/format (MIT, Copyright (c) 2012 Julian Berman).
"""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import maskbench
import pytest
from llguidance import LLMatcher, LLTokenizer
from pydantic import TypeAdapter
from pydantic_samples import PYDANTIC
from schema_samples import sample
from zod_samples import ZOD

from slmchat.schemas import formats, json_schema
from slmchat.schemas.check import SchemaCheck
from slmchat.schemas.gbnf_writer import gbnf_of

pytestmark = pytest.mark.real

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def matcher() -> Iterator[maskbench.Matcher]:
    made = maskbench.Matcher()
    yield made
    made.close()


def _is_right(matcher: maskbench.Matcher, schema: Any, written: str) -> bool:
    grammar = matcher.compiled(gbnf_of(json_schema.to_grammar(schema)))
    try:
        return matcher.matches(grammar, written) and SchemaCheck(schema).is_right(json.loads(written))
    finally:
        matcher.free(grammar)


def _is_right_elsewhere(schema: Any, written: str) -> bool:
    """Whether llguidance, another engine of grammars, lets the text through."""
    oracle = LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    if oracle.is_error():
        return True  # a format or a keyword that it does not know
    tokens = list(written.encode())
    return oracle.try_consume_tokens(tokens) == len(tokens) and oracle.is_accepting()


@pytest.mark.parametrize("name", ZOD)
def test_fields_of_zod(matcher: maskbench.Matcher, name: str) -> None:
    schema, right, wrong = ZOD[name]
    assert _is_right(matcher, schema, json.dumps(right))
    assert not _is_right(matcher, schema, json.dumps(wrong))
    # in llguidance's spelling of numbers and strings, which is narrower
    grammar = json_schema.to_grammar(schema)
    for seed in range(5):
        value = json.loads(sample(grammar, random.Random(seed), budget=60))
        written = json.dumps(value, ensure_ascii=False)
        if SchemaCheck(schema).is_right(value) and not re.search(r"[0-9]e|\\|[^\x20-\x7e]", written):
            assert _is_right_elsewhere(schema, written), written


@pytest.mark.parametrize(("kind", "value"), PYDANTIC, ids=lambda kind: getattr(kind, "__name__", str(kind))[:30])
def test_fields_of_pydantic(matcher: maskbench.Matcher, kind: Any, value: Any) -> None:
    adapter = TypeAdapter(kind)
    schema = adapter.json_schema()
    written = json.dumps(adapter.dump_python(value, mode="json") if kind is not bytes else "abc", ensure_ascii=False)
    assert _is_right(matcher, schema, written)
    grammar = json_schema.to_grammar(schema)
    check = SchemaCheck(schema)
    texts = [sample(grammar, random.Random(seed), budget=60) for seed in range(6)]
    right = [text for text in texts if check.is_right(json.loads(text))]
    assert right, texts
    assert not _is_right(matcher, schema, json.dumps([[["wrong"]]])) or kind is Any


def test_a_sample_of_other_peoples_schemas(matcher: maskbench.Matcher) -> None:
    reports = [
        maskbench.judged(matcher, name, schema, tests)
        for name, schema, tests in maskbench.files(DATA / "maskbench_sample.jsonl", None, 0)
    ]
    assert len(reports) == 300
    assert [report.name for report in reports if report.unsound] == []
    assert [report.name for report in reports if report.refusal] == []
    assert sum(report.is_passed for report in reports) >= 280  # the others have properties that nobody declared


# Internationalized names of hosts: slm knows the letters, and not all rules of IDNA 2008 about which may stand where
_IDNA = ("hostname", "idn-hostname", "idn-email", "iri", "regex")


@pytest.mark.parametrize("name", json.loads((DATA / "format_suite.json").read_text()))
def test_formats_are_as_wide_as_the_public_tests(matcher: maskbench.Matcher, name: str) -> None:
    texts: list[tuple[str, bool]] = json.loads((DATA / "format_suite.json").read_text())[name]
    schema = {"type": "string", "format": name}
    grammar = matcher.compiled(gbnf_of(json_schema.to_grammar(schema)))
    for text, is_valid in texts:
        if name in _IDNA and ("xn--" in text.lower() or not text.isascii() or name == "regex"):
            continue
        assert formats.is_right(name, text) == is_valid, text
        if is_valid:
            assert matcher.matches(grammar, json.dumps(text, ensure_ascii=False)), text
    matcher.free(grammar)


def test_a_percent_sign_needs_two_digits(matcher: maskbench.Matcher) -> None:
    for text in ("http://example.com/%6G", "http://example.com/%A", "http://example.com/%"):
        assert not _is_right(matcher, {"type": "string", "format": "uri"}, json.dumps(text))


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "string", "format": "uri"}, '"https://example.com/search?q=cats"'),
        ({"type": "string", "format": "uri"}, '"http://localhost:8080/#top"'),
        ({"type": "string", "format": "uri"}, '"mailto:a@example.com"'),
        ({"type": "string", "format": "uuid"}, '"2EB8AA08-AA98-11EA-B4AA-73B441D16380"'),
        ({"type": "string", "format": "email"}, '"o\'brien@example.com"'),
        ({"type": "number"}, "6.02e23"),
        ({"type": "number", "minimum": 0.01}, "5"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "1e-05"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "0.50"),
        ({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, "9007199254740991"),
    ],
)
def test_what_a_model_read_can_be_written(matcher: maskbench.Matcher, schema: Any, written: str) -> None:
    assert _is_right(matcher, schema, written)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (
            {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(1_000)}},
            {"p7": None, "p999": None},
        ),
        ({"type": "array", "prefixItems": [{"type": "integer"} for _ in range(1_000)]}, [1] * 1_000),
        ({"enum": [f"value {n * 7919 % 100_003}" for n in range(10_000)]}, "value 7919"),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3_000}, [1] * 3_000),
    ],
    ids=["optional properties", "prefix items", "values of an enum", "values of a list"],
)
def test_large_schemas_compile_here_and_in_llama_cpp(matcher: maskbench.Matcher, schema: Any, value: Any) -> None:
    assert _is_right(matcher, schema, json.dumps(value))
