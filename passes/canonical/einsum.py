"""An Einsum of two operands that is a product of matrices is a MatMul, for which there are kernels.

    Einsum(q, k, "bhid,bhjd->bhij")   ->   MatMul(q, Transpose(k))
    Einsum(x, w, "bld,hdk->blhk")     ->   Reshape(MatMul(Reshape(x), Reshape(Transpose(w))))

Dimensions are sorted into those of both operands and the result (batch), of both operands alone (summed), and of one
operand and the result. Refused: diagonals, dimensions that one operand alone has, broadcasting, vectors, outer products.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.einsum import parse
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule

FLOATS = ("float32", "float64", "float16", "bfloat16")
Labels = tuple[str, ...]


@rule("Einsum")
def product(op: Builder, node: Node) -> Value | None:
    """Einsum as MatMul between Transposes and Reshapes."""
    values = [v for v in node.inputs if v is not None]
    if len(values) != 2 or node.output.dtype not in FLOATS or not all(v.tensor.is_static for v in (*values, node.output)):
        return None
    equation = parse(node, [v.tensor.rank for v in values])
    result, pairs = equation.result, list(zip(values, equation.operands, strict=True))
    every = [*zip(result, node.output.dims, strict=True), *(p for v, t in pairs for p in zip(t, v.dims, strict=True))]
    sizes = dict(every)
    if 0 in sizes.values() or any(sizes[label] != size for label, size in every):
        return None
    if any(len(set(t)) < len(t) or not set(t) <= {*result, *other} for (_, t), (_, other) in (pairs, pairs[::-1])):
        return None
    pairs.sort(key=lambda pair: result[-1:] != () and result[-1] in pair[1])  # columns are the result's last
    (a, left), (b, right) = pairs
    batch = tuple(t for t in result if t in left and t in right)
    rows, columns = (tuple(t for t in result if t in own and t not in batch) for own in (left, right))
    summed = tuple(t for t in left if t not in result)
    if not (rows and columns and summed):
        return None
    made = op.MatMul(
        _grouped(op, a, left, batch, (rows, summed), sizes), _grouped(op, b, right, batch, (summed, columns), sizes)
    )
    made = _reshaped(op, made, [sizes[t] for t in (*batch, *rows, *columns)])
    return _moved(op, made, (*batch, *rows, *columns), result)


def _grouped(
    op: Builder, value: Value, labels: Labels, batch: Labels, groups: Sequence[Labels], sizes: dict[str, int]
) -> Value:
    """``value`` as [*batch, a dimension for each of ``groups``]."""
    moved = _moved(op, value, labels, (*batch, *(t for group in groups for t in group)))
    return _reshaped(op, moved, [*(sizes[t] for t in batch), *(prod(sizes[t] for t in group) for group in groups)])


def _moved(op: Builder, value: Value, labels: Labels, wanted: Labels) -> Value:
    return value if labels == wanted else op.Transpose(value, perm=tuple(labels.index(t) for t in wanted))


def _reshaped(op: Builder, value: Value, dims: Sequence[int]) -> Value:
    if value.tensor.shape == tuple(dims):
        return value
    return op.Reshape(value, op.constant(np.array(dims, np.int64), "shape"))


class EinsumToMatMul(RulePass):
    """Products of matrices by their name."""

    name: ClassVar[str] = "einsum-to-matmul"
    rules: ClassVar[tuple[Rule, ...]] = (product,)
