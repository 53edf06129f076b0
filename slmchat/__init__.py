"""slm: talk to a small language model on your own device."""

__version__ = "0.1.0"
