"""Rows of a Parquet file, as far as the public tasks need them: texts, numbers, lists of them, in plain structures.

A reader of slm's own, because pyarrow has 40 MB and no wheel for phones, and five small files is all that is read. The
format is that of apache/parquet-format (README, Encodings.md) with the compact protocol of Thrift; a file that uses
more of it than is known here is refused by name.

Knows: pages, levels, dictionaries, Snappy, gzip. Refuses to know: what the columns mean, where a file comes from. Bytes
are untrusted: sizes are bounded before memory is taken.
"""

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from slmchat.evaluation.snappy import decompressed
from slmchat.evaluation.thrift import CompactReader
from slmchat.lazy_dataclasses import dataclass

_MAGIC = b"PAR1"
# A page and a file that are larger than this are not of a task.
_MOST_PAGE = 64 << 20
_MOST_ROWS = 1_000_000
_MOST_VALUES = 8_000_000

# parquet.thrift: Type, Encoding, CompressionCodec, PageType, FieldRepetitionType.
_BOOLEAN, _INT32, _INT64, _FLOAT, _DOUBLE, _BYTE_ARRAY = 0, 1, 2, 4, 5, 6
_PLAIN, _PLAIN_DICTIONARY, _RLE, _RLE_DICTIONARY = 0, 2, 3, 8
_UNCOMPRESSED, _SNAPPY, _GZIP = 0, 1, 2
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_OPTIONAL, _REPEATED = 1, 2

_FIXED: Mapping[int, str] = {_INT32: "i", _INT64: "q", _FLOAT: "f", _DOUBLE: "d"}


# What a damaged record makes of the reading: a number where a text was, a list that ends too early.
_WRONG = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, struct.error, zlib.error)


class NotReadable(ValueError):
    """What is wrong with the file, or what of the format is not known here, as the end of a sentence."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A leaf of the schema. `name`: of its structures and itself, with dots; without the groups that make a list."""

    path: tuple[str, ...]
    name: str
    type: int
    most_definition: int
    most_repetition: int
    repeated_definition: int  # from this level on there is an element of the list


def rows(data: bytes) -> list[dict[str, Any]]:
    """The rows, each with the values of its columns by name; a list where the column is one. Raises `NotReadable`."""
    try:
        return _rows(data)
    except NotReadable:
        raise
    except _WRONG as error:
        raise NotReadable(f"is damaged ({type(error).__name__})") from error


def _rows(data: bytes) -> list[dict[str, Any]]:
    if len(data) < 12 or data[:4] != _MAGIC or data[-4:] != _MAGIC:
        raise NotReadable("is not a Parquet file")
    (size,) = struct.unpack("<I", data[-8:-4])
    if size > len(data) - 12:
        raise NotReadable("is damaged: its footer is longer than the file")
    footer = CompactReader(data, len(data) - 8 - size).struct()
    schema, n_rows, groups = footer[2], footer[3], footer[4]
    if not 0 <= n_rows <= _MOST_ROWS:
        raise NotReadable("has too many rows")
    columns = {column.path: column for column in _columns(schema)}
    made: dict[str, list[Any]] = {column.name: [] for column in columns.values()}
    for group in groups:
        for chunk in group[1]:
            meta = chunk[3]
            column = columns[tuple(part.decode() for part in meta[3])]
            made[column.name] += _chunk(data, meta, column)
    if any(len(values) != n_rows for values in made.values()):
        raise NotReadable("is damaged: a column has not as many values as there are rows")
    return [{name: values[number] for name, values in made.items()} for number in range(n_rows)]


def _columns(schema: Sequence[Mapping[int, Any]]) -> Iterator[_Column]:
    """The leaves, from the flat list of elements in which a group stands before its children."""
    place = 1

    def below(path: tuple[str, ...], names: tuple[str, ...], levels: tuple[int, int, int]) -> Iterator[_Column]:
        nonlocal place
        element = schema[place]
        place += 1
        name = element[4].decode()
        definition, repetition, repeated = levels
        kind = element.get(3, 0)
        is_in_list = bool(repetition)
        if kind == _OPTIONAL:
            definition += 1
        elif kind == _REPEATED:
            definition, repetition = definition + 1, repetition + 1
            repeated = definition
        shown = names if is_in_list or kind == _REPEATED else (*names, name)
        here = (*path, name)
        if not element.get(5):
            if repetition > 1:
                raise NotReadable(f"has lists of lists ({'.'.join(here)}), which are not read")
            yield _Column(here, ".".join(shown), element[1], definition, repetition, repeated)
            return
        for _ in range(element[5]):
            yield from below(here, shown, (definition, repetition, repeated))

    for _ in range(schema[0].get(5, 0)):
        yield from below((), (), (0, 0, 0))


def _chunk(data: bytes, meta: Mapping[int, Any], column: _Column) -> list[Any]:
    """The values of a column in a row group, one for each row."""
    codec, n_values = meta[4], meta[5]
    place = min(meta[9], meta.get(11, meta[9]))
    dictionary: list[Any] = []
    assembled = _Assembly(column)
    while assembled.n_seen < n_values:
        reader = CompactReader(data, place)
        header = reader.struct()
        begin, place = reader.place, reader.place + header[3]
        if not 0 <= header[2] <= _MOST_PAGE or place > len(data) or header[3] < 0:
            raise NotReadable("is damaged: a page is larger than the file")
        page = data[begin:place]
        kind = header[1]
        if kind == _DICTIONARY_PAGE:
            dictionary = _plain(_unpacked(page, codec, header[2]), column.type, header[7][1])
        elif kind == _DATA_PAGE:
            _read_page(_unpacked(page, codec, header[2]), header[5], dictionary, assembled)
        elif kind == _DATA_PAGE_V2:
            _read_page_v2(page, header, codec, dictionary, assembled)
    return assembled.finished()


