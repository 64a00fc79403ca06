"""Errors of the mathematical functions against float64, over bit patterns of all kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.kernels.generic import build_all
from onyxc.backends.target import PRESETS

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]


def _sigmoid(x: Array) -> Array:
    return np.where(x < 0, np.exp(x) / (1 + np.exp(x)), 1 / (1 + np.exp(-x)))


# name -> (reference in float64, largest error in units in the last place)
FUNCTIONS: dict[str, tuple[Callable[[Array], Array], float]] = {
    "exp": (np.exp, 1.1),
    "exp2": (np.exp2, 1.1),
    "log": (np.log, 0.8),
    "log2": (np.log2, 0.8),
    "log10": (np.log10, 0.8),
    "log1p": (np.log1p, 1.5),
    "tanh": (np.tanh, 2.6),
    "sigmoid": (_sigmoid, 1.7),
    "erf": (np.vectorize(math.erf, otypes=[np.float64]), 1.1),
    "sin": (np.sin, 1.6),
    "cos": (np.cos, 1.6),
    "tan": (np.tan, 3.5),
    "asin": (np.arcsin, 1.0),
    "acos": (np.arccos, 1.0),
    "atan": (np.arctan, 1.0),
    "sinh": (np.sinh, 2.0),
    "cosh": (np.cosh, 2.0),
    "asinh": (np.arcsinh, 2.0),
    "acosh": (np.arccosh, 2.0),
    "atanh": (np.arctanh, 2.0),
    "sqrt": (np.sqrt, 0.51),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 1.6),
    "floor": (np.floor, 0),
    "ceil": (np.ceil, 0),
    "trunc": (np.trunc, 0),
    "round": (np.round, 0),
    "nearbyint": (np.round, 0),
}


def samples(count: int = 1 << 16) -> Array:
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, count, np.uint32).view(np.float32)
    near = (rng.standard_normal(count) * 10.0 ** rng.uniform(-6, 2.5, count)).astype(np.float32)
    edges = [0, -0.0, np.inf, -np.inf, np.nan, 1, -1, 1e-45, -1e-45, 3.4028235e38, 0.5, 1.5, 2.5]
    return np.concatenate([np.array(edges, np.float32), bits, near])


def errors(got: Array, expected: Array) -> Array:
    """Distance in units in the last place; infinite where one is special and the other is something else."""
    nearest = expected.astype(np.float32)
    same = (got == nearest) | (np.isnan(got) & np.isnan(nearest))
    distance = abs(got.astype(np.float64) - expected) / np.spacing(abs(nearest)).astype(np.float64)
    distance = np.where(np.isfinite(distance), distance, np.where(same, 0, np.inf))
    return np.where(same & ~np.isfinite(nearest), 0, distance)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32(name: str, run_group: Run) -> None:
    reference, bound = FUNCTIONS[name]
    x = samples()
    t = te.placeholder(x.shape)
    y = te.compute(x.shape, lambda i: getattr(tirx, name)(t[i]), name="y")
    got = run_group([t], [y], [x])[0]
    with np.errstate(all="ignore"):
        worst = errors(got, reference(x.astype(np.float64)))
    assert worst.max() <= bound, f"{name}({x[worst.argmax()]!r}) = {got[worst.argmax()]!r}"


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf", "sin", "log1p", "asinh", "round", "rsqrt"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_floats(name: str, dtype: str, run_group: Run) -> None:
    x = (abs(np.random.default_rng(0).standard_normal(100)) * 3).astype(dtype)
    t = te.placeholder(x.shape, dtype)
    y = te.compute(x.shape, lambda i: getattr(tirx, name)(t[i]), name="y")
    expected = FUNCTIONS[name][0](x.astype(np.float64))
    np.testing.assert_allclose(run_group([t], [y], [x])[0], expected, rtol=1e-14 if dtype == "float64" else 1e-3)


def test_power(run_group: Run) -> None:
    edges = [0, -0.0, 1, -1, 2, -2, 3, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-40, 3e38, 2**24 + 2]
    special = np.array(edges, np.float32)
    rng = np.random.default_rng(0)
    x, y = (np.ravel(m) for m in np.meshgrid(special, special))
    base = (abs(rng.standard_normal(50_000)) * 10.0 ** rng.uniform(-3, 3, 50_000)).astype(np.float32)
    power = (rng.standard_normal(50_000) * 10).astype(np.float32)
    x, y = np.concatenate([x, base, -base]), np.concatenate([y, power, np.round(power)])
    s, t = te.placeholder(x.shape), te.placeholder(y.shape)
    z = te.compute(x.shape, lambda i: tirx.power(s[i], t[i]), name="z")
    got = run_group([s, t], [z], [x, y])[0]
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64))
        worst = errors(got, expected)
    at = worst.argmax()
    assert worst[at] <= 1.2, f"{x[at]!r} ** {y[at]!r} = {got[at]!r}, not {expected[at]!r}"


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "aarch64", "armv7"])
def test_every_function_compiles_everywhere(name: str) -> None:
    x = te.placeholder((40,))

    def apply(name: str) -> Any:
        return te.compute((40,), lambda i: getattr(tirx, name)(x[i]), name=name)

    outputs = [apply(f) for f in FUNCTIONS]
    outputs.append(te.compute((40,), lambda i: tirx.power(x[i], x[i]), name="power"))
    kernels = [build_all(f"k{n}", [x], [y], PRESETS[name])[0][0].kernel for n, y in enumerate(outputs)]
    assert all(data[:4] == b"\x7fELF" for data in compile_objects(kernels, PRESETS[name]))
