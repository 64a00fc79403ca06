"""Rows of a table are read, not multiplied by ones and zeros; and what follows is done once on the table.

    MatMul(Cast(Equal(i, [0 ... n-1])), w)  ->   Gather([w; 0], i where 0 <= i < n, else n)
    f(Gather(t, i), c)                      ->   Gather(f(t, c), i)

for constants w, t and c, where c is the same for all rows; the table has no more rows than are read. Refused: tables
with infinite elements, of which a product makes NaN; tables that something else reads.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule
from onyxc.passes.fuse.forms import made_by


@rule("MatMul")
def one_hot(op: Builder, node: Node) -> Value | None:
    """A product with rows that hold a single one."""
    table, index = node.const(1), _one_hot(node.inputs[0])
    if table is None or table.ndim != 2 or index is None or len(table) != node.operand().dims[-1]:
        return None
    if not np.isfinite(table).all():
        raise Refuse("the table has infinite elements")
    rows = len(table)
    kind = index.dtype
    low, high = (op.constant(np.array(n, kind), "bound") for n in (0, rows))
    inside = op.And(op.GreaterOrEqual(index, low), op.Less(index, high))
    flat = op.Squeeze(op.Where(inside, index, high), op.constant(np.array([-1], np.int64), "axes"))
    longer = op.constant(np.concatenate([table, np.zeros_like(table[:1])]), "table")
    return op.Gather(longer, flat, axis=0)


def _one_hot(value: Value | None) -> Value | None:
    """The indices [..., 1] of a tensor [..., n] that is 1 there and 0 elsewhere."""
    cast = made_by(value, "Cast")
    equal = made_by(cast.inputs[0], "Equal") if cast is not None else None
    if equal is None or value is None or not value.tensor.is_static or value.tensor.rank < 2:
        return None
    for index, steps in (equal.inputs, equal.inputs[::-1]):
        if index is None or steps is None or steps.const is None or index.const is not None:
            continue
        size = value.dims[-1]
        whole = steps.const.shape[-1:] == (size,) == (steps.const.size,) and index.dims == (*value.dims[:-1], 1)
        if whole and index.dtype in ("int32", "int64") and np.array_equal(steps.const.reshape(-1), np.arange(size)):
            return index
    return None


@rule(*sorted(o for o in facts.UNARY | facts.BROADCASTING))
def on_table(op: Builder, node: Node) -> Value | None:
    """Arithmetic on rows that are read from a small table."""
    free = [v for v in node.inputs if v is not None and v.const is None]
    gather = made_by(free[0], "Gather") if len(free) == 1 else None
    table = gather.inputs[0] if gather is not None else None
    if gather is None or table is None or not _is_known(table) or gather.output.only_user is not node:
        return None
    rows, others = table.dims, [v for v in node.inputs if v is not None and v.const is not None]
    if (
        gather.integer("axis")
        or len(table.uses) > 1
        or table.facts
        or node.output.tensor.shape != gather.output.tensor.shape
    ):
        return None
    if any(v.tensor.rank >= len(rows) for v in others) or not gather.output.tensor.is_static:
        return None
    if len(rows) < 2 or np.prod(gather.output.dims) < np.prod(rows):
        return None
    made = op.like(node, *(table if v is free[0] else v for v in node.inputs))
    return op.like(gather, made, gather.inputs[1])


def _is_known(value: Value) -> bool:
    """Whether the value is a constant, or arithmetic on such that folding is still to compute."""
    node = value.producer
    if node is None:
        return value.const is not None
    return facts.is_elementwise(node) and all(v is None or _is_known(v) for v in node.inputs)


class FoldOneHot(RulePass):
    """Products with one-hot rows as reads of a table; arithmetic on the table instead of on what is read."""

    name: ClassVar[str] = "fold-one-hot"
    rules: ClassVar[tuple[Rule, ...]] = (one_hot, on_table)
