"""The normalizations: means and variances in two passes, 16-bit floats in float32."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.reduction import fold
from onyxc.backends.lowering.registry import aligned, axes, lowers
from onyxc.backends.lowering.scalar import attr, cast, like, rooted, select, wide
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, optional, replaced, shape_of, widen, zeroed
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any


def mean_of(x: Any, along: Sequence[int], name: str = "mean") -> Any:
    """The mean over axes, which keep extent 1."""
    count = prod(shape_of(x)[a] for a in along)
    total = fold(x, along, te.sum, name=f"{name}_sum")
    return compute(shape_of(total), lambda *i: at(total, i) * like(at(total, i), 1 / count), name)


def variance_of(x: Any, mean: Any, along: Sequence[int]) -> Any:
    """The variance over axes, which keep extent 1."""
    count = prod(shape_of(x)[a] for a in along)

    def square(value: Expr, index: Sequence[Expr]) -> Expr:
        rest = value - at(mean, zeroed(index, along))
        return rest * rest

    total = fold(x, along, te.sum, square, name="variance_sum")
    return compute(shape_of(total), lambda *i: at(total, i) * like(at(total, i), 1 / count), "variance")


def inverse_deviation(variance: Any, epsilon: float) -> Any:
    """1 / sqrt(variance + epsilon)."""

    def element(*index: Expr) -> Expr:
        value = at(variance, index)
        return like(value, 1) / tirx.sqrt(value + like(value, epsilon))

    return compute(shape_of(variance), element, "inverse")


@lowers("LayerNormalization")
def layer_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """(x - mean) / deviation * scale + bias over the last axes; also the mean and the inverse deviation."""
    x, scale, bias = widen(needed(node, inputs)), needed(node, inputs, 1), optional(inputs, 2)
    shape = node.output.dims
    (first,) = axes(attr(node, "axis", -1), len(shape))
    along = tuple(range(first, len(shape)))
    mean = mean_of(x, along)
    inverse = inverse_deviation(variance_of(x, mean, along), node.real("epsilon", 1e-5))

    def element(*index: Expr) -> Expr:
        row = zeroed(index, along)
        value = (at(x, index) - at(mean, row)) * at(inverse, row)
        value = value * cast(at(scale, aligned(index, scale.shape)), str(x.dtype))
        if bias is not None:
            value = value + cast(at(bias, aligned(index, bias.shape)), str(x.dtype))
        return cast(value, node.output.dtype)

    made = [compute(shape, element, "layer_normalization")]
    for value, tensor in zip(node.outputs[1:], (mean, inverse), strict=False):
        made.append(compute(shape_of(tensor), _copy(tensor, value.dtype), "statistic"))
    return made


def _copy(tensor: Any, dtype: str) -> Any:
    return lambda *i: cast(at(tensor, i), dtype)


@lowers("RMSNormalization")
def rms_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """X over the root of its mean square along the last axes, times scale."""
    x, scale, shape = widen(needed(node, inputs)), needed(node, inputs, 1), node.output.dims
    (first,) = axes(attr(node, "axis", -1), len(shape))
    along = tuple(range(first, len(shape)))
    total = fold(x, along, te.sum, lambda v, _: v * v, name="square_sum")
    share = 1 / prod(shape[a] for a in along)
    square = compute(shape_of(total), lambda *i: at(total, i) * like(at(total, i), share), "mean_square")
    inverse = inverse_deviation(square, node.real("epsilon", 1e-5))

    def element(*index: Expr) -> Expr:
        value = at(x, index) * at(inverse, zeroed(index, along))
        return cast(value * cast(at(scale, aligned(index, scale.shape)), str(x.dtype)), node.output.dtype)

    return [compute(shape, element, "rms_normalization")]


@lowers("InstanceNormalization")
def instance_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """Each channel of each image normalized by itself, then scale and bias by channel."""
    x, scale, bias = widen(needed(node, inputs)), needed(node, inputs, 1), needed(node, inputs, 2)
    shape = node.output.dims
    along = tuple(range(2, len(shape)))
    mean = mean_of(x, along)
    inverse = inverse_deviation(variance_of(x, mean, along), node.real("epsilon", 1e-5))

    def element(*index: Expr) -> Expr:
        row, channel = zeroed(index, along), [index[1]]
        value = (at(x, index) - at(mean, row)) * at(inverse, row)
        value = value * cast(at(scale, channel), str(x.dtype)) + cast(at(bias, channel), str(x.dtype))
        return cast(value, node.output.dtype)

    return [compute(shape, element, "instance_normalization")]


@lowers("GroupNormalization")
def group_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """Groups of channels normalized together, then scale and bias by channel."""
    x, scale, bias = needed(node, inputs), needed(node, inputs, 1), needed(node, inputs, 2)
    shape = shape_of(x)
    groups = node.integer("num_groups")
    each = shape[1] // groups

    def split(n: Expr, g: Expr, c: Expr, *place: Expr) -> Expr:
        return wide(at(x, [n, g * each + c, *place]))

    grouped = compute((shape[0], groups, each, *shape[2:]), split, "grouped")
    along = tuple(range(2, len(shape) + 1))
    mean = mean_of(grouped, along)
    inverse = inverse_deviation(variance_of(grouped, mean, along), node.real("epsilon", 1e-5))

    def element(*index: Expr) -> Expr:
        row = [index[0], tirx.floordiv(index[1], each), *[tirx.const(0, "int32")] * (len(shape) - 1)]
        value = (wide(at(x, index)) - at(mean, row)) * at(inverse, row)
        value = value * wide(at(scale, [index[1]])) + wide(at(bias, [index[1]]))
        return cast(value, node.output.dtype)

    return [compute(shape, element, "group_normalization")]


@lowers("BatchNormalization")
def batch_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """By given statistics of each channel; in training mode by its own, which are then blended into those."""
    x, scale, bias, mean, variance = (needed(node, inputs, k) for k in range(5))
    shape, epsilon = node.output.dims, node.real("epsilon", 1e-5)
    made = []
    if attr(node, "training_mode", 0):
        if len(shape) < 2:
            raise UnsupportedError(f"{node.label()}: training mode needs channels")
        x = widen(x)
        along = (0, *range(2, len(shape)))
        own = mean_of(x, along)
        spread = variance_of(x, own, along)
        channel = [tirx.const(0, "int32")] * len(shape)
        made = [_blended(node, old, _channels(new, channel)) for old, new in ((mean, own), (variance, spread))]
        mean, variance = _channels(own, channel), _channels(spread, channel)

    def element(*index: Expr) -> Expr:
        channel = [index[1]] if len(index) > 1 else [0]
        spread = wide(at(variance, channel))
        factor = wide(at(scale, channel)) / tirx.sqrt(spread + like(spread, epsilon))
        value = wide(at(x, index))
        parts = (wide(at(mean, channel)), factor, wide(at(bias, channel)))
        middle, factor, offset = (cast(v, str(value.ty.dtype)) for v in parts)
        return cast((value - middle) * factor + offset, node.output.dtype)

    return [compute(shape, element, "batch_normalization"), *made][: len(node.outputs)]


def _channels(x: Any, index: list[Expr]) -> Any:
    """A [1, C, 1, ...] tensor as a vector."""
    return compute((shape_of(x)[1],), lambda c: at(x, replaced(index, 1, c)), "channels")


def _blended(node: Node, old: Any, new: Any) -> Any:
    momentum = node.real("momentum", 0.9)

    def element(c: Expr) -> Expr:
        before, now = wide(at(old, [c])), wide(at(new, [c]))
        now = cast(now, str(before.ty.dtype))
        return cast(before * like(before, momentum) + now * like(now, 1 - momentum), str(old.dtype))

    return compute(shape_of(old), element, "blended")


@lowers("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """(x - mean) / deviation over given axes."""
    x, shape = widen(needed(node, inputs)), shape_of(inputs[0])
    along = axes(attr(node, "axes", (0, 2, 3)), len(shape))
    mean = mean_of(x, along)
    variance = variance_of(x, mean, along)

    def element(*index: Expr) -> Expr:
        row = zeroed(index, along)
        spread = tirx.sqrt(at(variance, row))
        return cast((at(x, index) - at(mean, row)) / (spread + like(spread, 1e-9)), node.output.dtype)

    return [compute(shape, element, "mean_variance_normalization")]


@lowers("LpNormalization")
def lp_normalization(node: Node, inputs: Inputs) -> list[Any]:
    """X over its 1- or 2-norm along an axis; 0 where the norm is 0."""
    x, shape = widen(needed(node, inputs)), node.output.dims
    along, p = axes(attr(node, "axis", -1), len(shape)), node.integer("p", 2)
    norm = fold(x, along, te.sum, lambda v, _: tirx.abs(v) if p == 1 else v * v, name="norm")

    def element(*index: Expr) -> Expr:
        whole = at(norm, zeroed(index, along))
        whole = whole if p == 1 else tirx.sqrt(whole)
        none = tirx.EQ(whole, like(whole, 0))
        return cast(select(none, like(whole, 0), at(x, index) / select(none, like(whole, 1), whole)), node.output.dtype)

    return [compute(shape, element, "lp_normalization")]


@lowers("LRN")
def lrn(node: Node, inputs: Inputs) -> list[Any]:
    """X over a power of the local mean square across neighbouring channels."""
    x, shape = widen(needed(node, inputs)), node.output.dims
    size = node.integer("size")
    alpha, beta, bias = (node.real(k, d) for k, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    r = te.reduce_axis((0, size), "r")

    def window(*index: Expr) -> Expr:
        channel = index[1] + r.var - (size - 1) // 2
        value = at(x, replaced(index, 1, channel))
        within = tirx.And(channel >= 0, channel < shape[1])
        return te.sum(tirx.if_then_else(within, value * value, like(value, 0)), axis=r)

    total = compute(shape, window, "lrn_sum")

    def element(*index: Expr) -> Expr:
        base = at(total, index) * like(at(total, index), alpha / size) + like(at(total, index), bias)
        return cast(at(x, index) / rooted(base, beta), node.output.dtype)

    return [compute(shape, element, "lrn")]
