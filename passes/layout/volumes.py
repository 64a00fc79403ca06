"""Channels-last rules for windows over three spatial axes: volumes, and frames of a film, become images.

    [N, C, D, H, W]     is stored as   [N, D, H, W, C]
    kernel (k, 1, 1)    on an image of height D and width H * W
    kernel (1, k, l)    on images of a batch of N * D
    kernel (j, k, l)    on images of a batch of N * OD, whose channels are those of the j frames under the kernel

A pool takes height and width first, then depth: maxima and means are separable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.passes.layout import windows
from onyxc.passes.layout.padding import explicit_pads
from onyxc.passes.layout.twins import Order, Twins, is_static

LAST: Order = (0, 2, 3, 4, 1)


@dataclass(frozen=True)
class Window:
    """The window of a node, numbers for depth, height and width; ``pads``: before each, then after each."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @staticmethod
    def of(node: Node, size: tuple[int, ...], kernel: tuple[int, ...]) -> Window:
        """The window of ``node`` over a volume of ``size``."""
        strides, dilations = (node.integers(name) or (1, 1, 1) for name in ("strides", "dilations"))
        return Window(kernel, strides, dilations, explicit_pads(node, size, kernel))

    def images(self) -> dict[str, Any]:
        """The attributes of the window over height and width."""
        pads = (*self.pads[1:3], *self.pads[4:])
        return {"kernel_shape": self.kernel[1:], "strides": self.strides[1:], "dilations": self.dilations[1:], "pads": pads}

    def depth(self) -> dict[str, Any]:
        """The attributes of the window over depth, which is the height of an image."""
        sizes = {"kernel_shape": self.kernel, "strides": self.strides, "dilations": self.dilations}
        return {**{name: (numbers[0], 1) for name, numbers in sizes.items()}, "pads": (self.pads[0], 0, self.pads[3], 0)}

    def rests(self, *axes: int) -> bool:
        """Whether nothing happens along ``axes``."""
        still = all(self.kernel[a] == self.strides[a] == 1 for a in axes)
        return still and not any(self.pads[a] or self.pads[3 + a] for a in axes)


def _volume(node: Node) -> Value | None:
    """The data of a node of three spatial axes and static shapes."""
    x = node.inputs[0]
    fit = x is not None and is_static(x) and is_static(node.output) and x.tensor.rank == len(LAST)
    return x if fit and node.output.dtype == "float32" else None


def convolution(node: Node, twins: Twins) -> bool:
    """Conv with constant weights."""
    x, weight = _volume(node), node.inputs[1]
    if x is None or weight is None or weight.const is None or len(node.inputs) > 2:
        return False
    y = _convolve(node, twins, weight, Window.of(node, x.dims[2:], weight.dims[2:]), node.integer("group", 1))
    twins.replace(node, [y], LAST)
    return True


