"""Channels-last rule for dilated convolutions: every d-th row and column is an image of its own, and its sum is dense.

    [N, H, W, C]   ->   [N * d * d, H / d, W / d, C]   ->   Conv without dilation   ->   back

The moves cost little beside the sum, and dense windows of 3x3 have faster algorithms (Winograd).
"""

from __future__ import annotations

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Node, Value
from onyxc.passes.layout.padding import explicit_pads
from onyxc.passes.layout.twins import ORDERS, Twins, is_static
from onyxc.passes.layout.windows import cut

_LEAST_CHANNELS = 16  # with fewer the moves are not small beside the sum
_WINDOW = (3, 5)  # rows and columns of a kernel that has a faster algorithm, at least and at most
_LEAST_SIZE = 3  # rows and columns of the small images: in smaller ones most of the window is padding, which is skipped
_WASTE = 1.5  # rows and columns of zeros that make the size a multiple may multiply the work by so much


def convolution(node: Node, twins: Twins) -> bool:
    """Conv with constant weights, dilations, and a result of the size of its input."""
    x, weight = node.operand(0), node.operand(1)
    if not is_static(x) or x.tensor.rank != 4 or weight.const is None or not _pays(node, x, weight):
        return False
    (dh, dw), (kh, kw), (n, c, h, w) = node.integers("dilations"), weight.dims[2:], x.dims
    top, left, bottom, right = explicit_pads(node, (h, w), (kh, kw))
    if (top + bottom, left + right) != (dh * (kh - 1), dw * (kw - 1)) or top % dh or left % dw:
        return False
    rows, columns = -(-h // dh), -(-w // dw)
    whole = (n, rows * dh, columns * dw)
    stored = twins.get(x, ORDERS[4], node)
    if whole != (n, h, w):
        pads = twins.constant([0, 0, 0, 0, 0, whole[1] - h, whole[2] - w, 0], "pads")
        stored = infer.add(twins.graph, "Pad", [stored, pads], node, mode="constant").output
    apart = twins.reshaped(stored, (n, rows, dh, columns, dw, c), node)
    moved = infer.add(twins.graph, "Transpose", [apart], node, perm=(0, 2, 4, 1, 3, 5)).output
    images = twins.reshaped(moved, (n * dh * dw, rows, columns, c), node)
    y = infer.add(
        twins.graph, "Conv", [images, weight], node, domain=schema.DOMAIN, name=node.name, group=1, planar=0,
        kernel_shape=(kh, kw), strides=(1, 1), dilations=(1, 1),
        pads=(top // dh, left // dw, bottom // dh, right // dw),
    ).output  # fmt: skip
    channels = weight.dims[0]
    apart = twins.reshaped(y, (n, dh, dw, rows, columns, channels), node)
    moved = infer.add(twins.graph, "Transpose", [apart], node, perm=(0, 3, 1, 4, 2, 5)).output
    joint = twins.reshaped(moved, (*whole, channels), node)
    twins.replace(node, [cut(twins, joint, [0, 0], (h, w), node)], ORDERS[4])
    return True


def _pays(node: Node, x: Value, weight: Value) -> bool:
    """Whether the window is dilated and dense ones are faster."""
    dilations, strides = node.integers("dilations"), node.integers("strides")
    if not dilations or max(dilations) == 1 or (strides and max(strides) > 1) or node.integer("group", 1) != 1:
        return False
    if len(node.inputs) > 2 or x.dtype != "float32" or min(weight.dims[:2]) < _LEAST_CHANNELS:
        return False
    sizes = [-(-size // d) for size, d in zip(x.dims[2:], dilations, strict=True)]
    work = sizes[0] * dilations[0] * sizes[1] * dilations[1]
    window = all(_WINDOW[0] <= k <= _WINDOW[1] for k in weight.dims[2:])
    return window and min(sizes) >= _LEAST_SIZE and work <= _WASTE * x.dims[2] * x.dims[3]
