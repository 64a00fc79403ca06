"""How TVM's mathematical operators become code on a CPU.

float32 runs the polynomials of `polynomials` and `wide`; what has none, and float64, calls libm lane by lane. Narrow
floats go through float32. The rules take effect in LowerIntrin, after all simplification.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import expr as nodes
from tvm.tirx import register_intrin_lowering

from onyxc.backends.kernels import polynomials, wide
from onyxc.backends.kernels.expression import Expr, dtype_of, guard, is_call, operator
from onyxc.backends.kernels.lets import Lets

LEVEL = 120  # above TVM's own rules

VECTOR: dict[str, Callable[..., Expr]] = {
    "tirx.exp": polynomials.exp,
    "tirx.exp2": polynomials.exp2,
    "tirx.log": polynomials.log,
    "prim.log2": polynomials.log2,
    "tirx.log10": polynomials.log10,
    "tirx.log1p": polynomials.log1p,
    "tirx.tanh": polynomials.tanh,
    "tirx.sigmoid": polynomials.sigmoid,
    "tirx.erf": polynomials.erf,
    "tirx.sin": polynomials.sin,
    "tirx.cos": polynomials.cos,
    "tirx.tan": polynomials.tan,
    **wide.VECTOR,
}

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


def _reducible(x: Expr) -> Expr:
    """Whether the trigonometric reduction is exact."""
    m = Lets(x)
    return tirx.abs(x) <= m.const(polynomials.TRIGONOMETRIC_LIMIT)


def _divisible(x: Expr, y: Expr) -> Expr:
    """Whether the remainder is exact."""
    m = Lets(x)
    return tirx.abs(x) <= tirx.abs(y) * m.const(wide.REMAINDER_LIMIT)


LIMITED: dict[str, Callable[..., Expr]] = {  # where the polynomials are right; libm beyond
    "tirx.sin": _reducible,
    "tirx.cos": _reducible,
    "tirx.tan": _reducible,
    "tirx.fmod": _divisible,
}


def _all(condition: Expr, lanes: int) -> Expr:
    """One scalar bool."""
    if lanes == 1:
        return condition
    word = nodes.Cast(f"int32x{lanes}", condition)
    return tirx.EQ(tirx.call_llvm_pure_intrin("int32", "llvm.vector.reduce.and", word), 1)


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
            value, inside = m.let(value), LIMITED[op_name](*args)
            made = _libm(name, tirx.call_intrin(dtype_of(call), op_name, *args))
            value = guard(_all(inside, m.lanes), value, nodes.Select(inside, value, made))
        return m.close(value)

    return lower


def _sigmoid(call: Any) -> Expr:
    m = Lets(call)
    one = m.const(1.0, dtype_of(call).partition("x")[0])
    return one / (one + tirx.exp(-call.args[0]))


def _inline(intrinsic: str) -> Callable[[Any], Expr]:
    return lambda call: tirx.call_llvm_pure_intrin(dtype_of(call), intrinsic, *call.args)


def once(x: Expr) -> Expr:
    """``x``, marked as the addend of a fused multiply-add that must round once (`_fma`)."""
    return tirx.call_intrin(dtype_of(x), "tirx.reinterpret", x)


def _fma(call: Any) -> Expr:
    """a * b + c: one instruction where the processor has it.

    TVM writes every sum with a product this way; only where the addend is marked by `once` must it round once, which
    a processor without the instruction leaves to libm.
    """
    addend = call.args[2]
    marked = is_call(addend, "tirx.reinterpret") and dtype_of(addend.args[0]) == dtype_of(call)
    return tirx.call_llvm_pure_intrin(dtype_of(call), "llvm.fma" if marked else "llvm.fmuladd", *call.args)


def _rsqrt(call: Any) -> Expr:
    m = Lets(call)
    return m.const(1.0, dtype_of(call).partition("x")[0]) / tirx.sqrt(call.args[0])


@lru_cache(maxsize=1)
def register() -> None:
    """Install the rules, once a process; `codegen.plain` does it."""
    rules = {name: _rule(name) for name in sorted({*VECTOR, *(f"tirx.{n}" for n in LIBM if n != "log2")})}
    rules |= {name: _inline(intrinsic) for name, intrinsic in INLINE.items()}
    rules |= {"tirx.fma": _fma, "tirx.rsqrt": _rsqrt}
    for name, rule in rules.items():
        register_intrin_lowering(name, target="llvm", f=rule, level=LEVEL)
        if not operator(name).get_attr("TVectorizable"):
            tvm.ir.register_op_attr(name, "TVectorizable", True)
