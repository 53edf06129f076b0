"""Use cases: choose, get and load a model."""
