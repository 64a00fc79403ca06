"""Operators of domain ``onyxc`` on quantized tensors: what fake-quantized patterns fold into.

A quantized tensor q of 8 bits stands for the real numbers scale * (q - zero_point). Convolutions and matrix products
stay ConvInteger and MatMulInteger, whose int32 results are exact; an int32 bias is an ordinary Add. Then come

    Requantize(acc, scale)   clip(rint(f32(acc) * scale) + zero_point)
    Rescale(x)               clip(rint(f32(x - x_zero_point) * x_scale / y_scale) + y_zero_point)
    QAdd(a, b)               clip(rint(fma(a, ra, fma(b, rb, c))))
    QMul(a, b)               clip(rint(f32((a - a_zero_point) * (b - b_zero_point)) * r + y_zero_point))
    QAveragePool(x)          clip(rint(sum / n / y_scale + y_zero_point)), on [N, ..., C] with ``channels_last`` = 1
    QSoftmax(x, table)       clip(rint(e * floor(1 / y_scale) / f32(sum of e)) + y_zero_point), e = table[255 + x - max(x)]
    Lookup(x, table)         table[x]

    ra = a_scale / y_scale, rb = b_scale / y_scale, r = a_scale * b_scale / y_scale
    c = y_zero_point - fma(ra, a_zero_point, rb * b_zero_point)
    sum: of x_scale * f32(x - x_zero_point), in the order of the window; n: how many there are
    table of Lookup: 256 entries; a negative x counts from the end (the byte of x is the index)
    table of QSoftmax: `exponentials`, float32; e is summed in float32, in order along ``axis``, then all is float64

Everything else is rounded to float32 after each operation, from left to right, save inside fma(a, b, c) = a * b + c,
which is rounded once; rint rounds half to even; clip is to the attributes [low, high], which lie within the output's
``dtype``. Inputs broadcast as in Add: the scale of Requantize is f32(f32(sx * sw) / sy) of shape [], or [C, 1, 1] for
C channels. Scales and zero points of single tensors are attributes.

These are the formulas of onnxruntime's integer kernels on x86 (mlas: MlasRequantizeOutput, qladd_avx2.cpp, qlmul.cpp;
contrib_ops: qlinear_pool.cc, qlinear_softmax.cc). QAdd, QMul and QAveragePool add the zero point before they round,
which differs from the ONNX text at ties. `compiler.ir.reference` computes them; the decompositions here write them
as standard operators.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import Dim, TensorType, Type

POOL = ("auto_pad", "ceil_mode", "count_include_pad", "dilations", "kernel_shape", "pads", "strides")


def limits(dtype: str) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def number(node: Node, name: str) -> float:
    """A scalar attribute."""
    value = node.attrs[name]
    assert isinstance(value, int | float)
    return value


def scalar(node: Node, prefix: str) -> tuple[np.float32, int]:
    """The scale and zero point that the attributes hold for tensor ``prefix``."""
    return np.float32(number(node, f"{prefix}_scale")), int(number(node, f"{prefix}_zero_point"))


def dtype_of(node: Node) -> str:
    """The output's element type."""
    value = node.attrs["dtype"]
    assert isinstance(value, str)
    return value


def add_constants(node: Node) -> tuple[np.float32, np.float32, np.float32]:
    """QAdd as clip(rint(fma(a, ra, fma(b, rb, c)))): (ra, rb, c)."""
    (sa, za), (sb, zb), (sy, zy) = (scalar(node, p) for p in "aby")
    ra, rb = np.float32(sa / sy), np.float32(sb / sy)
    inner = np.float32(float(ra) * za + float(np.float32(rb * np.float32(zb))))
    return ra, rb, np.float32(np.float32(zy) - inner)


def exponentials(scale: float | np.float32, length: int) -> Array:
    """The table of QSoftmax: exp((k - 255) * scale), times the power that lets ``length`` of them fill a float32."""
    most = np.finfo(np.float32).max / np.float32(length)
    step = float(np.float32(scale))
    shift = max(0.0, float(np.float32(math.log(most))) - 5) / step
    return np.array([math.exp((k - 255 + shift) * step) for k in range(256)], np.float32)


# ---- types


def _tensor(node: Node, index: int) -> TensorType:
    return node.operand(index).tensor


def broadcast(shapes: Sequence[tuple[Dim, ...] | None]) -> tuple[Dim, ...] | None:
    """The shape of elementwise results; None where a rank is unknown."""
    known = [s for s in shapes if s is not None]
    if len(known) != len(shapes):
        return None
    rank = max(map(len, known))
    columns = zip(*((1,) * (rank - len(s)) + s for s in known), strict=True)
    return tuple(next((d for d in column if d != 1), 1) for column in columns)


