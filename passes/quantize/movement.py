"""Moving DequantizeLinear down and QuantizeLinear up through operators that only move numbers or choose among them.

    Reshape(DQ(x))  ->  DQ(Reshape(x))        exact: the codes move as the numbers would
    Q(Reshape(x))   ->  Reshape(Q(x))         where nothing else reads Reshape(x)

So data move as bytes, and quantizers meet the operators that they belong to. MaxPool, ReduceMax and ReduceMin are
included, since codes are ordered as their numbers are. Refused: scales per channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, rule
from onyxc.passes.quantize.elementwise import inner
from onyxc.passes.quantize.parameters import Parameters, apply, dequantized, quantizer

MOVES = (
    "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "MaxPool", "Pad",
    "ReduceMax", "ReduceMin", "Reshape", "Resize", "Slice", "SpaceToDepth", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip


def moves(node: Node | None) -> bool:
    """Whether the node moves or chooses elements of its first input, and nothing more."""
    if node is None or not node.is_op(*MOVES) or len([v for v in node.outputs if v.name and v.uses]) > 1:
        return False
    if node.op == "Resize":
        return node.attrs["mode"] == "nearest" and node.attrs["coordinate_transformation_mode"] != "tf_crop_and_resize"
    if node.op == "MaxPool":
        return len(node.outputs) == 1
    if node.op == "Pad":
        fill = node.input(2)
        return node.attrs["mode"] != "wrap" and (fill is None or fill.const is not None)
    return True


def _on_codes(op: Builder, node: Node, x: Value, parameters: Parameters) -> Value | None:
    """``node`` applied to codes."""
    others = list(node.inputs[1:])
    if node.op == "Pad" and node.attrs["mode"] == "constant":
        fill = node.const(2)
        real = 0.0 if fill is None else fill.item()
        code = parameters.code(real)
        if (np.float32(code) - np.float32(parameters.zero_point)) * parameters.scale != np.float32(real):
            return None
        others = [others[0], op.constant(np.asarray(code, parameters.dtype), "fill"), *others[2:]]
    return apply(op, node, [x, *others]).output


def _dequantize(op: Builder, x: Value, like: Node) -> Value:
    attrs: dict[str, Any] = {**like.attrs, "axis": 0}
    return op.DequantizeLinear(x, *like.inputs[1:], **attrs)


@rule(*MOVES)
def dequantize_later(op: Builder, node: Node) -> Value | None:
    """Move(DQ(x)) -> DQ(Move(x))."""
    source = node.inputs[0]
    found = dequantized(source) if moves(node) else None
    if found is None or source is None or source.producer is None or not found[1].per_tensor or _is_weight(found[0]):
        return None
    moved = _on_codes(op, node, *found)
    return None if moved is None else _dequantize(op, moved, source.producer)


@rule("Concat")
def concat_codes(op: Builder, node: Node) -> Value | None:
    """Concat of tensors with one scale -> DQ(Concat)."""
    found = [dequantized(v) for v in node.inputs]
    known = [f for f in found if f is not None]
    source = node.inputs[0]
    if len(known) != len(found) or source is None or source.producer is None:
        return None
    if not all(known[0][1].same(p) for _, p in known):
        return None
    return _dequantize(op, apply(op, node, [x for x, _ in known]).output, source.producer)


class SplitCodes(Rule):
    """Split(DQ(x)) -> DQ of each part."""

    ops = frozenset({"Split"})

    def apply(self, node: Node, op: Builder) -> Sequence[Value] | None:
        """The parts, dequantized."""
        source = node.inputs[0]
        found = dequantized(source)
        if node.domain or found is None or not found[1].per_tensor or source is None or source.producer is None:
            return None
        made = apply(op, node, [found[0], *node.inputs[1:]])
        return [_dequantize(op, part, source.producer) for part in made.outputs]


@rule("ArgMax", "ArgMin")
def choose_codes(op: Builder, node: Node) -> Value | None:
    """The place of the greatest number is that of the greatest code."""
    found = dequantized(node.inputs[0])
    return apply(op, node, [found[0]]).output if found is not None and found[1].per_tensor else None


@rule("QuantizeLinear")
def quantize_earlier(op: Builder, node: Node) -> Value | None:
    """Q(Move(x)) -> Move(Q(x)), and the same for Concat."""
    py = quantizer(node)
    mover = inner(node.inputs[0])
    if py is None or mover is None or any(v.producer is None and v.const is None for v in _data(mover)):
        return None
    attrs: dict[str, Any] = {**node.attrs, "axis": 0}
    if mover.is_op("Concat"):
        parts = [op.QuantizeLinear(v, *node.inputs[1:], **attrs) for v in mover.inputs]
        return apply(op, mover, parts).output
    if not moves(mover):
        return None
    return _on_codes(op, mover, op.QuantizeLinear(mover.inputs[0], *node.inputs[1:], **attrs), py)


def _data(node: Node) -> list[Value]:
    values = node.inputs if node.is_op("Concat") else node.inputs[:1]
    return [v for v in values if v is not None]


def _is_weight(value: Value) -> bool:
    return value.const is not None


RULES: tuple[Rule, ...] = (dequantize_later, concat_codes, SplitCodes(), choose_codes, quantize_earlier)
