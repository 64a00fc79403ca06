"""Decomposed layer and root-mean-square normalizations become operators again.

    d = x - mean(x);  d / sqrt(mean(d^2) + e)              ->   LayerNormalization(x, @ones)
    d * reciprocal(sqrt(mean(d^2) + e))                    ->   the same
    d * reciprocal(sqrt(mean(x^2) - mean(x)^2 + e)) * g    ->   LayerNormalization(x, g)        (flax)
    x * (r * g) + (b - mean(x) * (r * g))                  ->   LayerNormalization(x, g, b)     (TensorFlow)
    x / sqrt(mean(x^2) + e)                                ->   RMSNormalization(x, @ones)
    LayerNormalization(x, s, b) * c + t                    ->   LayerNormalization(x, s c, b c + t)

A mean may be a sum over a count, with or without keepdims. Refused: axes that are not the last ones, gains and shifts
that are not constant or vary along other axes, epsilons that are not one number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.types import is_float, numpy_dtype
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule
from onyxc.passes.fuse.forms import made_by, mean, number, pair
from onyxc.passes.fuse.group_normalizations import grouped, into_groups


@dataclass(frozen=True)
class Deviation:
    """``x`` less its mean over ``axes``, or x itself, over the root of its mean square plus ``epsilon``."""

    x: Value
    axes: tuple[int, ...]
    epsilon: float
    centred: bool


def inverse_root(value: Value | None) -> Value | None:
    """v of 1 / sqrt(v)."""
    node = made_by(value, "Reciprocal", "Div", "Pow")
    if node is None:
        return None
    if node.op == "Pow":
        return node.inputs[0] if number(node.inputs[1]) == -0.5 else None
    if node.op == "Div" and number(node.inputs[0]) != 1:
        return None
    return root(node.inputs[-1])


def root(value: Value | None) -> Value | None:
    """v of sqrt(v)."""
    node = made_by(value, "Sqrt", "Pow")
    if node is None or (node.op == "Pow" and number(node.inputs[1]) != 0.5):
        return None
    return node.inputs[0]


def square(value: Value | None) -> Value | None:
    """v of v * v."""
    node = made_by(value, "Mul", "Pow")
    if node is None or (node.op == "Pow" and number(node.inputs[1]) != 2):
        return None
    return node.inputs[0] if node.op == "Pow" or node.inputs[0] is node.inputs[1] else None


def shifted(value: Value | None) -> tuple[Value, float] | None:
    """(v, e) of v + e."""
    node = made_by(value, "Add")
    for a, b in pair(node) if node is not None else ():
        epsilon = number(b)
        if epsilon is not None:
            return a, epsilon
    return None


def centred(value: Value | None) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) of x - mean(x)."""
    node = made_by(value, "Sub")
    found = mean(node.inputs[1]) if node is not None else None
    return found if node is not None and found is not None and node.inputs[0] is found[0] else None


def variance(value: Value, x: Value, axes: tuple[int, ...]) -> bool:
    """Whether the value is the variance of x over axes: mean((x - mean)^2), or mean(x^2) - mean(x)^2."""
    found = mean(value)
    inner = square(found[0]) if found is not None and found[1] == axes else None
    if inner is not None:
        return centred(inner) == (x, axes)
    node = made_by(value, "Reshape")
    value = node.inputs[0] if node is not None and node.inputs[0] is not None else value
    clamped = made_by(value, "Relu")
    node = made_by(clamped.inputs[0] if clamped is not None else value, "Sub")
    if node is None:
        return False
    first, second = mean(node.inputs[0], loose=True), mean(square(node.inputs[1]), loose=True)
    return first is not None and second == (x, axes) and first[1] == axes and square(first[0]) is x


def deviation(top: Value, inside: Value) -> Deviation | None:
    """``top`` over the root of ``inside``."""
    parts = shifted(inside)
    if parts is None:
        return None
    square_mean, epsilon = parts
    found = centred(top)
    if found is not None and variance(square_mean, *found):
        return Deviation(*found, epsilon, True)
    power = mean(square_mean)
    if power is not None and square(power[0]) is top:
        return Deviation(top, power[1], epsilon, False)
    return None


