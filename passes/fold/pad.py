"""Padding moves into the operator that can do it on the way.

    Conv(Pad(x, p, 0), w)            ->  Conv(x, w) {pads + p}
    AveragePool(Pad(x, p, 0))        ->  AveragePool(x) {pads = p, count_include_pad = 1}
    MaxPool(Pad(x, p, -inf))         ->  MaxPool(x) {pads + p}      also for 0 where x >= 0

and into ConvInteger and QLinearConv where the value is the input's zero point. Refused: modes other than constant,
negative amounts, batch or channels padded, automatic padding, ceil_mode, pooling windows that would lie in the padding
altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import is_float
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule


@rule("Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool")
def pad_into(op: Builder, node: Node) -> Value | None:
    """f(Pad(x)) = f(x) with pads."""
    value = node.inputs[0]
    pad = None if value is None else value.producer
    if pad is None or not pad.is_op("Pad"):
        return None
    amounts, x = _amounts(pad), pad.inputs[0]
    if x is None or node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise Refuse("the operator pads automatically")
    old = node.integers("pads") or (0,) * len(amounts)
    changes: dict[str, Any] = {"pads": tuple(a + b for a, b in zip(old, amounts, strict=True)), "auto_pad": "NOTSET"}
    if not _neutral(node, pad, x):
        raise Refuse("the padding's value is not what the operator pads with")
    if node.op in ("AveragePool", "MaxPool"):
        _check_pool(node, changes["pads"])
    if node.op == "AveragePool":
        if any(old) and not node.attrs["count_include_pad"]:
            raise Refuse("the pool has padding that does not count")
        changes["count_include_pad"] = 1
    return op.like(node, x, *node.inputs[1:], **changes)


def _amounts(pad: Node) -> tuple[int, ...]:
    """What ``pad`` adds to the spatial axes, begins then ends."""
    pads, axes, x = pad.const(1), pad.const(3), pad.inputs[0]
    if pad.attrs["mode"] != "constant":
        raise Refuse("the mode is not constant")
    if pads is None or (pad.input(3) is not None and axes is None) or x is None or x.tensor.shape is None:
        raise Refuse("the amounts are not constant")
    rank = len(x.tensor.shape)
    full = np.zeros((2, rank), np.int64)
    full[:, np.arange(rank) if axes is None else axes % rank] = pads.reshape(2, -1)
    if np.any(full < 0) or np.any(full[:, :2]):
        raise Refuse("it crops, or pads batch or channels")
    return tuple(full[:, 2:].ravel().tolist())


def _neutral(node: Node, pad: Node, x: Value) -> bool:
    """Whether the operator itself pads with the value of ``pad``."""
    given = pad.const(2)
    if pad.input(2) is not None and given is None:
        return False
    number = 0.0 if given is None else float(given.ravel()[0])
    if node.op == "MaxPool":
        lowest = number == -np.inf or (is_float(x.dtype) and number <= -3e38)
        return lowest or (number == 0 and nonnegative(x))
    zero_point = node.const(2) if node.op in ("ConvInteger", "QLinearConv") else None
    if zero_point is None and node.op != "AveragePool" and node.op != "Conv" and node.input(2) is not None:
        return False
    return number == (0 if zero_point is None else float(zero_point.ravel()[0]))


def nonnegative(value: Value) -> bool:
    """Whether no element can be below zero."""
    producer = value.producer
    if value.dtype.startswith("uint"):
        return True
    if producer is None:
        return False
    low = producer.const(1)
    if producer.is_op("Clip"):
        return low is not None and float(low.ravel()[0]) >= 0
    return producer.is_op("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt", "ReduceL2")


def _check_pool(node: Node, pads: Sequence[int]) -> None:
    kernel = node.integers("kernel_shape")
    if node.attrs.get("ceil_mode"):
        raise Refuse("ceil_mode counts windows by the padded size")
    if any(v.uses for v in node.outputs[1:]):
        raise Refuse("indices into the padded input are read")
    if any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        raise Refuse("a window may lie in the padding altogether")


class FoldPad(RulePass):
    """Folds Pad into convolutions and pooling."""

    name: ClassVar[str] = "fold-pad"
    rules: ClassVar[tuple[Rule, ...]] = (pad_into,)
