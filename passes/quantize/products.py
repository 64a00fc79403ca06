"""Convolutions and matrix products of quantized tensors: an exact int32 sum, an int32 bias, a rescaling.

    Q(Clip(Conv(DQ(x), DQ(w), b)))  ->  Requantize(Add(ConvInteger(x, w, xz, wz), b'), s) {low, high}
    Conv(DQ(x), DQ(w), b)           ->  Add(Mul(Cast(ConvInteger(x, w, xz, wz)), sx * sw), b)

with s = f32(f32(sx * sw) / sy) and b' = rint(b / f32(sx * sw)), as onnxruntime does (QLinearConv, QGemm,
QLinearMatMul, and WeightBiasQuantization for float biases). Refused: scales per channel along an axis that is summed
over, alpha or beta that are not 1, a bias that is not constant or does not fit int32; those stay float.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.integer import limits
from onyxc.compiler.ir.reference import run_node
from onyxc.compiler.ir.types import is_float
from onyxc.compiler.rewrite import Builder
from onyxc.passes.quantize.parameters import Parameters, dequantized, own

TOLERANCE = 1e-4  # relative difference at which an int32 bias still counts as having scale sx * sw


@dataclass(frozen=True, eq=False)
class Sum:
    """The int32 sum, the scale of one step (broadcasts against the sum) and the float bias that is to be added (a
    constant; reshaped to ``shape`` first, if given)."""

    value: Value
    scale: Array
    bias: Value | None = None
    shape: tuple[int, ...] | None = None


def integer_sum(op: Builder, node: Node) -> Sum | None:
    """Conv, Gemm or MatMul of dequantized inputs as an integer product."""
    build = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}.get(node.op)
    return build(op, node) if build is not None and node.domain == "" else None


def conv(
    op: Builder, x: Value, px: Parameters, w: Value, pw: Parameters, attrs: dict[str, Any]
) -> tuple[Value, Array] | None:
    """ConvInteger and the scale of one step, shaped [] or [C, 1, ...]."""
    if not px.per_tensor or not (pw.per_tensor or pw.axis == 0) or w.const is None:
        return None
    value = op.ConvInteger(x, w, _zero(op, px), _zero(op, pw), **attrs)
    step = np.asarray(px.scale * pw.scale, np.float32)
    return value, step.reshape(-1, *(1,) * (w.tensor.rank - 2)) if step.ndim else step


def matmul(op: Builder, x: Value, px: Parameters, w: Value, pw: Parameters) -> tuple[Value, Array] | None:
    """MatMulInteger and the scale of one step, shaped [] or [N]."""
    if not px.per_tensor or x.tensor.shape is None or w.tensor.shape is None:
        return None
    if not pw.per_tensor and (pw.axis != 1 or w.tensor.rank != 2):
        return None
    return op.MatMulInteger(x, w, _zero(op, px), _zero(op, pw)), np.asarray(px.scale * pw.scale, np.float32)


def requantize(op: Builder, found: Sum, py: Parameters, low: int, high: int) -> Value:
    """The sum as 8-bit codes."""
    scale = op.constant(np.asarray(found.scale / np.float32(py.scale), np.float32), "scale")
    zero = int(py.zero_point)
    return own(op, "Requantize", [found.value, scale], zero_point=zero, dtype=py.dtype, low=low, high=high)


def to_real(op: Builder, found: Sum) -> Value:
    """The sum as float32 numbers."""
    real = op.Mul(op.Cast(found.value, to=1), op.constant(found.scale, "scale"))
    if found.bias is None:
        return real
    numbers = constant_numbers(found.bias) if found.shape is not None else None
    return op.Add(real, found.bias if numbers is None else op.constant(numbers.reshape(found.shape), found.bias.name))


def add_bias(op: Builder, found: Sum, bias: Value | None, *, rounded: bool) -> Sum | None:
    """Add a bias (it broadcasts) to the sum in int32, if it is an int32 constant of the right scale, or, where
    ``rounded`` allows it, any constant."""
    if bias is None:
        return found
    codes = _same_step(bias, found.scale)
    numbers = constant_numbers(bias) if codes is None and rounded else None
    if numbers is not None:
        real = np.rint(numbers / (found.scale if found.shape is None else found.scale.reshape(-1)))
        low, high = limits("int32")
        codes = real.astype(np.int32) if np.all((real >= low) & (real < high)) else None
    if codes is None:
        return None
    codes = codes if found.shape is None else codes.reshape(found.shape)
    return Sum(op.Add(found.value, op.constant(codes, bias.name)), found.scale)


def _same_step(bias: Value, step: Array) -> Array | None:
    """The codes of an int32 bias, if its scale is that of the sum."""
    found = dequantized(bias, ("int32",))
    if found is None or found[0].const is None or np.any(found[1].zero_point):
        return None
    codes, scale = found[0].const, found[1].scale
    if scale.ndim:
        scale = scale.reshape([-1 if d == found[1].axis else 1 for d in range(codes.ndim)])
    try:
        close = np.allclose(np.broadcast_to(scale, codes.shape), step.reshape(-1), rtol=TOLERANCE, atol=0)
    except ValueError:
        return None
    return codes if close else None


def constant_numbers(value: Value) -> Array | None:
    """The numbers of a constant, or of a dequantized constant."""
    if value.const is not None:
        return value.const if is_float(value.dtype) else None
    node = value.producer
    if node is None or not node.is_op("DequantizeLinear") or any(v is None or v.const is None for v in node.inputs):
        return None
    (numbers,) = run_node(node, [v.const for v in node.inputs if v is not None])
    return np.asarray(numbers, np.float32)


# ---- operators


def _operands(node: Node) -> tuple[Value, Parameters, Value, Parameters] | None:
    x, w = dequantized(node.inputs[0]), dequantized(node.inputs[1])
    return None if x is None or w is None else (*x, *w)


def _conv(op: Builder, node: Node) -> Sum | None:
    found = _operands(node)
    made = conv(op, *found, dict(node.attrs)) if found is not None else None
    if made is None or found is None:
        return None
    bias = node.input(2)
    if bias is None:
        return Sum(*made)
    return Sum(*made, bias, (-1, *(1,) * (found[2].tensor.rank - 2))) if constant_numbers(bias) is not None else None


def _gemm(op: Builder, node: Node) -> Sum | None:
    found = _operands(node)
    if found is None or node.attrs["alpha"] != 1.0 or (node.attrs["beta"] != 1.0 and node.input(2) is not None):
        return None
    x, px, w, pw = found
    if node.attrs["transA"]:
        x = op.Transpose(x, perm=(1, 0))
    if node.attrs["transB"]:
        w = transposed(op, w)
        pw = Parameters(pw.scale, pw.zero_point, pw.dtype, 1 - pw.axis)
    made = matmul(op, x, px, w, pw)
    return None if made is None else Sum(*made, node.input(2))


def _matmul(op: Builder, node: Node) -> Sum | None:
    found = _operands(node)
    made = matmul(op, *found) if found is not None else None
    return None if made is None else Sum(*made)


def transposed(op: Builder, w: Value) -> Value:
    """A matrix transposed, a constant one at once (what is known of it stays known)."""
    if w.const is None:
        return op.Transpose(w, perm=(1, 0))
    value = op.constant(np.ascontiguousarray(w.const.T), w.name)
    value.facts.update({k: np.ascontiguousarray(f.T) for k, f in w.facts.items() if k == "sparsity"})
    return value


def _zero(op: Builder, parameters: Parameters) -> Value:
    """The zero point as a constant: one number where all channels agree."""
    zero = parameters.zero_point
    if zero.ndim and np.all(zero == zero.flat[0]):
        zero = zero.flat[0]
    return op.constant(np.asarray(zero, parameters.dtype), "zero_point")
