"""Activations from their parts.

    1 / (1 + exp(-x))                                            ->   Sigmoid(x)
    log(1 + exp(x))                                              ->   Softplus(x)
    x * (1 + erf(x / sqrt 2)) / 2                                ->   Gelu(x)
    x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2          ->   Gelu(x) {approximate = tanh}
    x * Sigmoid(a x),  x / (1 + exp(-x))                         ->   Swish(x) {alpha = a}
    Clip(a x + b, 0, c) / c                                      ->   HardSigmoid(x) {alpha = a / c, beta = b / c}
    x * Clip(x + 3, 0, 6) / 6                                    ->   HardSwish(x)
    x * tanh(Softplus(x))                                        ->   Mish(x)
    max(x, a x),  Where(x > 0, x, a x)                           ->   LeakyRelu(x) {alpha = a}      0 < a < 1
    Relu(x) - s Relu(-x),  Relu(x) + s (x - |x|) / 2             ->   PRelu(x, s)

Products in any order and grouping; a factor that is left over stays. Constants count as these up to 1e-6, relative.
Not in opsets that lack the operator.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float, numpy_dtype
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule
from onyxc.passes.fuse.forms import (
    Product,
    made_by,
    near,
    number,
    pair,
    plus,
    polynomial,
    product,
    same_polynomial,
    times,
)

TANH_GELU = {1: sqrt(2 / pi), 3: 0.044715 * sqrt(2 / pi)}


@rule("Div", "Reciprocal")
def sigmoid(op: Builder, node: Node) -> Value | None:
    """1 / (1 + exp(-x)), and x / (1 + exp(-x)) = x * Sigmoid(x)."""
    bottom = node.inputs[-1]
    exp = made_by(plus(bottom, 1.0), "Exp")
    if exp is None or exp.inputs[0] is None:
        return None
    factor, x = times(exp.inputs[0])
    if factor != -1:
        return None
    made = op.Sigmoid(x)
    top = None if node.op == "Reciprocal" else node.inputs[0]
    if top is None or number(top) == 1:
        return made if made.type == node.output.type else None
    return op.Mul(top, made)


@rule("Log")
def softplus(op: Builder, node: Node) -> Value | None:
    """log(1 + exp(x))."""
    exp = made_by(plus(node.inputs[0], 1.0), "Exp")
    return None if exp is None else op.Softplus(exp.inputs[0])


@rule("Mul", "Div")
def gated(op: Builder, node: Node) -> Value | None:
    """c * x * gate(x)."""
    if not is_float(node.output.dtype) or node.output.tensor.shape is None:
        return None
    reader = node.output.only_user
    if reader is not None and reader.is_op("Mul", "Div") and any(number(v) is not None for v in reader.inputs):
        return None  # the outer product is taken apart as a whole
    whole = product(node)
    for gate in whole.factors if len(whole.factors) == 2 else ():
        (x,) = (f for f in whole.factors if f is not gate) if whole.factors[0] is not whole.factors[1] else (gate,)
        made = _gate(op, x, gate, node.graph.root().opset if node.graph is not None else 0)
        if made is None or made[1].type != node.output.type:
            continue
        rest = whole.scale * made[0]
        return (
            made[1]
            if near(rest, 1.0)
            else op.Mul(made[1], op.constant(numpy_dtype(node.output.dtype).type(rest), "factor"))
        )
    return None


def _gate(op: Builder, x: Value, gate: Value, opset: int) -> tuple[float, Value] | None:
    """(f, y) with f * y = x * gate."""

    def has(name: str) -> bool:
        return schema.find(name, opset) is not None

    grown, source = plus(gate, 1.0), gate.producer
    inner = made_by(grown, "Erf", "Tanh")
    if inner is not None and inner.inputs[0] is not None and has("Gelu"):
        wanted = {1: sqrt(0.5)} if inner.op == "Erf" else TANH_GELU
        if same_polynomial(polynomial(inner.inputs[0], x), wanted):
            return 2.0, op.Gelu(x, approximate="none" if inner.op == "Erf" else "tanh")
    if source is None or source.domain:
        return None
    argument = source.inputs[0] if source.inputs else None
    if source.op == "Sigmoid" and argument is not None:
        found = polynomial(argument, x)
        if found is not None and found.keys() == {1} and has("Swish"):
            return 1.0, op.Swish(x, alpha=found[1])
        doubled = {n: 2 * c for n, c in TANH_GELU.items()}
        if same_polynomial(found, doubled) and has("Gelu"):
            return 1.0, op.Gelu(x, approximate="tanh")
    if source.op == "Tanh":
        inside = made_by(argument, "Softplus")
        if inside is not None and inside.inputs[0] is x and has("Mish"):
            return 1.0, op.Mish(x)
    bounded = _hard(source)
    if bounded is not None and bounded[0] is x and has("HardSwish"):
        scale, alpha, beta = bounded[1:]
        if near(alpha, 1 / 6) and near(beta, 0.5):
            return scale, op.HardSwish(x)
    return None


def _hard(node: Node) -> tuple[Value, float, float, float] | None:
    """(x, c, alpha, beta) of c * min(max(alpha * x + beta, 0), 1)."""
    if node.op == "HardSigmoid" and node.inputs[0] is not None:
        return node.inputs[0], 1.0, node.real("alpha", 0.2), node.real("beta", 0.5)
    low, high = number(node.input(1)), number(node.input(2))
    if node.op != "Clip" or node.inputs[0] is None or low != 0 or high is None or high <= 0:
        return None
    argument = node.inputs[0]
    added = made_by(argument, "Add")
    options = [(a, number(b)) for a, b in pair(added)] if added is not None else []
    inner, beta = next(((a, b) for a, b in options if b is not None), (argument, 0.0))
    alpha, x = times(inner)
    return x, high, alpha / high, beta / high


@rule("Clip", "Mul", "Div")
def hard_sigmoid(op: Builder, node: Node) -> Value | None:
    """c * Clip(a x + b, 0, 1 / c); Clip(x, 0, 1) alone stays."""
    if not is_float(node.output.dtype):
        return None
    whole = product(node) if node.op != "Clip" else Product(1.0, [node.output])
    source = whole.factors[0].producer if len(whole.factors) == 1 else None
    found = _hard(source) if source is not None and source.is_op("Clip") else None
    if found is None or not near(found[1] * whole.scale, 1.0) or (found[2] == 1 and found[3] == 0):
        return None
    made = op.HardSigmoid(found[0], alpha=found[2], beta=found[3])
    return made if made.type == node.output.type else None


# ---- with a slope below zero


@rule("Max")
def leaky_maximum(op: Builder, node: Node) -> Value | None:
    """max(x, a x)."""
    if len(node.inputs) != 2 or not is_float(node.output.dtype):
        return None
    for x, other in pair(node):
        factor, source = times(other)
        if source is x and 0 < factor < 1:
            return op.LeakyRelu(x, alpha=factor)
    return None


@rule("Where")
def leaky_choice(op: Builder, node: Node) -> Value | None:
    """Where(x > 0, x, a x)."""
    condition, x, other = node.inputs
    test = made_by(condition, "Greater", "GreaterOrEqual")
    if test is None or x is None or other is None or not is_float(x.dtype) or x.const is not None:
        return None
    factor, source = times(other)
    if source is not x or test.inputs[0] is not x or number(test.inputs[1]) != 0 or x.type != node.output.type:
        return None
    return op.LeakyRelu(x, alpha=factor)


@rule("Add", "Sub")
def slope(op: Builder, node: Node) -> Value | None:
    """Relu(x) plus slope times the negative part of x."""
    for first, second in pair(node) if node.op == "Add" else pair(node)[:1]:
        positive = made_by(first, "Relu")
        x = positive.inputs[0] if positive is not None else None
        scaled = made_by(second, "Mul")
        if x is None or scaled is None or not is_float(x.dtype):
            continue
        found = _negative_part(scaled, x)
        if found is None:
            continue
        factor, by = found
        factor = factor if node.op == "Add" else -factor
        if by is None:
            return op.LeakyRelu(x, alpha=factor)
        slopes = by.array.astype(np.float64) * factor
        made = op.PRelu(x, op.constant(slopes.astype(numpy_dtype(by.dtype)), by.name))
        return made if made.type == node.output.type else None
    return None


def _negative_part(node: Node, x: Value) -> tuple[float, Value | None] | None:
    """(f, s) with f * s * min(x, 0) equal to the product; s is a constant, None for 1."""
    whole = product(node)
    slopes = [f for f in whole.factors if f.const is not None]
    rest = [f for f in whole.factors if f.const is None]
    if len(rest) != 1 or len(slopes) > 1:
        return None
    by = slopes[0] if slopes else None
    source = made_by(rest[0], "Relu", "Sub")
    if source is None or source.inputs[0] is None:
        return None
    if source.op == "Relu":
        sign, inner = times(source.inputs[0])
        return (-whole.scale, by) if inner is x and sign == -1 else None
    magnitude = made_by(source.inputs[1], "Abs")
    same = magnitude is not None and magnitude.inputs[0] is x and source.inputs[0] is x
    return (2 * whole.scale, by) if same else None


class FuseActivations(RulePass):
    """Gelu, Swish, HardSwish, HardSigmoid, Mish, Sigmoid, Softplus, LeakyRelu and PRelu from their parts."""

    name: ClassVar[str] = "fuse-activations"
    rules: ClassVar[tuple[Rule, ...]] = (
        sigmoid, softplus, gated, hard_sigmoid, leaky_maximum, leaky_choice, slope,
    )  # fmt: skip
