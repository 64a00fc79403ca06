"""Scales and shifts along an axis: found in nodes, put into weights and biases in float64, rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.types import is_float, numpy_dtype
from onyxc.compiler.rewrite import Builder, Refuse


@dataclass(frozen=True)
class Affine:
    """x * scale + shift along ``axis`` of ``x``; the arrays are float64, of the axis' length or of one element."""

    x: Value
    axis: int
    scale: Array
    shift: Array

    @property
    def shifts(self) -> bool:
        """Whether it adds anything."""
        return bool(np.any(self.shift))


def affine(node: Node, axis: int | None = None) -> Affine | None:
    """A BatchNormalization, Mul or Add with constants as an `Affine` along ``axis`` (default: 1), else None."""
    if node.op == "BatchNormalization":
        return _batch_norm(node) if axis in (None, 1) else None
    for x, other in (node.inputs, node.inputs[::-1]):
        if x is None or other is None or other.const is None or x.const is not None or not is_float(x.dtype):
            continue
        along = 1 if axis is None else axis
        vector = vector_along(other.const, x.tensor.shape, along)
        if vector is None or (x.tensor.shape and len(x.tensor.shape) < other.const.ndim):
            continue
        one, zero = np.ones(1), np.zeros(1)
        return Affine(x, along, vector, zero) if node.op == "Mul" else Affine(x, along, one, vector)
    return None


def _batch_norm(node: Node) -> Affine | None:
    if node.attrs.get("training_mode") or len(node.outputs) > 1:
        raise Refuse("it trains")
    arrays = [node.const(i) for i in range(1, 5)]
    x = node.inputs[0]
    if x is None or any(a is None for a in arrays):
        raise Refuse("its statistics are not constant")
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    scale = gamma / np.sqrt(variance + node.real("epsilon"))
    return Affine(x, 1, scale, beta - mean * scale)


def vector_along(array: Array, shape: tuple[int | str, ...] | None, axis: int) -> Array | None:
    """A constant that broadcasts to ``shape`` and varies only along ``axis``, as a vector."""
    if array.size == 1:
        return array.astype(np.float64).reshape(1)
    if shape is None or array.ndim > len(shape) or not -len(shape) <= axis < len(shape):
        return None
    dims = (1,) * (len(shape) - array.ndim) + array.shape
    axis %= len(shape)
    vary = all(d == 1 or i == axis for i, d in enumerate(dims))
    return array.astype(np.float64).ravel() if vary and dims[axis] == shape[axis] else None


def float_weight(node: Node) -> Value:
    """The weight of a linear operator: a constant of floats (Refuse: it is something else)."""
    weight = node.inputs[1]
    if weight is None or weight.const is None or not is_float(weight.dtype):
        raise Refuse("the weight is not a float constant")
    return weight


def scaled(op: Builder, weight: Value, scale: Array) -> Value:
    """A weight times ``scale``, with the facts that still hold."""
    if np.all(scale == 1):
        return weight
    made = op.constant(rounded(weight.array.astype(np.float64) * scale, weight), weight.name)
    if "sparsity" in weight.facts:
        made.facts["sparsity"] = weight.facts["sparsity"]
    if scale.size == 1 and "palette" in weight.facts:
        made.facts["palette"] = rounded(np.asarray(weight.facts["palette"], np.float64) * scale.ravel(), weight)
    return made


def rounded(array: Array, like: Value) -> Array:
    """float64 numbers in the dtype of ``like`` (Refuse: one is too large for it)."""
    result = array.astype(numpy_dtype(like.dtype))
    if not np.all(np.isfinite(result.astype(np.float64))):
        raise Refuse("a weight overflows")
    return result


def new_bias(op: Builder, node: Node, by: Affine, channels: int) -> Value | None:
    """The bias of a convolution that scales and shifts its result as ``by`` says; None where there is none."""
    old = node.input(2)
    if old is not None and old.const is None:
        raise Refuse("the bias is not constant")
    if old is None and not by.shifts:
        return None
    data = np.zeros(1) if old is None or old.const is None else old.const.astype(np.float64)
    return new_vector(op, data * by.scale + by.shift, channels, float_weight(node), old)


def new_vector(op: Builder, data: Array, size: int, like: Value, old: Value | None = None) -> Value:
    """A constant of ``size`` numbers in the dtype of the weight ``like``; ``old`` if that holds them already."""
    array = rounded(np.broadcast_to(data, (size,)), like)
    if old is not None and old.const is not None and np.array_equal(old.const, array):
        return old
    return op.constant(np.array(array), f"{like.name}_bias" if old is None else old.name)
