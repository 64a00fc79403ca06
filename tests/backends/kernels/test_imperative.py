"""Operators written as programs: one of each style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from tvm import tirx

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.kernels.imperative import Array, Emitter, Imperative, build_imperative
from onyxc.backends.target import PRESETS, host

Values = np.ndarray[Any, Any]
Run = Callable[..., list[Values]]


@pytest.fixture
def run(native: Any, placed: Any, empty: Any) -> Run:
    """Compile an Imperative and run it on arrays, in up to three ranges of tasks."""

    def go(imp: Imperative, arrays: Sequence[Values]) -> list[Values]:
        kernel = build_imperative("k", [(a.shape, str(a.dtype)) for a in arrays], imp, host())
        results = [empty(*spec) for spec in (*imp.outputs, *imp.scratch)]
        native([kernel]).call("k", [*(placed(a) for a in arrays), *results], parts=min(3, imp.tasks))
        return results[: len(imp.outputs)]

    return go


def cumsum(rows: int, width: int, dtype: str) -> Imperative:
    def emit(row: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        (x,), (y,) = inputs, outputs
        total = e.var("float32" if dtype.endswith("16") else dtype, 0)
        with e.for_(width) as i:
            total.value = total.value + x[row, i]
            y[row, i] = total.value

    return Imperative([((rows, width), dtype)], rows, emit)


def nonzero(shape: tuple[int, int]) -> Imperative:
    size = shape[0] * shape[1]

    def emit(_: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        (x,), (where, count) = inputs, outputs
        found = e.var("int32", 0)
        with e.for_(shape[0]) as i, e.for_(shape[1]) as j, e.if_(x[i, j] != 0):
            where[0, found.value] = i
            where[1, found.value] = j
            found.value = found.value + 1
        count[0] = 2
        count[1] = found.value

    return Imperative([((2, size), "int64"), ((2,), "int64")], 1, emit)


def top_k(rows: int, width: int, k: int) -> Imperative:
    """Insertion into a sorted list of the best, equal values by index."""

    def emit(row: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        (x,), (values, indices) = inputs, outputs
        with e.for_(width) as i:
            candidate = e.bind(x[row, i])
            at = e.var("int32", tirx.min(i, k))
            with e.while_(tirx.all(at.value > 0, values[row, tirx.max(at.value - 1, 0)] < candidate)):
                with e.if_(at.value < k):
                    values[row, at.value] = values[row, at.value - 1]
                    indices[row, at.value] = indices[row, at.value - 1]
                at.value = at.value - 1
            with e.if_(at.value < k):
                values[row, at.value] = candidate
                indices[row, at.value] = i

    return Imperative([((rows, k), "float32"), ((rows, k), "int64")], rows, emit)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "float16"])
def test_cumsum(dtype: str, run: Run) -> None:
    a = np.random.default_rng(0).integers(-5, 6, (7, 50)).astype(dtype)
    np.testing.assert_allclose(run(cumsum(7, 50, dtype), [a])[0], np.cumsum(a, 1), rtol=1e-3)


def test_nonzero_reports_its_count(run: Run) -> None:
    a = np.random.default_rng(0).integers(0, 3, (9, 11)).astype(np.float32)
    where, count = run(nonzero((9, 11)), [a])
    expected = np.argwhere(a).T
    assert list(count) == list(expected.shape)
    np.testing.assert_array_equal(where[:, : count[1]], expected)


@pytest.mark.parametrize("k", [1, 5, 30])
def test_top_k(k: int, run: Run) -> None:
    a = np.random.default_rng(0).integers(0, 12, (6, 30)).astype(np.float32)
    values, indices = run(top_k(6, 30, k), [a])
    order = np.argsort(-a, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(values, np.take_along_axis(a, order, 1))


@pytest.mark.parametrize("width", [1, 16, 37])
def test_vectors_scratch_and_else(width: int, run: Run) -> None:
    def emit(row: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        (x, flag), (y,) = inputs, outputs
        for i in e.vectorised(width):
            e.scratch[0][row, i] = tirx.exp(x[row, i])
        with e.if_(flag[row]):
            for i in e.vectorised(width):
                y[row, i] = e.scratch[0][row, i] + 1
        with e.else_(), e.for_(width) as i:
            y[row, width - 1 - i] = e.scratch[0][row, i]

    a = np.random.default_rng(0).standard_normal((4, width), dtype=np.float32)
    flag = np.array([True, False, True, False])
    imp = Imperative([((4, width), "float32")], 4, emit, scratch=[((4, width), "float32")])
    expected = np.where(flag[:, None], np.exp(a) + 1, np.exp(a)[:, ::-1])
    np.testing.assert_allclose(run(imp, [a, flag])[0], expected, rtol=1e-6)


def test_variables_inside_vectors_are_private(run: Run) -> None:
    def emit(_: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        for i in e.vectorised(40):
            power = e.var("int32", 1)
            with e.for_(3):
                power.value = power.value * inputs[0][i]
            outputs[0][i] = power.value

    a = np.arange(40, dtype=np.int32)
    np.testing.assert_array_equal(run(Imperative([((40,), "int32")], 1, emit), [a])[0], a**3)


def test_control_flow_inside_vectors_is_refused(run: Run) -> None:
    def emit(_: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        for i in e.vectorised(40):
            with e.if_(inputs[0][i] > 0):
                outputs[0][i] = 1

    with pytest.raises(ValueError, match="if_ inside vectorised"):
        run(Imperative([((40,), "int32")], 1, emit), [np.arange(40, dtype=np.int32)])


@pytest.mark.parametrize("dtype", ["bool", "bfloat16", "float8_e4m3fn"])
def test_stored_dtypes(dtype: str, run: Run) -> None:
    def emit(_: Any, inputs: list[Array], outputs: list[Array], e: Emitter) -> None:
        for i in e.vectorised(40):
            outputs[0][i] = inputs[0][i]

    a = np.random.default_rng(0).integers(0, 3, 40).astype(np.float32)
    got = run(Imperative([((40,), dtype)], 1, emit), [a])[0]
    np.testing.assert_array_equal(got.astype(np.float32), a != 0 if dtype == "bool" else a)


@pytest.mark.parametrize("name", ["x86-64-v2", "aarch64", "armv7"])
def test_other_processors_compile(name: str) -> None:
    kernel = build_imperative("k", [((6, 30), "float32")], top_k(6, 30, 5), PRESETS[name])
    assert compile_objects([kernel], PRESETS[name])[0][:4] == b"\x7fELF"
