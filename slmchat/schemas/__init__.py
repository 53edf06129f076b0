"""Formats of text: JSON Schema, regular expressions and short field lists, as grammars and as checks."""
