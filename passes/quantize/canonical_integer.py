"""Operators that come quantized take the form of folded fake quantization.

    QLinearConv(x, sx, zx, w, sw, zw, sy, zy, b)   ->  Requantize(Add(ConvInteger(x, w, zx, zw), b), sx * sw / sy)
    QLinearMatMul(a, sa, za, b, sb, zb, sy, zy)    ->  Requantize(MatMulInteger(a, b, za, zb), sa * sb / sy)
    ConvInteger(x, w), MatMulInteger(a, b)         ->  the same with zero points
    DynamicQuantizeLinear(x)                       ->  Q(x, s, z)
    Q(Mul(Cast(sum), s), 1, zy)                    ->  Requantize(sum, s), as `compiler.loader.to_model` writes it

with s = (max(x, 0) - min(x, 0)) / 255, z = rint(-min(x, 0) / s). A dynamically quantized tensor of zeros has scale 1,
as in onnxruntime (the ONNX text divides by zero). Where scales are not constant or per row, the QLinear operators
become float operators between DequantizeLinear and QuantizeLinear.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.integer import limits
from onyxc.compiler.rewrite import Builder, Constant, Pattern, Refuse, Rule, RulePass, apply_rules, rule
from onyxc.compiler.transform import PassResult
from onyxc.passes.quantize import products
from onyxc.passes.quantize.parameters import BYTES, Parameters, apply, own


def _parameters(x: Value | None, scale: Value | None, zero: Value | None, axis: int) -> Parameters | None:
    if x is None or scale is None or scale.const is None or (zero is not None and zero.const is None):
        return None
    s = scale.const
    z = np.zeros((), np.int32) if zero is None or zero.const is None else zero.const.astype(np.int32)
    dtype = x.dtype if zero is None else zero.dtype
    if s.dtype != np.float32 or dtype not in BYTES or s.ndim > 1 or z.ndim > 1:
        return None
    if s.size == 1:
        return Parameters(s.reshape(()), z.reshape(()), dtype) if z.size == 1 else None
    return Parameters(s, np.broadcast_to(z, s.shape), dtype, axis)


@rule("QLinearConv")
def q_linear_conv(op: Builder, node: Node) -> Value | None:
    """An integer convolution, a bias and a rescaling."""
    x, sx, zx, w, sw, zw, sy, zy, *rest = node.inputs
    px, pw, py = _parameters(x, sx, zx, 0), _parameters(w, sw, zw, 0), _parameters(x, sy, zy, 0)
    bias = rest[0] if rest else None
    made = None
    if x is not None and w is not None and px is not None and pw is not None and py is not None and py.per_tensor:
        made = products.conv(op, x, px, w, pw, dict(node.attrs))
    if made is not None and py is not None and (bias is None or bias.const is not None):
        total, scale = made
        if bias is not None and bias.const is not None and w is not None:
            shape = (-1, *(1,) * (w.tensor.rank - 2))
            total = op.Add(total, op.constant(bias.const.reshape(shape), bias.name))
        return products.requantize(op, products.Sum(total, scale), py, *limits(py.dtype))
    real = [op.DequantizeLinear(x, sx, zx), op.DequantizeLinear(w, sw, zw, axis=0), _real_bias(op, bias, sx, sw)]
    attrs: dict[str, Any] = dict(node.attrs)
    return op.QuantizeLinear(op.Conv(*real, **attrs), sy, zy)


def _real_bias(op: Builder, bias: Value | None, sx: Value | None, sw: Value | None) -> Value | None:
    return None if bias is None else op.Mul(op.Cast(bias, to=1), op.Mul(sx, sw))


@rule("QLinearMatMul")
def q_linear_matmul(op: Builder, node: Node) -> Value | None:
    """An integer product and a rescaling."""
    a, sa, za, b, sb, zb, sy, zy = node.inputs
    pa, pb, py = _parameters(a, sa, za, 0), _parameters(b, sb, zb, 1), _parameters(a, sy, zy, 0)
    if a is None or b is None:
        return None
    if pa is not None and pb is not None and py is not None and py.per_tensor:
        made = products.matmul(op, a, pa, b, pb)
        if made is not None:
            return products.requantize(op, products.Sum(*made), py, *limits(py.dtype))
    left = op.DequantizeLinear(a, sa, za, axis=max(a.tensor.rank - 2, 0))
    right = op.DequantizeLinear(b, sb, zb, axis=max(b.tensor.rank - 1, 0))
    return op.QuantizeLinear(op.MatMul(left, right), sy, zy)


@rule("ConvInteger", "MatMulInteger")
def explicit_zero_points(op: Builder, node: Node) -> Value | None:
    """Four inputs, always."""
    full = list(node.inputs[:2])
    for index in (0, 1):
        zero = node.input(2 + index)
        full.append(op.constant(np.zeros((), node.operand(index).dtype), "zero_point") if zero is None else zero)
    return None if full == list(node.inputs) else apply(op, node, full).output


class RequantizeAgain(Rule):
    """Q(Mul(Cast(sum), s), 1, zy) with an int32 sum -> Requantize."""

    def pattern(self, op: Pattern, total: Any, scale: Constant, zero: Constant) -> Any:
        return op.QuantizeLinear(op.Mul(op.Cast(total, to=1), scale), 1.0, zero)

    def check(self, total: Value, scale: Value, zero: Value) -> None:
        if total.dtype != "int32" or zero.dtype not in BYTES or zero.const is None or zero.const.size != 1:
            raise Refuse("not an int32 sum made 8-bit codes")

    def rewrite(self, op: Builder, total: Value, scale: Value, zero: Value) -> Value:
        low, high = limits(zero.dtype)
        point = zero.array.item()
        return own(op, "Requantize", [total, scale], zero_point=point, dtype=zero.dtype, low=low, high=high)


class QuantizeDynamically(Rule):
    """DynamicQuantizeLinear in plain arithmetic."""

    ops = frozenset({"DynamicQuantizeLinear"})

    def apply(self, node: Node, op: Builder) -> Sequence[Value] | None:
        """Codes, scale and zero point."""
        if node.domain:
            return None
        (x,) = node.inputs
        zero, one, most = (op.constant(np.float32(v)) for v in (0, 1, 255))
        least = op.Min(op.ReduceMin(x, keepdims=0), zero)
        span = op.Sub(op.Max(op.ReduceMax(x, keepdims=0), zero), least)
        scale = op.Where(op.Equal(span, zero), one, op.Div(span, most))
        point = op.Cast(op.Round(op.Clip(op.Neg(op.Div(least, scale)), zero, most)), to=2)
        return [op.QuantizeLinear(x, scale, point), scale, point]


@dataclass(frozen=True)
class CanonicalInteger(RulePass):
    """QLinear and dynamically quantized operators in the one integer form."""

    name: ClassVar[str] = "canonical-integer"
    rules: ClassVar[tuple[Rule, ...]] = (
        q_linear_conv, q_linear_matmul, explicit_zero_points, RequantizeAgain(), QuantizeDynamically(),
    )  # fmt: skip

    def run(self, graph: Graph) -> PassResult:
        """Apply the rules."""
        return apply_rules(graph, self.rules)
