"""What nodes compute, in numpy: our operators, integer products (exactly), and the rest by onnx.reference.

Tests compare kernels with it, and passes compute with it at compile time. It is clear first and fast second.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from onyxc.compiler.ir import proto, schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.integer import add_constants, dtype_of, number, scalar

Reference = Callable[..., Array]
TABLE: dict[str, Reference] = {}  # operator -> function (node, *arrays)
F32, F64 = np.float32, np.float64


def reference(name: str) -> Callable[[Reference], Reference]:
    """Register the computation of an operator, spelled ``onyxc.Name`` or, for a standard one, ``Name``."""

    def register(function: Reference) -> Reference:
        TABLE[name] = function
        return function

    return register


def evaluate(graph: Graph, feeds: Mapping[str, Any], every: bool = False) -> dict[str, Any]:
    """Outputs of ``graph`` by output name; ``every``: all values, by their own names too.

    Raises:
        KeyError: an input is missing.
    """
    known: dict[Value, Any] = {v: np.asarray(feeds[v.name]) for v in graph.inputs}
    opset = graph.root().opset
    for node in graph:
        arrays = [None if v is None else v.const if v.const is not None else known[v] for v in node.inputs]
        known.update(zip(node.outputs, run_node(node, arrays, opset), strict=True))
    found = {v.name: a for v, a in known.items()} if every else {}
    outputs = zip(graph.outputs, graph.output_names, strict=True)
    return {**found, **{name: v.const if v.const is not None else known[v] for v, name in outputs}}


def run_node(node: Node, arrays: list[Any], opset: int = schema.OPSET) -> list[Any]:
    """The outputs of one node for given inputs."""
    key = f"{node.domain}.{node.op}" if node.domain else node.op
    if key in TABLE:
        return [TABLE[key](node, *arrays)]
    if node.domain == schema.DOMAIN:
        body = node.attrs.get("body")
        inner = body if isinstance(body, Graph) else schema.decomposed(node, opset)
        given = (a for a, v in zip(arrays, node.inputs, strict=True) if v is not None)
        return list(evaluate(inner, {v.name: a for v, a in zip(inner.inputs, given, strict=True)}).values())
    from onnx.reference import ReferenceEvaluator

    made = proto.node_to_proto(node, schema.find(node.op, opset, node.domain))
    feeds = {v.name: a for v, a in zip(node.inputs, arrays, strict=True) if v is not None}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        results: list[Any] = ReferenceEvaluator(made, opsets={node.domain: opset}).run(None, feeds)
    return results


# ---- quantized tensors


def finish(node: Node, real: Array, zero_point: int = 0) -> Array:
    """Round half to even, add the zero point, clip to [low, high]."""
    codes = np.clip(np.rint(real).astype(F64) + zero_point, number(node, "low"), number(node, "high"))
    return codes.astype(dtype_of(node))


def fma(a: Array, b: Any, c: Any) -> Array:
    """a * b + c, rounded once (exact in float64 for integers of 8 bits times float32)."""
    return np.asarray(a.astype(F64) * F64(b) + np.asarray(c, F64), F32)


@reference("onyxc.Requantize")
def _requantize(node: Node, acc: Array, scale: Array) -> Array:
    return finish(node, acc.astype(F32) * scale, int(number(node, "zero_point")))


@reference("onyxc.Rescale")
def _rescale(node: Node, x: Array) -> Array:
    (sx, zx), (sy, zy) = scalar(node, "x"), scalar(node, "y")
    return finish(node, (x.astype(F32) - F32(zx)) * sx / sy, zy)


@reference("onyxc.QAdd")
def _add(node: Node, a: Array, b: Array) -> Array:
    ra, rb, c = add_constants(node)
    return finish(node, fma(a, ra, fma(b, rb, c)))


@reference("onyxc.QMul")
def _mul(node: Node, a: Array, b: Array) -> Array:
    (sa, za), (sb, zb), (sy, zy) = (scalar(node, p) for p in "aby")
    product = (a.astype(np.int32) - za) * (b.astype(np.int32) - zb)
    return finish(node, product.astype(F32) * F32(F32(sa * sb) / sy) + F32(zy))


@reference("onyxc.Lookup")
def _lookup(node: Node, x: Array, table: Array) -> Array:
    return table[x.view(np.uint8)]


@reference("onyxc.QSoftmax")
def _softmax(node: Node, x: Array, table: Array) -> Array:
    (sy, zy), axis = scalar(node, "y"), int(number(node, "axis"))
    codes = x.astype(np.int32)
    powers = table[255 + codes - codes.max(axis, keepdims=True)]
    total = np.take(np.add.accumulate(powers, axis, F32), [-1], axis)
    return finish(node, powers.astype(F64) * np.floor(F32(1) / sy) / total, zy)


@reference("onyxc.QAveragePool")
def _average_pool(node: Node, x: Array) -> Array:
    last = bool(node.attrs.get("channels_last"))
    x = np.moveaxis(x, -1, 1) if last else x
    (sx, zx), (sy, zy) = scalar(node, "x"), scalar(node, "y")
    real = sx * (x.astype(F32) - F32(zx))
    kernel, strides, dilations, pads = window(node, x.shape[2:])
    inside = np.ones((1, 1, *x.shape[2:]), F32)
    rank = len(kernel)
    counts = np.zeros((), F32)
    total = np.zeros((), F32)
    for offset in np.ndindex(*kernel):
        total = total + _taps(real, offset, kernel, strides, dilations, pads, 0)
        counts = counts + _taps(inside, offset, kernel, strides, dilations, pads, 0)
    assert total.ndim == rank + 2
    n = F32(prod(kernel)) if node.attrs.get("count_include_pad") else counts
    y = finish(node, total / n / sy + F32(zy))
    return np.moveaxis(y, 1, -1) if last else y


@reference("MaxPool")
def _max_pool(node: Node, x: Array) -> Array:
    """The first output only; onnx.reference pads integers with NaN."""
    if len(node.outputs) > 1:
        raise NotImplementedError("MaxPool with indices")
    kernel, strides, dilations, pads = window(node, x.shape[2:])
    least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    taps = [_taps(x, o, kernel, strides, dilations, pads, least) for o in np.ndindex(*kernel)]
    return np.asarray(np.maximum.reduce(taps))


# ---- integer products


@reference("MatMulInteger")
def _matmul(node: Node, a: Array, b: Array, az: Array | None = None, bz: Array | None = None) -> Array:
    left, right = a.astype(F64), b.astype(F64)
    if az is not None:
        left = left - (az.astype(F64)[..., None] if az.ndim and az.size > 1 else az.astype(F64))
    if bz is not None:
        right = right - bz.astype(F64)
    return np.asarray(left @ right).astype(np.int64).astype(np.int32)


@reference("ConvInteger")
def _conv(node: Node, x: Array, w: Array, xz: Array | None = None, wz: Array | None = None) -> Array:
    kernel, strides, dilations, pads = window(node, x.shape[2:], w.shape[2:])
    group = int(number(node, "group"))
    real = x.astype(F64) - (0 if xz is None else F64(xz.reshape(())))
    weights = w.astype(F64)
    if wz is not None:
        weights = weights - wz.astype(F64).reshape(-1, *(1,) * (w.ndim - 1))
    n, o = x.shape[0], w.shape[0]
    weights = weights.reshape(group, o // group, *w.shape[1:])
    total: Any = 0.0
    for offset in np.ndindex(*kernel):
        taps = _taps(real, offset, kernel, strides, dilations, pads, 0)
        flat = taps.reshape(n, group, x.shape[1] // group, -1)
        total = total + weights[(slice(None), slice(None), slice(None), *offset)] @ flat
        shape = taps.shape[2:]
    return np.asarray(total).reshape(n, o, *shape).astype(np.int64).astype(np.int32)


Window = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def window(node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...] | None = None) -> Window:
    """kernel, strides, dilations and pads with defaults and auto_pad resolved; ``ceil_mode`` pads behind."""
    rank = len(sizes)

    def read(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        value = node.attrs.get(name)
        return tuple(int(v) for v in value) if isinstance(value, tuple) and value else default

    kernel = read("kernel_shape", kernel or ())
    strides, dilations = read("strides", (1,) * rank), read("dilations", (1,) * rank)
    pads = read("pads", (0,) * 2 * rank)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        need = [max((-(-n // s) - 1) * s + k - n, 0) for n, s, k in zip(sizes, strides, spans, strict=True)]
        small, big = [p // 2 for p in need], [p - p // 2 for p in need]
        pads = tuple(small + big if auto == "SAME_UPPER" else big + small)
    elif node.attrs.get("ceil_mode"):
        ends = list(pads)
        for i, (n, s, k) in enumerate(zip(sizes, strides, spans, strict=True)):
            before = pads[i]
            count = -(-(n + before + pads[rank + i] - k) // s) + 1
            count -= (count - 1) * s >= n + before  # a window may not start in the padding behind
            ends[rank + i] = max(pads[rank + i], (count - 1) * s + k - n - before)
        pads = tuple(ends)
    return kernel, strides, dilations, pads


def _taps(
    x: Array,
    offset: tuple[int, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    fill: float,
) -> Array:
    """What every window sees at ``offset``: x padded, shifted and strided."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)], constant_values=fill)
    slices: list[slice] = [slice(None), slice(None)]
    for at, k, s, d, size in zip(offset, kernel, strides, dilations, padded.shape[2:], strict=True):
        count = (size - d * (k - 1) - 1) // s + 1
        slices.append(slice(at * d, at * d + (count - 1) * s + 1, s))
    return padded[tuple(slices)]
