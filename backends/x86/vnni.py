"""Sums of four products of bytes: vpdpbusd, which AVX-512 VNNI has for 16, 8 and 4 sums."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from onyxc.backends.target import Target

Expr = Any
STEP = 4  # bytes of a dword


def has(target: Target) -> bool:
    """Whether the target has the instruction."""
    return "vnni" in target.features and "avx512" in target.features


def dot(acc: Expr, unsigned: Expr, signed: Expr) -> Expr:
    """acc + the sum over the four bytes of each lane of ``unsigned`` times those of ``signed``; all int32 vectors."""
    lanes = int(acc.ty.dtype.lanes)
    left, right = (tirx.reinterpret(f"{kind}x{lanes * STEP}", v) for kind, v in (("uint8", unsigned), ("int8", signed)))
    return tirx.call_llvm_pure_intrin(f"int32x{lanes}", f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", acc, left, right)


def dword(buffer: Expr, *index: Expr) -> Expr:
    """Four bytes of a buffer from ``index`` on, as they lie, as one int32."""
    *outer, last = index
    return tirx.reinterpret("int32", buffer[(*outer, tirx.Ramp(last, 1, STEP))])


def every(byte: int) -> int:
    """An int32 of four equal bytes."""
    word = (byte & 0xFF) * 0x01010101
    return word - (1 << 32) if word >> 31 else word