@schema.own("Requantize")
@schema.own("QAdd")
@schema.own("QMul")
def _binary_type(node: Node) -> tuple[Type, ...]:
    return (TensorType(dtype_of(node), broadcast([_tensor(node, 0).shape, _tensor(node, 1).shape])),)


@schema.own("Rescale")
@schema.own("QSoftmax")
def _rescale_type(node: Node) -> tuple[Type, ...]:
    return (TensorType(dtype_of(node), _tensor(node, 0).shape),)


@schema.own("Lookup")
def _lookup_type(node: Node) -> tuple[Type, ...]:
    return (TensorType(_tensor(node, 1).dtype, _tensor(node, 0).shape),)


@schema.own("QAveragePool")
def _pool_type(node: Node) -> tuple[Type, ...]:
    last, shape = bool(node.attrs.get("channels_last")), _tensor(node, 0).shape
    given = (shape[0], shape[-1], *shape[1:-1]) if last and shape is not None else shape
    x, y = Value("x", TensorType("float32", given)), Value("y", TensorType("float32"))
    plain = Node("AveragePool", "", (x,), (y,), {k: node.attrs[k] for k in POOL if k in node.attrs})
    root = node.graph.root() if node.graph is not None else None
    (type,) = infer.output_types(plain, root.opset if root is not None and root.opset else schema.OPSET)
    assert isinstance(type, TensorType)
    found = type.shape
    return (TensorType(dtype_of(node), (found[0], *found[2:], found[1]) if last and found is not None else found),)


# ---- decompositions


def _constant(body: Graph, value: float | np.float32, dtype: str) -> Value:
    return body.constant(np.asarray(value, dtype))


def _dequantize(node: Node, body: Graph, x: Value, prefix: str) -> Value:
    scale, zero = scalar(node, prefix)
    parameters = [_constant(body, scale, "float32"), _constant(body, zero, x.dtype)]
    return infer.add(body, "DequantizeLinear", [x, *parameters]).output


def _quantize(node: Node, body: Graph, x: Value, scale: float | np.float32, zero: int) -> Value:
    dtype = dtype_of(node)
    low, high = int(number(node, "low")), int(number(node, "high"))
    y = infer.add(body, "QuantizeLinear", [x, _constant(body, scale, "float32"), _constant(body, zero, dtype)]).output
    if (low, high) == limits(dtype):
        return y
    return infer.add(body, "Clip", [y, _constant(body, low, dtype), _constant(body, high, dtype)]).output


@schema.decomposition("Requantize")
def _requantize(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    x = infer.add(body, "Cast", [inputs[0]], to=1).output
    y = infer.add(body, "Mul", [x, inputs[1]]).output
    return _quantize(node, body, y, 1.0, int(number(node, "zero_point")))


@schema.decomposition("Rescale")
def _rescale(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    return _quantize(node, body, _dequantize(node, body, inputs[0], "x"), *scalar(node, "y"))


@schema.decomposition("QAdd")
@schema.decomposition("QMul")
def _arithmetic(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    """The literal form: equal except at ties, and onnxruntime makes its integer kernel of it again."""
    operands = [_dequantize(node, body, v, p) for v, p in zip(inputs, "ab", strict=True)]
    y = infer.add(body, node.op.removeprefix("Q"), operands).output
    return _quantize(node, body, y, *scalar(node, "y"))


@schema.decomposition("QAveragePool")
def _average_pool(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    attrs: dict[str, Any] = {k: node.attrs[k] for k in POOL if k in node.attrs}
    if all(d == 1 for d in node.integers("dilations")):  # onnxruntime's integer kernel has no such attribute
        attrs.pop("dilations", None)
    x, rank = inputs[0], inputs[0].tensor.rank
    if node.attrs.get("channels_last"):
        x = infer.add(body, "Transpose", [x], perm=(0, rank - 1, *range(1, rank - 1))).output
    y = infer.add(body, "AveragePool", [_dequantize(node, body, x, "x")], **attrs).output
    y = _quantize(node, body, y, *scalar(node, "y"))
    if node.attrs.get("channels_last"):
        y = infer.add(body, "Transpose", [y], perm=(0, *range(2, rank), 1)).output
    return y


@schema.decomposition("QSoftmax")
def _softmax(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    """The literal form, of which onnxruntime makes its integer kernel again."""
    y = infer.add(body, "Softmax", [_dequantize(node, body, inputs[0], "x")], axis=int(number(node, "axis"))).output
    return _quantize(node, body, y, *scalar(node, "y"))


@schema.decomposition("Lookup")
def _lookup(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    index = infer.add(body, "Cast", [inputs[0]], to=6).output
    return infer.add(body, "Gather", [inputs[1], index], axis=0).output
