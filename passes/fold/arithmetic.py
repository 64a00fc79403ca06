"""Arithmetic with constants in its simplest form, without changing what is computed.

    x + 0, x - 0, x * 1, x / 1, x ^ 1    ->   x               where the constant does not enlarge x
    x / 2^n                              ->   x * 2^-n        other divisors stay: their reciprocal is not exact
    x - c                                ->   x + (-c)        floats
    x ^ 2, x ^ 0.5, x ^ -1               ->   x * x, Sqrt(x), Reciprocal(x)
    (x * a) * b, (x + a) + b             ->   x * (a * b), x + (a + b)
    --x, not not x                       ->   x
    Max(x, 0), Clip(x, 0)                ->   Relu(x)
    Min(Max(x, a), b), Clip(Relu(x), b)  ->   Clip(x, a, b)
    Where(true, x, y)                    ->   x

Refused: sums with constants beyond 2^16, with which models round.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.types import is_float, numpy_dtype
from onyxc.compiler.rewrite import Builder, Constant, Pattern, Refuse, Rule, RulePass, rule

ROUNDING = 2.0**16
_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1, "Pow": 1, "Or": False, "And": True}


@rule(*_NEUTRAL)
def neutral(op: Builder, node: Node) -> Value | None:
    """x + 0 = x * 1 = x."""
    for value, other in _operands(node):
        array = None if other is None else other.const
        if array is None or array.dtype == object or not np.all(array == _NEUTRAL[node.op]):
            continue
        if value is not None and value.type == node.output.type and value.tensor.shape is not None:
            return value
    return None


def _operands(node: Node) -> list[tuple[Value | None, Value | None]]:
    a, b = node.inputs
    return [(a, b)] if node.op in ("Sub", "Div", "Pow") else [(a, b), (b, a)]


@rule("Div")
def divide_by_power_of_two(op: Builder, node: Node) -> Value | None:
    """x / 2^n = x * 2^-n."""
    divisor = node.operand(1)
    if divisor.const is None or not is_float(divisor.dtype):
        return None
    data = divisor.const.astype(np.float64)
    if not np.all(np.isfinite(data) & (np.abs(np.frexp(data)[0]) == 0.5)):
        raise Refuse("the reciprocal of the divisor is not exact")
    if divisor.dtype not in ("float32", "float64") or np.any(np.abs(np.frexp(data)[1]) > 100):
        return None
    return op.Mul(node.inputs[0], op.constant((1 / data).astype(divisor.const.dtype), divisor.name))


@rule("Sub")
def subtract_constant(op: Builder, node: Node) -> Value | None:
    """x - c = x + (-c) in floats."""
    other = node.operand(1)
    if other.const is None or not is_float(other.dtype):
        return None
    return op.Add(node.inputs[0], op.constant(-other.const, other.name))


@rule("Pow")
def simple_power(op: Builder, node: Node) -> Value | None:
    """x^2 = x * x, x^0.5 = Sqrt(x), x^-1 = Reciprocal(x)."""
    base, exponent = node.operand(), node.const(1)
    if exponent is None or exponent.size != 1 or exponent.ndim > (len(base.tensor.shape or ())):
        return None
    power = float(exponent.ravel()[0])
    if power == 2:
        return op.Mul(base, base)
    if not is_float(base.dtype) or power not in (0.5, -1):
        return None
    return op.Sqrt(base) if power == 0.5 else op.Reciprocal(base)


class MulMul(Rule):
    """(x * a) * b = x * (a * b)."""

    def pattern(self, op: Pattern, x: Any, a: Constant, b: Constant) -> Any:
        return op.Mul(op.Mul(x, a), b)

    def rewrite(self, op: Builder, x: Value, a: Value, b: Value) -> Value:
        return op.Mul(x, op.constant(_combined(np.multiply, x, a, b), a.name))


class AddAdd(Rule):
    """(x + a) + b = x + (a + b)."""

    def pattern(self, op: Pattern, x: Any, a: Constant, b: Constant) -> Any:
        return op.Add(op.Add(x, a), b)

    def rewrite(self, op: Builder, x: Value, a: Value, b: Value) -> Value:
        if is_float(x.dtype) and max(_magnitude(a), _magnitude(b)) >= ROUNDING:
            raise Refuse("a constant this large may be there for rounding")
        return op.Add(x, op.constant(_combined(np.add, x, a, b), a.name))


def _magnitude(value: Value) -> float:
    return float(np.max(np.abs(value.array.astype(np.float64)), initial=0))


def _combined(function: np.ufunc, x: Value, a: Value, b: Value) -> Array:
    """``function`` of two constants, in float64 where they are floats."""
    wide = np.float64 if is_float(x.dtype) else a.array.dtype
    made: Array = function(a.array.astype(wide), b.array.astype(wide))
    if made.size > max(a.array.size, b.array.size):
        raise Refuse("the combined constant is larger")
    result = made.astype(numpy_dtype(x.dtype))
    if is_float(x.dtype) and not np.all(np.isfinite(result.astype(np.float64))):
        raise Refuse("the combined constant overflows")
    return result


@rule("Neg", "Not")
def twice(op: Builder, node: Node) -> Value | None:
    """--x = not not x = x."""
    value = node.inputs[0]
    inner = None if value is None else value.producer
    return inner.inputs[0] if inner is not None and inner.is_op(node.op) else None


@rule("Where")
def where_known(op: Builder, node: Node) -> Value | None:
    """Where(true, x, y) = x."""
    condition = node.const(0)
    if condition is None or not (condition.all() or not condition.any()):
        return None
    chosen = node.operand(1 if condition.all() else 2)
    return chosen if chosen.tensor.is_static and chosen.type == node.output.type else None


# ---- bounds


@rule("Max", "Min")
def bound(op: Builder, node: Node) -> Value | None:
    """Max(x, c) = Clip(x, c), Min(x, c) = Clip(x, , c) for a scalar c of floats."""
    if len(node.inputs) != 2:
        return None
    for value, other in _operands(node):
        if value is None or other is None or other.const is None or other.const.size != 1 or value.const is not None:
            continue
        if is_float(value.dtype) and value.type == node.output.type and value.tensor.shape is not None:
            limit = op.constant(other.const.reshape(()), other.name)
            return op.Clip(value, limit) if node.op == "Max" else op.Clip(value, None, limit)
    return None


@rule("Clip")
def clip_to_relu(op: Builder, node: Node) -> Value | None:
    """Clip(x, 0) = Relu(x) in floats."""
    low, high = node.const(1), node.const(2)
    if low is None or low != 0 or (node.input(2) is not None and (high is None or high != np.inf)):
        return None
    return op.Relu(node.inputs[0]) if is_float(node.output.dtype) else None


@rule("Clip", "Relu")
def clip_twice(op: Builder, node: Node) -> Value | None:
    """Clip(Clip(x, a, b), c, d) = Clip(x, e, f) in floats, all bounds constant; Relu(x) = Clip(x, 0)."""
    value = node.inputs[0]
    inner = None if value is None or value.only_user is not node else value.producer
    if inner is None or not inner.is_op("Clip", "Relu") or not is_float(node.output.dtype):
        return None
    first, second = _bounds(inner), _bounds(node)
    if first is None or second is None:
        return None
    low, high = (min(max(v, second[0]), second[1]) for v in first)
    dtype = numpy_dtype(node.output.dtype)
    limits = [None if np.isinf(v) else op.constant(np.array(v, dtype), "limit") for v in (low, high)]
    return op.Clip(inner.inputs[0], *limits)


def _bounds(node: Node) -> tuple[float, float] | None:
    if node.op == "Relu":
        return 0.0, np.inf
    made = []
    for index, free in ((1, -np.inf), (2, np.inf)):
        limit = node.const(index)
        if node.input(index) is not None and limit is None:
            return None
        made.append(free if limit is None else float(limit.ravel()[0]))
    return made[0], made[1]


class FoldArithmetic(RulePass):
    """Simplifies arithmetic with constants."""

    name: ClassVar[str] = "fold-arithmetic"
    rules: ClassVar[tuple[Rule, ...]] = (
        neutral, divide_by_power_of_two, subtract_constant, simple_power, MulMul(), AddAdd(), twice, where_known, bound,
        clip_to_relu, clip_twice,
    )  # fmt: skip
