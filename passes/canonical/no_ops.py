"""Operators that compute nothing go away, and pure changes of shape take one form: Reshape to a constant shape.

    Identity(%x), Dropout(%x), Cast(%x) to its own type, Sum(%x), Concat(%x), Pad by nothing ...   ->   %x
    Transpose(Transpose(%x))        ->   Transpose(%x), or %x
    Squeeze, Unsqueeze, Flatten     ->   Reshape(%x, @shape)         where the shape is static but for one dimension
    Reshape(Reshape(%x))            ->   Reshape(%x, @shape)

Refused: Dropout whose mask is read or that may train; casts through a type that loses values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import Dim, TensorType
from onyxc.compiler.rewrite import Builder, Pattern, Refuse, Rule, RulePass, rule


@rule("Identity")
def identity(op: Builder, node: Node) -> Value | None:
    """Identity(x) = x."""
    return node.inputs[0]


@rule("Dropout")
def dropout(op: Builder, node: Node) -> Value | None:
    """Dropout(x) = x outside training."""
    training = node.const(2)
    if node.input(2) is not None and (training is None or training.any()):
        raise Refuse("it may train")
    if any(v.uses for v in node.outputs[1:]):
        raise Refuse("its mask is read")
    return node.inputs[0]


@rule("Sum", "Max", "Min", "Mean", "Concat")
def one_input(op: Builder, node: Node) -> Value | None:
    """Sum(x) = Max(x) = Concat(x) = x."""
    return node.inputs[0] if len(node.inputs) == 1 else None


@rule("Concat")
def concat_of_nothing(op: Builder, node: Node) -> Value | None:
    """Concat(x, empty) = x."""
    axis = node.integer("axis")
    kept = [v for v in node.inputs if v is not None and not (v.tensor.shape and v.tensor.shape[axis] == 0)]
    if not 0 < len(kept) < len(node.inputs):
        return None
    return op.Concat(*kept, axis=axis)


@rule("Concat")
def nested_concat(op: Builder, node: Node) -> Value | None:
    """Concat(Concat(x, y), z) = Concat(x, y, z) along one axis."""
    axis, shape = node.integer("axis"), node.output.tensor.shape
    rank = None if shape is None else len(shape)
    flat: list[Value | None] = []
    for value in node.inputs:
        inner = value.producer if value is not None and value.only_user is node else None
        same = inner is not None and inner.is_op("Concat") and _axis(inner, rank) == _axis(node, rank)
        flat += inner.inputs if inner is not None and same else [value]
    return op.Concat(*flat, axis=axis) if len(flat) > len(node.inputs) else None


def _axis(node: Node, rank: int | None) -> int:
    axis = node.integer("axis")
    return axis + rank if axis < 0 and rank else axis


@rule("Split")
def split_in_one(op: Builder, node: Node) -> Value | None:
    """Split(x) into one part = x."""
    return node.inputs[0] if len(node.outputs) == 1 else None


# ---- casts


@rule("Cast", "CastLike")
def cast_to_same(op: Builder, node: Node) -> Value | None:
    """Cast(x, to its own type) = x."""
    value = node.operand()
    return value if value.dtype == node.output.dtype else None


class CastPair(Rule):
    """Cast(Cast(x, wide), t) = Cast(x, t) where ``wide`` holds every value of x."""

    def pattern(self, op: Pattern, x: Any) -> Any:
        return op.Cast(op.Cast(x, _name="inner", _shared=True))

    def rewrite(self, op: Builder, x: Value, inner: Node, root: Node) -> Value:
        if not _holds(inner.output.dtype, x.dtype):
            raise Refuse(f"{inner.output.dtype} does not hold every {x.dtype}")
        return op.Cast(x, to=root.attrs["to"], saturate=root.attrs.get("saturate"))


def _holds(wide: str, narrow: str) -> bool:
    if narrow == "bool":
        return wide not in ("string", "bool")
    try:
        return np.can_cast(np.dtype(narrow), np.dtype(wide), "safe")
    except TypeError:
        return (narrow, wide) in (("bfloat16", "float32"), ("bfloat16", "float64"))


# ---- moving


@rule("Transpose")
def transpose(op: Builder, node: Node) -> Value | None:
    """Transpose(x) = x where no axis moves; Reshape(x) where only axes of one element do."""
    value, perm = node.operand(), _perm(node)
    if perm == tuple(range(len(perm))):
        return value
    if any(n.is_op("Transpose") for n in (value.producer, *node.output.users) if n is not None):
        return None  # first they become one
    shape = value.tensor.shape
    moved = [p for p in perm if shape is None or shape[p] != 1]
    if shape is not None and moved == sorted(moved) and _target(node.output.tensor) is not None:
        return reshape_to(op, value, node.output.tensor)
    return None


class TransposePair(Rule):
    """Transpose(Transpose(x, p), q) = Transpose(x, p[q])."""

    def pattern(self, op: Pattern, x: Any) -> Any:
        return op.Transpose(op.Transpose(x, _name="inner", _shared=True))

    def rewrite(self, op: Builder, x: Value, inner: Node, root: Node) -> Value:
        first, second = _perm(inner), _perm(root)
        return op.Transpose(x, perm=tuple(first[i] for i in second))


def _perm(node: Node) -> tuple[int, ...]:
    perm = node.attrs.get("perm")
    if isinstance(perm, tuple):
        return perm
    return tuple(range(node.operand().tensor.rank))[::-1]


# ---- shapes


@rule("Squeeze", "Unsqueeze", "Flatten", "Reshape")
def to_reshape(op: Builder, node: Node) -> Value | None:
    """Squeeze(x) = Unsqueeze(x) = Flatten(x) = Reshape(x, shape)."""
    value, type = node.operand(), node.output.tensor
    target = _target(type)
    if target is None:
        return None
    given = node.const(1) if node.op == "Reshape" else None
    if given is not None and node.attrs.get("allowzero") == int(0 in target) and given.tolist() == target:
        return None
    return reshape_to(op, value, type)


@rule("Reshape", "Expand", "Slice", "Pad", "Tile", "Resize", "AveragePool", "MaxPool", "DepthToSpace", "SpaceToDepth")
def same_shape(op: Builder, node: Node) -> Value | None:
    """An operator that copies its input element by element."""
    value = node.operand()
    if value.tensor.shape != node.output.tensor.shape or not value.tensor.is_static or any(
        v.uses for v in node.outputs[1:]
    ):  # fmt: skip
        return None
    return value if _copies(node) else None


def _copies(node: Node) -> bool:
    """Whether a node whose output has its input's shape copies it."""
    if node.op in ("Reshape", "Expand", "Tile"):
        return True
    if node.op == "Slice":
        return node.input(4) is None or bool(node.inputs[4] is not None and _all(node, 4, 1))
    if node.op == "Pad":
        return _all(node, 1, 0)
    if node.op == "Resize":
        return node.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize" and (
            node.input(2) is None or _all(node, 2, 1)
        )
    if node.op in ("DepthToSpace", "SpaceToDepth"):
        return node.attrs["blocksize"] == 1
    sizes = (*node.integers("kernel_shape"), *node.integers("strides"))
    return all(n == 1 for n in sizes) and not any(node.integers("pads"))


