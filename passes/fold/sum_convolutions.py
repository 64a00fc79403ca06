"""A sum of convolutions of one image is one convolution, whose filters are the sums.

    Conv(x, v[O, C, 3, 3], a) + Conv(x, w[O, C, 1, 1], b)  ->  Conv(x, v + w in the middle, a + b)
    Conv(x, v[C, C, 3, 3], a) + (x * s + t)                ->  Conv(x, v + diag(s) in the middle, a + t)

and differences likewise. Networks are trained in that form (RepVGG, RepMixer, MobileOne) and often exported in it. The
window of one addend must contain the other's, groups may be finer in it. Everything is computed in float64 and rounded
once. Refused: weights that are not constant, are pruned or have a palette, addends that something else reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.types import is_float
from onyxc.compiler.rewrite import Builder, Refuse, Rule, RulePass, rule
from onyxc.passes.fold.affine import affine, rounded
from onyxc.passes.fold.batch_norm import into_operator_before


@dataclass(frozen=True)
class Addend:
    """A convolution of ``x``: ``weights`` float64 [O, C / group, *kernel], ``bias`` float64 of O elements or one.

    ``pads``: those in front of each axis; ``dilations`` None: the kernel has one tap.
    """

    x: Value
    weights: Array
    bias: Array
    group: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...] | None
    pads: tuple[int, ...]


@rule("Add", "Sub")
def sum_convolutions(op: Builder, node: Node) -> Value | None:
    """f(x) + g(x) = h(x) where f is a convolution and g another, or x with a factor and a shift per channel."""
    signs = (1.0, -1.0 if node.op == "Sub" else 1.0)
    for main, other in ((0, 1), (1, 0)):
        conv = _convolution(node, main)
        first = None if conv is None else _addend(conv)
        if conv is None or first is None:
            continue
        beside = _convolution(node, other)
        second = _addend(beside) if beside is not None else _affine_addend(node, other, first)
        if second is None or second.x is not first.x:
            continue
        taps = _in_window(second, first)
        if taps is None:
            continue
        weights = signs[main] * first.weights + signs[other] * taps
        bias = np.broadcast_to(signs[main] * first.bias + signs[other] * second.bias, weights.shape[:1])
        like = conv.operand(1)
        made = op.constant(np.ascontiguousarray(rounded(weights, like)), like.name)
        shift = op.constant(rounded(bias, like), f"{like.name}_bias") if bias.any() else None
        return op.like(conv, first.x, made, shift)
    return None


def _convolution(node: Node, index: int) -> Node | None:
    """The Conv that makes an operand of ``node``, and nothing else's, without broadcasting."""
    value = node.inputs[index]
    made = None if value is None else value.producer
    if value is None or made is None or not made.is_op("Conv") or value.only_user is not node:
        return None
    return made if value.tensor.shape is not None and value.tensor.shape == node.output.tensor.shape else None


def _addend(conv: Node) -> Addend | None:
    """A convolution with constant weights and explicit pads."""
    x, weight, bias = conv.inputs[0], conv.inputs[1], conv.input(2)
    if x is None or weight is None or weight.const is None or not is_float(weight.dtype):
        return None
    if conv.attrs.get("auto_pad", "NOTSET") != "NOTSET" or (bias is not None and bias.const is None):
        return None
    if weight.facts:
        raise Refuse("a weight is pruned or has a palette")
    rank = weight.tensor.rank - 2
    ones = (1,) * rank
    return Addend(
        x=x, weights=weight.array.astype(np.float64),
        bias=np.zeros(1) if bias is None or bias.const is None else bias.const.astype(np.float64),
        group=conv.integer("group", 1), strides=conv.integers("strides", ones),
        dilations=None if weight.dims[2:] == ones else conv.integers("dilations", ones),
        pads=conv.integers("pads", (0,) * (2 * rank))[:rank],
    )  # fmt: skip


def _affine_addend(node: Node, index: int, beside: Addend) -> Addend | None:
    """x * s + t, or x itself, as a convolution of one tap for each channel."""
    value, rank = node.inputs[index], beside.weights.ndim - 2
    channels = len(beside.weights)
    scale, shift = np.ones(1), np.zeros(1)
    while value is not beside.x:
        made = None if value is None else value.producer
        if value is None or made is None or not made.is_op("Mul", "Add", "BatchNormalization") or not value.only_user:
            return None
        found = affine(made)
        if found is None:
            return None
        value, scale, shift = found.x, found.scale * scale, found.shift * scale + shift
    if value.tensor.shape is None or value.tensor.shape != node.output.tensor.shape:
        return None
    taps = np.broadcast_to(scale, (channels,)).reshape(channels, *[1] * (rank + 1))
    return Addend(beside.x, taps, shift, channels, (1,) * rank, None, (0,) * rank)


def _in_window(inner: Addend, outer: Addend) -> Array | None:
    """The weights of ``inner`` as weights of ``outer``'s shape, None where a tap lies outside of that."""
    rank, kernel = outer.weights.ndim - 2, outer.weights.shape[2:]
    if inner.strides != outer.strides or inner.group % outer.group:
        return None
    if inner.dilations is not None and inner.dilations != outer.dilations:
        return None
    places: list[slice] = []
    for axis, step in enumerate(outer.dilations or (1,) * rank):
        first, apart = divmod(outer.pads[axis] - inner.pads[axis], step)
        end = first + inner.weights.shape[2 + axis]
        if apart or first < 0 or end > kernel[axis]:
            return None
        places.append(slice(first, end))
    taps = np.zeros_like(outer.weights)
    rows, channels = len(taps) // inner.group, inner.weights.shape[1]
    for group in range(inner.group):
        own, first = slice(group * rows, (group + 1) * rows), group * channels % taps.shape[1]
        taps[(own, slice(first, first + channels), *places)] = inner.weights[own]
    return taps


class SumConvolutions(RulePass):
    """Sums of convolutions, and the factors of such sums, which may keep them from the next sum."""

    name: ClassVar[str] = "sum-convolutions"
    rules: ClassVar[tuple[Rule, ...]] = (sum_convolutions, into_operator_before)
