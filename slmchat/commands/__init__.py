"""One file per errand, each read top to bottom like a story."""
