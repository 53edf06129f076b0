"""Whether a file can be a shared library of this machine, told before the system's loader maps it.

Knows: the headers of ELF files (Linux, Android) as far as it takes. Refuses to know: what the library is for.

The loaders of macOS and Windows refuse a file that was cut short. Linux's maps it, and the process dies by SIGBUS as
soon as a missing page is touched; a file for another processor it reports as "No such file or directory".
"""

import os
import struct
import sys
from pathlib import Path

_MAGIC = b"\x7fELF"
# Elf64_Ehdr: e_ident[16], e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize,
# e_phnum, e_shentsize, e_shnum, e_shstrndx;
# Elf64_Phdr: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_CLASS_64 = 2


def fault_of(path: Path) -> str | None:
    """What is wrong with the file, as the end of a sentence that begins with its name; None: nothing that shows.

    Raises `OSError` when it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return "is empty"
        if sys.platform in ("darwin", "win32"):
            return None
        start = file.read(_HEADER.size)
        if not start.startswith(_MAGIC):
            return "is not a shared library"
        if len(start) < _HEADER.size:
            return "was cut short"
        own = _own_header()
        if own.startswith(_MAGIC) and _kind(start) != _kind(own):
            return "was built for another kind of processor"
        if start[4] != _CLASS_64:
            return None
        _, _, _, _, _, segments, sections, _, _, each, count, section, n_sections, _ = _HEADER.unpack(start)
        if size < sections + section * n_sections:
            return "was cut short"
        file.seek(segments)
        table = file.read(each * count)
        if each < _SEGMENT.size or len(table) < each * count:
            return "was cut short"
        ends = [sum(_SEGMENT.unpack_from(table, each * number)[2:6:3]) for number in range(count)]
        return "was cut short" if size < max(ends, default=0) else None


def _kind(header: bytes) -> bytes:
    """Class, byte order and machine of an ELF file."""
    return header[4:6] + header[18:20]


def _own_header() -> bytes:
    """The beginning of the program that runs, Python itself; empty where it cannot be read."""
    try:
        with open(sys.executable, "rb") as file:
            return file.read(_HEADER.size)
    except OSError:
        return b""
