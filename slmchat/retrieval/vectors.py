"""Vectors of chunks: an embedding model that is installed, and the chunks that mean what a question means.

Knows: which texts an embedding model wants (its prefixes), how vectors are kept and compared.
Refuses to know: how a vector is computed (engine/embedding.py), words.
"""

from dataclasses import dataclass

from slmchat.engine.api import Embedder


@dataclass(frozen=True, slots=True)
class Vectors:
    """An embedding model that is open. `model` tells its vectors from those of another: name and sha256."""

    model: str
    embedder: Embedder
