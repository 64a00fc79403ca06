"""Convolutions of bytes, depthwise ones too, against numpy, value by value: all types, zero points, paddings and tails."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from convolution_reference import make_shape, reference

from onyxc.backends.cpu import integer_convolution, integer_depthwise
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.shapes import matmul_shape
from onyxc.backends.target import get

TARGET = get("x86-64-v4+vnni")
BYTES = ("uint8", "int8")

CASES = {
    "1x1": make_shape((1, 9, 11, 24), 40, (1, 1)),
    "1x1 batch": make_shape((3, 5, 7, 17), 58, (1, 1)),
    "1x1 stride 2": make_shape((2, 9, 11, 16), 33, (1, 1), (2, 2)),
    "first layer": make_shape((1, 18, 20, 3), 24, (7, 7), (2, 2), (3, 3, 3, 3)),
    "3x3": make_shape((1, 14, 14, 32), 64, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 stride 2": make_shape((2, 15, 15, 5), 17, (3, 3), (2, 2), (1, 1, 0, 1)),
    "dilated": make_shape((1, 9, 9, 6), 20, (3, 2), pads=(4, 2, 4, 2), dilations=(4, 3)),
    "small image": make_shape((1, 2, 2, 8), 16, (5, 5), pads=(2, 2, 2, 2)),
    "tall": make_shape((1, 19, 1, 12), 8, (4, 1), pads=(2, 0, 1, 0)),
    "groups": make_shape((1, 6, 6, 30), 24, (3, 3), pads=(1, 1, 1, 1), group=3),
    "depthwise": make_shape((1, 9, 30, 40), 40, (3, 3), pads=(1, 1, 1, 1), group=40),
    "depthwise stride 2": make_shape((2, 14, 15, 21), 21, (3, 3), (2, 2), (0, 0, 1, 1), group=21),
    "depthwise 5x5": make_shape((1, 4, 4, 16), 16, (5, 5), pads=(2, 2, 2, 2), group=16),
    "depthwise dilated": make_shape((1, 12, 6, 18), 18, (2, 3), pads=(3, 4, 3, 4), dilations=(5, 4), group=18),
    "row": matmul_shape(1, 37, 50),
    "rows": matmul_shape(19, 64, 30),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("x_dtype", "w_dtype"), list(product(BYTES, BYTES)))
def test_exact(case: str, x_dtype: str, w_dtype: str, call: Any) -> None:
    rng = np.random.default_rng(0)
    types = {"x_dtype": x_dtype, "w_dtype": w_dtype, "acc_dtype": "int32", "y_dtype": "int32"}
    lowest = int(np.iinfo(x_dtype).min)
    for x_zero, w_zero in dict.fromkeys([(0, 0), (lowest, 0), (3, 5), (17, None)]):
        shape = replace(CASES[case], **types, x_zero_point=x_zero)  # type: ignore[arg-type]
        low, high = (np.iinfo(w_dtype).min, np.iinfo(w_dtype).max)
        weights = rng.integers(low, high + 1, (shape.out_channels, shape.group_in, *shape.kernel)).astype(w_dtype)
        zeros = rng.integers(low, high + 1, shape.out_channels) if w_zero is None else np.array(w_zero)
        x = rng.integers(0, 256, (shape.batch, *shape.in_size, shape.in_channels)).astype(np.uint8).view(x_dtype)
        template: Any = integer_depthwise if integer_depthwise.fits(shape, TARGET) else integer_convolution
        assert template.fits(shape, TARGET)
        plan = template.plan(shape, TARGET, zeros)
        kernel = template.emit("k", plan, Epilogue(y_dtype="int32"), TARGET)
        assert kernel.note.startswith("8-bit ")
        y = np.full((shape.batch, *shape.out_size, shape.out_channels), -7, np.int32)
        call(kernel, TARGET, [x, template.pack(weights, plan), y])
        exact = weights.astype(np.int64) - zeros.reshape(-1, 1, 1, 1)
        np.testing.assert_array_equal(y, reference(x.astype(np.int64) - x_zero, exact, shape))
