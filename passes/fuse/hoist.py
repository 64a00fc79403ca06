"""Cheap arithmetic moves in front of movement, to the operator whose epilogue it can become.

    f(Reshape(MatMul(x, w)), c)      ->   Reshape(f(MatMul(x, w), c))       c a scalar, or along last axes that stay
    f(Transpose(Conv(x, w)), c)      ->   Transpose(f(Conv(x, w), c'))      c' is c transposed
    f(Concat(Conv(x, w), y), c)      ->   Concat(f(Conv(x, w), c), f(y, c)) c a scalar

for elementwise f whose other operands are constants. So the scale of attention meets the product that makes the
queries, and a bias that an exporter adds after a Reshape meets its product. Refused: movement that something else
reads, and what comes of no product, convolution, normalization, pool or arithmetic.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule

MOVES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose")


@rule(*sorted(o for o in facts.UNARY | facts.BROADCASTING))
def hoist(op: Builder, node: Node) -> Value | None:
    """f(move(x), c) = move(f(x, c))."""
    data = [v for v in node.inputs if v is not None and v.const is None]
    move = data[0].producer if len(data) == 1 else None
    if move is None or not move.is_op(*MOVES) or move.graph is not node.graph or move.output.only_user is not node:
        return None
    x = move.inputs[0]
    if x is None or not _is_computed(x) or not all(v.tensor.is_static for v in (x, move.output, node.output)):
        return None
    if node.output.dims != move.output.dims:
        return None
    inputs: list[Value | None] = []
    for value in node.inputs:
        moved = x if value is move.output else None if value is None else _moved(op, value, move, x)
        if value is not None and moved is None:
            return None
        inputs.append(moved)
    made = op.like(node, *inputs)
    return op.like(move, made, *move.inputs[1:])


@rule(*sorted(o for o in facts.UNARY | facts.BROADCASTING))
def hoist_over_concat(op: Builder, node: Node) -> Value | None:
    """f(Concat(x, y), c) = Concat(f(x, c), f(y, c)), where epilogues can take up all of the parts."""
    data = [v for v in node.inputs if v is not None and v.const is None]
    joint = data[0].producer if len(data) == 1 else None
    if joint is None or not joint.is_op("Concat") or joint.output.only_user is not node or joint.graph is not node.graph:
        return None
    parts = [v for v in joint.inputs if v is not None]
    numbers = [v for v in node.inputs if v is not None and v is not joint.output]
    if not all(map(_is_computed, parts)) or any(v.const is None or v.const.size != 1 or v.tensor.rank for v in numbers):
        return None
    if not parts or node.inputs.count(joint.output) != 1:
        return None
    made = [op.like(node, *(p if v is joint.output else v for v in node.inputs)) for p in parts]
    return op.like(joint, *made)


def _is_computed(value: Value) -> bool:
    """Whether the value's operator, which nothing else may read, can take an epilogue."""
    node = value.producer
    if node is None or value.only_user is None or len(node.outputs) != 1:
        return False
    if node.is_op(*MOVES) and node.inputs[0] is not None:
        return _is_computed(node.inputs[0])
    return facts.key(node) in facts.ANCHORS or facts.is_elementwise(node)


def _moved(op: Builder, value: Value, move: Node, x: Value) -> Value | None:
    """A constant as it broadcasts in front of ``move``, None where it does not."""
    array = value.array
    if array.size == 1:
        return value if array.ndim <= x.tensor.rank else op.constant(array.reshape(()), value.name, value.dtype)
    if move.op == "Transpose":
        perm = move.integers("perm", tuple(range(x.tensor.rank))[::-1])
        full = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        moved = np.ascontiguousarray(full.transpose([perm.index(a) for a in range(len(perm))]))
        return op.constant(moved, value.name, value.dtype)
    old, new = x.dims, move.output.dims
    same = 0
    while same < min(len(old), len(new)) and old[-1 - same] == new[-1 - same]:
        same += 1
    lead = array.shape[: max(0, array.ndim - same)]
    if any(d != 1 for d in lead):
        return None
    return op.constant(array.reshape(array.shape[len(lead) :]), value.name, value.dtype)


class HoistElementwise(RulePass):
    """Elementwise operators with constants in front of Reshape and Transpose."""

    name: ClassVar[str] = "hoist-elementwise"
    rules: ClassVar[tuple[Rule, ...]] = (hoist, hoist_over_concat)
