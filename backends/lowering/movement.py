"""Operators that move elements without changing them: shape, order, slices, joins, copies."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx

from onyxc.backends.lowering.registry import aligned, axes, lowers, parameter, required, static, storage
from onyxc.backends.lowering.scalar import attr
from onyxc.backends.lowering.tensors import (
    Inputs,
    at,
    compute,
    constant,
    filled,
    needed,
    replaced,
    reshaped,
    shape_of,
)
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: Node, inputs: Inputs) -> list[Any]:
    """The elements in order, in another shape."""
    return [reshaped(needed(node, inputs), node.output.dims)]


@lowers("Transpose")
def transpose(node: Node, inputs: Inputs) -> list[Any]:
    """Axes in another order."""
    x = needed(node, inputs)
    rank = len(shape_of(x))
    perm = [int(p) for p in attr(node, "perm") or range(rank)[::-1]]
    inverse = [perm.index(axis) for axis in range(rank)]
    return [compute(node.output.dims, lambda *i: at(x, [i[p] for p in inverse]), "transpose")]


@lowers("Slice")
def slice_(node: Node, inputs: Inputs) -> list[Any]:
    """Ranges of some axes, with steps of either sign."""
    x = needed(node, inputs)
    shape = shape_of(x)
    starts, ends = required(node, 1, "starts"), required(node, 2, "ends")
    given, steps = parameter(node, 3, "axes"), parameter(node, 4, "steps")
    along = axes(given if given is not None else np.arange(len(starts)), len(shape))
    strides = steps if steps is not None else np.ones(len(starts), np.int64)
    moves = dict.fromkeys(range(len(shape)), (0, 1))
    for axis, start, end, step in zip(along, starts, ends, strides, strict=True):
        first, _, stride = slice(int(start), int(end), int(step)).indices(shape[axis])
        moves[axis] = (first, stride)

    def element(*index: Expr) -> Expr:
        return at(x, [i if moves[a] == (0, 1) else i * moves[a][1] + moves[a][0] for a, i in enumerate(index)])

    return [compute(node.output.dims, element, "slice")]


@lowers("Split")
def split(node: Node, inputs: Inputs) -> list[Any]:
    """Consecutive parts of one axis."""
    x = needed(node, inputs)
    (axis,) = axes(attr(node, "axis", 0), len(shape_of(x)))
    starts = accumulate([0, *(v.dims[axis] for v in node.outputs)])

    def part(shape: tuple[int, ...], start: int) -> Any:
        return compute(shape, lambda *i: at(x, replaced(i, axis, i[axis] + start if start else i[axis])), "split")

    return [part(v.dims, start) for v, start in zip(node.outputs, starts, strict=False)]


@lowers("Concat")
def concat(node: Node, inputs: Inputs) -> list[Any]:
    """Tensors joined along one axis."""
    shape = node.output.dims
    (axis,) = axes(attr(node, "axis"), len(shape))
    parts = [x for x in inputs if x is not None and shape_of(x)[axis]]
    ends = list(accumulate(shape_of(x)[axis] for x in parts))

    def element(*index: Expr) -> Expr:
        i = index[axis]
        result: Expr | None = None
        for x, end in list(zip(parts, ends, strict=True))[::-1]:
            start = end - shape_of(x)[axis]
            value = at(x, replaced(index, axis, i - start if start else i))
            result = value if result is None else tirx.if_then_else(i < end, value, result)
        return result

    if not parts:
        return [filled(shape, 0, storage(node.output.dtype), "concat")]
    return [compute(shape, element, "concat")]


@lowers("Expand")
def expand(node: Node, inputs: Inputs) -> list[Any]:
    """Broadcast to a shape."""
    x = needed(node, inputs)
    return [compute(node.output.dims, lambda *i: at(x, aligned(i, x.shape)), "expand")]


@lowers("Tile")
def tile(node: Node, inputs: Inputs) -> list[Any]:
    """The tensor repeated along its axes."""
    x = needed(node, inputs)
    old, new = shape_of(x), node.output.dims

    def element(*index: Expr) -> Expr:
        return at(x, [i if d == n else tirx.floormod(i, d) for i, d, n in zip(index, old, new, strict=True)])

    return [compute(new, element, "tile")]


@lowers("DepthToSpace")
def depth_to_space(node: Node, inputs: Inputs) -> list[Any]:
    """Channels become blocks of pixels; the block comes first in the channels (DCR) or last (CRD)."""
    x = needed(node, inputs)
    block, first = node.integer("blocksize"), attr(node, "mode", "DCR") == "DCR"
    channels = node.output.dims[1]

    def element(n: Expr, c: Expr, y: Expr, w: Expr) -> Expr:
        inner = tirx.floormod(y, block) * block + tirx.floormod(w, block)
        source = inner * channels + c if first else c * (block * block) + inner
        return at(x, [n, source, tirx.floordiv(y, block), tirx.floordiv(w, block)])

    return [compute(node.output.dims, element, "depth_to_space")]


@lowers("SpaceToDepth")
def space_to_depth(node: Node, inputs: Inputs) -> list[Any]:
    """Blocks of pixels become channels; the inverse of DepthToSpace in its two modes."""
    x = needed(node, inputs)
    block, first = node.integer("blocksize"), attr(node, "mode", "DCR") == "DCR"
    channels = shape_of(x)[1]

    def element(n: Expr, c: Expr, y: Expr, w: Expr) -> Expr:
        if first:
            source, inner = tirx.floormod(c, channels), tirx.floordiv(c, channels)
        else:
            source, inner = tirx.floordiv(c, block * block), tirx.floormod(c, block * block)
        down, right = tirx.floordiv(inner, block), tirx.floormod(inner, block)
        return at(x, [n, source, y * block + down, w * block + right])

    return [compute(node.output.dims, element, "space_to_depth")]


@lowers("Shape")
def shape(node: Node, inputs: Inputs) -> list[Any]:
    """The static shape, or a part of it."""
    dims = static(node, 0).dims
    end = attr(node, "end")
    part = dims[slice(attr(node, "start", 0), None if end is None else int(end))]
    if not part:
        return [filled((0,), 0, "int64", "shape")]
    return [constant(np.array(part, np.int64), "int64", "shape")]


@lowers("Size")
def size(node: Node, inputs: Inputs) -> list[Any]:
    """The number of elements."""
    return [filled((), static(node, 0).elements, "int64", "size")]


@lowers("ConstantOfShape")
def constant_of_shape(node: Node, inputs: Inputs) -> list[Any]:
    """A tensor of one value."""
    value = attr(node, "value")
    number = 0 if value is None else np.asarray(value).reshape(-1)[0]
    kind = storage(node.output.dtype)
    if kind != node.output.dtype and not isinstance(number, int):
        number = np.asarray(number).view(kind)
    return [filled(node.output.dims, number if isinstance(number, int) else number.item(), kind, "constant_of_shape")]


@lowers("Dropout")
def dropout(node: Node, inputs: Inputs) -> list[Any]:
    """The identity: nothing is dropped in inference.

    Raises:
        UnsupportedError: training mode is on.
    """
    training = parameter(node, 2, "training_mode")
    ratio = node.const(1)
    dropping = (ratio is None and node.input(1) is not None) or ratio is None or float(ratio.reshape(())) != 0
    if training is not None and bool(training.reshape(())) and dropping:
        raise UnsupportedError(f"{node.label()}: training mode draws random numbers")
    x = needed(node, inputs)
    made = [compute(shape_of(x), lambda *i: at(x, i), "dropout"), filled(shape_of(x), True, "bool", "mask")]
    return made[: len(node.outputs)]
