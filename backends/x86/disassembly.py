"""x86-64 machine code, read as far as the check of inner loops needs it: where instructions start, where they jump,
which ones multiply vectors, store them, and move them from or to the stack.

Compilers' output only (64-bit mode, no data in between). Source: Intel's manual, volume 2, chapter 2 and appendix A.
LLVM's own disassembler is not reachable from Python, and writing a kernel a second time as assembly text would double
the time of code generation; this costs a few milliseconds a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
    """``target``: place that a jump goes to, -1 for other instructions."""

    at: int
    target: int
    product: bool  # multiplies vectors, or single floats
    stack: bool  # has a vector operand in memory at the stack pointer
    stores: bool  # writes a vector to memory elsewhere


_PREFIXES = frozenset((0x66, 0xF0, 0xF2, 0xF3, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65))


def _expand(*ranges: int | tuple[int, int]) -> frozenset[int]:
    return frozenset(v for r in ranges for v in (range(r[0], r[1] + 1) if isinstance(r, tuple) else (r,)))


# one-byte opcodes
_MODRM = _expand(
    *((row + low, row + low + 3) for row in range(0, 0x40, 0x10) for low in (0, 8)),
    0x62, 0x63, 0x69, 0x6B, (0x80, 0x8F), 0xC0, 0xC1, 0xC6, 0xC7, (0xD0, 0xD3), 0xF6, 0xF7, 0xFE, 0xFF,
)  # fmt: skip
_BYTE = _expand(
    *(range(4, 0x40, 8)), 0x6A, 0x6B, 0x80, 0x83, 0xA8, (0xB0, 0xB7), 0xC0, 0xC1, 0xC6,
)  # fmt: skip
_WORD = _expand(*(range(5, 0x40, 8)), 0x68, 0x69, 0x81, 0xA9, (0xB8, 0xBF), 0xC7)  # 32 bits, 16 behind prefix 66
_JUMP_BYTE, _JUMP_WORD = _expand((0x70, 0x7F), 0xE3, 0xEB), _expand(0xE8, 0xE9)

# two-byte opcodes (behind 0F, or in map 1 of VEX and EVEX)
_NO_MODRM = _expand(0x05, 0x06, 0x0B, 0x31, 0x77, 0xA2, (0xC8, 0xCF))
_SECOND_BYTE = _expand((0x70, 0x73), 0xA4, 0xAC, 0xBA, 0xC2, (0xC4, 0xC6))
_SECOND_JUMP = _expand((0x80, 0x8F))
_SECOND_VECTOR = _expand((0x10, 0x17), (0x28, 0x2F), (0x50, 0x76), (0x78, 0x7F), 0xC2, (0xC4, 0xC6), (0xD0, 0xFF))
_STORE = frozenset((0x11, 0x13, 0x17, 0x29, 0x2B, 0x7E, 0x7F, 0xD6, 0xE7))
_INTEGER = {2: _expand((0xF0, 0xF7)), 3: frozenset((0xF0,))}  # BMI and others among the vector maps

# multiplications by map: mul, pmullw, pmaddwd, pmuludq; pmaddubsw, pmulld, dot products, fused multiply-adds
_PRODUCTS = {
    1: frozenset((0x59, 0xD5, 0xF5, 0xF4)),
    2: _expand(0x04, 0x28, 0x40, (0x50, 0x53), (0x96, 0x9F), (0xA6, 0xAF), (0xB6, 0xBF)),
    3: frozenset(),
}


class UnknownCodeError(ValueError):
    """The bytes are not what compilers write."""


def instructions(code: bytes) -> Iterator[Instruction]:
    """The instructions of one function.

    Raises:
        UnknownCodeError: the code ends inside an instruction or jumps between two, so some length was misread.
    """
    at, size = 0, len(code)
    try:
        while at < size:
            made, at = _decode(code, at)
            yield made
    except IndexError:
        raise UnknownCodeError(f"cut off at {at}") from None
    if at != size:
        raise UnknownCodeError(f"the last instruction ends at {at} of {size}")


def _decode(code: bytes, start: int) -> tuple[Instruction, int]:
    at, narrow, byte = start, False, code[start]
    while byte in _PREFIXES:
        narrow |= byte == 0x66
        at += 1
        byte = code[at]
    if byte == 0xC5:  # VEX, two bytes
        return _vector(code, start, at + 2, 1, False)
    if byte == 0xC4:
        return _vector(code, start, at + 3, code[at + 1] & 31, not code[at + 1] & 0x20)
    if byte == 0x62:  # EVEX
        return _vector(code, start, at + 4, code[at + 1] & 7, not code[at + 1] & 0x20)
    rex = 0
    if 0x40 <= byte < 0x50:
        rex = byte
        at += 1
        byte = code[at]
    if byte == 0x0F:
        byte = code[at + 1]
        if byte in (0x38, 0x3A):
            return _vector(code, start, at + 2, 2 if byte == 0x38 else 3, bool(rex & 1))
        if byte in _SECOND_JUMP:
            return _jump(code, start, at + 2, 4)
        if byte in _NO_MODRM:
            return _plain(start), at + 2
        return _vector(code, start, at + 1, 1, bool(rex & 1), byte in _SECOND_VECTOR)
    if byte in _JUMP_BYTE or byte in _JUMP_WORD:
        made, end = _jump(code, start, at + 1, 1 if byte in _JUMP_BYTE else 4)
        return (made._replace(target=-1) if byte == 0xE8 else made), end
    end = at + 1
    if byte in _MODRM:
        reg = code[end] >> 3 & 7
        end, _, _ = _operand(code, end, False)
        if byte in (0xF6, 0xF7) and reg < 2:
            end += 1 if byte == 0xF6 else 2 if narrow else 4
    if byte in _BYTE:
        end += 1
    elif byte in _WORD:
        end += 8 if 0xB8 <= byte <= 0xBF and rex & 8 else 2 if narrow else 4
    elif byte == 0xC2:
        end += 2
    return _plain(start), end


def _plain(start: int) -> Instruction:
    return Instruction(start, -1, False, False, False)


def _vector(code: bytes, start: int, at: int, table: int, extended: bool, vector: bool = True) -> tuple[Instruction, int]:
    """An instruction with its opcode, of ``table`` 1 to 3, at ``at``; ``extended``: its base is one of r8 to r15."""
    opcode = code[at]
    if table == 1 and opcode == 0x77:  # vzeroupper
        return _plain(start), at + 1
    end, memory, stack = _operand(code, at + 1, extended)
    end += table == 3 or (table == 1 and opcode in _SECOND_BYTE)
    if not vector or opcode in _INTEGER.get(table, ()):
        return _plain(start), end
    stores = memory and not stack and table == 1 and opcode in _STORE
    return Instruction(start, -1, opcode in _PRODUCTS[table], stack, stores), end


def _operand(code: bytes, at: int, extended: bool) -> tuple[int, bool, bool]:
    """End of the operand whose ModRM byte is at ``at``, whether it is in memory, and there at the stack pointer."""
    mode, low = code[at] >> 6, code[at] & 7
    if mode == 3:
        return at + 1, False, False
    base, end = low, at + 1
    if low == 4:
        base = code[end] & 7
        end += 1
    if mode == 1:
        end += 1
    elif mode == 2 or base == 5:
        end += 4
    return end, True, low == 4 == base and not extended


def _jump(code: bytes, start: int, at: int, size: int) -> tuple[Instruction, int]:
    if at + size > len(code):
        raise IndexError
    end = at + size
    return Instruction(start, end + int.from_bytes(code[at:end], "little", signed=True), False, False, False), end
