"""One element of an axis is a slice: kernels read it where it lies, a Gather copies it.

    Gather(%x: f32[3, 8, 4], @1)   ->   Reshape(Slice(%x, @1, @2, @0), @[8, 4])

PyTorch takes queries, keys and values out of one product so, and the first token of a sequence.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule
from onyxc.passes.canonical.no_ops import reshape_to


@rule("Gather")
def gather_one(op: Builder, node: Node) -> Value | None:
    """Gather(x, one constant index) = Reshape(Slice(x))."""
    x, index = node.operand(), node.const(1)
    if index is None or index.size != 1 or not x.tensor.is_static or not node.output.tensor.is_static:
        return None
    axis = node.integer("axis", 0) % x.tensor.rank
    first = int(index.item()) % x.dims[axis]
    bounds = (op.constant(np.array([n], np.int64), "bound") for n in (first, first + 1, axis))
    return reshape_to(op, op.Slice(x, *bounds), node.output.tensor)


class GatherToSlice(RulePass):
    """Gather of one element as Slice."""

    name: ClassVar[str] = "gather-to-slice"
    rules: ClassVar[tuple[Rule, ...]] = (gather_one,)
