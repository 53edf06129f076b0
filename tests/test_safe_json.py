"""JSON that may be shown: what `json` writes, with what nobody sees escaped, whichever way it was written."""

import json
import unicodedata

import pytest
from properties import given
from properties import strategies as st

from slmchat import safe_json

_TEXTS = st.text(st.sampled_from('ab{}[]",:\n\\ \u200b\ufe0f\u2028é\x7f\x1b\U0001f600#9\u115f\t'), max_size=12)
_VALUES = st.one_of(_TEXTS, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())
_RECORDS = st.lists(st.dictionaries(_TEXTS, _VALUES, max_size=4), max_size=4)
_NESTED = st.lists(st.one_of(_VALUES, st.dictionaries(_TEXTS, st.lists(_VALUES, max_size=2), max_size=2)), max_size=3)


def _one_by_one(value: object) -> str:
    """What `encode` has to write, character by character of what `json` writes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    made = ""
    for before, char in zip(" " + text, text, strict=False):
        is_hidden = char != "\n" and unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        is_shown_selector = char == "\ufe0f" and (before in "#*9\u2028" or before == "\U0001f600")
        is_unseen = char in "\u115f\ufe0f" and not is_shown_selector
        made += f"\\u{ord(char):04x}" if is_hidden or is_unseen else char
    return made


@given(st.one_of(_RECORDS, _NESTED))
def test_it_is_what_json_writes_with_what_nobody_sees_escaped(value: object) -> None:
    assert safe_json.encode(value) == _one_by_one(value)


@given(_RECORDS)
def test_it_is_read_back(value: list[dict[str, object]]) -> None:
    assert repr(json.loads(safe_json.encode(value))) == repr(value)  # 0.0 is equal to -0.0


def test_numbers_that_json_does_not_have_are_null() -> None:
    """jq and JavaScript refuse NaN and Infinity, and a key of a model file may have either."""
    nan, endless = float("nan"), float("inf")
    for value, text in (
        ([{"a": nan, "b": 1.5}], '[{"a": null, "b": 1.5}]'),
        ({"a": [endless, (-endless, "NaN")]}, '{"a": [null, [null, "NaN"]]}'),
        (nan, "null"),
    ):
        assert json.loads(safe_json.encode(value)) == json.loads(text)
        assert safe_json.dumps(value) == text


@pytest.mark.parametrize("indent", [None, 2])
def test_a_number_that_json_does_not_have_is_null(indent: int | None) -> None:
    value = {"id": 1e999, "input": {"x": float("nan"), "y": [1.5, (-1e999,)], "z": "NaN"}}
    plain = {"id": None, "input": {"x": None, "y": [1.5, [None]], "z": "NaN"}}
    assert json.loads(safe_json.encode(value, indent)) == plain
    assert json.loads(safe_json.encode([{"a": float("inf"), "b": "NaN"}], indent)) == [{"a": None, "b": "NaN"}]
