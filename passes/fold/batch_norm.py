"""Scales and shifts per channel go into the weights next to them.

    BatchNormalization(Conv(x, w, b))  ->  Conv(x, w * s, b * s + t)   s = scale / sqrt(var + epsilon), t = B - mean * s
    Conv(x, w) * s,  Conv(x, w) + t    ->  Conv(x, w * s), Conv(x, w, t)
    Conv(x * s + t, w, b)              ->  Conv(x, w * s, b + sum(w * t))      without padding, or where t = 0
    (MatMul(x, w) + b) * s             ->  MatMul(x, w * s) + b * s
    BatchNormalization(x)              ->  x * s + t                           where nothing else fits
    (x * a + b) * c + d                ->  x * (a * c) + (b * c + d)

after Conv, ConvTranspose, Gemm and MatMul; before Conv, Gemm and MatMul. Everything is computed in float64 and rounded
once. A pruned weight stays pruned; a palette survives only a scale that is the same for the whole tensor. Refused:
weights that are not constant (quantized ones stay exact), results that something else reads, training, factors that
overflow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float, numpy_dtype
from onyxc.compiler.rewrite import Builder, Constant, Pattern, Refuse, Rule, RulePass, rule
from onyxc.passes.fold.affine import Affine, affine, float_weight, new_bias, new_vector, rounded, scaled, vector_along

# ---- after a linear operator


Linear = Callable[[Node, Affine, Builder], Value]


@rule("BatchNormalization", "Mul", "Add")
def into_operator_before(op: Builder, node: Node) -> Value | None:
    """f(x) * s + t = f'(x) for a linear f with constant weights."""
    for value in node.inputs[:2]:
        producer = None if value is None else value.producer
        linear = LINEAR.get(producer.op) if producer is not None and producer.domain == "" else None
        if linear is None or producer is None:
            continue
        found = affine(node, _channel_axis(producer))
        if found is not None and found.x is value and _same_shape(value, node.output):
            if value.only_user is not node:
                raise Refuse("something else reads the unscaled result")
            return linear[0](producer, found, op)
    return None


def _same_shape(a: Value, b: Value) -> bool:
    return a.tensor.shape is not None and a.tensor.shape == b.tensor.shape


def _channel_axis(node: Node) -> int:
    if node.op in ("Gemm", "MatMul"):
        rank = len(node.output.tensor.shape or ())
        return rank - 1
    return 1


def _conv(node: Node, by: Affine, op: Builder) -> Value:
    """Filters are along axis 0 of the weights."""
    weight = float_weight(node)
    rank = weight.tensor.rank
    made = scaled(op, weight, by.scale.reshape(-1, *[1] * (rank - 1)))
    return op.like(node, node.inputs[0], made, new_bias(op, node, by, weight.dims[0]))


