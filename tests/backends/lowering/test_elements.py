"""Elementwise operators over all element types, against onnx.reference: what the conformance cases leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from lowering_jobs import FLOATS, INTEGERS, Compare, check, job, values

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import TensorType


def test_arithmetic_of_every_type(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in (*INTEGERS, *FLOATS):
            a, b = values(dtype, 5, 33), values(dtype, 33)
            b = np.where(b == 0, np.ones_like(b), b)
            for op in ("Add", "Sub", "Mul", "Div", "Less", "GreaterOrEqual", "Equal"):
                yield job(op, a, b)
            if dtype != "bfloat16":
                yield job("Max", a, b, a + a)
                yield job("Min", a, b)
            yield job("Clip", a, np.asarray(1, a.dtype), np.asarray(3, a.dtype))
            yield job("Clip", a, None, np.asarray(3, a.dtype))
            yield job("Abs", a)
            yield job("Sign", a)
            yield job("Where", b > a, a, b)
            if dtype != "bfloat16":
                yield job("Mod", a, b, fmod=1)
            if dtype in INTEGERS:
                yield job("Mod", a, b)
        for dtype in ("float32", "int32", "int64"):
            yield job("Pow", values(dtype, 50, low=0), np.arange(50).astype("int32") % 5)
        yield job("Pow", values("float32", 50, low=0), values("float32", 50))
        for exponent in (0.5, 2.0, 3.0, -1.0, -2.0, 7.0, 1.7, 0.75, 1.5, -1.25, 0.25):
            yield job("Pow", values("float32", 40, low=0.1), np.float32([exponent]), fixed=(1,))

    check(compare, jobs())


def test_maximum_of_bfloat16(compare: Compare) -> None:
    a, b = values("bfloat16", 5, 33), values("bfloat16", 33)
    check(compare, iter([job("Max", a, b), job("Min", a, b)]))


def test_nan_and_infinity(compare: Compare) -> None:
    special = np.float32([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -2.5, 89.0, -110.0, 3e38] * 3)

    def jobs() -> Iterator[Any]:
        for op in (
            "Relu",
            "Abs",
            "Exp",
            "Sigmoid",
            "Tanh",
            "Erf",
            "Softplus",
            "Floor",
            "IsNaN",
            "IsInf",
            "Round",
            "Neg",
        ):
            yield job(op, special)
        for op in ("LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Mish", "Log", "Sqrt", "Not"):
            yield job(op, special > 0 if op == "Not" else special)
        for op in ("Max", "Min", "Less", "Equal", "Div", "Mul"):
            yield job(op, special, special[::-1].copy())
        yield job("Clip", special, np.float32(-1), np.float32(1))
        yield job("Cast", special, to=9)
        yield job("IsInf", special, detect_negative=0)
        yield job("Div", np.int32([7, -7, 5, -(2**31)]), np.int32([2, 2, 3, 3]))

    check(compare, jobs())


def test_integer_division_never_traps(compare: Compare) -> None:
    low = np.iinfo(np.int32).min
    a, b = np.int32([7, low, low, -7, 0]), np.int32([0, -1, 0, -1, 0])
    name, graph, _, _, rtol, atol = job("Div", a, np.maximum(b, 1))
    assert not compare([(name, graph, [a, b], [np.int32([0, low, 0, 7, 0])], rtol, atol)])[name]


def test_conversions(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for source in (*INTEGERS, "float16", "float32", "float64", "bool"):
            for code, target in (
                (1, "float32"),
                (3, "int8"),
                (7, "int64"),
                (10, "float16"),
                (11, "float64"),
                (9, "bool"),
            ):
                if source != target:
                    yield job("Cast", values(source, 40), to=code)
            if source != "bool":
                yield job("Cast", values(source, 40), to=2 if source != "uint8" else 5)

    check(compare, jobs())


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"])
def test_narrow_floats(dtype: str, compare: Compare) -> None:
    codes = {"float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20, "float4_e2m1fn": 23}
    kind = getattr(ml_dtypes, dtype)
    every = np.arange(16 if dtype == "float4_e2m1fn" else 256, dtype=np.uint8).view(kind)
    exact = every.astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    middles = (finite[1:] + finite[:-1]) / 2
    around = np.concatenate([finite, middles, np.nextafter(middles, np.float32(9e9)), np.nextafter(middles, -finite[-1])])
    around = np.concatenate([around, np.float32([np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30])]).astype(np.float32)

    def graph(type: TensorType, to: int, saturate: int) -> Callable[[], Graph]:
        def build() -> Graph:
            made = Graph(opset=26)
            node = infer.add(made, "Cast", [made.add_input("x", type)], to=to, saturate=saturate)
            made.add_output(node.output)
            return made

        return build

    from onnx import numpy_helper

    decode = ("decode", graph(TensorType(dtype, every.shape), 1, 1), [every], [exact], 0, 0)
    jobs: list[Any] = [decode]
    for saturate in (0, 1):
        wanted = numpy_helper.saturate_cast(around, kind) if saturate and "float8" in dtype else around.astype(kind)
        build = graph(TensorType("float32", around.shape), codes[dtype], saturate)
        jobs.append((f"encode {saturate}", build, [around], [wanted], 0, 0))
    check(compare, iter(jobs))
