"""Convolutions, and products with constant weights, which are pointwise convolutions.

`KERNELS` lists what can compute one, best first; the first that suits the problem is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onyxc.backends.cpu import convolution, depthwise, integer_convolution, integer_depthwise, winograd
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.match.group import AnchoredGroup, four, supported, zero_points
from onyxc.backends.cpu.shapes import ConvShape, Strides, planar_strides
from onyxc.backends.places import strides_of
from onyxc.backends.program import Kernel
from onyxc.backends.recipe import Argument, Constant, Output, Piece, Recipe, Scratch
from onyxc.backends.target import Target
from onyxc.compiler.ir.channels_last import shuffle_order
from onyxc.compiler.ir.graph import Array


def conv(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A convolution with constant weights."""
    shape = conv_shape(group)
    return None if shape is None else finish(name, group, shape, lambda array: array, target)


def conv_shape(group: AnchoredGroup) -> ConvShape | None:
    """The shape of an onyxc.Conv whose weights and zero points are known."""
    zero = zero_points(group)
    return None if not supported(group) or zero is None else read_shape(group, zero[0])


def read_shape(group: AnchoredGroup, x_zero_point: int) -> ConvShape:
    """The shape of an onyxc.Conv."""
    node, x, w = group.anchor, group.input(0), group.input(1)
    planar = bool(node.attrs["planar"])
    n, h, width, c = (x.dims[0], x.dims[2], x.dims[3], x.dims[1]) if planar else x.dims
    out_n, out_h, out_w, out_c = group.shape
    (sh, sw), (dh, dw) = node.integers("strides"), node.integers("dilations")
    top, left, bottom, right = node.integers("pads")
    assert out_n == n
    return ConvShape(
        batch=n, in_channels=c, out_channels=out_c, group=node.integer("group", 1), in_size=(h, width),
        out_size=(out_h, out_w), kernel=(w.dims[2], w.dims[3]), strides=(sh, sw),
        dilations=(dh, dw), pads=(top, left, bottom, right),
        x_strides=planar_strides(c, h, width) if planar else four(strides_of(x)),
        y_strides=four(group.y_strides)[:3], x_dtype=x.dtype, w_dtype=w.dtype,
        acc_dtype=node.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=x_zero_point,
        shuffle=node.integer("shuffle"),
    )  # fmt: skip


def constant_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A product with constant weights."""
    shape = product_shape(group)
    if shape is None:
        return None
    return finish(name, group, shape, lambda array: np.ascontiguousarray(array.T)[:, :, None, None], target)


def product_shape(group: AnchoredGroup) -> ConvShape | None:
    """The pointwise convolution that a product with constant weights is, where the group is one.

    The left operand and the result may be transposed, as long as the result's columns stay contiguous.
    """
    a, b = group.input(0), group.input(1)
    zero, y_strides = zero_points(group), group.result_strides()
    if not supported(group) or zero is None or len(b.dims) != 2 or not 2 <= len(a.dims) <= 4 or y_strides[-1] != 1:
        return None
    n, h, w = (1,) * (4 - len(a.dims)) + a.dims[:-1]
    depth, columns = b.dims
    return ConvShape(
        batch=n, in_channels=depth, out_channels=columns, group=1, in_size=(h, w), out_size=(h, w), kernel=(1, 1),
        strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=four(group.operand(0)[1]),
        y_strides=four(y_strides)[:3], x_dtype=a.dtype, w_dtype=b.dtype,
        acc_dtype=group.anchor.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=zero[0],
    )  # fmt: skip


def finish(
    name: str, group: AnchoredGroup, shape: ConvShape, layout: Callable[[Array], Array], target: Target
) -> Recipe | None:
    """The recipe of ``shape``; ``layout`` gives the model's weights as [O, I/g, KH, KW]."""
    operands, zero = group.operands(), zero_points(group)
    if operands is None or zero is None:
        return None
    strides = [group.spread(v) for v in operands]
    problem = Problem(name, shape, tuple(strides), zero[1], group.epilogue(operands, strides), target)
    made = next(s for kernel in KERNELS if (s := kernel(problem)) is not None)
    weights = group.packed(group.input(1), lambda w: made.pack(layout(w)))
    read = (group.role(group.operand(0)[0]), weights, *made.read, *(group.role(v) for v in operands))
    return [Piece(made.kernel, (*read, Output(0), *made.extra), len(read))]


@dataclass(frozen=True)
class Problem:
    """A convolution, what follows it, and the processor.

    ``strides``: of the epilogue's operands along n, h, w, c; ``points``: the weights' zero points.
    """

    name: str
    shape: ConvShape
    strides: tuple[Strides, ...]
    points: Array
    epilogue: Epilogue
    target: Target


@dataclass(frozen=True)
class Solution:
    """A kernel with arguments (x, packed weights, ``read``..., operands..., y, ``extra``...).

    ``pack`` takes [O, I/g, KH, KW].
    """

    kernel: Kernel
    pack: Callable[[Array], Array]
    extra: tuple[Argument, ...] = ()
    read: tuple[Argument, ...] = ()


def _integer_depthwise(problem: Problem) -> Solution | None:
    if not integer_depthwise.fits(problem.shape, problem.target):
        return None
    plan = integer_depthwise.plan(problem.shape, problem.target, problem.points)
    kernel = integer_depthwise.emit(problem.name, plan, problem.epilogue, problem.target)
    return Solution(kernel, lambda w: integer_depthwise.pack(w, plan))


def _depthwise(problem: Problem) -> Solution | None:
    if not depthwise.fits(problem.shape):
        return None
    plan = depthwise.plan(problem.shape, problem.target)
    kernel = depthwise.emit(problem.name, plan, problem.epilogue, problem.target)
    return Solution(kernel, lambda w: depthwise.pack(w, plan, _columns(problem.points)))


def _integer(problem: Problem) -> Solution | None:
    if not integer_convolution.fits(problem.shape, problem.target):
        return None
    plan = integer_convolution.plan(problem.shape, problem.target, problem.points, problem.strides)
    kernel = integer_convolution.emit(problem.name, plan, problem.epilogue, problem.target)
    return Solution(kernel, lambda w: integer_convolution.pack(w, plan))


def _winograd(problem: Problem) -> Solution | None:
    plan = winograd.plan(problem.shape, problem.target)
    if plan is None:
        return None
    kernel = winograd.emit(problem.name, plan, problem.epilogue, problem.target)
    return Solution(kernel, lambda w: winograd.pack(w, plan), (Scratch("float32", (plan.scratch,)),))


def _direct(problem: Problem) -> Solution:
    plan = convolution.plan(problem.shape, problem.target, problem.strides)
    kernel = convolution.emit(problem.name, plan, problem.epilogue, problem.target)
    shape = problem.shape
    order = shuffle_order(shape.in_channels, shape.shuffle).astype(np.int32) if shape.shuffle else None
    read = () if order is None else (Constant(order),)
    return Solution(kernel, lambda w: convolution.pack(w, plan, _columns(problem.points)), read=read)


def _columns(points: Array) -> Array:
    """Zero points in a shape that broadcasts to [O, I/g, KH, KW]."""
    return points.reshape(-1, 1, 1, 1) if points.ndim else points


KERNELS: tuple[Callable[[Problem], Solution | None], ...] = (
    _integer_depthwise,
    _depthwise,
    _integer,
    _winograd,
    _direct,
)
