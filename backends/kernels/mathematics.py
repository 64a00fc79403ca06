"""How TVM's mathematical operators become code on a CPU.

float32 runs the polynomials of `polynomials`; what has none, and float64, calls libm lane by lane, and so does pow:
TVM puts shared values back into a tree, which grows exponentially with their number. Narrow floats go through
float32. The rules take effect in LowerIntrin, after all simplification.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from tvm import tirx
from tvm.tirx import expr as nodes
from tvm.tirx import register_intrin_lowering

from onyxc.backends.kernels import polynomials
from onyxc.backends.kernels.expression import Expr, dtype_of, guard
from onyxc.backends.kernels.polynomials import Lets

LEVEL = 120  # above TVM's own rules

VECTOR: dict[str, Callable[..., Expr]] = {
    "tirx.exp": polynomials.exp,
    "tirx.exp2": polynomials.exp2,
    "tirx.log": polynomials.log,
    "prim.log2": polynomials.log2,
    "tirx.log10": polynomials.log10,
    "tirx.tanh": polynomials.tanh,
    "tirx.sigmoid": polynomials.sigmoid,
    "tirx.erf": polynomials.erf,
    "tirx.sin": polynomials.sin,
    "tirx.cos": polynomials.cos,
    "tirx.tan": polynomials.tan,
}
LIMITED = ("tirx.sin", "tirx.cos", "tirx.tan")  # right up to TRIGONOMETRIC_LIMIT, libm beyond

LIBM = (
    *("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan"),
    *("sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "pow", "atan2", "hypot", "fmod"),
)
INLINE = {  # one instruction nearly everywhere; LLVM calls libm where not
    "tirx.sqrt": "llvm.sqrt",
    "tirx.floor": "llvm.floor",
    "prim.ceil": "llvm.ceil",
    "tirx.trunc": "llvm.trunc",
    "tirx.round": "llvm.rint",
    "tirx.nearbyint": "llvm.rint",
    "tirx.fabs": "llvm.fabs",
    "tirx.fma": "llvm.fma",
}


def _libm(name: str, call: Any) -> Expr:
    """The C function ``name`` (``f`` appended for float32) on each lane."""
    m = Lets(call)
    base = dtype_of(call).partition("x")[0]
    symbol = name if base == "float64" else name + "f"
    if m.lanes == 1:
        return tirx.call_pure_extern(base, symbol, *call.args)
    args = [m.let(a) for a in call.args]
    each = [
        m.let(tirx.call_pure_extern(base, symbol, *(nodes.Shuffle([a], [tirx.const(i, "int32")]) for a in args)))
        for i in range(m.lanes)
    ]
    return m.close(nodes.Shuffle(each, [tirx.const(i, "int32") for i in range(m.lanes)]))


def _within_limit(x: Expr) -> Expr:
    """Whether all lanes are small enough for the trigonometric reduction: one scalar bool."""
    m = Lets(x)
    magnitude = m.bits(x, "int32") & m.const(0x7FFFFFFF, "int32")
    if m.lanes > 1:
        magnitude = tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.smax", magnitude)
    return magnitude <= tirx.const(0x4C800000, "int32")  # the bits of 2^26


def _rule(op_name: str) -> Callable[[Any], Expr]:
    name = op_name.partition(".")[2]

    def lower(call: Any) -> Expr:
        base = dtype_of(call).partition("x")[0]
        m = Lets(call)
        if base in ("float16", "bfloat16"):
            wide = [m.cast(a, "float32") for a in call.args]
            return m.cast(getattr(tirx, "power" if name == "pow" else name)(*wide), base)
        if base != "float32" or op_name not in VECTOR:
            return _sigmoid(call) if name == "sigmoid" else _libm(name, call)
        args = [m.let(a) for a in call.args]
        value = VECTOR[op_name](*args)
        if op_name in LIMITED:
            made = _libm(name, tirx.call_intrin(dtype_of(call), op_name, *args))
            value = guard(_within_limit(args[0]), value, made)
        return m.close(value)

    return lower


def _sigmoid(call: Any) -> Expr:
    m = Lets(call)
    one = m.const(1.0, dtype_of(call).partition("x")[0])
    return one / (one + tirx.exp(-call.args[0]))


def _inline(intrinsic: str) -> Callable[[Any], Expr]:
    return lambda call: tirx.call_llvm_pure_intrin(dtype_of(call), intrinsic, *call.args)


def _rsqrt(call: Any) -> Expr:
    m = Lets(call)
    return m.const(1.0, dtype_of(call).partition("x")[0]) / tirx.sqrt(call.args[0])


@lru_cache(maxsize=1)
def register() -> None:
    """Install the rules, once a process; `codegen.plain` does it."""
    names = {*VECTOR, *(f"tirx.{n}" for n in LIBM if n != "log2")}
    for op_name in sorted(names):
        register_intrin_lowering(op_name, target="llvm", f=_rule(op_name), level=LEVEL)
    for op_name, intrinsic in INLINE.items():
        register_intrin_lowering(op_name, target="llvm", f=_inline(intrinsic), level=LEVEL)
    register_intrin_lowering("tirx.rsqrt", target="llvm", f=_rsqrt, level=LEVEL)
