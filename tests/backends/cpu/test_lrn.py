"""Local response normalization against numpy in double precision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onyxc.backends.cpu import lrn
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.lrn import LrnShape
from onyxc.backends.cpu.shapes import dense_strides
from onyxc.backends.cpu.vectors import T, constant, lanes_of
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]


def make_shape(size: tuple[int, int, int, int], window: int, alpha: float = 1e-4, bias: float = 1.0) -> LrnShape:
    strides = dense_strides(*size[1:])
    return LrnShape(size, (window - 1) // 2, window // 2, alpha / window, bias, strides, strides)


def reference(x: Array, shape: LrnShape) -> Array:
    square = x.astype(np.float64) ** 2
    padded = np.pad(square, [(0, 0)] * 3 + [(shape.before, shape.after)])
    total = sum(padded[..., d : d + x.shape[3]] for d in range(shape.before + shape.after + 1))
    return x / (shape.bias + shape.scale * total) ** 0.75


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("window", [1, 2, 4, 5, 9])
@pytest.mark.parametrize("size", [(1, 3, 5, 64), (2, 2, 3, 16), (1, 1, 7, 96)])
def test_values(size: tuple[int, int, int, int], window: int, level: str, call: Any) -> None:
    shape, target = make_shape(size, window, alpha=0.3, bias=2.0), get(level)
    if not lrn.fits(shape, 0.75, target):
        assert window // 2 > target.lanes()
        return
    x = np.random.default_rng(2).standard_normal(size, np.float32) * 4
    y = np.zeros_like(x)
    call(lrn.emit("kernel", shape, Epilogue(), target), target, [x, y])
    np.testing.assert_allclose(y, reference(x, shape), rtol=1e-6, atol=1e-7)


def test_places_and_epilogue(call: Any) -> None:
    """From a part of a wider tensor into another, with a Relu."""
    target, size = get("x86-64-v4"), (2, 3, 4, 32)
    x, y = np.random.default_rng(3).standard_normal((2, 3, 4, 48), np.float32), np.full((2, 3, 4, 40), 7, np.float32)
    shape = replace(make_shape(size, 5), x_strides=dense_strides(3, 4, 48), y_strides=dense_strides(3, 4, 40))
    relu = Epilogue((), lambda value, _: T.max(value, constant(0, "float32", lanes_of(value))))
    call(lrn.emit("kernel", shape, relu, target), target, [x, y])
    np.testing.assert_allclose(y[..., :32], np.maximum(reference(x[..., :32], shape), 0), rtol=1e-6, atol=1e-7)
    assert (y[..., 32:] == 7).all()


def test_extreme_values(call: Any) -> None:
    """A NaN spreads over its window, not further; large values give no NaN."""
    target, shape = get("x86-64-v4"), make_shape((1, 1, 2, 32), 5)
    x = np.ones((1, 1, 2, 32), np.float32)
    x[0, 0, 0, 10], x[0, 0, 1, 15] = np.nan, 1e15
    y = np.zeros_like(x)
    call(lrn.emit("kernel", shape, Epilogue(), target), target, [x, y])
    assert np.flatnonzero(np.isnan(y[0, 0, 0])).tolist() == [8, 9, 10, 11, 12]
    np.testing.assert_allclose(y[0, 0, 1], reference(x[:, :, 1:], shape)[0, 0, 0], rtol=1e-6)


def test_other_powers_are_left_to_the_generic_group() -> None:
    target, shape = get("x86-64-v4"), make_shape((1, 4, 4, 64), 5)
    assert lrn.fits(shape, 0.75, target)
    assert not lrn.fits(shape, 0.5, target)
    assert not lrn.fits(replace(shape, size=(1, 4, 4, 60)), 0.75, target)
    assert not lrn.fits(replace(shape, bias=0.0), 0.75, target)
