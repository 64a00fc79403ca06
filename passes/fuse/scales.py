"""Numbers that scale queries or keys scale the scores instead, in attention's kernel.

    Softmax(f(MatMul(Mul(q, c), Div(k, d))))   ->   Softmax(f(Mul(MatMul(q, k), c/d)))    c, d numbers, f elementwise

Attention then reads q and k where they lie, be they parts of one product; scaled, they would be copies. Comes after
hoist-elementwise, which finds a better place for the number where q has a product of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule


@rule("MatMul")
def scale_scores(op: Builder, node: Node) -> Value | None:
    """MatMul(q * c, k * d) = MatMul(q, k) * (c * d), where a softmax reads it."""
    scales = [_scale(node.operand(i), node) for i in (0, 1)]
    if scales == [None, None] or not _makes_scores(node):
        return None
    factor, operands = 1.0, list[Value]()
    for i, scale in enumerate(scales):
        value = node.operand(i)
        if scale is not None:
            factor *= scale.factor
            value = scale.x
            for move in scale.moves:
                value = op.like(move, value, *move.inputs[1:])
        operands.append(value)
    return op.Mul(op.MatMul(*operands), op.constant(np.float32(factor), "scale"))


@dataclass(frozen=True)
class Scale:
    """``x`` times ``factor``, and what moves it then, in order."""

    x: Value
    factor: float
    moves: tuple[Node, ...]


def _scale(value: Value, user: Node) -> Scale | None:
    """Where ``value``, which only ``user`` reads, is scaled by a number."""
    moves: tuple[Node, ...] = ()
    node = value.producer if value.only_user is user else None
    while node is not None and node.is_op("Transpose", "Reshape") and node.graph is user.graph:
        moves = (node, *moves)
        value = node.operand()
        node = value.producer if value.only_user is node else None
    if node is None or node.graph is not user.graph or not node.is_op("Mul", "Div"):
        return None
    a, b = node.operand(0), node.operand(1)
    for x, by in ((a, b), (b, a))[: 1 if node.op == "Div" else 2]:
        factor = by.const.item() if by.const is not None and by.const.size == 1 else 0
        if factor and x.type == value.type:
            return Scale(x, 1 / factor if node.op == "Div" else factor, moves)
    return None


def _makes_scores(node: Node) -> bool:
    """Whether a Softmax reads the product, with nothing but elementwise operators between."""
    user = node.output.only_user
    while user is not None and user.graph is node.graph and facts.is_elementwise(user):
        user = user.output.only_user
    return user is not None and user.graph is node.graph and user.is_op("Softmax") and node.output.dtype == "float32"


class ScaleScores(RulePass):
    """Scales of queries and keys behind their product."""

    name: ClassVar[str] = "scale-scores"
    rules: ClassVar[tuple[Rule, ...]] = (scale_scores,)
