"""A pointwise convolution moves in front of the Resize that enlarges its input, and then works on fewer pixels.

    Conv(Resize(x), w[O, C, 1, 1], b)              ->  Resize(Conv(x, w, b))
    Conv(Concat(x, Resize(y)), w[O, C, 1, 1], b)   ->  Conv(x, w[:, :X], b) + Resize(Conv(y, w[:, X:]))

Interpolation and convolution are linear, one over pixels, the other over channels, and the weights of an interpolation
sum to one, so that the bias stays. Feature pyramids, decoders and the heads of segmentation networks are such. Refused:
other readers, few channels (each output has to be added up and may be enlarged in addition), and resizing that crops.
"""

from __future__ import annotations

from math import prod
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Rule, RulePass, rule
from onyxc.passes.fold.pool_first import is_pointwise

LEAST = 64  # multiply-adds that must be saved for each output; more where the output has more channels than the part


@rule("Conv")
def resize_last(op: Builder, node: Node) -> Value | None:
    """Conv(Concat(x, Resize(y))) = Conv(x) + Resize(Conv(y))."""
    if not _is_plain(node):
        return None
    x, weight, bias = node.operand(), node.operand(1).array, node.input(2)
    joint = _concat(x)
    parts = [x] if joint is None else [v for v in joint.inputs if v is not None]
    ends = np.cumsum([part.dims[1] for part in parts])
    slices = [weight[:, end - part.dims[1] : end] for part, end in zip(parts, ends, strict=True)]
    moved = [_pays(part, joint or node, len(weight)) for part in parts]
    if not any(moved):
        return None
    total: Value | None = None
    kept = [i for i, moves in enumerate(moved) if not moves]
    if kept:
        rest = [parts[i] for i in kept]
        source = rest[0] if len(rest) == 1 else op.Concat(*rest, axis=1)
        total = op.like(node, source, op.constant(np.concatenate([slices[i] for i in kept], 1), "weight"), bias)
    for part, own, moves in zip(parts, slices, moved, strict=True):
        if moves:
            made = _enlarged(op, part, op.like(node, _source(part), op.constant(own, "weight"), None if total else bias))
            total = made if total is None else op.Add(total, made)
    return total


def _is_plain(conv: Node) -> bool:
    """Whether it is a pointwise convolution of one group in float32, with constant weights and static shapes."""
    plain = is_pointwise(conv) and conv.integer("group", 1) == 1 and conv.const(1) is not None
    return plain and conv.output.dtype == "float32" and conv.operand().tensor.is_static and conv.output.tensor.is_static


def _concat(x: Value) -> Node | None:
    """The Concat of channels that makes ``x``, if it goes when all its readers are rewritten."""
    node = x.producer
    if node is None or not node.is_op("Concat") or node.integer("axis") % x.tensor.rank != 1 or len(node.inputs) == 1:
        return None
    plain = all(isinstance(user, Node) and user.is_op("Conv") and _is_plain(user) for user, _ in x.uses)
    return node if plain and all(v is not None and v.tensor.is_static for v in node.inputs) else None


def _pays(part: Value, user: Node, outputs: int) -> bool:
    """Whether a convolution to ``outputs`` channels should be done before ``part`` is enlarged."""
    node = part.producer
    if node is None or not node.is_op("Resize") or part.only_user is not user or not _source(part).tensor.is_static:
        return False
    before, after = _source(part).dims, part.dims
    if before[:2] != after[:2] or {a % part.tensor.rank for a in node.integers("axes")} & {0, 1}:
        return False
    if node.const(2) is None and node.const(3) is None:
        return False
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    saved = before[1] * (1 - prod(before[2:]) / prod(after[2:]))
    return saved >= LEAST * max(1, outputs / before[1])


def _source(part: Value) -> Value:
    assert part.producer is not None
    return part.producer.operand()


def _enlarged(op: Builder, part: Value, x: Value) -> Value:
    """``x`` enlarged as ``part`` is."""
    node = part.producer
    assert node is not None
    inputs, sizes = list(node.inputs), node.const(3)
    if sizes is not None and not node.integers("axes"):
        inputs[3] = op.constant(np.array([sizes[0], x.dims[1], *sizes[2:]], np.int64), "sizes")
    return op.like(node, x, *inputs[1:])


class ResizeLast(RulePass):
    """Pointwise convolutions in front of Resizes that enlarge."""

    name: ClassVar[str] = "resize-last"
    rules: ClassVar[tuple[Rule, ...]] = (resize_last,)
