"""A pointwise convolution behind arithmetic: against numpy, and its plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from convolution_reference import make_shape, reference

from onyxc.backends.cpu import strips
from onyxc.backends.cpu.convolution import ConvShape, dense_strides, pack
from onyxc.backends.cpu.epilogue import Epilogue, Operand, bias
from onyxc.backends.cpu.vectors import T, constant, lanes_of
from onyxc.backends.target import get

TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
CASES = {
    "a row": make_shape((1, 1, 40, 24), 40, (1, 1)),
    "an image": make_shape((1, 9, 11, 52), 33, (1, 1)),
    "two images": make_shape((2, 7, 7, 48), 64, (1, 1)),
    "many strips": make_shape((1, 28, 28, 640), 16, (1, 1)),
    "one pixel": make_shape((1, 1, 1, 20), 16, (1, 1)),
}


def front(acc: Any, operands: list[Any]) -> Any:
    """max(x * scale + shift, 0)"""
    return T.max(acc * operands[0] + operands[1], constant(0, "float32", lanes_of(acc)))


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_values(case: str, extra: int, level: str, call: Any) -> None:
    """``extra``: channels of a wider tensor that x is the first part of."""
    shape, target = CASES[case], get(level)
    n, (h, w), c, o = shape.batch, shape.in_size, shape.in_channels, shape.out_channels
    rng = np.random.default_rng(3)
    x = rng.standard_normal((n, h, w, c + extra), np.float32)
    weights = rng.standard_normal((o, c, 1, 1), np.float32)
    scale, shift, b = (rng.standard_normal(size, np.float32) for size in (c, c, o))
    residual, y = rng.standard_normal((n, h, w, o), np.float32), np.zeros((n, h, w, o), np.float32)
    before = Epilogue((bias(), bias()), front)
    after = Epilogue((bias(), Operand("float32", dense_strides(h, w, o))), lambda acc, ops: acc + ops[0] + ops[1])
    wide = replace(shape, x_strides=dense_strides(h, w, c + extra))
    made = strips.plan(wide, target, tuple(p.strides for p in after.operands))  # type: ignore[misc]
    assert made is not None
    # the scratch is shared by ranges of tasks, which a strip fills anew; the result is the last array before it
    scratch = np.full(made.scratch, np.nan, np.float32)
    kernel = strips.emit("kernel", made, before, after, target)
    call(kernel, target, [x, pack(weights, made.inner), scale, shift, b, residual, y, scratch])
    expected = reference(np.maximum(x[..., :c] * scale + shift, 0), weights, shape) + b + residual
    np.testing.assert_allclose(y, expected, rtol=2e-5, atol=5e-4)


def shape(pixels: int, channels: int, out: int) -> ConvShape:
    return make_shape((1, pixels, pixels, channels), out, (1, 1))


@pytest.mark.parametrize(("pixels", "channels"), [(56, 64), (56, 224), (28, 480), (14, 992), (7, 992)])
def test_strips_fit_the_cache(pixels: int, channels: int) -> None:
    target = get("x86-64-v4")
    made = strips.plan(shape(pixels, channels, 128), target)
    assert made is not None
    assert made.scratch * 4 <= target.l2 / 2
    assert made.tasks >= 2
    assert made.strip * made.tasks >= made.tiles
    assert made.row >= channels
    assert made.row * 4 % 4096
    assert made.x_step == channels


def test_what_is_no_row_of_pixels_has_no_plan() -> None:
    target = get("x86-64-v4")
    assert strips.plan(make_shape((1, 8, 8, 16), 16, (3, 3), pads=(1, 1, 1, 1)), target) is None
    assert strips.plan(make_shape((1, 8, 8, 16), 16, (1, 1), (2, 2)), target) is None
    assert strips.plan(make_shape((1, 8, 8, 16), 16, (1, 1), group=2), target) is None
