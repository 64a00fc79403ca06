"""Every dtype that a kernel may meet: stored as numpy stores it, narrow floats computed in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels import codegen
from onyxc.backends.kernels.generic import build_all
from onyxc.backends.target import PRESETS
from onyxc.compiler.ir.types import numpy_dtype

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]

FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def numbers(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).integers(0 if dtype[0] == "u" else -6, 7, shape)
    return values.astype(np.float32).astype(numpy_dtype(dtype))


@pytest.mark.parametrize("width", [3, 16, 70])
@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
def test_arithmetic(dtype: str, width: int, run_group: Run) -> None:
    a, b = numbers((5, width), dtype), numbers((width,), dtype, 1)
    x, y = te.placeholder(a.shape, dtype), te.placeholder(b.shape, dtype)
    z = te.compute(a.shape, lambda i, j: tirx.max(x[i, j] * y[j] + y[j], x[i, j]), name="z")
    k = te.reduce_axis((0, width), "k")
    top = te.compute((5,), lambda i: te.max(x[i, k], axis=k), name="top")
    got = run_group([x, y], [z, top], [a, b])
    exact = np.float64 if dtype in FLOATS else numpy_dtype(dtype)
    product = (a.astype(exact) * b.astype(exact) + b.astype(exact)).astype(numpy_dtype(dtype))
    expected = np.maximum(product.astype(exact), a.astype(exact))
    close = {"float8_e4m3fn": 0.2, "float8_e5m2": 0.3}.get(dtype, 0.01)
    np.testing.assert_allclose(got[0].astype(exact), expected, rtol=close if dtype in FLOATS else 0)
    np.testing.assert_array_equal(got[1].astype(exact), a.astype(exact).max(1))


@pytest.mark.parametrize("target_type", [*FLOATS, "int8", "uint8", "int32", "int64", "bool"])
@pytest.mark.parametrize("source", [*FLOATS, "int8", "uint8", "int64", "bool"])
def test_cast(source: str, target_type: str, run_group: Run) -> None:
    a = abs(numbers((4, 21), "float32")).astype(numpy_dtype(source))
    x = te.placeholder(a.shape, source)

    def cast(v: Any) -> Any:
        return v != tirx.const(0, source) if target_type == "bool" and source != "bool" else v.astype(target_type)

    y = te.compute(a.shape, lambda i, j: cast(x[i, j]), name="y")
    got = run_group([x], [y], [a])[0]
    np.testing.assert_array_equal(got.astype(np.float64), a.astype(numpy_dtype(target_type)).astype(np.float64))


def test_bool_is_a_byte(run_group: Run) -> None:
    a = np.random.default_rng(0).integers(0, 2, (7, 40)).astype(bool)
    b = np.random.default_rng(1).standard_normal((7, 40), dtype=np.float32)
    x, y = te.placeholder(a.shape, "bool"), te.placeholder(b.shape)
    where = te.compute(a.shape, lambda i, j: te.if_then_else(x[i, j], y[i, j], -y[i, j]), name="where")
    both = te.compute(a.shape, lambda i, j: tirx.all(x[i, j], y[i, j] > 0), name="both")
    got = run_group([x, y], [where, both], [a, b])
    np.testing.assert_array_equal(got[0], np.where(a, b, -b))
    np.testing.assert_array_equal(got[1].view(np.uint8), (a & (b > 0)).view(np.uint8))


@pytest.mark.parametrize("name", [n for n, t in PRESETS.items() if t.kind == "cpu"])
def test_every_target_compiles_the_same_bytes_twice(name: str) -> None:
    target = PRESETS[name]
    x = te.placeholder((33, 100))
    k = te.reduce_axis((0, 100), "k")
    total = te.compute((33,), lambda i: te.sum(te.exp(x[i, k]), axis=k), name="total")
    y = te.compute((33, 100), lambda i, j: te.tanh(x[i, j]) / total[i], name="y")
    z = te.compute((33,), lambda i: total[i].astype("float16"), name="z")

    def objects() -> list[bytes]:
        pieces, _ = build_all("k", [x], [y, z], target)
        return codegen.compile_objects([p.kernel for p in pieces], target)

    first = objects()
    assert first == objects()
    assert all(data[:4] == b"\x7fELF" for data in first)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "bfloat16"])
def test_narrow_floats_match_ml_dtypes(dtype: str, run_group: Run) -> None:
    kind = numpy_dtype(dtype)
    codes = np.arange(1 << (8 * kind.itemsize), dtype=f"uint{8 * kind.itemsize}").view(kind)
    known = codes.astype(np.float32)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    near = (rng.standard_normal(20_000) * 2.0 ** rng.integers(-20, 20, 20_000)).astype(np.float32)
    with np.errstate(all="ignore"):
        halves = ((known + np.roll(known, 1)) / 2).astype(np.float32)
        ties = np.nextafter(halves, np.array([[0], [-1e9], [1e9]], np.float32)).reshape(-1)
        values = np.concatenate([ties, halves, bits, near, np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)])
    c, v = te.placeholder(codes.shape, dtype, name="c"), te.placeholder(values.shape, "float32", name="v")
    up = te.compute(codes.shape, lambda i: c[i].astype("float32"), name="up")
    down = te.compute(values.shape, lambda i: v[i].astype(dtype), name="down")
    np.testing.assert_array_equal(run_group([c], [up], [codes])[0], known)
    got = run_group([v], [down], [values])[0]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(got.astype(np.float32), values.astype(kind).astype(np.float32))
