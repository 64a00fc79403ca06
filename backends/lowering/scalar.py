"""Words of which element rules are made. Every one takes scalars and vectors alike and keeps the lanes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tvm import tirx

from onyxc.compiler.ir.graph import Node

Expr = Any  # TVM is untyped

HALF = ("float16", "bfloat16")


def element(x: Expr) -> str:
    """The dtype of ``x`` without its lanes."""
    return str(x.ty.dtype).partition("x")[0]


def laned(dtype: str, x: Expr) -> str:
    """``dtype`` with the lanes of ``x``."""
    lanes = int(x.ty.dtype.lanes)
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def like(x: Expr, value: float | int | bool, dtype: str | None = None) -> Expr:
    """A constant of the dtype and lanes of ``x``, or of another dtype with its lanes."""
    return tirx.const(value, laned(dtype or element(x), x))


def cast(x: Expr, dtype: str) -> Expr:
    """``x`` converted to ``dtype``."""
    return x if element(x) == dtype else tirx.Cast(laned(dtype, x), x)


def bits(x: Expr, dtype: str) -> Expr:
    """The bits of ``x`` read as ``dtype`` of the same width."""
    return x if element(x) == dtype else tirx.reinterpret(laned(dtype, x), x)


def select(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """Both branches are evaluated; fit for vectors."""
    return tirx.Select(condition, then, otherwise)


def is_floating(x: Expr) -> bool:
    """Whether ``x`` is of a floating-point type."""
    return element(x).startswith(("float", "bfloat"))


def is_unsigned(x: Expr) -> bool:
    """Whether ``x`` is an unsigned integer."""
    return element(x).startswith("uint")


def at_least(x: Expr, low: Expr) -> Expr:
    """max(x, low) where NaN in ``x`` stays, and which is one instruction."""
    return select(x < low, low, x)


def at_most(x: Expr, high: Expr) -> Expr:
    """min(x, high) where NaN in ``x`` stays."""
    return select(x > high, high, x)


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger, NaN if either is, as numpy.maximum."""
    return select(tirx.Or(a > b, tirx.isnan(a)), a, b) if is_floating(a) else tirx.max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    """The smaller, NaN if either is, as numpy.minimum."""
    return select(tirx.Or(a < b, tirx.isnan(a)), a, b) if is_floating(a) else tirx.min(a, b)


def absolute(x: Expr) -> Expr:
    """|x|."""
    return x if is_unsigned(x) else tirx.abs(x)


def wide(x: Expr) -> Expr:
    """16-bit floats as float32, the type in which they are computed."""
    return cast(x, "float32") if element(x) in HALF else x


def widened(rule: Callable[..., Expr]) -> Callable[..., Expr]:
    """Let ``rule`` compute 16-bit floats in float32; a float32 result is rounded back."""

    @wraps(rule)
    def run(node: Node, *x: Expr) -> Expr:
        narrow = next((element(v) for v in x if element(v) in HALF), None)
        if narrow is None:
            return rule(node, *x)
        result = rule(node, *map(wide, x))
        return cast(result, narrow) if element(result) == "float32" else result

    return run


def raised(x: Expr, exponent: int) -> Expr:
    """A small integer power, by products."""
    result: Expr | None = None
    while exponent:
        if exponent & 1:
            result = x if result is None else result * x
        exponent >>= 1
        x = x * x if exponent else x
    return like(x, 1) if result is None else result


def lowest(dtype: str) -> Expr:
    """What a maximum starts from: TVM's own is the lowest finite number, which no row of -inf gives."""
    return tirx.const(float("-inf"), dtype) if dtype.startswith(("float", "bfloat")) else tirx.min_value(dtype)


def highest(dtype: str) -> Expr:
    """What a minimum starts from."""
    return tirx.const(float("inf"), dtype) if dtype.startswith(("float", "bfloat")) else tirx.max_value(dtype)


def rooted(x: Expr, exponent: float) -> Expr:
    """A fixed power; square roots where they do."""
    root = tirx.sqrt(x)
    short = {0.5: root, 0.75: root * tirx.sqrt(root), 1.0: x}
    return short.get(exponent, tirx.power(x, like(x, exponent)))


def attr(node: Node, name: str, default: Any = None) -> Any:
    """An attribute as the plain Python value that it is."""
    return node.attrs.get(name, default)
