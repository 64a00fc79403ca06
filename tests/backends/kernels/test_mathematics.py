"""Errors of the mathematical functions against float64, over bit patterns of all kinds."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import te, tirx

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.kernels.generic import build_all, key
from onyxc.backends.kernels.mathematics import fused, normal_exp2
from onyxc.backends.lowering.activations import gelu, softplus, swish
from onyxc.backends.target import PRESETS, host
from onyxc.compiler.ir.graph import Node

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]


LEVELS = [n for n in ("x86-64-v2", "x86-64-v3", "x86-64-v4") if host().name.startswith("x86") and n <= host().name]


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


@pytest.mark.skipif(not LEVELS, reason="needs an x86")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_without_fused_multiply_add(name: str, for_target: Any, placed: Any, empty: Any) -> None:
    reference, bound = FUNCTIONS[name]
    x = samples(1 << 15)
    t, out = te.placeholder(x.shape), empty(x.shape, "float32")
    y = te.compute(x.shape, lambda i: getattr(tirx, name)(t[i]), name="y")
    kernel = build_all("k", [t], [y], PRESETS["x86-64-v2"])[0][0].kernel
    for_target([kernel], PRESETS["x86-64-v2"]).call("k", [placed(x), out])
    with np.errstate(all="ignore"):
        worst = errors(out, reference(x.astype(np.float64)))
    assert worst.max() <= bound + 0.3, f"{name}({x[worst.argmax()]!r}) = {out[worst.argmax()]!r}"


@pytest.mark.parametrize("level", LEVELS)
def test_normal_exp2(level: str, for_target: Any, placed: Any, empty: Any) -> None:
    x = np.concatenate([[-126, 127, 0, -0.0, 0.5, np.nan], np.linspace(-126, 127, 200_001)]).astype(np.float32)
    t, out = te.placeholder(x.shape), empty(x.shape, "float32")
    y = te.compute(x.shape, lambda i: normal_exp2(t[i].asobject()), name="y")
    kernel = build_all("k", [t], [y], PRESETS[level])[0][0].kernel
    for_target([kernel], PRESETS[level]).call("k", [placed(x), out])
    assert errors(out, np.exp2(x.astype(np.float64))).max() <= 1.1 + 0.3 * (level == "x86-64-v2")


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_special_numbers(approximate: str, run_group: Run) -> None:
    x = np.array([np.nan, np.inf, 3e38, 0, -0.0, -3e38, -1e3, -12], np.float32)
    t, node = te.placeholder(x.shape), Node("Gelu", "", (), (), {"approximate": approximate})
    y = te.compute(x.shape, lambda i: gelu(node, t[i].asobject()), name="y")
    got = run_group([t], [y], [x])[0]
    np.testing.assert_array_equal(got[:5], x[:5])
    np.testing.assert_allclose(got[5:], 0, atol=1e-30)


def summands() -> tuple[Array, Array, Array]:
    """Factors and addends: of any size, of similar size, and products at a tie that a tiny addend decides."""
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, 2**32, (3, 20_000), np.uint32).view(np.float32)
    d, e, f = (rng.standard_normal((3, 20_000)) * 2.0 ** rng.integers(-8, 8, (3, 20_000))).astype(np.float32)
    x, y = (2 * rng.integers(2**11, 2**12, (2, 20_000)) + 1).astype(np.float32)  # 25 or 26 bits, the last of them set
    z = (rng.choice([-1, 0, 1], 20_000) * 2.0 ** rng.integers(-100, 4, 20_000)).astype(np.float32)
    return np.concatenate([a, d, x]), np.concatenate([b, e, -y]), np.concatenate([c, f, z])


@pytest.mark.parametrize("level", LEVELS)
def test_fused_rounds_once(level: str, for_target: Any, placed: Any, empty: Any) -> None:
    arrays = summands()
    inputs, out = [te.placeholder(a.shape) for a in arrays], empty(arrays[0].shape, "float32")
    y = te.compute(out.shape, lambda i: fused(*(t[i].asobject() for t in inputs)), name="y")
    kernel = build_all("k", inputs, [y], PRESETS[level])[0][0].kernel
    for_target([kernel], PRESETS[level]).call("k", [*map(placed, arrays), out])
    fmaf = ctypes.CDLL(None).fmaf
    fmaf.restype, fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    expected = np.array([fmaf(*values) for values in zip(*map(np.ndarray.tolist, arrays), strict=True)], np.float32)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sigmoid", "erf", "sin", "log1p", "asinh", "round", "rsqrt"])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_floats(name: str, dtype: str, run_group: Run) -> None:
    x = (abs(np.random.default_rng(0).standard_normal(100)) * 3).astype(dtype)
    t = te.placeholder(x.shape, dtype)
    y = te.compute(x.shape, lambda i: getattr(tirx, name)(t[i]), name="y")
    expected = FUNCTIONS[name][0](x.astype(np.float64))
    np.testing.assert_allclose(run_group([t], [y], [x])[0], expected, rtol=1e-14 if dtype == "float64" else 1e-3)


def powers() -> tuple[Array, Array]:
    """Bases and exponents: all pairs of special numbers, and many ordinary ones."""
    edges = [0, -0.0, 1, -1, 2, -2, 3, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-40, 3e38, 2**24 + 2]
    special = np.array(edges, np.float32)
    rng = np.random.default_rng(0)
    x, y = (np.ravel(m) for m in np.meshgrid(special, special))
    base = (abs(rng.standard_normal(50_000)) * 10.0 ** rng.uniform(-3, 3, 50_000)).astype(np.float32)
    power = (rng.standard_normal(50_000) * 10).astype(np.float32)
    near = (1 + rng.standard_normal(50_000) * 1e-5).astype(np.float32)
    return np.concatenate([x, base, -base, near]), np.concatenate([y, power, np.round(power), power * np.float32(1e5)])


def test_power(run_group: Run) -> None:
    x, y = powers()
    s, t = te.placeholder(x.shape), te.placeholder(y.shape)
    z = te.compute(x.shape, lambda i: tirx.power(s[i], t[i]), name="z")
    got = run_group([s, t], [z], [x, y])[0]
    with np.errstate(all="ignore"):
        expected = np.power(x.astype(np.float64), y.astype(np.float64))
        worst = errors(got, expected)
    at = worst.argmax()
    assert worst[at] <= 1.2, f"{x[at]!r} ** {y[at]!r} = {got[at]!r}, not {expected[at]!r}"


def test_remainder(run_group: Run) -> None:
    x, y = powers()
    s, t = te.placeholder(x.shape), te.placeholder(y.shape)
    z = te.compute(x.shape, lambda i: tirx.fmod(s[i], t[i]), name="z")
    got = run_group([s, t], [z], [x, y])[0]
    with np.errstate(all="ignore"):
        expected = np.fmod(x, y)
    np.testing.assert_array_equal(got, expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(expected[known]))


def _normal(x: Array) -> Array:
    return 0.5 * x * np.vectorize(math.erfc, otypes=[np.float64])(-x / math.sqrt(2))


# name -> (rule, reference in float64, largest error over max(|x|, |y|))
ACTIVATIONS = {
    "gelu": (gelu, {}, _normal, 1.2e-7),
    "gelu_tanh": (
        gelu,
        {"approximate": "tanh"},
        lambda x: x * _sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
        3e-7,
    ),
    "swish": (swish, {"alpha": 1.0}, lambda x: x * _sigmoid(x), 2e-7),
    "softplus": (softplus, {}, lambda x: np.logaddexp(0, x), 2e-7),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, run_group: Run) -> None:
    rule, attributes, reference, bound = ACTIVATIONS[name]
    x = samples()
    x = np.concatenate([x[np.isfinite(x)], np.linspace(-15, 15, 200_001, dtype=np.float32)])
    t = te.placeholder(x.shape)
    node = Node(name, "", (), (), attributes)
    got = run_group([t], [te.compute(x.shape, lambda i: rule(node, t[i].asobject()), name="y")], [x])[0]
    with np.errstate(all="ignore"):
        expected = reference(x.astype(np.float64))
    size = np.maximum(abs(x.astype(np.float64)), abs(expected))
    error = abs(got - expected) / np.maximum(size, 1e-37)
    assert error.max() <= bound, f"{name}({x[error.argmax()]!r}) = {got[error.argmax()]!r}"


SMOOTH = "exp exp2 log log2 log10 log1p tanh sigmoid erf asin acos atan asinh acosh atanh power".split()
LIMITED = {"sin": "sinf", "cos": "cosf", "tan": "tanf", "fmod": "fmodf"}  # libm for huge arguments


def _apply(name: str, inputs: Sequence[Any]) -> Any:
    arity = 2 if name in ("power", "fmod") else 1
    return te.compute(inputs[0].shape, lambda i: getattr(tirx, name)(*(t[i] for t in inputs[:arity])), name=name)


@pytest.mark.parametrize("name", [*SMOOTH, *LIMITED])
def test_the_same_bits_at_every_width(name: str, for_target: Any, placed: Any, empty: Any) -> None:
    bases, exponents = powers()
    plain_samples = samples(1 << 13)
    x = np.concatenate([bases, plain_samples]) if name in ("power", "fmod") else plain_samples
    y = np.concatenate([exponents, plain_samples])[: x.size]
    results = {}
    for level in LEVELS:
        for simple in (False, True):
            inputs = [te.placeholder(x.shape), te.placeholder(y.shape)]
            target = replace(PRESETS[level], vector_bytes=4) if simple else PRESETS[level]
            piece = build_all("k", inputs, [_apply(name, inputs)], target)[0][0]
            out = empty(x.shape, "float32")
            places = dict(zip((key(t) for t in inputs), (placed(x), placed(y)), strict=True))
            for_target([piece.kernel], target).call("k", [places.get(key(t), out) for t in piece.args])
            results[level, simple] = out
    for contracts in (True, False):  # contraction differs between processors with and without fused multiply-add
        group = [r for (level, _), r in results.items() if (level != "x86-64-v2") == contracts]
        for other in group[1:]:
            np.testing.assert_array_equal(other.view(np.uint32), group[0].view(np.uint32))


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_no_loop_calls_libm(name: str, tmp_path: Path) -> None:
    inputs = [te.placeholder((100,)), te.placeholder((100,))]
    functions = [*SMOOTH, *LIMITED, "sqrt", "rsqrt", "floor", "ceil", "trunc", "round"]
    kernels = [build_all(f"k_{f}", inputs, [_apply(f, inputs)], PRESETS[name])[0][0].kernel for f in functions]
    undefined: set[str] = set()
    for number, data in enumerate(compile_objects(kernels, PRESETS[name])):
        (tmp_path / f"{number}.o").write_bytes(data)
        listed = subprocess.run(["nm", "-u", tmp_path / f"{number}.o"], check=True, capture_output=True, text=True)
        undefined |= {line.split()[-1] for line in listed.stdout.splitlines()}
    assert undefined == set(LIMITED.values())


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "aarch64", "armv7"])
def test_every_function_compiles_everywhere(name: str) -> None:
    x = te.placeholder((40,))

    def apply(name: str) -> Any:
        return te.compute((40,), lambda i: getattr(tirx, name)(x[i]), name=name)

    outputs = [apply(f) for f in FUNCTIONS]
    outputs.append(te.compute((40,), lambda i: tirx.power(x[i], x[i]), name="power"))
    kernels = [build_all(f"k{n}", [x], [y], PRESETS[name])[0][0].kernel for n, y in enumerate(outputs)]
    assert all(data[:4] == b"\x7fELF" for data in compile_objects(kernels, PRESETS[name]))
