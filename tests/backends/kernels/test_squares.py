"""Transposing accesses: squares turned in registers, and which nests get them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels.axes import collapse
from onyxc.backends.kernels.group import plan
from onyxc.backends.kernels.schedule import schedule
from onyxc.backends.target import PRESETS

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]
X86 = PRESETS["x86-64-v4"]


def transposed(x: Any, perm: tuple[int, ...]) -> Any:
    shape = tuple(int(x.shape[p]) for p in perm)
    places = [perm.index(axis) for axis in range(len(perm))]
    return te.compute(shape, lambda *i: x[tuple(i[p] for p in places)], name="transposed")


def square(outputs: list[Any], inputs: list[Any], target: Any = X86) -> int:
    nest = plan(outputs, inputs)
    collapse(nest)
    return schedule(nest, target).square


SHAPES = [
    ((64, 49), (1, 0)),
    ((17, 100), (1, 0)),
    ((5, 6), (1, 0)),
    ((2, 33, 20), (0, 2, 1)),
    ((2, 3, 40, 24), (0, 2, 3, 1)),
    ((16, 3, 5, 17), (3, 2, 1, 0)),
    ((1, 64, 32, 32), (0, 2, 3, 1)),
]


@pytest.mark.parametrize(("shape", "perm"), SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "float16", "bfloat16", "int64", "bool"])
def test_transposes(shape: tuple[int, ...], perm: tuple[int, ...], dtype: str, run_group: Run) -> None:
    kind = "uint16" if dtype == "bfloat16" else dtype
    x = np.random.default_rng(1).integers(0, 2 if dtype == "bool" else 100, shape).astype(kind)
    t = te.placeholder(shape, kind)
    np.testing.assert_array_equal(run_group([t], [transposed(t, perm)], [x])[0], x.transpose(perm))


def test_arithmetic_around_two_squares(run_group: Run) -> None:
    rng = np.random.default_rng(2)
    a, b, c = (rng.normal(size=s).astype(np.float32) for s in ((40, 70), (40, 70), (70, 40)))
    s, t, u = (te.placeholder(v.shape) for v in (a, b, c))
    y = te.compute((70, 40), lambda i, j: s[j, i] * t[j, i] + s[j, i] - u[i, j], name="y")
    assert square([y], [s, t, u]) == 16
    np.testing.assert_allclose(run_group([s, t, u], [y], [a, b, c])[0], a.T * b.T + a.T - c, rtol=1e-5, atol=1e-6)


def test_a_slice_before_the_transpose(run_group: Run) -> None:
    x = np.random.default_rng(3).normal(size=(30, 50)).astype(np.float32)
    t = te.placeholder(x.shape)
    y = te.compute((41, 20), lambda i, j: t[j + 4, i + 7], name="y")
    assert square([y], [t]) == 16
    np.testing.assert_array_equal(run_group([t], [y], [x])[0], x[4:24, 7:48].T)


@pytest.mark.parametrize(("name", "dtype", "side"), [
    ("x86-64-v4", "float32", 16), ("x86-64-v3", "float32", 8), ("x86-64-v2", "float32", 4), ("aarch64", "float32", 4),
    ("x86-64-v4", "uint8", 16), ("x86-64-v4", "float16", 16), ("x86-64-v4", "int64", 8),
])  # fmt: skip
def test_the_side_fits_the_registers(name: str, dtype: str, side: int) -> None:
    t = te.placeholder((64, 64), dtype)
    assert square([transposed(t, (1, 0))], [t], PRESETS[name]) == side


def test_no_square_where_it_is_not_safe_or_does_not_pay() -> None:
    t = te.placeholder((64, 64))
    narrow = te.placeholder((3, 64))
    padded = te.compute((64, 66), lambda i, j: tirx.if_then_else(j < 64, t[j, i], 0.0), name="padded")
    dear = te.compute((64, 8), lambda i, j: tirx.exp(t[j, i]), name="dear")
    straight = te.compute((64, 64), lambda i, j: t[i, j] + 1.0, name="straight")
    for output, source in ((padded, t), (dear, t), (straight, t), (transposed(narrow, (1, 0)), narrow)):
        assert square([output], [source]) == 0
