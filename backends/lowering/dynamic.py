"""Operators whose output size depends on data: NonZero, Compress, NonMaxSuppression, Unique.

The convention:

    * A dynamic output has a bound shape, `bound`: the largest it can be. Its memory has that size.
    * The kernel lays data out densely by the *real* shape: the first prod(real shape) elements are the answer
      (NonZero's row d starts at element d * n, n being the real count). What lies behind is left as it was.
    * The Imperative's outputs are the node's outputs, in order (one that is left out, without a name, is not
      written), then for each dynamic one that is there an int64[rank] that receives its real shape: `dynamic`.
"""

from __future__ import annotations

from math import prod

import numpy as np

from onyxc.backends.lowering.registry import static
from onyxc.compiler.ir.graph import Node

Shape = tuple[int, ...]


def bound(node: Node) -> list[Shape]:
    """The largest static shape of each output of ``node`` (also of those that are left out).

    Raises:
        UnsupportedError: a size that the bound needs is not static.
    """
    rule = BOUNDS.get(node.op) if node.domain == "" else None
    if rule is None:
        return [v.dims for v in node.outputs]
    return rule(node)[: len(node.outputs)]


def dynamic(node: Node) -> tuple[int, ...]:
    """The indices of the outputs whose real shape the kernel reports; () for other operators."""
    found = DYNAMIC.get(node.op, ()) if node.domain == "" else ()
    return tuple(i for i in found if i < len(node.outputs) and node.outputs[i].name)


def axis_of(node: Node, rank: int) -> int | None:
    """The attribute ``axis`` as a non-negative number, None when it is not given."""
    axis = node.attrs.get("axis")
    return axis % rank if isinstance(axis, int) else None


def _nonzero(node: Node) -> list[Shape]:
    dims = static(node, 0).dims
    return [(len(dims), prod(dims))]


def _compress(node: Node) -> list[Shape]:
    dims, length = static(node, 0).dims, prod(static(node, 1).dims)
    chosen = node.const(1)
    if chosen is not None:
        limit = prod(dims) if (at := axis_of(node, len(dims))) is None else dims[at]
        length = int(np.count_nonzero(chosen[:limit]))
    axis = axis_of(node, len(dims))
    if axis is None:
        return [(min(length, prod(dims)),)]
    return [(*dims[:axis], min(length, dims[axis]), *dims[axis + 1 :])]


def _non_max_suppression(node: Node) -> list[Shape]:
    batches, classes, boxes = static(node, 1).dims
    each = boxes
    if node.input(2) is None:
        each = 0
    elif (limit := node.const(2)) is not None:
        each = max(0, min(boxes, int(limit.reshape(-1)[0])))
    return [(batches * classes * each, 3)]


def _unique(node: Node) -> list[Shape]:
    dims = static(node, 0).dims
    axis = axis_of(node, len(dims))
    count = prod(dims) if axis is None else dims[axis]
    return [(count,) if axis is None else dims, (count,), (count,), (count,)]


BOUNDS = {
    "NonZero": _nonzero,
    "Compress": _compress,
    "NonMaxSuppression": _non_max_suppression,
    "Unique": _unique,
}
DYNAMIC = {"NonZero": (0,), "Compress": (0,), "NonMaxSuppression": (0,), "Unique": (0, 1, 3)}
