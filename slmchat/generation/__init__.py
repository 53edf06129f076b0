"""Use cases: ask a model."""
