"""Reading elements at places that other tensors name."""

from __future__ import annotations

from typing import Any

from onyxc.backends.lowering.registry import axes, lowers
from onyxc.backends.lowering.scalar import attr
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, position, replaced, shape_of
from onyxc.compiler.ir.graph import Node

Expr = Any


@lowers("Gather")
def gather(node: Node, inputs: Inputs) -> list[Any]:
    """Slices of one axis, at the indices."""
    x, indices = needed(node, inputs), needed(node, inputs, 1)
    shape, rank = shape_of(x), len(shape_of(indices))
    (axis,) = axes(attr(node, "axis", 0), len(shape))

    def element(*i: Expr) -> Expr:
        place = position(at(indices, i[axis : axis + rank]), shape[axis])
        return at(x, [*i[:axis], place, *i[axis + rank :]])

    return [compute(node.output.dims, element, "gather")]


@lowers("GatherElements")
def gather_elements(node: Node, inputs: Inputs) -> list[Any]:
    """Elements whose coordinate along one axis is an index."""
    x, indices = needed(node, inputs), needed(node, inputs, 1)
    shape = shape_of(x)
    (axis,) = axes(attr(node, "axis", 0), len(shape))

    def element(*i: Expr) -> Expr:
        return at(x, replaced(i, axis, position(at(indices, i), shape[axis])))

    return [compute(node.output.dims, element, "gather_elements")]


@lowers("GatherND")
def gather_nd(node: Node, inputs: Inputs) -> list[Any]:
    """Slices whose first coordinates, after the batch axes, are rows of the indices."""
    x, indices = needed(node, inputs), needed(node, inputs, 1)
    shape, rows = shape_of(x), len(shape_of(indices)) - 1
    batch, named = node.integer("batch_dims"), shape_of(indices)[-1]

    def element(*i: Expr) -> Expr:
        places = [position(at(indices, [*i[:rows], k]), shape[batch + k]) for k in range(named)]
        return at(x, [*i[:batch], *places, *i[rows:]])

    return [compute(node.output.dims, element, "gather_nd")]
