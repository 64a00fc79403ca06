"""Training steps (ai.onnx.preview.training): Adagrad, Adam, Momentum.

Inputs: rate R, step count T, then all tensors, all their gradients, all their states; outputs: tensors, then states.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from onyxc.backends.lowering.registry import const, lowers
from onyxc.backends.lowering.sampling import text
from onyxc.backends.lowering.scalar import cast
from onyxc.backends.lowering.tensors import at, compute, shape_of
from onyxc.backends.lowering.words import Expr
from onyxc.compiler.ir.graph import Node

DOMAIN = "ai.onnx.preview.training"
Rule = Callable[..., list[Expr]]


def _steps(node: Node, inputs: Sequence[Any], states: int, rule: Rule) -> list[Any]:
    """``rule(number, rate, count, x, gradient, *states)`` gives the new tensor and states, for each tensor."""
    rate, count, *rest = inputs
    parts = states + 2
    tensors = len(rest) // parts
    outputs: list[list[Any]] = [[] for _ in range(states + 1)]
    for number in range(tensors):
        own = [rest[part * tensors + number] for part in range(parts)]
        kind = str(own[0].dtype)

        def value(key: str, kind: str = kind) -> Expr:
            return const(node.real(key), kind)

        for slot in range(states + 1):

            def element(*index: Expr, slot: int = slot, own: Any = own, kind: str = kind, value: Any = value) -> Expr:
                r, t = cast(at(rate, _first(rate)), kind), cast(at(count, _first(count)), kind)
                return rule(value, r, t, *(at(x, index) for x in own))[slot]

            outputs[slot].append(compute(shape_of(own[0]), element, node.op.lower()))
    return [x for group in outputs for x in group]


def _first(x: Any) -> list[Expr]:
    return [tirx.const(0, "int32")] * len(x.shape)


def decayed(node: Node, key: str, count: Expr) -> Expr:
    """A decay rate to the power of ``count``; exp is a much shorter polynomial than pow."""
    rate, kind = node.real(key), str(count.ty.dtype)
    return tirx.exp(count * const(math.log(rate), kind)) if rate > 0 else tirx.power(const(rate, kind), count)


@lowers("Adagrad", domain=DOMAIN)
def adagrad(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Steps divided by the root of the sum of squared gradients."""

    def rule(value: Any, r: Expr, t: Expr, x: Expr, g: Expr, h: Expr) -> list[Expr]:
        g = value("norm_coefficient") * x + g
        total = h + g * g
        rate = r / (const(1, str(r.ty.dtype)) + t * value("decay_factor"))
        return [x - rate * g / (tirx.sqrt(total) + value("epsilon")), total]

    return _steps(node, inputs, 1, rule)


@lowers("Adam", domain=DOMAIN)
def adam(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Running means of gradients and of their squares."""

    def rule(value: Any, r: Expr, t: Expr, x: Expr, g: Expr, v: Expr, h: Expr) -> list[Expr]:
        one = const(1, str(r.ty.dtype))
        g = value("norm_coefficient") * x + g
        mean = value("alpha") * v + (one - value("alpha")) * g
        square = value("beta") * h + (one - value("beta")) * (g * g)
        corrected = r * tirx.sqrt(one - decayed(node, "beta", t)) / (one - decayed(node, "alpha", t))
        rate = tirx.Select(t > const(0, str(r.ty.dtype)), corrected, r)
        new = x - rate * (mean / (tirx.sqrt(square) + value("epsilon")))
        return [(one - value("norm_coefficient_post")) * new, mean, square]

    return _steps(node, inputs, 2, rule)


@lowers("Momentum", domain=DOMAIN)
def momentum(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Standard or Nesterov."""
    nesterov = text(node, "mode", "standard") == "nesterov"

    def rule(value: Any, r: Expr, t: Expr, x: Expr, g: Expr, v: Expr) -> list[Expr]:
        zero, one = const(0, str(r.ty.dtype)), const(1, str(r.ty.dtype))
        g = value("norm_coefficient") * x + g
        new = value("alpha") * v + tirx.Select(t > zero, value("beta"), one) * g
        return [x - r * (g + value("alpha") * new if nesterov else new), new]

    return _steps(node, inputs, 1, rule)
