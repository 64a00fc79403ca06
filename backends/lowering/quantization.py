"""Quantized tensors by ONNX's operators: to and from real numbers, and the integer products between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from onyxc.backends.lowering import narrow
from onyxc.backends.lowering.casts import convert, plain, source_dtype
from onyxc.backends.lowering.convolution import integer_convolution
from onyxc.backends.lowering.matmul import integer_product
from onyxc.backends.lowering.reduction import LARGEST, SMALLEST, fold
from onyxc.backends.lowering.registry import aligned, axes, lowers
from onyxc.backends.lowering.scalar import HALF, attr, cast, like, select, wide
from onyxc.backends.lowering.tensors import Inputs, at, compute, needed, optional, replaced, shape_of
from onyxc.compiler.ir.graph import Node
from onyxc.compiler.ir.types import DTYPES, is_integer

Expr = Any


def limits(dtype: str) -> tuple[int, int]:
    """The least and greatest integer of ``dtype``."""
    width = int(dtype.lstrip("uint"))
    return (0, (1 << width) - 1) if dtype.startswith("u") else (-(1 << (width - 1)), (1 << (width - 1)) - 1)


def finished(real: Expr, zero: Expr | None, low: int, high: int, dtype: str) -> Expr:
    """A float32 rounded half to even, moved by a zero point (a float too) and limited to [low, high]."""
    code = tirx.round(real)
    if zero is not None:
        code = code + zero
    code = tirx.min(tirx.max(code, like(code, low)), like(code, high))
    return convert(cast(code, "int32"), dtype)


def granular(p: Any, index: Sequence[Expr], rank: int, axis: int, block: int) -> Expr:
    """The scale or zero point that holds for the element at ``index``."""
    shape = shape_of(p)
    if not shape or all(d == 1 for d in shape):
        return at(p, [0] * len(shape))
    if block:
        return at(p, replaced(index, axis, tirx.floordiv(index[axis], block)))
    if len(shape) == 1:
        return at(p, [index[axis] if rank > 1 or shape[0] > 1 else 0])
    return at(p, aligned(index, shape))


def _axis(node: Node, rank: int) -> int:
    (axis,) = axes(attr(node, "axis", 1), rank) if rank > 1 else (0,)
    return axis


@lowers("QuantizeLinear")
def quantize(node: Node, inputs: Inputs) -> list[Any]:
    """clip(round(x / scale) + zero_point), or a narrow float of x / scale."""
    x, scale, zero = needed(node, inputs), needed(node, inputs, 1), optional(inputs, 2)
    shape, target = node.output.dims, node.output.dtype
    axis, block = _axis(node, len(shape)), node.integer("block_size")
    given = node.integer("precision")
    short = str(x.dtype) in HALF and str(x.dtype) == str(scale.dtype)
    precision = DTYPES[given] if given else str(x.dtype) if short else "float32"

    def value(*index: Expr) -> Expr:
        s = granular(scale, index, len(shape), axis, block)
        s = cast(wide(plain(s, node.operand(1).dtype)), "float32")
        real = cast(wide(at(x, index)), "float32") / s
        if precision in HALF:
            real = wide(cast(real, precision))
        if not is_integer(target):
            return narrow.encode(real, target, bool(attr(node, "saturate", 1)))
        offset = None
        if zero is not None:
            point = plain(granular(zero, index, len(shape), axis, block), target)
            offset = cast(cast(point, "int32"), "float32")
        return finished(real, offset, *limits(target), target)

    return [compute(shape, value, "quantize")]


@lowers("DequantizeLinear")
def dequantize(node: Node, inputs: Inputs) -> list[Any]:
    """(x - zero_point) * scale."""
    x, scale, zero = needed(node, inputs), needed(node, inputs, 1), optional(inputs, 2)
    shape, source = node.output.dims, source_dtype(node)
    axis, block = _axis(node, len(shape)), node.integer("block_size")

    def value(*index: Expr) -> Expr:
        number = plain(at(x, index), source)
        if is_integer(source):
            number = cast(number, "int32")
            if zero is not None:
                number = number - cast(plain(granular(zero, index, len(shape), axis, block), source), "int32")
        s = plain(granular(scale, index, len(shape), axis, block), node.operand(1).dtype)
        return cast(cast(number, "float32") * cast(wide(s), "float32"), node.output.dtype)

    return [compute(shape, value, "dequantize")]


@lowers("DynamicQuantizeLinear")
def dynamic_quantize(node: Node, inputs: Inputs) -> list[Any]:
    """X as uint8, with the scale and zero point that fit its range."""
    x = needed(node, inputs)
    every = range(len(shape_of(x)))
    high = fold(x, every, LARGEST, keep=False, name="high") if shape_of(x) else x
    low = fold(x, every, SMALLEST, keep=False, name="low") if shape_of(x) else x

    def spread() -> Expr:
        top, bottom = tirx.max(at(high, ()), 0.0), tirx.min(at(low, ()), 0.0)
        return (top - bottom) / like(top, 255)

    scale = compute((), spread, "scale")

    def middle() -> Expr:
        step = at(scale, ())
        step = select(tirx.EQ(step, like(step, 0)), like(step, 1), step)
        place = (like(step, 0) - tirx.min(at(low, ()), 0.0)) / step
        return tirx.round(tirx.min(tirx.max(place, like(place, 0)), like(place, 255)))

    point = compute((), middle, "point")

    def value(*index: Expr) -> Expr:
        step = at(scale, ())
        step = select(tirx.EQ(step, like(step, 0)), like(step, 1), step)
        return finished(at(x, index) / step, at(point, ()), 0, 255, "uint8")

    whole = compute(shape_of(x), value, "dynamic_quantize")
    return [whole, scale, compute((), lambda: cast(cast(at(point, ()), "int32"), "uint8"), "zero_point")]


def requantized(acc: Expr, left: Expr, right: Expr, out: Expr, zero: Expr | None, dtype: str) -> Expr:
    """clip(round(acc * (left * right / out)) + zero): an int32 in the scale of the output."""
    factor = wide(left) * wide(right) / wide(out)
    offset = None if zero is None else cast(cast(zero, "int32"), "float32")
    return finished(cast(acc, "float32") * factor, offset, *limits(dtype), dtype)


def only(p: Any | None) -> Expr | None:
    """A scalar operand."""
    return None if p is None else at(p, [0] * len(shape_of(p)))


@lowers("QLinearMatMul")
def qlinear_matmul(node: Node, inputs: Inputs) -> list[Any]:
    """The product of quantized matrices, quantized."""
    a, sa, za, b, sb, zb, sy, zy = (optional(inputs, k) for k in range(8))
    shape = node.output.dims
    summed = integer_product(a, b, za, zb, shape)

    def value(*index: Expr) -> Expr:
        left = granular(sa, index, len(shape), max(0, len(shape) - 2), 0)
        right = granular(sb, index, len(shape), len(shape) - 1, 0)
        return requantized(at(summed, index), left, right, only(sy), only(zy), node.output.dtype)

    return [compute(shape, value, "qlinear_matmul")]


@lowers("QLinearConv")
def qlinear_conv(node: Node, inputs: Inputs) -> list[Any]:
    """The convolution of quantized tensors, quantized."""
    x, sx, zx, w, sw, zw, sy, zy, b = (optional(inputs, k) for k in range(9))
    summed = integer_convolution(node, x, w, zx, zw)

    def value(*index: Expr) -> Expr:
        acc = at(summed, index)
        if b is not None:
            acc = acc + cast(at(b, [index[1]]), "int32")
        right = at(sw, [index[1] if d > 1 else 0 for d in shape_of(sw)])
        return requantized(acc, only(sx), right, only(sy), only(zy), node.output.dtype)

    return [compute(node.output.dims, value, "qlinear_conv")]
