"""Softmax, LogSoftmax and Hardmax: along one axis, 16-bit floats in float32."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.reduction import LARGEST, arg_reducer, fold
from onyxc.backends.lowering.registry import axes, lowers
from onyxc.backends.lowering.scalar import attr, cast, like, select, wide
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, shape_of, widen, zeroed
from onyxc.compiler.ir.graph import Node

Expr = Any


@lowers("Softmax", "LogSoftmax")
def softmax(node: Node, inputs: Inputs) -> list[Any]:
    """e^x over its sum along an axis, or the logarithm of that."""
    x, shape = widen(needed(node, inputs)), node.output.dims
    along = axes(attr(node, "axis", -1), len(shape))
    peak = fold(x, along, LARGEST, name="peak")

    def shifted(*index: Expr) -> Expr:
        return at(x, index) - at(peak, zeroed(index, along))

    # a stage of its own, which both the sum and the quotient read
    powers = compute(shape, lambda *i: tirx.exp(shifted(*i)), "powers")
    total = fold(powers, along, te.sum, name="total")

    def finish(whole: Expr) -> Expr:
        return tirx.log(whole) if node.op == "LogSoftmax" else like(whole, 1) / whole

    row = compute(shape_of(total), lambda *i: finish(at(total, i)), "row")  # once a row: division is slow

    def element(*index: Expr) -> Expr:
        own = at(row, zeroed(index, along))
        result = shifted(*index) - own if node.op == "LogSoftmax" else at(powers, index) * own
        return cast(result, node.output.dtype)

    return [compute(shape, element, node.op.lower())]


@lowers("Hardmax")
def hardmax(node: Node, inputs: Inputs) -> list[Any]:
    """1 at the first largest element along an axis, 0 elsewhere."""
    x, shape = needed(node, inputs), node.output.dims
    (axis,) = axes(attr(node, "axis", -1), len(shape))
    r = te.reduce_axis((0, shape[axis]), "r")
    reducer = arg_reducer(largest=True, last=False)
    found = te.compute(
        (*shape[:axis], *shape[axis + 1 :]),
        lambda *i: reducer((r.var, wide(at(x, [*i[:axis], r.var, *i[axis:]]))), axis=r),
        name="arg",
    )[0]

    def element(*index: Expr) -> Expr:
        hit = tirx.EQ(at(found, [*index[:axis], *index[axis + 1 :]]), index[axis])
        one = tirx.const(1, node.output.dtype)
        return select(hit, one, tirx.const(0, node.output.dtype))

    return [compute(shape, element, "hardmax")]
