"""An average over windows moves in front of a pointwise convolution, which then works on fewer pixels.

    AveragePool(Conv(x, w[O, C, 1, 1], b))        ->  Conv(AveragePool(x), w, b)
    GlobalAveragePool(Conv(x, w[O, C, 1, 1], b))  ->  Conv(GlobalAveragePool(x), w, b)

Both are linear, and the weights of an average sum to one, so that the bias stays. DenseNet's transitions are such.
Refused: padding that counts (a bias would weigh less there), a convolution with stride, pads or other readers, windows
that do not make the image smaller.
"""

from __future__ import annotations

from typing import ClassVar

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule


@rule("AveragePool", "GlobalAveragePool")
def pool_first(op: Builder, node: Node) -> Value | None:
    """pool(Conv(x, w, b)) = Conv(pool(x), w, b)."""
    value = node.inputs[0]
    conv = None if value is None else value.producer
    if value is None or conv is None or not conv.is_op("Conv") or conv.inputs[0] is None:
        return None
    if not is_pointwise(conv):
        raise Refuse("the convolution is not pointwise")
    if value.only_user is not node:
        raise Refuse("something else reads the convolution")
    if node.attrs.get("count_include_pad") and _may_pad(node) and conv.input(2) is not None:
        raise Refuse("padding counts, and there is a bias")
    if not (value.tensor.is_static and node.output.tensor.is_static):
        raise Refuse("the sizes are not known")
    if node.output.tensor.elements >= value.tensor.elements:
        raise Refuse("the image does not become smaller")
    return op.like(conv, op.like(node, conv.inputs[0]), *conv.inputs[1:])


def is_pointwise(conv: Node) -> bool:
    """Whether each output pixel reads the input pixel of its place alone."""
    weight = conv.inputs[1]
    if weight is None or not weight.tensor.is_static or any(d != 1 for d in weight.dims[2:]):
        return False
    return all(s == 1 for s in conv.integers("strides")) and not any(conv.integers("pads"))


def _may_pad(pool: Node) -> bool:
    return any(pool.integers("pads")) or bool(pool.attrs.get("ceil_mode")) or pool.attrs["auto_pad"] != "NOTSET"


class PoolFirst(RulePass):
    """Averages in front of pointwise convolutions."""

    name: ClassVar[str] = "pool-first"
    rules: ClassVar[tuple[Rule, ...]] = (pool_first,)
