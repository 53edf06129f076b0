"""SHA-256 of a short text, for names of files, without OpenSSL.

`hashlib` loads OpenSSL for whatever is hashed: 12 million instructions, 3 to 5 ms of a start that hashes one path.
Python's own SHA-256 is as good for that; large files are hashed faster by `hashlib`.
"""


def short_sha256(data: bytes) -> str:
    """64 hexadecimal digits."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # since Python 3.12; the library's `random` takes it so
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    digits: str = sha256(data).hexdigest()
    return digits
