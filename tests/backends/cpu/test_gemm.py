"""Matrix products of two run-time operands against numpy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import pytest

from onyxc.backends.cpu import gemm
from onyxc.backends.cpu.epilogue import Epilogue, Operand
from onyxc.backends.cpu.gemm import GemmShape
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]


@dataclass(frozen=True)
class Case:
    """Sizes, which operands are stored transposed, and which are the same for all batches."""

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a_turned: bool = False
    b_turned: bool = False
    b_shared: bool = False
    b_spread: int = 1  # elements between neighbours


CASES = {
    "plain": Case((), 33, 40, 19),
    "far rows": Case((), 40, 200, 50),
    "attention scores": Case((2, 3), 29, 45, 37, b_turned=True),
    "attention values": Case((2, 3), 29, 24, 45),
    "a turned": Case((2,), 21, 37, 16, a_turned=True),
    "shared b": Case((2, 3), 7, 70, 21, b_shared=True),
    "shared b, one row each": Case((4,), 1, 70, 21, b_shared=True, b_turned=True),
    "one row": Case((), 1, 130, 64),
    "one row against columns": Case((2, 3), 1, 45, 64, b_turned=True),
    "few rows against columns": Case((3,), 4, 70, 32, b_turned=True),
    "shared columns": Case((1, 3), 1, 37, 48, b_turned=True, b_shared=True),
    "one column": Case((3,), 20, 1, 33),
    "few tasks": Case((), 90, 20, 64, b_turned=True),
    "spread b": Case((2,), 9, 21, 13, b_spread=3),
}


def strides(array: Array) -> tuple[int, ...]:
    """Element strides."""
    return tuple(s // array.itemsize for s in array.strides)


def build(case: Case, a: Array, b: Array) -> tuple[GemmShape, Array, Array]:
    """The shape, and views of ``a`` and ``b`` in mathematical order."""
    a = a.swapaxes(-1, -2) if case.a_turned else a
    b = b[..., :: case.b_spread]
    b = b.swapaxes(-1, -2) if case.b_turned else b
    b_strides = (0,) * len(case.batch) + strides(b) if case.b_shared else strides(b)
    y = np.empty((*case.batch, case.m, case.n), np.float32)
    return GemmShape(case.batch, case.m, case.n, case.k, strides(a), b_strides, strides(y)[:-1]), a, b


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("name", CASES)
def test_float(name: str, level: str, call: Any) -> None:
    case, target, rng = CASES[name], get(level), np.random.default_rng(1)
    a_size, b_size = (case.m, case.k), (case.k, case.n)
    a = rng.standard_normal((*case.batch, *(a_size[::-1] if case.a_turned else a_size)), np.float32)
    inner = b_size[::-1] if case.b_turned else b_size
    b = rng.standard_normal((*(() if case.b_shared else case.batch), inner[0], inner[1] * case.b_spread), np.float32)
    shape, left, right = build(case, a, b)
    residual = rng.standard_normal((*case.batch, case.m, case.n), np.float32)
    y = np.zeros_like(residual)
    epilogue = Epilogue((Operand("float32", strides(residual)),), lambda acc, ops: acc + ops[0])
    made = gemm.plan(shape, target, tuple(o.strides for o in epilogue.operands))
    kernel = gemm.emit("kernel", made, epilogue, target)
    scratch = [np.zeros(made.scratch_size, made.scratch_dtype)] * made.packed
    call(kernel, target, [a, b, residual, *scratch, y])
    expected = left.astype(np.float64) @ right.astype(np.float64) + residual
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("level", TARGETS)
def test_integer(level: str, turned: bool, call: Any) -> None:
    target, rng = get(level), np.random.default_rng(2)
    m, n, k = 18, 27, 40
    a = rng.integers(0, 256, (2, m, k)).astype(np.uint8)
    b = rng.integers(-128, 128, (2, n, k) if turned else (2, k, n)).astype(np.int8)
    right = b.swapaxes(1, 2) if turned else b
    y = np.zeros((2, m, n), np.int32)
    types = {"a_dtype": "uint8", "b_dtype": "int8", "acc_dtype": "int32", "y_dtype": "int32"}
    shape = GemmShape((2,), m, n, k, strides(a), strides(right), (m * n, n), **types, a_zero_point=7, b_zero_point=-3)  # type: ignore[arg-type]
    made = gemm.plan(shape, target)
    scratch = [np.zeros(made.scratch_size, made.scratch_dtype)] * made.packed
    call(gemm.emit("kernel", made, Epilogue(y_dtype="int32"), target), target, [a, b, *scratch, y])
    np.testing.assert_array_equal(y, (a.astype(np.int64) - 7) @ (right.astype(np.int64) + 3))


def test_plan_of_few_rows_against_columns() -> None:
    shape = GemmShape((4,), 1, 96, 64, (64, 64, 1), (6144, 1, 64), (96, 96))
    made = gemm.plan(shape, get("x86-64-v4"))
    assert made.dots
    assert not made.packed
    assert made.tasks == 4 * 6
    assert not gemm.plan(replace(shape, m=5), get("x86-64-v4")).dots
    assert not gemm.plan(replace(shape, k=60), get("x86-64-v4")).dots
    assert not gemm.plan(replace(shape, b_strides=(6144, 96, 1)), get("x86-64-v4")).dots


def test_plan_merges_batches_that_share_b() -> None:
    shape = GemmShape((2, 3), 4, 8, 5, (60, 20, 5, 1), (0, 0, 8, 1), (96, 32, 8))
    made = gemm.plan(shape, get("x86-64-v4"))
    assert made.shape.batch == ()
    assert made.shape.m == 24
    assert prod(made.shape.a_strides) == 5
