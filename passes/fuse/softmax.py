"""Softmax from its parts.

    e = exp(x - max(x));  e / sum(e)      ->   Softmax(x)       also without the maximum, where this avoids overflow
    log(Softmax(x))                       ->   LogSoftmax(x)
    d - log(sum(exp(d))), d = x - max(x)  ->   LogSoftmax(x)

Maximum and sum may be without keepdims. Refused: several axes.
"""

from __future__ import annotations

from typing import ClassVar

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule
from onyxc.passes.fuse.forms import made_by, pair, reduced, through_reshape


def _along(value: Value | None, op: str) -> tuple[Value, int] | None:
    """(x, axis) of a reduction of x along one axis that keeps it."""
    node = made_by(through_reshape(value), op)
    axes = reduced(node, value) if node is not None else None
    if node is None or axes is None or node.inputs[0] is None:
        return None
    if len(axes) != 1:
        raise Refuse("the reduction has several axes")
    return node.inputs[0], axes[0]


def _unshifted(value: Value, axis: int) -> Value:
    """x of x - max(x)."""
    node = made_by(value, "Sub")
    found = _along(node.inputs[1], "ReduceMax") if node is not None else None
    return found[0] if node is not None and found is not None and found == (node.inputs[0], axis) else value


def _exponent(value: Value | None) -> Value | None:
    node = made_by(value, "Exp")
    return None if node is None else node.inputs[0]


@rule("Div", "Mul")
def softmax(op: Builder, node: Node) -> Value | None:
    """exp(x) / sum(exp(x))."""
    for top, bottom in pair(node) if node.op == "Mul" else pair(node)[:1]:
        inverse = made_by(bottom, "Reciprocal") if node.op == "Mul" else None
        found = _along(inverse.inputs[0] if inverse is not None else bottom, "ReduceSum")
        exponent = _exponent(top)
        if found is None or exponent is None or found[0] is not top or (node.op == "Mul" and inverse is None):
            continue
        if not is_float(node.output.dtype):
            return None
        return op.Softmax(_unshifted(exponent, found[1]), axis=found[1])
    return None


@rule("Log")
def log_softmax(op: Builder, node: Node) -> Value | None:
    """log(Softmax(x))."""
    source = made_by(node.inputs[0], "Softmax")
    return op.LogSoftmax(source.inputs[0], axis=source.attrs["axis"]) if source is not None else None


@rule("Sub")
def log_softmax_parts(op: Builder, node: Node) -> Value | None:
    """x - max(x) - log(sum(exp(x - max(x))))."""
    x, right = node.inputs
    bare = through_reshape(right)
    logarithm = made_by(bare, "Log")
    total = logarithm.inputs[0] if logarithm is not None else None
    if total is None or x is None or right is None or not is_float(x.dtype):
        return None
    source = made_by(through_reshape(total), "ReduceSum")
    axes = reduced(source, right) if source is not None else None
    if source is None or axes is None or len(axes) != 1 or _exponent(source.inputs[0]) is not x:
        return None
    return op.LogSoftmax(_unshifted(x, axes[0]), axis=axes[0])


class FuseSoftmax(RulePass):
    """Softmax and LogSoftmax from their parts."""

    name: ClassVar[str] = "fuse-softmax"
    rules: ClassVar[tuple[Rule, ...]] = (softmax, log_softmax, log_softmax_parts)
