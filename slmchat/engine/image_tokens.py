"""The numbers that stand for images among tokens.

Every token that an image takes in the KV cache gets a number of its own, far above all vocabularies and made from the
hashes of the image and of the projector. Whoever compares tokens, in memory or on the disk, then treats images like
text: the same image is the same prefix, another one is not. Only evaluation looks behind the numbers (vision.py).

Knows: which numbers those are, where in a list of tokens an image slice begins and ends.
Refuses to know: llama.cpp, pixels, projectors.
"""

import hashlib
import struct
from collections.abc import Iterator, Sequence

# Numbers from here on stand for images; the largest vocabularies have some 300,000 tokens. They stay below 2^31, so
# that they are good llama_tokens in files of KV states, too.
_FIRST = 1 << 30


def numbers(seed: str, count: int) -> tuple[int, ...]:
    """The numbers of an image slice of `count` tokens; the first is even, all others are odd."""
    raw = struct.unpack(f"<{count}I", hashlib.shake_256(seed.encode()).digest(4 * count))
    return tuple(_FIRST | (value & (_FIRST - 2)) | (place > 0) for place, value in enumerate(raw))


def is_image_token(token: int) -> bool:
    """Whether this number stands for a part of an image."""
    return token >= _FIRST


def is_first(token: int) -> bool:
    """Whether an image slice begins with this token."""
    return is_image_token(token) and not token & 1


def batches(tokens: Sequence[int], step: int) -> Iterator[tuple[int, int]]:
    """Begin and end of stretches that are evaluated together: text up to `step` tokens, or one image slice whole."""
    begin = 0
    while begin < len(tokens):
        is_image = is_image_token(tokens[begin])
        end = begin + 1
        while end < len(tokens) and is_image_token(tokens[end]) == is_image:
            if is_first(tokens[end]) or (not is_image and end - begin == step):
                break
            end += 1
        yield begin, end
        begin = end


def whole(tokens: Sequence[int], length: int) -> int:
    """`length`, or less where it would cut through an image slice of these tokens: that is evaluated whole."""
    while 0 < length < len(tokens) and is_image_token(tokens[length]) and not is_first(tokens[length]):
        length -= 1
    return length
