"""Constraints in the notation of llama.cpp's grammars, for the model in this process and for servers that take it.

Knows: which translator a constraint needs. Refuses to know: sampling, requests, where a constraint comes from.
"""

import functools

from slmchat.engine.requests import Constraint, ConstraintKind


@functools.lru_cache(maxsize=8)  # a batch asks for each of its rows
def to_gbnf(constraint: Constraint) -> str:
    """The constraint as a grammar of llama.cpp's. Raises `SlmError` (USAGE) when it cannot be one."""
    from slmchat.schemas import gbnf_writer, grammar, json_schema, regex

    if constraint.kind is ConstraintKind.GRAMMAR:
        return constraint.text
    if constraint.kind is ConstraintKind.REGEX:
        return gbnf_writer.gbnf_of(grammar.Grammar({"root": regex.parse(constraint.text)}))
    if constraint.kind is ConstraintKind.JSON:
        return gbnf_writer.gbnf_of(json_schema.any_json(is_capped=constraint.is_capped))
    return json_schema.to_gbnf(constraint.text, is_capped=constraint.is_capped).gbnf
