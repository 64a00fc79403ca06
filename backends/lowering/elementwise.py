"""Arithmetic, element by element, with numpy's NaN and ONNX's integer rules."""

from __future__ import annotations

from functools import reduce
from typing import Any

from tvm import tirx

from onyxc.backends.lowering.registry import elementwise
from onyxc.backends.lowering.scalar import (
    absolute,
    at_least,
    at_most,
    attr,
    cast,
    element,
    is_floating,
    is_unsigned,
    like,
    maximum,
    minimum,
    raised,
    select,
    wide,
    widened,
)
from onyxc.compiler.ir.graph import Node

Expr = Any


@elementwise("Identity")
def identity(node: Node, x: Expr) -> Expr:
    """X."""
    return x


@elementwise("Add")
@widened
def add(node: Node, a: Expr, b: Expr) -> Expr:
    """A + b."""
    return a + b


@elementwise("Sub")
@widened
def subtract(node: Node, a: Expr, b: Expr) -> Expr:
    """A - b."""
    return a - b


@elementwise("Mul")
@widened
def multiply(node: Node, a: Expr, b: Expr) -> Expr:
    """A * b."""
    return a * b


def divisor(b: Expr) -> Expr:
    """``b`` made safe to divide integers by: where the processor would trap (0, and -1 below INT_MIN), 1."""
    trap = tirx.EQ(b, like(b, 0))
    return select(trap if is_unsigned(b) else tirx.Or(trap, tirx.EQ(b, like(b, -1))), like(b, 1), b)


@elementwise("Div")
@widened
def divide(node: Node, a: Expr, b: Expr) -> Expr:
    """A / b; integers truncate toward zero, and x / 0 = 0."""
    if is_floating(a):
        return tirx.div(a, b)
    quotient = tirx.truncdiv(a, divisor(b))
    if not is_unsigned(b):
        quotient = select(tirx.EQ(b, like(b, -1)), like(a, 0) - a, quotient)
    return select(tirx.EQ(b, like(b, 0)), like(a, 0), quotient)


@elementwise("Mod")
@widened
def modulo(node: Node, a: Expr, b: Expr) -> Expr:
    """Remainder with the divisor's sign, or with fmod=1 the dividend's."""
    if is_floating(a):
        rest = tirx.fmod(a, b)
        if attr(node, "fmod"):
            return rest
        return _with_sign_of(rest, b)
    rest = tirx.truncmod(a, divisor(b))
    if is_unsigned(a) or attr(node, "fmod"):
        return select(tirx.EQ(b, like(b, 0)), like(a, 0), rest)
    return select(tirx.EQ(b, like(b, 0)), like(a, 0), _with_sign_of(rest, b))


def _with_sign_of(rest: Expr, b: Expr) -> Expr:
    """A remainder moved to the sign of the divisor."""
    zero = like(rest, 0)
    differs = tirx.Or(tirx.And(rest < zero, b > zero), tirx.And(rest > zero, b < zero))
    return select(differs, rest + b, rest)


@elementwise("Pow")
def power(node: Node, x: Expr, y: Expr) -> Expr:
    """X to the y, in the type of x; small constant exponents are products and roots."""
    kind = element(x)
    if is_floating(x):
        base = wide(x)
        exponent = node.const(1)
        if exponent is not None and exponent.size == 1:
            short = _power(base, float(exponent.reshape(())))
            if short is not None:
                return cast(short, kind)
        return cast(tirx.power(base, cast(wide(y), element(base))), kind)
    if is_floating(y):
        return cast(tirx.power(cast(x, "float64"), cast(wide(y), "float64")), kind)
    result, factor = like(x, 1), x
    for bit in range(7):  # exact, with the wrap of the type
        odd = tirx.NE(tirx.bitwise_and(y, like(y, 1 << bit)), like(y, 0))
        result, factor = select(odd, result * factor, result), factor * factor
    return result if is_unsigned(y) else select(y < like(y, 0), like(x, 0), result)


def _power(x: Expr, exponent: float) -> Expr | None:
    """A power by products and square roots: of multiples of a quarter, up to 8."""
    quarters = abs(exponent) * 4
    if not quarters.is_integer() or quarters > 32:
        return None
    whole, rest = divmod(int(quarters), 4)
    root = tirx.sqrt(x)
    parts = ([raised(x, whole)] if whole or not rest else []) + ([root] if rest & 2 else [])
    parts += [tirx.sqrt(root)] if rest & 1 else []
    result = reduce(lambda a, b: a * b, parts)
    return result if exponent >= 0 else like(x, 1) / result


@elementwise("Max")
@widened
def largest(node: Node, *x: Expr) -> Expr:
    """The largest of all inputs."""
    return reduce(maximum, x)


@elementwise("Min")
@widened
def smallest(node: Node, *x: Expr) -> Expr:
    """The smallest of all inputs."""
    return reduce(minimum, x)


@elementwise("Sum")
@widened
def total(node: Node, *x: Expr) -> Expr:
    """The sum of all inputs."""
    return reduce(lambda a, b: a + b, x)


@elementwise("Mean")
@widened
def mean(node: Node, *x: Expr) -> Expr:
    """The mean of all inputs."""
    return reduce(lambda a, b: a + b, x) / like(x[0], len(x))


@elementwise("Clip")
@widened
def clip(node: Node, x: Expr, *bounds: Expr) -> Expr:
    """min(max(x, low), high); either bound may be left out."""
    left = list(bounds)
    if node.input(1) is not None:
        x = at_least(x, left.pop(0))
    return at_most(x, left.pop(0)) if node.input(2) is not None else x


@elementwise("Where")
def where(node: Node, condition: Expr, a: Expr, b: Expr) -> Expr:
    """A where the condition holds, else b."""
    return select(condition, a, b)


# ---- one operand


@elementwise("Abs")
@widened
def absolute_value(node: Node, x: Expr) -> Expr:
    """|x|."""
    return absolute(x)


@elementwise("Neg")
def negate(node: Node, x: Expr) -> Expr:
    """-x."""
    return cast(wide(x) * like(wide(x), -1), element(x)) if is_floating(x) else like(x, 0) - x


@elementwise("Sign")
@widened
def sign(node: Node, x: Expr) -> Expr:
    """-1, 0 or 1; NaN stays."""
    positive = select(x > like(x, 0), like(x, 1), x if is_floating(x) else like(x, 0))
    return positive if is_unsigned(x) else select(x < like(x, 0), like(x, -1), positive)


@elementwise("Reciprocal")
@widened
def reciprocal(node: Node, x: Expr) -> Expr:
    """1 / x."""
    return like(x, 1) / x
