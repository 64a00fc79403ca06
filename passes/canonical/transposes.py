"""Transposes with Reshapes between them are one Transpose, as exporters write windows, grids and pixel shuffles.

    Reshape, Transpose, Reshape, Transpose ...   ->   Reshape, Transpose, Reshape

A tensor is followed as the factors of its dimensions, each with its stride in the source: a Transpose moves them, a
Reshape joins and divides them. Refused: a Reshape that divides factors unevenly, and tensors that something else reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.strides import dense
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule

Factors = list[tuple[int, int]]  # size and stride


@rule("Transpose")
def compose(op: Builder, node: Node) -> Value | None:
    """The last of several Transposes, as one of the value that the first of them moves."""
    moves = _moves(node)
    while sum(m.is_op("Transpose") for m in moves) > 1:
        source = moves[-1].operand()
        factors = _follow(source.dims, moves[::-1])
        if factors is not None:
            order = sorted(range(len(factors)), key=lambda i: -factors[i][1])
            value = op.Reshape(source, op.constant(np.array([factors[i][0] for i in order], np.int64), "shape"))
            value = op.Transpose(value, perm=tuple(int(i) for i in np.argsort(order)))
            return op.Reshape(value, op.constant(np.array(node.output.dims, np.int64), "shape"))
        moves.pop()
    return None


def _moves(node: Node) -> list[Node]:
    """``node`` and the movement in front of it that nothing else reads, the last one first."""
    moves = [node]
    while True:
        value, maker = moves[-1].operand(), moves[-1].operand().producer
        fits = maker is not None and maker.graph is node.graph and value.only_user is moves[-1]
        if maker is None or not fits or not maker.is_op("Reshape", "Transpose"):
            break
        moves.append(maker)
    tensors = [v.tensor for m in moves for v in (m.operand(), m.output)]
    return moves if all(t.is_static and 0 not in t.dims for t in tensors) else []


def _follow(dims: Sequence[int], moves: Sequence[Node]) -> Factors | None:
    """The factors of the result of ``moves``, with their strides in the dense tensor of ``dims``."""
    groups: list[Factors] = [[(d, s)] if d > 1 else [] for d, s in zip(dims, dense(tuple(dims)), strict=True)]
    for move in moves:
        if move.is_op("Transpose"):
            groups = [groups[axis] for axis in move.integers("perm", tuple(range(len(groups)))[::-1])]
        else:
            divided = _divided([f for group in groups for f in group], move.output.dims)
            if divided is None:
                return None
            groups = divided
    joined: Factors = []
    for size, stride in (f for group in groups for f in group):
        if joined and joined[-1][1] == size * stride:
            joined[-1] = (joined[-1][0] * size, stride)
        else:
            joined.append((size, stride))
    return joined


def _divided(factors: Factors, dims: Sequence[int]) -> list[Factors] | None:
    """The factors of each of ``dims``, None where they do not divide evenly."""
    left, groups = factors[::-1], list[Factors]()
    for size in dims:
        groups.append([])
        while size > 1:
            length, stride = left.pop()
            if size % length and length % size:
                return None
            if length > size:
                left.append((length // size, stride))
                length, stride = size, stride * (length // size)
            groups[-1].append((length, stride))
            size //= length
    return groups


class ComposeTransposes(RulePass):
    """Transposes with Reshapes between them as one."""

    name: ClassVar[str] = "compose-transposes"
    rules: ClassVar[tuple[Rule, ...]] = (compose,)
