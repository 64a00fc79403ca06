"""Shapes of convolutions, and what they compute, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from onyxc.backends.cpu.shapes import ConvShape, dense_strides, planar_strides

Array = np.ndarray[Any, Any]


def make_shape(
    image: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    planar: bool = False,
    extra: int = 0,
    **fields: Any,
) -> ConvShape:
    """A shape from what an ONNX node tells; ``extra``: channels of a wider buffer that holds the output."""
    n, h, w, c = image
    oh, ow = (
        (size + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i, size in enumerate((h, w))
    )
    x_strides = planar_strides(c, h, w) if planar else dense_strides(h, w, c)
    y_strides = dense_strides(oh, ow, out + extra)[:3]
    return ConvShape(
        n, c, out, group, (h, w), (oh, ow), kernel, strides, dilations, pads, x_strides, y_strides, **fields
    )  # fmt: skip


def square(
    channels: int, size: int, out: int, kernel: int = 3, stride: int = 1, group: int = 1, batch: int = 1
) -> ConvShape:
    """A same-padded convolution of square images."""
    image, pads = (batch, size, size, channels), (kernel // 2,) * 4
    return make_shape(image, out, (kernel, kernel), (stride, stride), pads, group=group)  # type: ignore[arg-type]


def reference(x: Array, w: Array, shape: ConvShape) -> Array:
    """NHWC result in double precision (or int64) of NHWC ``x`` and ONNX ``w``."""
    kind = np.int64 if np.issubdtype(x.dtype, np.integer) else np.float64
    top, left, _, _ = shape.pads
    (kh, kw), (sh, sw), (dh, dw), (oh, ow) = shape.kernel, shape.strides, shape.dilations, shape.out_size
    need = [
        (o - 1) * s + (k - 1) * d + 1
        for o, s, k, d in zip(shape.out_size, shape.strides, shape.kernel, shape.dilations, strict=True)
    ]
    padded = np.zeros((shape.batch, max(need[0], top + x.shape[1]), max(need[1], left + x.shape[2]), x.shape[3]), kind)
    padded[:, top : top + x.shape[1], left : left + x.shape[2]] = x
    y = np.zeros((shape.batch, oh, ow, shape.group, shape.group_out), kind)
    weights = w.astype(kind).reshape(shape.group, shape.group_out, shape.group_in, kh, kw)
    for ky in range(kh):
        for kx in range(kw):
            part = padded[:, ky * dh :: sh, kx * dw :: sw][:, :oh, :ow].reshape(shape.batch, oh, ow, shape.group, -1)
            y += np.einsum("nhwgi,goi->nhwgo", part, weights[..., ky, kx], optimize=True)
    return y.reshape(shape.batch, oh, ow, -1)
