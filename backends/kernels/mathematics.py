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
from onyxc.backends.kernels.expression import Expr, dtype_of, guard, operator
from onyxc.backends.kernels.lets import Lets, fuses

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


def fused(a: Expr, b: Expr, c: Expr, exact: bool = False) -> Expr:
    """a * b + c in float32, rounded once on every processor. ``exact``: the sum needs no rounding in float64.

    A fourth argument tells it from the sums with a product that TVM writes as `tirx.fma` itself.
    """
    return tirx.call_intrin(dtype_of(a), "tirx.fma", a, b, c, tirx.const(int(exact), "int32"))


def normal_exp2(x: Expr) -> Expr:
    """2^x in float32 of an x that is NaN or within -126 .. 127, in fewer instructions than `tirx.exp2`."""
    return tirx.call_intrin(dtype_of(x), "tirx.exp2", x, tirx.const(1, "int32"))


def _fma(call: Any) -> Expr:
    """a * b + c: one instruction where the processor has it; without it only what `fused` made rounds once.

    In float64 every product of two float32 is exact; a sum that is not could be rounded twice, so libm computes it.
    """
    if len(call.args) == 3:
        return tirx.call_llvm_pure_intrin(dtype_of(call), "llvm.fmuladd", *call.args)
    *numbers, exact = call.args
    if fuses() or not _is_true(exact):
        return tirx.call_llvm_pure_intrin(dtype_of(call), "llvm.fma", *numbers)
    m = Lets(call)
    a, b, c = (m.cast(x, "float64") for x in numbers)
    return m.cast(a * b + c, "float32")


def _is_true(flag: Expr) -> bool:
    """Whether a constant is not 0, in one lane or in all."""
    return bool((flag.value if isinstance(flag, nodes.Broadcast) else flag).value)


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
