"""Comparisons, logic and bits, element by element."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from onyxc.backends.lowering.registry import elementwise
from onyxc.backends.lowering.scalar import attr, element, is_unsigned, like, select, widened
from onyxc.compiler.ir.graph import Node

Expr = Any


@elementwise("Equal")
@widened
def equal(node: Node, a: Expr, b: Expr) -> Expr:
    """A == b."""
    return tirx.Not(tirx.bitwise_xor(a, b)) if element(a) == "bool" else tirx.EQ(a, b)


@elementwise("Less")
@widened
def less(node: Node, a: Expr, b: Expr) -> Expr:
    """A < b."""
    return a < b


@elementwise("LessOrEqual")
@widened
def less_or_equal(node: Node, a: Expr, b: Expr) -> Expr:
    """A <= b."""
    return a <= b


@elementwise("Greater")
@widened
def greater(node: Node, a: Expr, b: Expr) -> Expr:
    """A > b."""
    return a > b


@elementwise("GreaterOrEqual")
@widened
def greater_or_equal(node: Node, a: Expr, b: Expr) -> Expr:
    """A >= b."""
    return a >= b


@elementwise("And")
def logical_and(node: Node, a: Expr, b: Expr) -> Expr:
    """Both."""
    return tirx.And(a, b)


@elementwise("Or")
def logical_or(node: Node, a: Expr, b: Expr) -> Expr:
    """Either."""
    return tirx.Or(a, b)


@elementwise("Xor")
def logical_xor(node: Node, a: Expr, b: Expr) -> Expr:
    """One of both."""
    return tirx.bitwise_xor(a, b)


@elementwise("Not")
def logical_not(node: Node, x: Expr) -> Expr:
    """Not x."""
    return tirx.Not(x)


# ---- bits


@elementwise("BitwiseAnd")
def bitwise_and(node: Node, a: Expr, b: Expr) -> Expr:
    """A & b."""
    return tirx.bitwise_and(a, b)


@elementwise("BitwiseOr")
def bitwise_or(node: Node, a: Expr, b: Expr) -> Expr:
    """A | b."""
    return tirx.bitwise_or(a, b)


@elementwise("BitwiseXor")
def bitwise_xor(node: Node, a: Expr, b: Expr) -> Expr:
    """A ^ b."""
    return tirx.bitwise_xor(a, b)


@elementwise("BitwiseNot")
def bitwise_not(node: Node, x: Expr) -> Expr:
    """~x."""
    return tirx.bitwise_not(x)


@elementwise("BitShift")
def shift(node: Node, x: Expr, count: Expr) -> Expr:
    """X shifted; by its width or more, or by a negative count, leaves nothing but, to the right, the sign."""
    width = int(element(x).lstrip("uint"))
    far = count >= like(count, width)
    if not is_unsigned(count):
        far = tirx.Or(far, count < like(count, 0))
    near = select(far, like(count, width - 1), count)
    if attr(node, "direction") == "RIGHT":
        moved = tirx.shift_right(x, near)
        return select(far, like(x, 0), moved) if is_unsigned(x) else moved
    return select(far, like(x, 0), tirx.shift_left(x, near))
