"""What zod 4 makes of typical fields (`z.toJSONSchema`, 2020-12), each with a value that is right and one that is not."""

from typing import Any

_INT = {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}
_TEXT = {"type": "string"}
_EMAIL = "^(?!\\.)(?!.*\\.\\.)([A-Za-z0-9_'+\\-\\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\\-]*\\.)+[A-Za-z]{2,}$"
_UUID = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}"
    "|00000000-0000-0000-0000-000000000000|ffffffff-ffff-ffff-ffff-ffffffffffff)$"
)
_DATE = (
    "(?:(?:\\d\\d[2468][048]|\\d\\d[13579][26]|\\d\\d0[48]|[02468][048]00|[13579][26]00)-02-29|\\d{4}-(?:(?:0[13578]|1[02])"
    "-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|30)|(?:02)-(?:0[1-9]|1\\d|2[0-8])))"
)


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


ZOD: dict[str, tuple[Any, Any, Any]] = {
    "string": (_TEXT, "a", 1),
    "string.min.max": ({"type": "string", "minLength": 2, "maxLength": 4}, "abc", "abcde"),
    "string.regex": ({"type": "string", "pattern": "^[a-z]+-\\d{2,}$"}, "ab-12", "ab-1"),
    "string.startsWith": ({"type": "string", "pattern": "^abc.*"}, "abcd", "xabc"),
    "string.includes": ({"type": "string", "pattern": "abc"}, "xabcx", "xab"),
    "email": ({"type": "string", "format": "email", "pattern": _EMAIL}, "o'brien@example.com", "a..b@example.com"),
    "url": ({"type": "string", "format": "uri"}, "http://localhost:8080/a?b=c&d#e", "no url"),
    "uuid": ({"type": "string", "format": "uuid", "pattern": _UUID}, "2EB8AA08-AA98-41EA-B4AA-73B441D16380", "2eb8"),
    "iso.datetime": (
        {
            "type": "string",
            "format": "date-time",
            "pattern": f"^{_DATE}T(?:(?:[01]\\d|2[0-3]):[0-5]\\d(?::[0-5]\\d(?:\\.\\d+)?)?(?:Z))$",
        },
        "2024-02-29T10:00:00.123Z",
        "2023-02-29T10:00:00Z",
    ),
    "iso.date": ({"type": "string", "format": "date", "pattern": f"^{_DATE}$"}, "2024-02-29", "2024-13-01"),
    "ipv4": (
        {
            "type": "string",
            "format": "ipv4",
            "pattern": "^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])\\.){3}"
            "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9][0-9]|[0-9])$",
        },
        "10.0.0.255",
        "10.0.0.256",
    ),
    "base64": (
        {
            "type": "string",
            "format": "base64",
            "contentEncoding": "base64",
            "pattern": "^$|^(?:[0-9a-zA-Z+/]{4})*(?:(?:[0-9a-zA-Z+/]{2}==)|(?:[0-9a-zA-Z+/]{3}=))?$",
        },
        "aGVsbG8=",
        "aGVsbG8",
    ),
    "e164": ({"type": "string", "format": "e164", "pattern": "^\\+(?:[0-9]){6,14}[0-9]$"}, "+4930123456", "030123456"),
    "cuid": ({"type": "string", "format": "cuid", "pattern": "^[cC][^\\s-]{8,}$"}, "ck1234567890", "x1"),
    "number": ({"type": "number"}, 1.5e-07, "1"),
    "number.min.max": ({"type": "number", "minimum": 0.01, "maximum": 100}, 5, 0.001),
    "number.positive": ({"type": "number", "exclusiveMinimum": 0}, 0.5, 0),
    "number.multipleOf": ({"type": "number", "multipleOf": 0.01}, 12.34, 12.345),
    "int": (_INT, 1234567890123456, 1.5),
    "int.range": ({"type": "integer", "minimum": 1, "maximum": 5}, 3, 6),
    "boolean": ({"type": "boolean"}, True, "true"),
    "enum": ({"type": "string", "enum": ["a", "b c"]}, "b c", "c"),
    "literal": ({"type": "string", "const": "a"}, "a", "b"),
    "nullable": ({"anyOf": [_TEXT, {"type": "null"}]}, None, 1),
    "array": ({"minItems": 1, "maxItems": 3, "type": "array", "items": _INT}, [1, 2], []),
    "tuple": ({"type": "array", "prefixItems": [_TEXT, _INT]}, ["a", 1], [1, "a"]),
    "record": (
        {"type": "object", "propertyNames": _TEXT, "additionalProperties": {"type": "number"}},
        {"a": 1},
        {"a": "1"},
    ),
    "discriminatedUnion": (
        {
            "oneOf": [
                _object(
                    {"kind": {"type": "string", "const": "circle"}, "radius": {"type": "number"}}, ["kind", "radius"]
                ),
                _object({"kind": {"type": "string", "const": "square"}, "side": {"type": "number"}}, ["kind", "side"]),
            ]
        },
        {"kind": "square", "side": 2},
        {"kind": "square", "radius": 2},
    ),
    "lazy": (
        {
            **_object({"name": _TEXT, "children": {"type": "array", "items": {"$ref": "#"}}}, ["name", "children"]),
            "$schema": "https://json-schema.org/draft/2020-12/schema",
        },
        {"name": "a", "children": [{"name": "b", "children": []}]},
        {"name": "a", "children": [{}]},
    ),
    "intersection": (
        {
            "allOf": [
                {"type": "object", "properties": {"a": _INT}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"default": "x", "type": "string"}}, "required": ["b"]},
            ]
        },
        {"a": 1, "b": "x"},
        {"a": 1},
    ),
}
