"""Snappy's raw format, decompressed (google/snappy, format_description.txt).

Knows: literals and copies. Refuses to know: what the bytes are.
"""


class NotSnappy(ValueError):
    """The bytes are not of this format."""


def decompressed(data: bytes, size: int) -> bytes:
    """The bytes, which must be `size`. Raises `NotSnappy`, and IndexError where the data ends too early."""
    stated = shift = place = 0
    while True:
        byte = data[place]
        place += 1
        stated |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    if stated != size:
        raise NotSnappy("another size")
    made = bytearray()
    while place < len(data):
        tag = data[place]
        place += 1
        kind = tag & 3
        if kind == 0:
            length = tag >> 2
            if length >= 60:
                n_bytes = length - 59
                length = int.from_bytes(data[place : place + n_bytes], "little")
                place += n_bytes
            length += 1
            made += data[place : place + length]
            place += length
        else:
            if kind == 1:
                length, offset = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[place]
                place += 1
            else:
                n_bytes = 2 if kind == 2 else 4
                length, offset = (tag >> 2) + 1, int.from_bytes(data[place : place + n_bytes], "little")
                place += n_bytes
            begin = len(made) - offset
            if offset == 0 or begin < 0:
                raise NotSnappy("a copy from before the beginning")
            if offset >= length:
                made += made[begin : begin + length]
            else:  # it repeats what it has just written
                made += (bytes(made[begin:]) * (length // offset + 1))[:length]
        if len(made) > size:
            raise NotSnappy("more than was stated")
    if len(made) != size:
        raise NotSnappy("less than was stated")
    return bytes(made)
