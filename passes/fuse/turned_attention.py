"""Attention of transposed values becomes attention.

    p = Softmax(s); MatMul(v', Transpose(p))   ->   Transpose(MatMul(p, Transpose(v')))

Convolutional networks keep tokens along the last axis, [N, heads, channels, H * W], and write it so. The Transposes
then meet those of the network's layout.
"""

from __future__ import annotations

from typing import ClassVar

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule
from onyxc.passes.fuse.forms import made_by


@rule("MatMul")
def turned(op: Builder, node: Node) -> Value | None:
    """A product with transposed weights of a Softmax."""
    values, weights = node.operand(0), made_by(node.inputs[1], "Transpose")
    softmax = made_by(weights.inputs[0], "Softmax") if weights is not None else None
    if weights is None or softmax is None or values.const is not None or values.tensor.shape is None:
        return None
    rank = softmax.output.tensor.rank
    if weights.integers("perm") != _swapped(rank) or weights.output.only_user is not node:
        return None
    if values.tensor.rank != rank or rank < 3 or softmax.output.only_user is not weights:
        return None
    made = op.MatMul(softmax.output, op.Transpose(values, perm=_swapped(rank)))
    return op.Transpose(made, perm=_swapped(rank))


def _swapped(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


class TurnAttention(RulePass):
    """Values and result of attention are transposed instead of its weights."""

    name: ClassVar[str] = "turn-attention"
    rules: ClassVar[tuple[Rule, ...]] = (turned,)
