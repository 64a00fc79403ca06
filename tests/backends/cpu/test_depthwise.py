"""Depthwise convolution against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onyxc.backends.cpu import depthwise
from onyxc.backends.cpu.epilogue import Epilogue, bias
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]


def make_shape(
    image: tuple[int, int, int, int],
    kernel: tuple[int, int],
    stride: int = 1,
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilation: int = 1,
    times: int = 1,
    **fields: Any,
) -> ConvShape:
    """A depthwise shape of dense tensors; ``times``: output channels of each input channel."""
    n, h, w, c = image
    sizes = enumerate((h, w))
    oh, ow = ((s + pads[i] + pads[i + 2] - (kernel[i] - 1) * dilation - 1) // stride + 1 for i, s in sizes)
    y_strides = dense_strides(oh, ow, c * times)[:3]
    pair, wide = (stride, stride), (dilation, dilation)
    return ConvShape(
        n, c, c * times, c, (h, w), (oh, ow), kernel, pair, wide, pads, dense_strides(h, w, c), y_strides, **fields
    )


def reference(x: Array, w: Array, shape: ConvShape) -> Array:
    """NHWC result of NHWC ``x`` and ONNX ``w``, one pixel after the other, in double precision."""
    y = np.zeros((shape.batch, *shape.out_size, shape.out_channels))
    for oh, ow, ky, kx in np.ndindex(*shape.out_size, *shape.kernel):
        ih = oh * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
        iw = ow * shape.strides[1] - shape.pads[1] + kx * shape.dilations[1]
        if 0 <= ih < shape.in_size[0] and 0 <= iw < shape.in_size[1]:
            y[:, oh, ow] += np.repeat(x[:, ih, iw].astype(np.float64), shape.group_out, axis=-1) * w[:, 0, ky, kx]
    return y


CASES = {
    "3x3": make_shape((1, 14, 14, 96), (3, 3)),
    "3x3 wide": make_shape((1, 4, 56, 24), (3, 3)),
    "3x3 stride 2": make_shape((2, 15, 15, 58), (3, 3), 2),
    "3x3 stride 2 asymmetric": make_shape((1, 14, 14, 17), (3, 3), 2, (0, 0, 1, 1)),
    "5x5": make_shape((1, 7, 7, 36), (5, 5), 1, (2, 2, 2, 2)),
    "7x7": make_shape((1, 9, 20, 5), (7, 7), 1, (3, 3, 3, 3)),
    "1x9": make_shape((1, 5, 30, 16), (1, 9), 1, (0, 4, 0, 4)),
    "9x1 of a column": make_shape((1, 30, 1, 20), (9, 1), 1, (4, 0, 4, 0)),
    "dilation": make_shape((1, 16, 17, 16), (3, 3), 1, (2, 2, 2, 2), 2),
    "7x7 stride 2, two outputs": make_shape((1, 9, 9, 25), (7, 7), 2, (3, 3, 3, 3), times=2),
    "3x3, four outputs": make_shape((2, 5, 6, 7), (3, 3), times=4),
}


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_float(case: str, level: str, call: Any) -> None:
    shape, target, rng = CASES[case], get(level), np.random.default_rng(4)
    x = rng.standard_normal((shape.batch, *shape.in_size, shape.in_channels), np.float32)
    w = rng.standard_normal((shape.out_channels, 1, *shape.kernel), np.float32)
    b = rng.standard_normal(shape.out_channels, np.float32)
    y = np.zeros((shape.batch, *shape.out_size, shape.out_channels), np.float32)
    made = depthwise.plan(shape, target)
    kernel = depthwise.emit("kernel", made, Epilogue((bias(),), lambda acc, ops: acc + ops[0]), target)
    call(kernel, target, [x, depthwise.pack(w, made), b, y])
    np.testing.assert_allclose(y, reference(x, w, shape) + b, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("level", TARGETS)
def test_integer(level: str, call: Any) -> None:
    types = {"x_dtype": "uint8", "w_dtype": "int8", "acc_dtype": "int32", "y_dtype": "int32"}
    shape, target = make_shape((1, 9, 10, 21), (3, 3), 1, **types, x_zero_point=11), get(level)
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, (1, 9, 10, 21)).astype(np.uint8)
    w = rng.integers(-128, 128, (21, 1, 3, 3)).astype(np.int8)
    zero = rng.integers(-4, 5, 21).astype(np.int8)
    y = np.zeros((1, 9, 10, 21), np.int32)
    made = depthwise.plan(shape, target)
    kernel = depthwise.emit("kernel", made, Epilogue(y_dtype="int32"), target)
    call(kernel, target, [x, depthwise.pack(w, made, zero), y])
    expected = reference(x.astype(np.int64) - 11, w.astype(np.int64) - zero.astype(np.int64).reshape(-1, 1, 1, 1), shape)
    np.testing.assert_array_equal(y, expected)
