"""GroupNormalization as exporters wrote it before ONNX had it.

    Reshape(InstanceNormalization(Reshape(x, [N, G, -1]), s, b), x's shape)  ->  GroupNormalization(x, s', b') {G groups}
    GroupNormalization(x, s, b) * c + t                                      ->  GroupNormalization(x, s c, b c + t)

where s' and b' repeat s and b for the channels of each group. Refused: parameters that are not constant.
"""

from __future__ import annotations

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import TensorType, is_float
from onyxc.compiler.rewrite import Builder, rule
from onyxc.passes.fold.affine import affine, rounded
from onyxc.passes.fuse.forms import made_by


@rule("Reshape")
def grouped(op: Builder, node: Node) -> Value | None:
    """An InstanceNormalization of whole groups of channels."""
    inner = made_by(node.inputs[0], "InstanceNormalization")
    before = made_by(inner.inputs[0], "Reshape") if inner is not None else None
    x = before.inputs[0] if before is not None else None
    if inner is None or before is None or x is None or x.type != node.output.type or not is_float(x.dtype):
        return None
    if not isinstance(x.type, TensorType) or not x.type.is_static or not before.output.tensor.is_static:
        return None
    scale, bias, (n, groups, *_) = inner.const(1), inner.const(2), before.output.dims
    if scale is None or bias is None or x.tensor.rank < 3 or x.dims[0] != n or x.dims[1] % groups:
        return None
    times = x.dims[1] // groups
    each = [op.constant(np.repeat(a, times), name) for a, name in ((scale, "scale"), (bias, "bias"))]
    return op.GroupNormalization(x, *each, num_groups=groups, epsilon=inner.real("epsilon"))


@rule("Mul", "Add")
def into_groups(op: Builder, node: Node) -> Value | None:
    """A gain or a shift of each channel behind a GroupNormalization."""
    source = next((s for v in node.inputs if (s := made_by(v, "GroupNormalization")) is not None), None)
    if source is None or source.output.only_user is not node or node.output.type != source.output.type:
        return None
    found, scale, bias = affine(node, 1), source.const(1), source.const(2)
    if found is None or found.x is not source.output or scale is None or bias is None:
        return None
    like = source.operand(1)
    made = [scale * found.scale, bias * found.scale + found.shift]
    return op.like(source, source.inputs[0], *(op.constant(rounded(a, like), like.name) for a in made))
