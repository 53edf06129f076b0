"""Records in the compact protocol of Thrift (apache/thrift, doc/specs/thrift-compact-protocol.md), read only.

Knows: how a record, a list and a number are written. Refuses to know: what a field means; unknown ones are read too.
"""

import struct
from typing import Any

_STOP, _TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(13)
# Records inside of records; a footer has four levels.
_DEEPEST = 16


class CompactReader:
    """A reader that stands at `place` of the data. What ends too early raises IndexError or struct.error."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data = data
        self.place = place
        self._depth = 0

    def struct(self) -> dict[int, Any]:
        """The record here: values by the number of their field."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise RecursionError("records are nested too deeply")
        made: dict[int, Any] = {}
        field = 0
        while True:
            head = self._byte()
            kind, step = head & 15, head >> 4
            if kind == _STOP:
                self._depth -= 1
                return made
            field = field + step if step else self._zigzag()
            made[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._zigzag()
        if kind == _DOUBLE:
            (value,) = struct.unpack_from("<d", self._data, self.place)
            self.place += 8
            return value
        if kind == _BINARY:
            size = self._varint()
            begin, self.place = self.place, self.place + size
            if self.place > len(self._data):
                raise IndexError("a text ends behind the data")
            return self._data[begin : self.place]
        if kind in (_LIST, _SET):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            return [self._value(head & 15) for _ in range(min(count, len(self._data)))]
        if kind == _STRUCT:
            return self.struct()
        raise IndexError("a type that is not read")

    def _byte(self) -> int:
        value = self._data[self.place]
        self.place += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80 or shift > 63:
                return value

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
