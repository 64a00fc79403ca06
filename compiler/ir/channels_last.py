"""Operators of domain ``onyxc`` on channels-last tensors, [N, H, W, C]: the form that CPU kernels take.

    Conv(x, w, x_zero_point?, w_zero_point?)   w: [O, I/group, KH, KW]; float, or 8-bit with an int32 result
    Pool(x)                                    kind = max or average
    LRN(x)                                     local response normalization along the last axis

``pads`` are (top, left, bottom, right). A Conv with ``planar`` = 1 reads x as [N, C, H, W], one with ``shuffle`` = g
reads the channels of x as if they had been shuffled: from [g, C/g] to [C/g, g].
Each has a decomposition into standard operators, with which it is written back as ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import TensorType, Type, is_float

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


def shuffle_order(channels: int, groups: int) -> Array:
    """The channel of x that each channel of the shuffled x is, int64 [channels]."""
    return np.arange(channels).reshape(groups, -1).T.reshape(-1)


def window(size: int, kernel: int, stride: int, dilation: int, before: int, after: int, ceil: bool = False) -> int:
    """Output size of a sliding window (ONNX operators, Conv and MaxPool)."""
    span = size + before + after - dilation * (kernel - 1) - 1
    count = (-(-span // stride) if ceil else span // stride) + 1
    if ceil and (count - 1) * stride >= size + before:  # a window may not start in the padding behind
        count -= 1
    return count


def _input(node: Node, index: int = 0) -> TensorType:
    return node.operand(index).tensor


@schema.own("Conv")
def conv_type(node: Node) -> tuple[Type, ...]:
    """[N, OH, OW, O]; int32 for integer inputs."""
    x, w = _input(node), _input(node, 1)
    n, h, width, _ = (x.dims[0], x.dims[2], x.dims[3], x.dims[1]) if node.attrs.get("planar") else x.dims
    top, left, bottom, right = node.integers("pads")
    (sh, sw), (dh, dw) = node.integers("strides"), node.integers("dilations")
    out_h = window(h, w.dims[2], sh, dh, top, bottom)
    out_w = window(width, w.dims[3], sw, dw, left, right)
    return (TensorType(x.dtype if is_float(x.dtype) else "int32", (n, out_h, out_w, w.dims[0])),)


@schema.own("Pool")
def pool_type(node: Node) -> tuple[Type, ...]:
    """[N, OH, OW, C]."""
    x = _input(node)
    n, h, w, c = x.dims
    top, left, bottom, right = node.integers("pads")
    (kh, kw), (sh, sw), (dh, dw) = (node.integers(a) for a in ("kernel_shape", "strides", "dilations"))
    ceil = bool(node.attrs["ceil_mode"])
    shape = (n, window(h, kh, sh, dh, top, bottom, ceil), window(w, kw, sw, dw, left, right, ceil), c)
    return (TensorType(x.dtype, shape),)


@schema.own("LRN")
def lrn_type(node: Node) -> tuple[Type, ...]:
    """The input's type."""
    return (_input(node),)


@schema.decomposition("Conv")
@schema.decomposition("Pool")
@schema.decomposition("LRN")
def decompose(node: Node, body: Graph, inputs: Sequence[Value]) -> Value:
    """``node`` in standard operators, appended to ``body``; returns the result."""
    x = inputs[0]
    attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if k not in ("planar", "kind", "shuffle")}
    if node.attrs.get("shuffle"):
        order = shuffle_order(_input(node).dims[-1], node.integer("shuffle"))
        x = infer.add(body, "Gather", [x, body.constant(order, "order")], axis=3).output
    if not node.attrs.get("planar"):
        x = infer.add(body, "Transpose", [x], perm=TO_FIRST).output
    if node.op == "Conv":
        op = "Conv" if is_float(_input(node).dtype) else "ConvInteger"
        y = infer.add(body, op, [x, *inputs[1:]], **attrs).output
    elif node.op == "Pool":
        kind = node.attrs["kind"]
        if kind == "max":
            attrs.pop("count_include_pad", None)
        y = infer.add(body, "MaxPool" if kind == "max" else "AveragePool", [x], **attrs).output
    else:
        y = infer.add(body, node.op, [x], **attrs).output
    return infer.add(body, "Transpose", [y], perm=TO_LAST).output