def _put(op: Builder, found: Deviation, node: Node, gain: Value | None = None, shift: Value | None = None) -> Value:
    x, shape = found.x, found.x.tensor.shape
    if shape is None or not is_float(x.dtype) or node.output.type != x.type:
        raise Refuse("the result has another type")
    first = len(shape) - len(found.axes)
    if found.axes != tuple(range(first, len(shape))):
        raise Refuse("the axes are not the last ones")
    dims = [d for d in shape[first:] if isinstance(d, int)]
    if len(dims) != len(found.axes):
        raise Refuse("the normalized shape is not known")
    kind = numpy_dtype(x.dtype)
    scale = np.ones(dims, kind) if gain is None else _parameter(gain, dims)
    inputs = [x, op.constant(np.ascontiguousarray(scale), "scale")]
    if shift is not None:
        inputs.append(op.constant(np.ascontiguousarray(_parameter(shift, dims)), "bias"))
    name = "LayerNormalization" if found.centred else "RMSNormalization"
    return op.node(name, *inputs, axis=first - len(shape), epsilon=found.epsilon).output


def _parameter(value: Value, dims: list[int]) -> Array:
    """A constant as broadcast to the normalized shape."""
    array = value.const
    if array is None:
        raise Refuse("a gain or shift is not constant")
    extra = array.ndim - len(dims)
    if any(d != 1 for d in array.shape[: max(extra, 0)]):
        raise Refuse("a gain or shift varies along other axes")
    return np.broadcast_to(array.reshape(array.shape[max(extra, 0) :]), dims)


@rule("Div", "Mul")
def normalization(op: Builder, node: Node) -> Value | None:
    """A deviation over its root, or times the inverse, times a gain where that is on the inverse."""
    if node.op == "Div":
        top, bottom = node.inputs
        inside = root(bottom)
        found = deviation(top, inside) if top is not None and inside is not None else None
        return None if found is None else _put(op, found, node)
    for top, factor in pair(node):
        inside, gain = inverse_root(factor), None
        inner = made_by(factor, "Mul")
        for a, b in pair(inner) if inside is None and inner is not None else ():
            inside, gain = (inverse_root(_bare(a)), b) if inside is None and b.const is not None else (inside, gain)
        found = deviation(top, inside) if inside is not None else None
        if found is not None:
            return _put(op, found, node, gain)
    return None


def _bare(value: Value) -> Value:
    node = made_by(value, "Reshape")
    return node.inputs[0] if node is not None and node.inputs[0] is not None else value


@rule("Add")
def expanded(op: Builder, node: Node) -> Value | None:
    """x * r + (b - mean(x) * r)."""
    for left, right in pair(node):
        scaled, rest = made_by(left, "Mul"), made_by(right, "Sub")
        inner = made_by(rest.inputs[1], "Mul") if rest is not None else None
        if scaled is None or rest is None or inner is None:
            continue
        for x, factor in pair(scaled):
            middle = next((m for m, f in pair(inner) if f is factor), None)
            found = mean(middle)
            gained = made_by(factor, "Mul")
            options = [(inverse_root(a), b) for a, b in pair(gained)] if gained is not None else []
            inside, gain = next(((i, g) for i, g in options if i is not None), (inverse_root(factor), None))
            parts = shifted(inside)
            if found is None or found[0] is not x or parts is None or not variance(parts[0], *found):
                continue
            return _put(op, Deviation(*found, parts[1], True), node, gain, rest.inputs[0])
    return None


@rule("Mul", "Add")
def into_normalization(op: Builder, node: Node) -> Value | None:
    """Gains and shifts behind a normalization."""
    for value, other in pair(node):
        source = made_by(value, "LayerNormalization", "RMSNormalization")
        if source is None or value.only_user is not node or other.const is None or len(source.outputs) > 1:
            continue
        if node.output.type != value.type or (node.op == "Add" and source.op == "RMSNormalization"):
            continue
        scale, bias = source.const(1), source.const(2)
        if scale is None or (source.input(2) is not None and bias is None):
            continue
        by = _parameter(other, list(scale.shape))
        inputs = [source.inputs[0], source.inputs[1], source.input(2)]
        if node.op == "Add":
            inputs[2] = op.constant(by if bias is None else bias + by, "bias")
        else:
            inputs[1] = op.constant(scale * by, "scale")
            inputs[2] = None if bias is None else op.constant(bias * by, "bias")
        return op.like(source, *(inputs if inputs[2] is not None else inputs[:2]))
    return None


class FuseNormalizations(RulePass):
    """LayerNormalization, RMSNormalization and GroupNormalization from their parts."""

    name: ClassVar[str] = "fuse-normalizations"
    rules: ClassVar[tuple[Rule, ...]] = (expanded, normalization, into_normalization, grouped, into_groups)
