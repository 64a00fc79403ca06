"""Sums of two products of bfloat16: vdpbf16ps, which AVX-512 BF16 has for 16, 8 and 4 float32 sums.

The instruction multiplies without rounding, adds in float32, and takes subnormal numbers for zero. TVM's code generator
knows no bfloat16 of LLVM's, so the instruction comes in as a function of LLVM text that is inlined.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.target import Target

Expr = Any
STEP = 2  # products of a sum
_LANES = (16, 8, 4)

_FUNCTION = """\
declare <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float>, <{m} x bfloat>, <{m} x bfloat>)
define linkonce_odr hidden <{n} x float> @onyxc_dpbf16_{n}(<{n} x float> %s, <{n} x i32> %a, <{n} x i32> %b) alwaysinline {{
  %l = bitcast <{n} x i32> %a to <{m} x bfloat>
  %r = bitcast <{n} x i32> %b to <{m} x bfloat>
  %d = call <{n} x float> @llvm.x86.avx512bf16.dpbf16ps.{bits}(<{n} x float> %s, <{m} x bfloat> %l, <{m} x bfloat> %r)
  ret <{n} x float> %d
}}
"""


def has(target: Target) -> bool:
    """Whether the target has the instruction."""
    return "bf16" in target.features


@contextmanager
def instructions() -> Iterator[None]:
    """The block of a kernel that uses `dot`."""
    text = "".join(_FUNCTION.format(n=n, m=STEP * n, bits=32 * n) for n in _LANES)
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", text):
        yield


def dot(acc: Expr, left: Expr, right: Expr) -> Expr:
    """acc + the products of the two bfloat16 in each lane of ``left`` and ``right``, which are int32 vectors."""
    lanes = int(acc.ty.dtype.lanes)
    return tirx.call_pure_extern(f"float32x{lanes}", f"onyxc_dpbf16_{lanes}", acc, left, right)


def pair(buffer: Expr, *index: Expr) -> Expr:
    """Two bfloat16 of a buffer of uint16 from ``index`` on, as they lie, as one int32."""
    *outer, last = index
    return tirx.reinterpret("int32", buffer[(*outer, tirx.Ramp(last, 1, STEP))])
