"""Pad in all its modes, and CenterCropPad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx

from onyxc.backends.lowering.registry import axes, lowers, parameter, required, storage
from onyxc.backends.lowering.scalar import attr
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, optional, padded, shape_of
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any


def _edge(i: Expr, extent: int, low: int, high: int) -> Expr:
    if low < 0:
        i = tirx.max(i, 0)
    return tirx.min(i, extent - 1) if high >= extent else i


def _reflect(i: Expr, extent: int, low: int, high: int) -> Expr:
    last = extent - 1
    if low < -last or high > 2 * last:  # back and forth more than once
        if not last:
            return tirx.const(0, "int32")
        i = tirx.floormod(i, 2 * last)
        return tirx.min(i, 2 * last - i)
    if low < 0:
        i = tirx.max(i, 0 - i)
    return tirx.min(i, 2 * last - i) if high >= extent else i


def _wrap(i: Expr, extent: int, low: int, high: int) -> Expr:
    return tirx.floormod(i, extent) if low < 0 or high >= extent else i


MODES: dict[str, Callable[[Expr, int, int, int], Expr]] = {"edge": _edge, "reflect": _reflect, "wrap": _wrap}


def _amounts(node: Node, rank: int) -> tuple[list[int], list[int]]:
    """Elements before and after each axis."""
    pads = parameter(node, 1, "pads")
    if pads is None:
        raise UnsupportedError(f"{node.label()}: pads are missing")
    given = parameter(node, 3, "axes")
    along = axes(given, rank) if given is not None else tuple(range(rank))
    before, after = [0] * rank, [0] * rank
    for axis, low, high in zip(along, pads[: len(along)], pads[len(along) :], strict=True):
        before[axis], after[axis] = int(low), int(high)
    return before, after


@lowers("Pad")
def pad(node: Node, inputs: Inputs) -> list[Any]:
    """Elements around the tensor: a constant, its edge, its mirror image or itself again."""
    x = needed(node, inputs)
    old = shape_of(x)
    before, after = _amounts(node, len(old))
    mode = attr(node, "mode", "constant")
    if mode == "constant":
        value = optional(inputs, 2)
        number = tirx.const(0, str(x.dtype)) if value is None else at(value, [0] * len(shape_of(value)))
        made = padded(x, before, after, number, "pad")
        return [compute(old, lambda *i: at(x, i), "pad") if made is x else made]
    source = MODES[mode]

    def element(*index: Expr) -> Expr:
        where = [
            source(i - low if low else i, extent, -low, total - 1 - low)
            for i, extent, low, total in zip(index, old, before, node.output.dims, strict=True)
        ]
        if not old or (before[-1] <= 0 and after[-1] <= 0):
            return at(x, where)
        # said as a condition too: the loops are cut there, and the inside of the last axis runs as plain vectors
        inner = index[-1] - before[-1]
        inside = tirx.And(inner >= 0, inner < old[-1])
        return tirx.if_then_else(inside, at(x, [*where[:-1], inner]), at(x, where))

    return [compute(node.output.dims, element, "pad")]


@lowers("CenterCropPad")
def center_crop_pad(node: Node, inputs: Inputs) -> list[Any]:
    """Some axes cropped or zero-padded around their middle to given sizes."""
    x = needed(node, inputs)
    old = shape_of(x)
    sizes = required(node, 1, "shape")
    given = attr(node, "axes")
    along = axes(np.array(given), len(old)) if given else tuple(range(len(old)))
    before, after = [0] * len(old), [0] * len(old)
    for axis, size in zip(along, sizes, strict=True):
        change = int(size) - old[axis]
        before[axis] = change // 2 if change > 0 else -((-change) // 2)
        after[axis] = change - before[axis]
    made = padded(x, before, after, tirx.const(0, storage(node.output.dtype)), "center_crop_pad")
    return [compute(old, lambda *i: at(x, i), "center_crop_pad") if made is x else made]
