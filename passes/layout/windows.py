"""Channels-last rules for sliding windows: convolutions, poolings, local response normalization.

One-dimensional ones run as two-dimensional ones of height 1:   [N, C, W]   is stored as   [N, 1, W, C].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.channels_last import TO_LAST
from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.types import is_float
from onyxc.passes.layout.padding import explicit_pads
from onyxc.passes.layout.twins import ORDERS, Twins, is_static, per_axis

PLANAR_CHANNELS = 4  # a first convolution with at most so many channels reads the planar image as it is


def _is_image(node: Node) -> bool:
    """Whether the data has one or two spatial axes, and static shapes."""
    x = node.inputs[0]
    return x is not None and is_static(x) and is_static(node.output) and x.tensor.rank in ORDERS


def _two(numbers: tuple[int, ...], missing: int) -> tuple[int, ...]:
    """Numbers for each spatial axis, or for each side of it, for two axes."""
    if len(numbers) == 1:
        return (missing, *numbers)
    return numbers


def _pads(node: Node, size: tuple[int, ...], kernel: tuple[int, ...]) -> tuple[int, ...]:
    pads = explicit_pads(node, size, kernel)
    return pads if len(kernel) == 2 else (0, pads[0], 0, pads[1])


def _weight(node: Node, twins: Twins) -> Value | None:
    """The weights of a convolution, of two spatial axes; integers must be constant."""
    weight = node.inputs[1]
    if not is_static(weight) or weight is None or weight.tensor.rank not in ORDERS:
        return None
    if weight.const is None:
        (outputs, inputs, *kernel) = weight.dims
        return twins.reshaped(weight, (outputs, inputs, *_two(tuple(kernel), 1)), node) if node.op == "Conv" else None
    return weight if weight.const.ndim == 4 else twins.repacked(weight, lambda w: np.expand_dims(w, 2))


def convolution(node: Node, twins: Twins) -> bool:
    """Conv, and ConvInteger with constant weights; a first convolution reads the planar image."""
    x = node.inputs[0]
    if x is None or not _is_image(node) or len(node.inputs) > (2 if node.op == "Conv" else 4):
        return False
    if node.op == "Conv" and node.output.dtype != "float32":
        return False
    weight = _weight(node, twins)
    if weight is None:
        return False
    rank, group = x.tensor.rank, node.integer("group", 1)
    planar = not twins.has(x) and x.dims[1] <= PLANAR_CHANNELS and group == 1 and is_float(x.dtype)
    if planar:
        source = x if rank == 4 else twins.reshaped(x, (*x.dims[:2], 1, x.dims[2]), node)
    else:
        source = twins.get(x, ORDERS[rank], node)
    made = infer.add(
        twins.graph, "Conv", [source, weight, *node.inputs[2:]], node, domain=schema.DOMAIN, name=node.name,
        kernel_shape=weight.dims[2:], pads=_pads(node, x.dims[2:], weight.dims[2:][4 - rank :]), group=group,
        strides=_two(node.integers("strides") or (1,) * (rank - 2), 1),
        dilations=_two(node.integers("dilations") or (1,) * (rank - 2), 1), planar=int(planar),
    )  # fmt: skip
    twins.replace(node, [made.output], ORDERS[rank])
    return True


def _sliding(node: Node, x: Value) -> dict[str, Any]:
    """The attributes of a pool's window over two spatial axes."""
    kernel = node.integers("kernel_shape")
    steps = {k: _two(node.integers(k) or (1,) * len(kernel), 1) for k in ("strides", "dilations")}
    return {"kernel_shape": _two(kernel, 1), "pads": _pads(node, x.dims[2:], kernel), **steps}


def pool(node: Node, twins: Twins) -> bool:
    """MaxPool and AveragePool."""
    known, x = twins.find(node), node.inputs[0]
    if known is None or x is None or not _is_image(node) or any(v.uses for v in node.outputs[1:]):
        return False
    order = ORDERS[x.tensor.rank]
    made = infer.add(
        twins.graph, "Pool", [twins.get(x, order, node)], node, domain=schema.DOMAIN, name=node.name,
        kind="max" if node.op == "MaxPool" else "average", ceil_mode=node.attrs["ceil_mode"],
        count_include_pad=node.attrs.get("count_include_pad", 0), **_sliding(node, x),
    )  # fmt: skip
    if made.output.dims != tuple(per_axis(node.output.dims, order, 1)) or len(node.outputs) > 1:
        twins.graph.erase(made)
        return False
    twins.replace(node, [made.output], order)
    return True