class _Assembly:
    """Values with their levels become one value, or one list, for each row."""

    def __init__(self, column: _Column) -> None:
        self.column = column
        self.n_seen = 0
        self._rows: list[Any] = []

    def add(self, repetitions: Sequence[int], definitions: Sequence[int], values: Sequence[Any]) -> None:
        column, follows = self.column, iter(values)
        for repetition, definition in zip(repetitions, definitions, strict=True):
            self.n_seen += 1
            has_value = definition == column.most_definition
            value = next(follows) if has_value else None
            if not column.most_repetition:
                self._rows.append(value)
                continue
            if repetition == 0:
                self._rows.append([] if definition >= column.repeated_definition - 1 else None)
            if definition >= column.repeated_definition:
                self._rows[-1].append(value)

    def finished(self) -> list[Any]:
        return self._rows


def _read_page(data: bytes, header: Mapping[int, Any], dictionary: list[Any], assembled: _Assembly) -> None:
    n, encoding, column = header[1], header[2], assembled.column
    place = 0
    repetitions, place = _levels(data, place, n, column.most_repetition)
    definitions, place = _levels(data, place, n, column.most_definition)
    n_there = sum(definition == column.most_definition for definition in definitions)
    assembled.add(repetitions, definitions, _values(data[place:], encoding, column.type, n_there, dictionary))


def _read_page_v2(
    page: bytes, header: Mapping[int, Any], codec: int, dictionary: list[Any], assembled: _Assembly
) -> None:
    told, column = header[8], assembled.column
    n, encoding, n_definition, n_repetition = told[1], told[4], told[5], told[6]
    levels = page[: n_definition + n_repetition]
    rest = page[n_definition + n_repetition :]
    is_packed = told.get(7, True)
    data = _unpacked(rest, codec, header[2] - len(levels)) if is_packed else rest
    repetitions = _hybrid(levels[:n_repetition], column.most_repetition.bit_length(), n)
    definitions = _hybrid(levels[n_repetition:], column.most_definition.bit_length(), n)
    n_there = sum(definition == column.most_definition for definition in definitions)
    assembled.add(repetitions, definitions, _values(data, encoding, column.type, n_there, dictionary))


def _levels(data: bytes, place: int, n: int, most: int) -> tuple[list[int], int]:
    """Levels of a page of the first kind: their length stands before them; none where they would all be 0."""
    if not most:
        return _hybrid(b"", 0, n), place
    (size,) = struct.unpack_from("<I", data, place)
    begin = place + 4
    return _hybrid(data[begin : begin + size], most.bit_length(), n), begin + size


def _values(data: bytes, encoding: int, type: int, n: int, dictionary: list[Any]) -> list[Any]:
    if encoding == _PLAIN:
        return _plain(data, type, n)
    if encoding in (_PLAIN_DICTIONARY, _RLE_DICTIONARY):
        return [dictionary[index] for index in _hybrid(data[1:], data[0], n)] if n else []
    if encoding == _RLE and type == _BOOLEAN:
        return [bool(bit) for bit in _hybrid(data[4:], 1, n)]
    raise NotReadable(f"uses an encoding that is not read (number {encoding})")


def _plain(data: bytes, type: int, n: int) -> list[Any]:
    if type == _BYTE_ARRAY:
        made, place = [], 0
        for _ in range(n):
            (size,) = struct.unpack_from("<I", data, place)
            begin = place + 4
            place = begin + size
            if place > len(data):
                raise NotReadable("is damaged: a text is longer than its page")
            made.append(data[begin:place].decode())
        return made
    if type == _BOOLEAN:
        return [bool(data[number // 8] >> number % 8 & 1) for number in range(n)]
    if type in _FIXED:
        return list(struct.unpack_from(f"<{n}{_FIXED[type]}", data))
    raise NotReadable(f"has a column of a type that is not read (number {type})")


def _hybrid(data: bytes, width: int, n: int) -> list[int]:
    """`n` numbers of `width` bits, in runs of equal ones and packed groups of eight."""
    if not 0 <= n <= _MOST_VALUES:
        raise NotReadable("has too many values")
    if width == 0:
        return [0] * n
    if width > 32:
        raise NotReadable("is damaged: a number has too many bits")
    made: list[int] = []
    place, n_bytes, mask = 0, (width + 7) // 8, (1 << width) - 1
    while len(made) < n:
        head = shift = 0
        while True:
            byte = data[place]
            place += 1
            head |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        count = head >> 1
        if head & 1:
            size = count * width
            bits = int.from_bytes(data[place : place + size], "little")
            place += size
            made += [bits >> number * width & mask for number in range(min(8 * count, n - len(made)))]
        else:
            value = int.from_bytes(data[place : place + n_bytes], "little")
            place += n_bytes
            made += [value] * min(count, n - len(made))
        if not count:
            raise NotReadable("is damaged: a run of nothing")
    return made


def _unpacked(data: bytes, codec: int, size: int) -> bytes:
    unpack = _CODECS.get(codec)
    if unpack is None:
        raise NotReadable(f"is compressed in a way that is not read (number {codec})")
    made = unpack(data, size)
    if len(made) != size:
        raise NotReadable("is damaged: a page has another size than it states")
    return made


def _gunzipped(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(wbits=31).decompress(data, size)


_CODECS: Mapping[int, Callable[[bytes, int], bytes]] = {
    _UNCOMPRESSED: lambda data, size: data,
    _SNAPPY: decompressed,
    _GZIP: _gunzipped,
}
