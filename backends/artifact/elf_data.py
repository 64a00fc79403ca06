"""A relocatable ELF file that holds one block of read-only data under a hidden symbol: the weights, for the linker.

An assembler's ``.incbin`` does the same, but copies the block once more, which takes as long as half of the code
generation where it is large.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

ALIGNMENT = 64  # bytes, of the data
_MACHINES = {"x86_64": (62, 0), "aarch64": (183, 0), "armv7": (40, 0x05000000)}  # e_machine, e_flags (EABI 5)
_PROGBITS, _SYMTAB, _STRTAB, _ALLOC = 1, 2, 3, 2
_GLOBAL_OBJECT, _HIDDEN = 0x11, 2


def wrap(arch: str, symbol: str, nbytes: int) -> tuple[bytes, bytes]:
    """What stands before and behind ``nbytes`` of data in an object file that defines ``symbol``.

    ``arch`` as in `Target.arch`.
    """
    wide = arch != "armv7"
    header = 64 if wide else 52
    strings = b"\0" + symbol.encode() + b"\0"
    names, places = _table([".rodata.weights", ".symtab", ".strtab", ".shstrtab", ".note.GNU-stack"])
    symbols = _symbols(wide, nbytes)
    at = ALIGNMENT + nbytes
    aligned = -(-at // 8) * 8
    starts = [aligned, aligned + len(symbols), aligned + len(symbols) + len(strings)]
    table = -(-(starts[2] + len(names)) // 8) * 8
    size = len(symbols) // 2
    sections = [
        (0, 0, 0, 0, 0, 0, 0, 0, 0),
        (places[0], _PROGBITS, _ALLOC, ALIGNMENT, nbytes, 0, 0, ALIGNMENT, 0),
        (places[1], _SYMTAB, 0, starts[0], len(symbols), 3, 1, 8, size),
        (places[2], _STRTAB, 0, starts[1], len(strings), 0, 0, 1, 0),
        (places[3], _STRTAB, 0, starts[2], len(names), 0, 0, 1, 0),
        (places[4], _PROGBITS, 0, table, 0, 0, 0, 1, 0),  # the stack is not executable
    ]
    head = _header(arch, wide, header, table, len(sections)).ljust(ALIGNMENT, b"\0")
    body = b"\0" * (aligned - at) + symbols + strings + names
    tail = body.ljust(table - at, b"\0") + b"".join(_section(wide, *fields) for fields in sections)
    return head, tail


def _table(names: Iterable[str]) -> tuple[bytes, list[int]]:
    """A string table, and where each name starts in it."""
    made, places = b"\0", []
    for name in names:
        places.append(len(made))
        made += name.encode() + b"\0"
    return made, places


def _header(arch: str, wide: bool, size: int, table: int, sections: int) -> bytes:
    machine, flags = _MACHINES[arch]
    identity = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    form = "<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH"
    section = 64 if wide else 40
    return identity + struct.pack(form, 1, machine, 1, 0, 0, table, flags, size, 0, 0, section, sections, 4)


def _symbols(wide: bool, nbytes: int) -> bytes:
    """The symbol that every table starts with, and ours: in section 1, its name at 1."""
    if wide:
        return bytes(24) + struct.pack("<IBBHQQ", 1, _GLOBAL_OBJECT, _HIDDEN, 1, 0, nbytes)
    return bytes(16) + struct.pack("<IIIBBH", 1, 0, nbytes, _GLOBAL_OBJECT, _HIDDEN, 1)


def _section(
    wide: bool, name: int, kind: int, flags: int, start: int, size: int, link: int, info: int, align: int, entry: int
) -> bytes:
    form = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
    return struct.pack(form, name, kind, flags, 0, start, size, link, info, align, entry)
