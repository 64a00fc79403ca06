"""The channels-last operators as TE: what their templates must equal, and what runs where no template fits."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.reduction import LARGEST
from onyxc.backends.lowering.registry import const, lowers, static
from onyxc.backends.lowering.scalar import lowest, rooted
from onyxc.compiler.ir.graph import Node
from onyxc.compiler.ir.types import is_float


def _padded(x: Any, pads: tuple[int, ...], size: tuple[int, int], fill: Any) -> Any:
    """[N, H, W, C] with ``pads`` (top, left, bottom, right) of ``fill`` around it, ``size`` in all."""
    top, left = pads[:2]
    if not any(pads) and size == (int(x.shape[1]), int(x.shape[2])):
        return x
    n, h, w, c = x.shape

    def element(b: Any, i: Any, j: Any, k: Any) -> Any:
        inside = tirx.all(i >= top, i < h + top, j >= left, j < w + left)
        return tirx.if_then_else(inside, x[b, i - top, j - left, k], fill)

    return te.compute((n, *size, c), element, name="pad")


def _size(out: tuple[int, ...], node: Node, kernel: tuple[int, ...]) -> tuple[int, int]:
    """Padded height and width that the windows reach."""
    (sh, sw), (dh, dw) = node.integers("strides"), node.integers("dilations")
    return (out[1] - 1) * sh + (kernel[0] - 1) * dh + 1, (out[2] - 1) * sw + (kernel[1] - 1) * dw + 1


@lowers("Conv", domain="onyxc")
def conv(node: Node, inputs: list[Any]) -> list[Any]:
    """The sum over kernel rows, kernel columns and the group's input channels."""
    x, w, *points = [*inputs, None, None][:4]
    if node.attrs["planar"]:
        planar = x
        n, c, h, width = planar.shape
        x = te.compute((n, h, width, c), lambda b, i, j, k: planar[b, k, i, j], name="last")
    if shuffle := node.integer("shuffle"):
        apart, each = x, int(x.shape[3]) // shuffle

        def channel(c: Any) -> Any:
            return tirx.floormod(c, shuffle) * each + tirx.floordiv(c, shuffle)

        x = te.compute(x.shape, lambda b, i, j, c: apart[b, i, j, channel(c)], name="shuffled")
    shape, (out_c, depth, kh, kw) = node.output.dims, static(node, 1).dims
    dtype = node.output.dtype
    if not is_float(dtype):
        zero = points[0]
        x = te.compute(x.shape, lambda *i: _integer(x[i]) - (0 if zero is None else _integer(_scalar(zero))), name="x32")
    padded = _padded(x, node.integers("pads"), _size(shape, node, (kh, kw)), const(0, dtype))
    (sh, sw), (dh, dw) = node.integers("strides"), node.integers("dilations")
    i, j, k = (te.reduce_axis((0, e), name=t) for e, t in ((kh, "ky"), (kw, "kx"), (depth, "ci")))
    per_group = out_c // node.integer("group")

    def weight(o: Any) -> Any:
        value = w[o, k, i, j]
        if is_float(dtype):
            return value
        if points[1] is None:
            return _integer(value)
        per_channel = len(points[1].shape) > 0 and int(points[1].shape[0]) > 1
        return _integer(value) - _integer(points[1][o] if per_channel else _scalar(points[1]))

    def element(b: Any, y: Any, z: Any, o: Any) -> Any:
        value = padded[b, y * sh + i * dh, z * sw + j * dw, o // per_group * depth + k]
        return te.sum(value * weight(o), axis=[i, j, k])

    return [te.compute(shape, element, name="conv")]


def _integer(value: Any) -> Any:
    return value.astype("int32")


def _scalar(x: Any) -> Any:
    return x[(0,) * len(x.shape)]


@lowers("Pool", domain="onyxc")
def pool(node: Node, inputs: list[Any]) -> list[Any]:
    """Maximum or average over windows; the average counts padding only with count_include_pad."""
    x, shape = inputs[0], node.output.dims
    dtype = node.output.dtype
    kh, kw = node.integers("kernel_shape")
    (sh, sw), (dh, dw), pads = node.integers("strides"), node.integers("dilations"), node.integers("pads")
    is_max = node.attrs["kind"] == "max"
    fill = lowest(dtype) if is_max else const(0, dtype)
    padded = _padded(x, pads, _size(shape, node, (kh, kw)), fill)
    i, j = te.reduce_axis((0, kh), name="ky"), te.reduce_axis((0, kw), name="kx")

    def window(b: Any, y: Any, z: Any, c: Any) -> Any:
        value = padded[b, y * sh + i * dh, z * sw + j * dw, c]
        return LARGEST(value, axis=[i, j]) if is_max else te.sum(value, axis=[i, j])

    folded = te.compute(shape, window, name="pool")
    if is_max:
        return [folded]
    _, h, w, _ = static(node, 0).dims
    include = bool(node.attrs["count_include_pad"])

    def count(position: Any, size: int, k: int, s: int, d: int, before: int, after: int) -> Any:
        start = position * s - before
        low, high = (-before, size + after) if include else (0, size)
        first = tirx.max(0, tirx.truncdiv(low - start + d - 1, d)) if start is not None else 0
        last = tirx.min(k, tirx.truncdiv(high - start + d - 1, d))
        return last - first

    def average(b: Any, y: Any, z: Any, c: Any) -> Any:
        rows = count(y, h, kh, sh, dh, pads[0], pads[2])
        columns = count(z, w, kw, sw, dw, pads[1], pads[3])
        return folded[b, y, z, c] / (rows * columns).astype(dtype)

    return [te.compute(shape, average, name="average")]


@lowers("LRN", domain="onyxc")
def lrn(node: Node, inputs: list[Any]) -> list[Any]:
    """x / (bias + alpha / size * sum of x^2 over the window of channels) ^ beta (ONNX LRN)."""
    x = inputs[0]
    n, h, w, c = node.output.dims
    size, dtype = node.integer("size"), node.output.dtype
    alpha, beta, bias = (node.real(a) for a in ("alpha", "beta", "bias"))
    before = (size - 1) // 2
    axis = te.reduce_axis((0, size), name="window")

    def square(b: Any, i: Any, j: Any, k: Any) -> Any:
        at = k + axis - before
        value = x[b, i, j, tirx.max(0, tirx.min(at, c - 1))]
        return te.sum(tirx.if_then_else(tirx.all(at >= 0, at < c), value * value, const(0, dtype)), axis=axis)

    total = te.compute((n, h, w, c), square, name="squares")
    scale = const(alpha / size, dtype)

    def element(*i: Any) -> Any:
        return x[i] / rooted(total[i] * scale + const(bias, dtype), beta)

    return [te.compute((n, h, w, c), element, name="lrn")]
