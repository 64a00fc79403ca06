"""Symbols of relocatable ELF files: prefixing them keeps the kernels of two models in one program apart.

LLVM's objects define plain global symbols (``conv_3``), which clash as soon as two static archives meet in one
program. `prefix_symbols` appends a new string table at the end of the file and points the symbols to it; nothing
else moves, so it serves every processor and needs no objcopy for each of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onyxc.compiler.errors import BuildError

_SYMTAB, _GLOBAL, _WEAK, _UNDEFINED, _HIDDEN, _FUNC = 2, 1, 2, 0, 2, 2


@dataclass(frozen=True)
class _Layout:
    """Field places of one ELF class: (offset, struct format)."""

    section_headers: tuple[int, str]  # in the file header
    header_size: tuple[int, str]
    offset: tuple[int, str]  # in a section header
    size: tuple[int, str]
    link: tuple[int, str]
    symbol_size: int
    info: int  # in a symbol
    section: int
    value: tuple[int, str]
    length: tuple[int, str]


_32 = _Layout((0x20, "<I"), (0x2E, "<H"), (0x10, "<I"), (0x14, "<I"), (0x18, "<I"), 16, 12, 14, (4, "<I"), (8, "<I"))
_64 = _Layout((0x28, "<Q"), (0x3A, "<H"), (0x18, "<Q"), (0x20, "<Q"), (0x28, "<I"), 24, 4, 6, (8, "<Q"), (16, "<Q"))


@dataclass(frozen=True)
class _Symbol:
    name: str
    at: int  # place of the symbol in the file
    defined: bool


class _File:
    def __init__(self, data: bytes):
        if data[:4] != b"\x7fELF" or data[5:6] != b"\x01" or data[16:18] != b"\x01\x00":
            raise BuildError("the object code is not a little-endian relocatable ELF file")
        self.data = data
        self.layout = _64 if data[4] == 2 else _32
        start = self.read(0, self.layout.section_headers)
        place, form = self.layout.header_size
        size, count = self.read(0, (place, form)), self.read(0, (place + 2, form))
        headers = [start + i * size for i in range(count)]
        self.headers = headers
        tables = [h for h in headers if self.read(h, (4, "<I")) == _SYMTAB]
        if not tables:
            raise BuildError("the object code has no symbol table")
        self.table = tables[0]
        self.names = headers[self.read(self.table, self.layout.link)]  # header of its string table

    def read(self, base: int, field: tuple[int, str]) -> int:
        try:
            return int(struct.unpack_from(field[1], self.data, base + field[0])[0])
        except struct.error:
            raise BuildError("the object code is cut off") from None

    def strings(self) -> bytes:
        start, size = self.read(self.names, self.layout.offset), self.read(self.names, self.layout.size)
        return self.data[start : start + size]

    def code(self, symbol: int) -> bytes:
        """What lies at the symbol."""
        section = self.headers[self.read(symbol, (self.layout.section, "<H"))]
        start = self.read(section, self.layout.offset) + self.read(symbol, self.layout.value)
        return self.data[start : start + self.read(symbol, self.layout.length)]

    def symbols(self) -> Iterator[_Symbol]:
        """The global and weak ones."""
        strings, step = self.strings(), self.layout.symbol_size
        start, size = self.read(self.table, self.layout.offset), self.read(self.table, self.layout.size)
        for at in range(start, start + size, step):
            if self.data[at + self.layout.info] >> 4 in (_GLOBAL, _WEAK):
                first = self.read(at, (0, "<I"))
                name = strings[first : strings.index(b"\0", first)].decode()
                yield _Symbol(name, at, self.read(at, (self.layout.section, "<H")) != _UNDEFINED)


def defined_symbols(data: bytes) -> list[str]:
    """Names of the global symbols that an object file defines."""
    return [s.name for s in _File(data).symbols() if s.defined]


def undefined_symbols(data: bytes) -> list[str]:
    """Names of the symbols that an object file needs from elsewhere."""
    return [s.name for s in _File(data).symbols() if not s.defined]


def functions(data: bytes) -> dict[str, bytes]:
    """Machine code of each global function that an object file defines."""
    file = _File(data)
    return {s.name: file.code(s.at) for s in file.symbols() if s.defined and data[s.at + file.layout.info] & 15 == _FUNC}


def prefix_symbols(objects: Sequence[bytes], prefix: str) -> list[bytes]:
    """``objects`` with ``prefix`` before every global symbol that one of them defines, and before its uses.

    The symbols become hidden: a shared library does not export them.

    Raises:
        BuildError: one is not a relocatable ELF file.
    """
    ours = {name for data in objects for name in defined_symbols(data)}
    return [_renamed(_File(data), ours, prefix) for data in objects]


def _renamed(file: _File, names: set[str], prefix: str) -> bytes:
    out, strings = bytearray(file.data), bytearray(file.strings())
    for symbol in file.symbols():
        if symbol.name in names:
            struct.pack_into("<I", out, symbol.at, len(strings))
            strings += f"{prefix}{symbol.name}\0".encode()
            out[symbol.at + file.layout.info + 1] |= _HIDDEN
    struct.pack_into(file.layout.offset[1], out, file.names + file.layout.offset[0], len(out))
    struct.pack_into(file.layout.size[1], out, file.names + file.layout.size[0], len(strings))
    return bytes(out + strings)
