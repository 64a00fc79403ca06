"""Convolutions, and products with constant weights, which are pointwise convolutions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onyxc.backends.cpu import convolution, depthwise, integer_convolution, integer_depthwise
from onyxc.backends.cpu.match.group import AnchoredGroup, broadcast_strides, four, supported, zero_points
from onyxc.backends.cpu.shapes import ConvShape, dense_strides, planar_strides
from onyxc.backends.recipe import Output, Piece, Recipe
from onyxc.backends.target import Target
from onyxc.compiler.ir.channels_last import ints
from onyxc.compiler.ir.graph import Array


def conv(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    if not supported(group):
        return None
    node, x, w = group.anchor, group.input(0), group.input(1)
    zero = zero_points(group)
    if zero is None:
        return None
    planar = bool(node.attrs["planar"])
    n, h, width, c = (x.dims[0], x.dims[2], x.dims[3], x.dims[1]) if planar else x.dims
    out_n, out_h, out_w, out_c = group.shape
    pads = ints(node, "pads")
    shape = ConvShape(
        batch=n, in_channels=c, out_channels=out_c, group=int(node.attrs["group"]), in_size=(h, width),  # type: ignore[arg-type]
        out_size=(out_h, out_w), kernel=(w.dims[2], w.dims[3]), strides=ints(node, "strides"),  # type: ignore[arg-type]
        dilations=ints(node, "dilations"), pads=pads,  # type: ignore[arg-type]
        x_strides=planar_strides(c, h, width) if planar else dense_strides(h, width, c),
        y_strides=dense_strides(out_h, out_w, out_c)[:3], x_dtype=x.dtype, w_dtype=w.dtype,
        acc_dtype=node.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=zero[0],
    )  # fmt: skip
    assert out_n == n
    return finish(name, group, shape, lambda array: array, target)


def constant_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A product with constant weights."""
    a, b = group.input(0), group.input(1)
    if not supported(group) or len(b.dims) != 2 or not 2 <= len(a.dims) <= 4 or group.moved or group.after:
        return None
    zero = zero_points(group)
    if zero is None:
        return None
    n, h, w = (1,) * (4 - len(a.dims)) + a.dims[:-1]
    depth, columns = b.dims
    shape = ConvShape(
        batch=n, in_channels=depth, out_channels=columns, group=1, in_size=(h, w), out_size=(h, w), kernel=(1, 1),
        strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=dense_strides(h, w, depth),
        y_strides=dense_strides(h, w, columns)[:3], x_dtype=a.dtype, w_dtype=b.dtype,
        acc_dtype=group.anchor.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=zero[0],
    )  # fmt: skip
    return finish(name, group, shape, lambda array: np.ascontiguousarray(array.T)[:, :, None, None], target)


def finish(
    name: str, group: AnchoredGroup, shape: ConvShape, pack: Callable[[Array], Array], target: Target
) -> Recipe | None:
    """The direct-convolution recipe of ``shape``; ``pack`` gives the model's weights as [O, I/g, KH, KW]."""
    operands = group.operands()
    zero = zero_points(group)
    if operands is None or zero is None:
        return None
    strides = [four(broadcast_strides(v.dims, group.shape)) for v in operands]
    epilogue = group.epilogue(operands, strides)
    points = zero[1].reshape(-1, 1, 1, 1) if zero[1].ndim else zero[1]
    if integer_depthwise.fits(shape, target):
        narrow = integer_depthwise.plan(shape, target, zero[1])
        kernel = integer_depthwise.emit(name, narrow, epilogue, target)
        weights = group.packed(group.input(1), lambda w: integer_depthwise.pack(pack(w), narrow))
    elif depthwise.fits(shape):
        thin = depthwise.plan(shape, target)
        kernel = depthwise.emit(name, thin, epilogue, target)
        weights = group.packed(group.input(1), lambda w: depthwise.pack(pack(w), thin, points))
    elif integer_convolution.fits(shape, target):
        bytewise = integer_convolution.plan(shape, target, zero[1], tuple(strides))  # type: ignore[arg-type]
        kernel = integer_convolution.emit(name, bytewise, epilogue, target)
        weights = group.packed(group.input(1), lambda w: integer_convolution.pack(pack(w), bytewise))
    else:
        plan = convolution.plan(shape, target, tuple(strides))  # type: ignore[arg-type]
        kernel = convolution.emit(name, plan, epilogue, target)
        weights = group.packed(group.input(1), lambda w: convolution.pack(pack(w), plan, points))
    args = (group.role(group.input(0)), weights, *(group.role(v) for v in operands), Output(0))
    return [Piece(kernel, args, len(args) - 1)]


