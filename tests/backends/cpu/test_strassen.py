"""Products by fewer multiplications: the tables, the choice, and the kernels against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from onyxc.backends.cpu import strassen
from onyxc.backends.cpu.epilogue import Epilogue, Operand
from onyxc.backends.cpu.shapes import ConvShape, matmul_shape
from onyxc.backends.cpu.strassen_plan import METHODS, Method, as_product, error_bound
from onyxc.backends.cpu.strassen_tables import ALGORITHMS, STRASSEN, Algorithm, nested
from onyxc.backends.target import Target, get

Array = np.ndarray[Any, Any]
V4 = get("x86-64-v4")
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
SIZES = {
    "even": (24, 192, 96),
    "odd rows, odd half of the columns": (37, 192, 150),
    "parts of the rows": (520, 96, 60),
    "one row a tile": (9, 96, 30),
}


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_tables_are_exact(algorithm: Algorithm) -> None:
    assert algorithm.is_exact
    assert algorithm.saving < 1
    assert f"{algorithm.m} x {algorithm.k} x {algorithm.n} in {algorithm.products} products" == algorithm.name


def test_a_wrong_table_is_found() -> None:
    assert not replace(STRASSEN, right=-STRASSEN.right).is_exact


def run(call: Any, shape: ConvShape, method: Method, target: Target, arrays: list[Array]) -> Array:
    """[rows, columns] of x times weights plus a bias and a residual; x, weights, bias and residual are given."""
    x, w, bias, residual = arrays
    rows, columns = residual.shape
    strides = ((0, 0, 0, 1), (0, columns, columns, 1))  # rows along h or w
    plan = strassen.plan(shape, method, target, strides)
    operands = (Operand("float32", strides[0]), Operand("float32", strides[1]))
    epilogue = Epilogue(operands, lambda acc, ops: acc + ops[0] + ops[1])
    y, scratch = np.full((rows, columns), np.nan, np.float32), np.full(plan.scratch_size, np.nan, np.float32)
    kernel = strassen.emit("products", plan, epilogue, target)
    assert method.name in kernel.note
    call(kernel, target, [x, strassen.pack(w, plan), method.terms, bias, residual, y, scratch])
    return y


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
@pytest.mark.parametrize("size", SIZES)
def test_product(size: str, method: Method, level: str, call: Any) -> None:
    (rows, depth, columns), algorithm = SIZES[size], method.algorithm
    depth, columns = 64 * algorithm.k * (depth // 96), columns // algorithm.n * algorithm.n
    rng, shape = np.random.default_rng(3), matmul_shape(rows, depth, columns)
    x, w = rng.uniform(-1, 1, (rows, depth)).astype(np.float32), rng.uniform(-1, 1, (depth, columns)).astype(np.float32)
    bias, residual = rng.standard_normal(columns, np.float32), rng.standard_normal((rows, columns), np.float32)
    y = run(call, shape, method, get(level), [x, w, bias, residual])
    expected = x.astype(np.float64) @ w.astype(np.float64) + bias + residual
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)
    bound = error_bound(strassen.plan(shape, method, get(level)), 1, 1)
    assert np.abs(y - expected).max() < bound < 1
    plain = np.abs(x @ w + bias + residual - expected)
    assert np.sqrt(((y - expected) ** 2).mean()) < 6 * np.sqrt((plain**2).mean())


def test_one_dimensional_convolution(call: Any) -> None:
    rng, (length, channels, taps, columns) = np.random.default_rng(4), (80, 64, 3, 48)
    rows = (length - taps) // 2 + 1
    shape = ConvShape(
        1, channels, columns, 1, (length, 1), (rows, 1), (taps, 1), (2, 1), (1, 1), (0, 0, 0, 0),
        (length * channels, channels, channels, 1), (rows * columns, columns, columns),
    )  # fmt: skip
    found = as_product(shape)
    assert found is not None
    assert (found[0].in_channels, found[0].x_strides[2]) == (taps * channels, 2 * channels)
    x, w = rng.standard_normal((length, channels), np.float32), rng.standard_normal((192, columns), np.float32)
    bias, residual = rng.standard_normal(columns, np.float32), rng.standard_normal((rows, columns), np.float32)
    windows = np.stack([x[2 * i : 2 * i + taps].reshape(-1) for i in range(rows)])
    y = run(call, shape, Method(STRASSEN, premade=False), V4, [x, w, bias, residual])
    np.testing.assert_allclose(y, windows @ w + bias + residual, rtol=1e-5, atol=1e-4)
    assert as_product(replace(shape, dilations=(2, 1))) is None
    assert as_product(replace(shape, pads=(1, 0, 0, 0))) is None
    assert as_product(replace(shape, kernel=(3, 3))) is None


def test_what_is_chosen() -> None:
    large = matmul_shape(128, 768, 3072)
    best = strassen.choose(large, V4)
    assert best is not None
    assert best.algorithm.saving < STRASSEN.saving
    assert not best.premade
    narrow = strassen.choose(large, get("x86-64-v3"))
    assert narrow is not None
    assert narrow.premade
    assert strassen.choose(matmul_shape(128, 1024, 2048), V4) is not None
    assert strassen.choose(large, replace(V4, exact=True)) is None
    assert strassen.choose(large, replace(V4, favor="size")) is best  # it keeps no weights but the model's own
    for shape in (matmul_shape(1, 4096, 4096), matmul_shape(128, 64, 64), matmul_shape(128, 775, 768)):
        assert strassen.choose(shape, V4) is None
    assert strassen.choose(replace(large, x_dtype="uint8", w_dtype="int8", acc_dtype="int32"), V4) is None


def test_threads_divide_rows_unless_weights_are_far_larger_or_rows_few() -> None:
    def made(rows: int, depth: int, columns: int) -> strassen.StrassenPlan:
        shape = matmul_shape(rows, depth, columns)
        method = strassen.choose(shape, V4)
        assert method is not None
        return strassen.plan(shape, method, V4)

    plan = made(196, 1024, 256)
    assert (plan.parts, plan.tasks) == (2, 2 * plan.units)
    assert plan.factors[1] == plan.most_rows < 0.6 * plan.rows
    assert made(784, 512, 256).parts > 1
    assert made(128, 768, 3072).parts == 1
    assert made(196, 2048, 4096).parts == 1


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_weights_are_kept_once(algorithm: Algorithm) -> None:
    shape = matmul_shape(128, 64 * algorithm.k, 32 * algorithm.n)
    w = np.arange(shape.in_channels * shape.out_channels, dtype=np.float32).reshape(shape.in_channels, -1)
    plan = strassen.plan(shape, Method(algorithm, premade=False), replace(V4, l2=16384))
    packed = strassen.pack(w, plan)
    assert plan.slices > 1
    assert sorted(packed) == sorted(w.reshape(-1))
    panel = packed[: plan.slice * plan.panels[0].width].reshape(plan.slice, -1)
    np.testing.assert_array_equal(panel, w[: plan.slice, : plan.panels[0].width])


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_some_right_factor_is_a_block_as_it_is(method: Method) -> None:
    assert (1,) in method.forms  # the kernel reads these without a copy
    assert len(method.terms) == method.algorithm.products


def test_right_factors_have_few_forms() -> None:
    twice = Method(nested(STRASSEN, STRASSEN), premade=False)
    assert twice.forms == [(1,), (1, -1), (1, 1), (1, 1, -1, -1), (1, 1, 1, 1)]
    for row, (form, *blocks) in zip(twice.right, twice.terms, strict=True):
        signs = twice.forms[form]
        assert [row[b] for b in blocks[: len(signs)]] == list(signs)
        assert set(blocks) == set(np.flatnonzero(row))
    assert Method(STRASSEN, premade=True).forms == [(1,)]


def test_premade_factors_are_made_in_double_precision() -> None:
    w = np.zeros((128, 64), np.float32)
    w[:64, :32], w[64:, 32:] = 1, 2.0**-24  # the sum of the two is 1 in float32
    plan = strassen.plan(matmul_shape(128, 128, 64), Method(STRASSEN, premade=True), V4)
    packed = strassen.pack(np.concatenate([w[:64] * 3, w[64:] * 2.0**24]), plan)
    assert packed.reshape(7, 64, 32)[0, 0, 0] == 4
