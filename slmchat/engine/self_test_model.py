"""The tiny model of the self-test: one layer for each weight type that llama.cpp has a special kernel for.

Knows: the types, the sizes that those kernels accept, how random bits become weights of a sane size.
Refuses to know: how it is computed with (self_test_child.py), what the results mean (self_test.py).
"""

import random
import struct
from pathlib import Path

from slmchat.engine import tiny_model
from slmchat.engine.tiny_model import WeightType

# One layer for each type that some kernel takes a special way with. amx/common.h (qtype_has_amx_kernels) and amx.cpp:
# Q4_0 to IQ4_XS, F16 too, with rows of a multiple of 256 and 32 of them; repack.cpp: Q4_0, Q8_0, Q2_K to Q6_K, IQ4_NL,
# MXFP4, with a multiple of 8 rows. ggml.h and ggml-common.h: number, elements and bytes of a block. Behind them where
# the block has its half-precision scales and their values: random bits everywhere else then give weights whose standard
# deviation is about 1/16, so that activations keep their size from layer to layer.
_LAYERS: tuple[tuple[WeightType, tuple[tuple[int, float], ...]], ...] = (
    (WeightType(2, 32, 18), ((0, 0.0136),)),  # Q4_0: d
    (WeightType(3, 32, 20), ((0, 0.0136), (2, -0.1))),  # Q4_1: d, m
    (tiny_model.Q8_0, ((0, 0.00085),)),
    (WeightType(10, 256, 84), ((80, 0.0045), (82, 0.0067))),  # Q2_K: d, dmin
    (WeightType(12, 256, 144), ((0, 0.00025), (2, 0.0019))),  # Q4_K: d, dmin
    (WeightType(13, 256, 176), ((0, 0.000125), (2, 0.0019))),  # Q5_K: d, dmin
    (WeightType(14, 256, 210), ((208, 0.000046),)),  # Q6_K: d
    (WeightType(20, 32, 18), ((0, 0.0009),)),  # IQ4_NL: d
    (WeightType(23, 256, 136), ((0, 0.000048),)),  # IQ4_XS: d
    (WeightType(39, 32, 17), ()),  # MXFP4: its scale is one byte, an exponent
    (WeightType(1, 1, 2), ()),  # F16
)
_MXFP4, _F16 = 39, 1
_MXFP4_EXPONENT = 122  # 2^(122-127), halved: its values are up to 12
_EMBEDDING = _FEED_FORWARD = 256

# Random bytes -> those with the sign and the mantissa as they are and the exponent of numbers of about this size.
_F32_BYTE_2 = bytes(byte & 0x7F for byte in range(256))
_F32_BYTE_3 = bytes(byte & 0x80 | 0x3F for byte in range(256))
_F16_BYTE_1 = bytes(byte & 0x87 | 0x28 for byte in range(256))


def write_model(file: Path) -> None:
    """The tiny model: 11 layers of 11 weight types, 3 MB, always the same. Raises `OSError`."""
    scales = {kind.number: at for kind, at in _LAYERS}
    source = random.Random(1)

    def fill(name: str, kind: WeightType, size: int) -> bytes:
        if "norm" in name:
            return struct.pack("<f", 1.0) * (size // 4)
        out = bytearray(source.randbytes(size))
        if kind == tiny_model.F32:  # 0.5 to 1, either sign: the exponent is that of 0.5
            out[2::4] = out[2::4].translate(_F32_BYTE_2)
            out[3::4] = out[3::4].translate(_F32_BYTE_3)
        elif kind.number == _F16:  # 1/32 to 1/8
            out[1::2] = out[1::2].translate(_F16_BYTE_1)
        elif kind.number == _MXFP4:
            out[:: kind.block_bytes] = bytes([_MXFP4_EXPONENT]) * (size // kind.block_bytes)
        for place, value in scales.get(kind.number, ()):
            for number, byte in enumerate(struct.pack("<e", value)):
                out[place + number :: kind.block_bytes] = bytes([byte]) * (size // kind.block_bytes)
        return bytes(out)

    kinds = [kind for kind, _ in _LAYERS]
    tiny_model.write_llama(file, kinds, embedding=_EMBEDDING, feed_forward=_FEED_FORWARD, fill=fill)