def quantized_pool(node: Node, twins: Twins) -> bool:
    """QAveragePool, whose channels may be last."""
    known, x = twins.find(node), node.inputs[0]
    if known is None or x is None or not _is_image(node) or node.attrs.get("channels_last"):
        return False
    order = ORDERS[x.tensor.rank]
    attrs: dict[str, Any] = {**node.attrs, "auto_pad": "NOTSET", "channels_last": 1, **_sliding(node, x)}
    stored = twins.get(x, order, node)
    made = infer.add(twins.graph, node.op, [stored], node, domain=schema.DOMAIN, name=node.name, **attrs)
    twins.replace(node, [made.output], order)
    return True


def global_pool(node: Node, twins: Twins) -> bool:
    """GlobalAveragePool and GlobalMaxPool are reductions of the stored form."""
    known = twins.find(node)
    if known is None:
        return False
    op = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
    axes = [i for i, a in enumerate(known.order) if a is None or a >= 2]
    made = infer.add(twins.graph, op, [known.stored, twins.constant(axes, "axes")], node, keepdims=1, name=node.name)
    twins.replace(node, [made.output], known.order)
    return True


def lrn(node: Node, twins: Twins) -> bool:
    """The windows lie along the last axis."""
    known = twins.find(node)
    if known is None or known.order != TO_LAST:
        return False
    attrs: dict[str, Any] = node.attrs
    made = infer.add(twins.graph, "LRN", [known.stored], node, domain=schema.DOMAIN, name=node.name, **attrs)
    twins.replace(node, [made.output], known.order)
    return True


# ---- transposed convolutions


def transposed_convolution(node: Node, twins: Twins) -> bool:
    """y[q * s + r] = sum over j of x[q - j] * w[r + s * j]: a convolution that makes s * s values a pixel.

    Its kernel has ceil(k / s) taps along an axis; then the values of a pixel become pixels, and padding is cut off.
    With kernel = stride it is a pointwise convolution, and nothing is cut.
    """
    x = node.inputs[0]
    if x is None or not _is_image(node) or len(node.inputs) > 2 or node.output.dtype != "float32":
        return False
    rank, weight = x.tensor.rank, node.inputs[1]
    if weight is None or weight.const is None or any(d != 1 for d in node.integers("dilations")):
        return False
    spatial = rank - 2
    stride = _two(node.integers("strides") or (1,) * spatial, 1)
    extra = _two(node.integers("output_padding") or (0,) * spatial, 0)
    kernel, size = _two(weight.dims[2:], 1), _two(x.dims[2:], 1)
    out = _two(node.output.dims[2:], 1)
    begin = cut_before(node, stride, extra, kernel, size, out)
    known = phasing(stride, kernel, size, out, begin)
    if known is None:
        return False
    taps = known.taps
    group = node.integer("group", 1)
    made = infer.add(
        twins.graph, "Conv", [twins.get(x, ORDERS[rank], node), twins.repacked(weight, _Phases(group, stride, taps))],
        node, domain=schema.DOMAIN, name=node.name, kernel_shape=taps, pads=known.pads, group=group, strides=(1, 1),
        dilations=(1, 1), planar=0,
    ).output  # fmt: skip
    y = _pixels(twins, made, stride, node.output.dims[1], node)
    y = cut(twins, y, known.start, out, node)
    twins.replace(node, [y], ORDERS[rank])
    return True


@dataclass(frozen=True)
class Phasing:
    """A transposed convolution as one that makes a block of the result for each element, numbers for each axis.

    ``taps``: of its kernel; ``pads``: before each axis, then after each; ``start``: where the result begins in the blocks.
    """

    taps: tuple[int, ...]
    pads: tuple[int, ...]
    start: list[int]


