"""An image as the data URL that OpenAI's API takes pictures as: a PNG, without loss.

Knows: the PNG format (RFC 2083) for 8 bits of red, green and blue. Refuses to know: where the pixels come from; Pillow,
which is optional, and not needed to write this.
"""

import base64
import functools
import struct
import zlib

from slmchat.engine.requests import Image

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8 = b"\x08\x02\0\0\0"  # bits a sample, colour type, and the only methods that there are
_LEVEL = 6


# A chat sends its pictures again with every question.
@functools.lru_cache(maxsize=8)
def data_url(image: Image) -> str:
    """`data:image/png;base64,…`"""
    row = 3 * image.width
    rows = b"".join(b"\0" + image.rgb[at : at + row] for at in range(0, len(image.rgb), row))  # 0: not filtered
    size = struct.pack(">II", image.width, image.height)
    chunks = ((b"IHDR", size + _RGB_8), (b"IDAT", zlib.compress(rows, _LEVEL)), (b"IEND", b""))
    png = _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