def _convolve(node: Node, twins: Twins, weight: Value, window: Window, group: int = 1) -> Value:
    """The node's first input, convolved: [N, OD, OH, OW, O]; ``weight`` [O, I / group, KD, KH, KW] is constant."""
    stored = twins.get(node.operand(), LAST, node)
    n, d, h, w, c = stored.dims

    def made(image: Value, pack: Callable[[Array], Array], attrs: dict[str, Any]) -> Value:
        inputs = [image, twins.repacked(weight, pack)]
        return infer.add(
            twins.graph, "Conv", inputs, node, domain=schema.DOMAIN, name=node.name, group=group, planar=0, **attrs
        ).output

    if window.rests(1, 2):
        image = twins.reshaped(stored, (n, d, h * w, c), node)
        y = made(image, lambda v: v.reshape(*v.shape[:3], 1), window.depth())
        return twins.reshaped(y, (n, y.dims[1], h, w, y.dims[-1]), node)
    frames = [twins.reshaped(f, (n * f.dims[1], h, w, c), node) for f in _frames(twins, stored, window, node)]
    if group == 1:
        joint = frames[0] if len(frames) == 1 else infer.add(twins.graph, "Concat", frames, node, axis=3).output
        y = made(joint, _side_by_side, window.images())
    else:
        y, *parts = (made(f, partial(_slice, index=k), window.images()) for k, f in enumerate(frames))
        for part in parts:
            y = infer.add(twins.graph, "Add", [part, y], node).output
    return twins.reshaped(y, (n, y.dims[0] // n, *y.dims[1:]), node)


def _slice(weights: Array, index: int) -> Array:
    """[O, I, KD, KH, KW] -> [O, I, KH, KW]."""
    return np.ascontiguousarray(weights[:, :, index])


def _side_by_side(weights: Array) -> Array:
    """[O, I, KD, KH, KW] -> [O, KD * I, KH, KW]."""
    o, i, d, h, w = weights.shape
    return np.ascontiguousarray(weights.transpose(0, 2, 1, 3, 4)).reshape(o, d * i, h, w)


def _frames(twins: Twins, stored: Value, window: Window, node: Node) -> list[Value]:
    """For each position along the kernel's depth the frames that it meets, [N, OD, H, W, C]."""
    before, after, step = window.pads[0], window.pads[3], window.strides[0]
    if before or after:
        pads = twins.constant([0, before, 0, 0, 0, 0, after, 0, 0, 0], "pads")
        stored = infer.add(twins.graph, "Pad", [stored, pads], node, mode="constant").output
    span = (window.kernel[0] - 1) * window.dilations[0] + 1
    size, found = (stored.dims[1] - span) // step + 1, []
    for k in range(window.kernel[0]):
        start = k * window.dilations[0]
        stop = start + (size - 1) * step + 1
        if (start, stop, step) == (0, stored.dims[1], 1):
            found.append(stored)
            continue
        bounds = [twins.constant([v], n) for v, n in ((start, "starts"), (stop, "ends"), (1, "axes"), (step, "steps"))]
        found.append(infer.add(twins.graph, "Slice", [stored, *bounds], node).output)
    return found


def pool(node: Node, twins: Twins) -> bool:
    """MaxPool and AveragePool."""
    x = _volume(node)
    if x is None or twins.find(node) is None or any(v.uses for v in node.outputs[1:]) or len(node.outputs) > 1:
        return False
    window = Window.of(node, x.dims[2:], node.integers("kernel_shape"))
    kind = "max" if node.op == "MaxPool" else "average"
    n, d, h, w, c = (stored := twins.get(x, LAST, node)).dims
    oh, ow = node.output.dims[3:]

    def made(image: Value, attrs: dict[str, Any]) -> Value:
        return infer.add(
            twins.graph, "Pool", [image], node, domain=schema.DOMAIN, name=node.name, kind=kind,
            ceil_mode=node.attrs["ceil_mode"], count_include_pad=node.attrs.get("count_include_pad", 0), **attrs,
        ).output  # fmt: skip

    y = twins.reshaped(stored, (n * d, h, w, c), node)
    if not window.rests(1, 2):
        y = made(y, window.images())
    if y.dims != (n * d, oh, ow, c):
        return False
    if not window.rests(0):
        y = made(twins.reshaped(y, (n, d, oh * ow, c), node), window.depth())
    if y.tensor.elements != node.output.tensor.elements:
        return False
    _, channels, *size = node.output.dims
    twins.replace(node, [twins.reshaped(y, (n, *size, channels), node)], LAST)
    return True


def transposed_convolution(node: Node, twins: Twins) -> bool:
    """A convolution that makes a block of the result for each voxel, as `windows.transposed_convolution`."""
    x, weight = _volume(node), node.inputs[1]
    if x is None or weight is None or weight.const is None or len(node.inputs) > 2 or node.integer("group", 1) != 1:
        return False
    stride, extra = node.integers("strides") or (1, 1, 1), node.integers("output_padding") or (0, 0, 0)
    (_, channels, *kernel), size, out = weight.dims, x.dims[2:], node.output.dims[2:]
    begin = windows.cut_before(node, stride, extra, tuple(kernel), size, out)
    known = windows.phasing(stride, tuple(kernel), size, out, begin)
    if known is None or any(d != 1 for d in node.integers("dilations")):
        return False
    packed = twins.repacked(weight, partial(_phases, stride=stride, taps=known.taps))
    y = _convolve(node, twins, packed, Window(known.taps, (1, 1, 1), (1, 1, 1), known.pads))
    n, *blocks = y.dims[:4]
    apart = twins.reshaped(y, (n, *blocks, *stride, channels), node)
    moved = infer.add(twins.graph, "Transpose", [apart], node, perm=(0, 1, 4, 2, 5, 3, 6, 7)).output
    whole = tuple(b * s for b, s in zip(blocks, stride, strict=True))
    joint = twins.reshaped(moved, (n, *whole, channels), node)
    twins.replace(node, [windows.cut(twins, joint, known.start, out, node)], LAST)
    return True


def _phases(weights: Array, stride: tuple[int, ...], taps: tuple[int, ...]) -> Array:
    """[C, O, KD, KH, KW] -> [s * s * s * O, C, JD, JH, JW], zeros where the kernel is no multiple of the stride."""
    (c, o, *kernel), (sd, sh, sw), (jd, jh, jw) = weights.shape, stride, taps
    full = np.zeros((c, o, jd * sd, jh * sh, jw * sw), weights.dtype)
    full[:, :, : kernel[0], : kernel[1], : kernel[2]] = weights
    apart = full.reshape(c, o, jd, sd, jh, sh, jw, sw)[:, :, ::-1, :, ::-1, :, ::-1]
    return np.ascontiguousarray(apart.transpose(3, 5, 7, 1, 0, 2, 4, 6)).reshape(sd * sh * sw * o, c, jd, jh, jw)