def _conv_transpose(node: Node, by: Affine, op: Builder) -> Value:
    """Filters are along axis 1, group by group."""
    weight, groups = float_weight(node), node.integer("group")
    inputs, outputs, *kernel = weight.dims
    scale = np.broadcast_to(by.scale, (groups * outputs,)).reshape(groups, 1, outputs)
    scale = np.broadcast_to(scale, (groups, inputs // groups, outputs)).reshape(inputs, outputs, *[1] * len(kernel))
    made = scaled(op, weight, scale if by.scale.size > 1 else by.scale)
    return op.like(node, node.inputs[0], made, new_bias(op, node, by, groups * outputs))


def _gemm(node: Node, by: Affine, op: Builder) -> Value:
    """Y = alpha * A @ B + beta * C; C is a vector, or absent."""
    weight, added = float_weight(node), node.input(2)
    columns = weight.dims[0 if node.attrs["transB"] else 1]
    old = np.zeros(1)
    if added is not None:
        vector = None if added.const is None else vector_along(added.const, (1, columns), 1)
        if vector is None:
            raise Refuse("the addend is not a constant row")
        old = vector * node.real("beta")
    made = scaled(op, weight, by.scale[:, None] if node.attrs["transB"] else by.scale[None])
    bias = new_vector(op, old * by.scale + by.shift, columns, weight, added)
    return op.like(node, node.inputs[0], made, bias, beta=1.0)


def _matmul(node: Node, by: Affine, op: Builder) -> Value:
    """Columns are along the last axis of the weights; a shift becomes an addition."""
    weight = float_weight(node)
    if weight.tensor.rank < 2:
        raise Refuse("the weight is a vector")
    if np.all(by.scale == 1):
        raise Refuse("an addition is all there is")
    result = op.MatMul(node.inputs[0], scaled(op, weight, by.scale))
    return op.Add(result, new_vector(op, by.shift, weight.dims[-1], weight)) if by.shifts else result


class ScaleBiased(Rule):
    """(MatMul(x, w) + b) * s = MatMul(x, w * s) + b * s."""

    def pattern(self, op: Pattern, x: Any, w: Constant, b: Constant, s: Constant) -> Any:
        return op.Mul(op.Add(op.MatMul(x, w, _name="product"), b), s)

    def rewrite(self, op: Builder, x: Value, w: Value, b: Value, s: Value, product: Node, root: Node) -> Value:
        shape = product.output.tensor.shape
        scale, bias = (None if v.const is None else vector_along(v.const, shape, -1) for v in (s, b))
        if scale is None or bias is None or w.tensor.rank < 2 or root.output.tensor.shape != shape:
            raise Refuse("the constants are no rows")
        made = op.MatMul(x, scaled(op, w, scale))
        return op.Add(made, new_vector(op, bias * scale, w.dims[-1], w, b))


# ---- before a linear operator


@rule("Conv", "Gemm", "MatMul")
def into_operator_after(op: Builder, node: Node) -> Value | None:
    """f(x * s + t) = f'(x) for a linear f with constant weights and no padding."""
    value = node.inputs[0]
    producer = None if value is None else value.producer
    if value is None or producer is None or not producer.is_op("BatchNormalization", "Mul", "Add"):
        return None
    if node.attrs.get("transA") or node.const(1) is None:
        return None
    rank = len(value.tensor.shape or ())
    found = affine(producer, 1 if node.op == "Conv" else rank - 1)
    if found is None or not _same_shape(found.x, value):
        return None
    if value.only_user is not node:
        raise Refuse("something else reads the scaled input")
    return LINEAR[node.op][1](node, found, op)


def _before_conv(node: Node, by: Affine, op: Builder) -> Value:
    padded = any(node.integers("pads")) or node.attrs.get("auto_pad") in ("SAME_UPPER", "SAME_LOWER")
    if by.shifts and padded:
        raise Refuse("padding is not shifted")
    weight, groups = float_weight(node), node.integer("group")
    filters, channels, *kernel = weight.dims
    per_filter = [
        np.repeat(np.broadcast_to(v, (groups * channels,)).reshape(groups, channels), filters // groups, axis=0)
        for v in (by.scale, by.shift)
    ]
    scale, shift = (v.reshape(filters, channels, *[1] * len(kernel)) for v in per_filter)
    added = (weight.array.astype(np.float64) * shift).reshape(filters, -1).sum(axis=1)
    made = scaled(op, weight, scale if by.scale.size > 1 else by.scale)
    bias = new_bias(op, node, Affine(by.x, 1, np.ones(1), added), filters)
    return op.like(node, by.x, made, bias)


def _before_gemm(node: Node, by: Affine, op: Builder) -> Value:
    weight, added = float_weight(node), node.input(2)
    matrix = weight.array.T if node.attrs["transB"] else weight.array
    shift = node.real("alpha") * (by.shift * np.ones(matrix.shape[0])) @ matrix.astype(np.float64)
    made = scaled(op, weight, by.scale[None] if node.attrs["transB"] else by.scale[:, None])
    if not by.shifts:
        return op.like(node, by.x, made, added)
    vector = np.zeros(1) if added is None else None
    if added is not None and added.const is not None:
        vector = vector_along(added.const, (1, matrix.shape[1]), 1)
    if vector is None:
        raise Refuse("the addend is not a constant row")
    total = vector * node.real("beta") + shift
    bias = new_vector(op, total, matrix.shape[1], weight, added)
    return op.like(node, by.x, made, bias, beta=1.0)


def _before_matmul(node: Node, by: Affine, op: Builder) -> Value:
    weight = float_weight(node)
    if weight.tensor.rank != 2:
        raise Refuse("the weight is not a matrix")
    result = op.MatMul(by.x, scaled(op, weight, by.scale[:, None]))
    if not by.shifts:
        return result
    shift = (by.shift * np.ones(weight.dims[0])) @ weight.array.astype(np.float64)
    return op.Add(result, new_vector(op, shift, weight.dims[1], weight))


LINEAR: dict[str, tuple[Linear, Linear]] = {
    "Conv": (_conv, _before_conv),
    "ConvTranspose": (_conv_transpose, _before_conv),
    "Gemm": (_gemm, _before_gemm),
    "MatMul": (_matmul, _before_matmul),
}


# ---- on its own


@rule("BatchNormalization")
def batch_norm_to_arithmetic(op: Builder, node: Node) -> Value | None:
    """BatchNormalization(x) = x * s + t."""
    found = affine(node)
    rank = len(node.output.tensor.shape or ())
    if found is None or rank < 2:
        return None
    dtype = numpy_dtype(found.x.dtype)
    scale, shift = (v.astype(dtype).reshape(-1, *[1] * (rank - 2)) for v in (found.scale, found.shift))
    if not np.all(np.isfinite(scale.astype(np.float64))) or not np.all(np.isfinite(shift.astype(np.float64))):
        raise Refuse("a factor overflows")
    return op.Add(op.Mul(found.x, op.constant(scale, "scale")), op.constant(shift, "shift"))


class ScaledTwice(Rule):
    """(x * a + b) * c + d = x * (a * c) + (b * c + d)."""

    def pattern(self, op: Pattern, x: Any, a: Constant, b: Constant, c: Constant, d: Constant) -> Any:
        return op.Add(op.Mul(op.Add(op.Mul(x, a), b), c), d)

    def rewrite(self, op: Builder, x: Value, a: Value, b: Value, c: Value, d: Value, root: Node) -> Value:
        if not is_float(x.dtype) or x.tensor.shape is None or x.tensor.shape != root.output.tensor.shape:
            raise Refuse("the constants make the tensor larger, or it is of integers")
        scale, shift, by, more = (np.asarray(v.const, np.float64) for v in (a, b, c, d))
        made = (rounded(scale * by, a), rounded(shift * by + more, b))
        return op.Add(op.Mul(x, op.constant(made[0], a.name)), op.constant(made[1], b.name))


class FoldBatchNorm(RulePass):
    """Folds BatchNormalization, Mul and Add into neighbouring weights."""

    name: ClassVar[str] = "fold-batch-norm"
    rules: ClassVar[tuple[Rule, ...]] = (
        into_operator_before, ScaleBiased(), into_operator_after, batch_norm_to_arithmetic,
        ScaledTwice(),
    )  # fmt: skip
