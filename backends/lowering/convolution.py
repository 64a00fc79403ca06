"""Convolutions of 1, 2, 3 or more spatial axes, channels first, by their definition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.matmul import accumulator, rounded, zero_point
from onyxc.backends.lowering.registry import lowers
from onyxc.backends.lowering.scalar import attr, cast
from onyxc.backends.lowering.tensors import Inputs, at, compute, guarded, inside, needed, optional, padded, shape_of
from onyxc.backends.lowering.windows import Window, window
from onyxc.compiler.ir.graph import Node

Expr = Any
Point = Callable[[Expr], Expr]  # the zero point of an output channel's weights


def convolve(
    x: Any, w: Any, shape: Sequence[int], view: Window, groups: int, dtype: str, point: Point | None = None
) -> Any:
    """The cross-correlation of padded ``x`` [N, C, ...] with ``w`` [O, C/groups, ...], summed in ``dtype``."""
    outputs, depth, *kernel = shape_of(w)
    channel = te.reduce_axis((0, depth), "c")
    taps = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]

    def element(n: Expr, o: Expr, *place: Expr) -> Expr:
        first = tirx.floordiv(o, outputs // groups) * depth if groups > 1 else 0
        where = [p * s + t.var * d for p, s, t, d in zip(place, view.strides, taps, view.dilations, strict=True)]
        value = cast(at(x, [n, first + channel.var, *where]), dtype)
        weight = cast(at(w, [o, channel.var, *(t.var for t in taps)]), dtype)
        if point is not None:
            weight = weight - point(o)
        return te.sum(value * weight, axis=[channel, *taps])

    return compute(shape, element, "conv")


def view_of(node: Node, x: Any, w: Any) -> Window:
    """The window of a convolution node."""
    return window(node, shape_of(x)[2:], attr(node, "kernel_shape") or shape_of(w)[2:], node.output.dims[2:])


@lowers("Conv")
def conv(node: Node, inputs: Inputs) -> list[Any]:
    """X * W + b."""
    x, w, b = needed(node, inputs), needed(node, inputs, 1), optional(inputs, 2)
    kind, view = node.output.dtype, view_of(node, x, w)
    around = padded(x, [0, 0, *view.before], [0, 0, *view.after], tirx.const(0, kind))
    summed = convolve(around, w, node.output.dims, view, node.integer("group", 1), accumulator(kind))
    if b is None:
        return [rounded(summed, kind, "conv")]

    def element(n: Expr, o: Expr, *place: Expr) -> Expr:
        value = at(summed, [n, o, *place])
        return cast(value + cast(at(b, [o]), accumulator(kind)), kind)

    return [compute(node.output.dims, element, "conv_bias")]


def integer_convolution(node: Node, x: Any, w: Any, zx: Any | None, zw: Any | None) -> Any:
    """(X - zx) * (W - zw) in int32; the border counts as zero, that is zx."""
    view = view_of(node, x, w)
    centred = (
        x if zx is None else compute(shape_of(x), lambda *i: cast(at(x, i), "int32") - zero_point(zx, None), "centred")
    )
    border = tirx.const(0, str(centred.dtype))
    around = padded(centred, [0, 0, *view.before], [0, 0, *view.after], border)
    point = None if zw is None else lambda o: zero_point(zw, o)
    return convolve(around, w, node.output.dims, view, node.integer("group", 1), "int32", point)


@lowers("ConvInteger")
def conv_integer(node: Node, inputs: Inputs) -> list[Any]:
    """The convolution of 8-bit tensors less their zero points, in int32."""
    x, w = needed(node, inputs), needed(node, inputs, 1)
    return [integer_convolution(node, x, w, optional(inputs, 2), optional(inputs, 3))]


def transposed_window(node: Node, size: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window of a ConvTranspose; pads are worked out where the output's shape is given instead."""
    rank = len(size)
    strides = tuple(int(s) for s in attr(node, "strides") or (1,) * rank)
    dilations = tuple(int(d) for d in attr(node, "dilations") or (1,) * rank)
    extra = [int(p) for p in attr(node, "output_padding") or (0,) * rank]
    mode = attr(node, "auto_pad", "NOTSET")
    pads = tuple(int(p) for p in attr(node, "pads") or (0,) * (2 * rank))
    if mode in ("SAME_UPPER", "SAME_LOWER") or attr(node, "output_shape"):
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        whole = [s * (n - 1) + e + k for s, n, e, k in zip(strides, size, extra, spans, strict=True)]
        surplus = [max(0, w - o) for w, o in zip(whole, node.output.dims[2:], strict=True)]
        less, more = [s // 2 for s in surplus], [s - s // 2 for s in surplus]
        pads = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
    elif mode == "VALID":
        pads = (0,) * (2 * rank)
    return Window(tuple(kernel), strides, dilations, pads[:rank], pads[rank:])


@lowers("ConvTranspose")
def conv_transpose(node: Node, inputs: Inputs) -> list[Any]:
    """The gradient of a convolution with respect to its input, plus b."""
    x, w, b = needed(node, inputs), needed(node, inputs, 1), optional(inputs, 2)
    kind, groups = node.output.dtype, node.integer("group", 1)
    kind_sum = accumulator(kind)
    channels, outputs, *kernel = shape_of(w)  # outputs of one group
    size, view = shape_of(x)[2:], transposed_window(node, shape_of(x)[2:], kernel)
    channel = te.reduce_axis((0, channels // groups), "c")
    taps = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(kernel)]

    def dot(n: Expr, o: Expr, *place: Expr) -> Expr:
        first = tirx.floordiv(o, outputs) * (channels // groups) if groups > 1 else 0
        where, asked = [], []
        for axis, p in enumerate(place):
            stride, reach = view.strides[axis], view.spans[axis] - 1
            shifted = p + view.before[axis] - taps[axis].var * view.dilations[axis]
            low, high = view.before[axis] - reach, node.output.dims[2 + axis] - 1 + view.before[axis]
            asked += inside(shifted, size[axis] * stride, low, high)
            if stride > 1:
                asked.append(tirx.EQ(tirx.floormod(shifted, stride), 0))
                shifted = tirx.floordiv(shifted, stride)
            where.append(shifted)
        source = at(x, [n, first + channel.var, *where])
        value = guarded(asked, cast(source, kind_sum), tirx.const(0, kind_sum))
        mine = tirx.floormod(o, outputs) if groups > 1 else o
        weight = cast(at(w, [first + channel.var, mine, *(t.var for t in taps)]), kind_sum)
        return te.sum(value * weight, axis=[channel, *taps])

    summed = compute(node.output.dims, dot, "conv_transpose")
    if b is None:
        return [rounded(summed, kind, "conv_transpose")]

    def element(n: Expr, o: Expr, *place: Expr) -> Expr:
        return cast(at(summed, [n, o, *place]) + cast(at(b, [o]), kind_sum), kind)

    return [compute(node.output.dims, element, "conv_transpose_bias")]