def phasing(
    stride: tuple[int, ...], kernel: tuple[int, ...], size: tuple[int, ...], out: tuple[int, ...], begin: list[int]
) -> Phasing | None:
    """``begin``: what is cut off before each axis. None where it is negative, or more."""
    taps = tuple(-(-k // s) for k, s in zip(kernel, stride, strict=True))
    first, count = [], []
    for p, s, n, o in zip(begin, stride, size, out, strict=True):
        first.append(p // s)
        count.append(max((o - 1 + p) // s + 1 - first[-1], n - first[-1]))
    pads = (*(j - 1 - q for j, q in zip(taps, first, strict=True)),
            *(q + c - n for q, c, n in zip(first, count, size, strict=True)))  # fmt: skip
    if min(pads) < 0 or min(begin) < 0:
        return None
    return Phasing(taps, pads, [p - q * s for p, q, s in zip(begin, first, stride, strict=True)])


def cut_before(
    node: Node, stride: tuple[int, ...], extra: tuple[int, ...], kernel: tuple[int, ...], size: tuple[int, ...],
    out: tuple[int, ...],
) -> list[int]:  # fmt: skip
    """What is cut off before each axis (ONNX operators, ConvTranspose: pads from the output's shape)."""
    mode = node.attrs.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", "", "VALID") and not node.attrs.get("output_shape"):
        pads = node.integers("pads") or (0,) * (2 * len(node.output.dims[2:]))
        return list(_two(pads[: len(pads) // 2], 0)) if mode != "VALID" else [0] * len(size)
    total = [max(0, s * (n - 1) + e + k - o) for s, n, e, k, o in zip(stride, size, extra, kernel, out, strict=True)]
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]


class _Phases:
    """Weights [C, O / group, KH, KW] as those of the convolution, [O * s * s, C / group, J, J].

    One group: (phase, channel), which makes whole pixels; several: (channel, phase), which keeps groups together.
    """

    def __init__(self, group: int, stride: tuple[int, ...], taps: tuple[int, ...]) -> None:
        self.group, self.stride, self.taps = group, stride, taps

    def __call__(self, w: Array) -> Array:
        (sh, sw), (jh, jw), (c, o, kh, kw), g = self.stride, self.taps, w.shape[:2] + _two(w.shape[2:], 1), self.group
        full = np.zeros((c, o, jh * sh, jw * sw), w.dtype)
        full[:, :, :kh, :kw] = w.reshape(c, o, kh, kw)
        apart = full.reshape(g, c // g, o, jh, sh, jw, sw)[:, :, :, ::-1, :, ::-1]
        axes = (4, 6, 0, 2, 1, 3, 5) if g == 1 else (0, 2, 4, 6, 1, 3, 5)
        return np.ascontiguousarray(apart.transpose(axes)).reshape(g * o * sh * sw, c // g, jh, jw)


def _pixels(twins: Twins, value: Value, stride: tuple[int, ...], channels: int, before: Node) -> Value:
    """[N, H, W, values of s * s pixels] -> [N, H * s, W * s, C]."""
    (sh, sw), (n, h, w, total) = stride, value.dims
    if sh * sw == 1:
        return value
    whole = before.integer("group", 1) == 1
    apart = twins.reshaped(value, (n, h, w, sh, sw, channels) if whole else (n, h, w, channels, sh, sw), before)
    perm = (0, 1, 3, 2, 4, 5) if whole else (0, 1, 4, 2, 5, 3)
    moved = infer.add(twins.graph, "Transpose", [apart], before, perm=perm).output
    return twins.reshaped(moved, (n, h * sh, w * sw, total // (sh * sw)), before)


def cut(twins: Twins, value: Value, start: list[int], size: tuple[int, ...], before: Node) -> Value:
    """A part of height and width, or of all spatial axes."""
    axes = list(range(1, 1 + len(size)))
    if value.dims[1:-1] == tuple(size):
        return value
    ends = [a + n for a, n in zip(start, size, strict=True)]
    bounds = [twins.constant(v, n) for v, n in ((start, "starts"), (ends, "ends"), (axes, "axes"))]
    return infer.add(twins.graph, "Slice", [value, *bounds], before).output