def _all(node: Node, index: int, number: int) -> bool:
    data = node.const(index)
    return data is not None and bool(np.all(data == number))


class ReshapePair(Rule):
    """Reshape(Reshape(x), shape) = Reshape(x, shape)."""

    def pattern(self, op: Pattern, x: Any, s: Any, shape: Any) -> Any:
        return op.Reshape(op.Reshape(x, s, _name="inner", _shared=True), shape)

    def rewrite(self, op: Builder, x: Value, shape: Value, root: Node) -> Value:
        if _target(root.output.tensor) is not None:
            return reshape_to(op, x, root.output.tensor)
        if shape.const is None or (0 in shape.const and not root.attrs.get("allowzero")):
            raise Refuse("the outer shape may copy dimensions of the inner result")
        return op.Reshape(x, shape, allowzero=root.attrs.get("allowzero"))


def reshape_to(op: Builder, value: Value, type: TensorType) -> Value:
    """``value`` reshaped to the shape of ``type``, of which at most one dimension is unknown."""
    target = _target(type)
    assert target is not None
    return op.Reshape(value, op.constant(np.array(target, np.int64), "shape"), allowzero=int(0 in target))


def _target(type: TensorType) -> list[int] | None:
    """A constant Reshape target for a shape with at most one unknown dimension (none if another is 0)."""
    dims: Sequence[Dim] | None = type.shape
    if dims is None:
        return None
    target = [d if isinstance(d, int) else -1 for d in dims]
    return target if target.count(-1) == 0 or (target.count(-1) == 1 and 0 not in target) else None


@rule("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
def reduce_nothing(op: Builder, node: Node) -> Value | None:
    """Reductions over axes of one element are Reshape(x); over no axes, x."""
    value, axes = node.operand(), node.const(1)
    shape = value.tensor.shape
    if shape is None or (node.input(1) is not None and axes is None):
        return None
    if axes is None or axes.size == 0:
        if node.attrs.get("noop_with_empty_axes"):
            return value
        axes = np.arange(len(shape))
    if any(shape[int(a)] != 1 for a in axes) or _target(node.output.tensor) is None:
        return None
    return reshape_to(op, value, node.output.tensor)


@rule("Clip")
def clip_without_bounds(op: Builder, node: Node) -> Value | None:
    """Clip(x) = x without bounds, or with infinite ones."""
    low, high = node.const(1), node.const(2)
    free_low = node.input(1) is None or (low is not None and bool(np.all(low == -np.inf)))
    free_high = node.input(2) is None or (high is not None and bool(np.all(high == np.inf)))
    return node.inputs[0] if free_low and free_high else None


@rule("Abs", "Ceil", "Floor", "Relu", "Round", "Sign")
def idempotent(op: Builder, node: Node) -> Value | None:
    """Relu(Relu(x)) = Relu(x), and so for rounding, Abs and Sign."""
    value = node.inputs[0]
    return value if value is not None and value.producer is not None and value.producer.is_op(node.op) else None


class NoOps(RulePass):
    """Removes operators that change nothing and merges changes of shape."""

    name: ClassVar[str] = "no-ops"
    rules: ClassVar[tuple[Rule, ...]] = (
        identity, dropout, one_input, concat_of_nothing, nested_concat, split_in_one, cast_to_same, CastPair(),
        TransposePair(), transpose, same_shape, ReshapePair(), to_reshape, reduce_nothing, clip_without_bounds,
        idempotent,
    )  # fmt: skip
