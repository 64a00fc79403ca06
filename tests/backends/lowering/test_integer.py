"""Our operators on quantized tensors: equal to their reference in every value, ties included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from onyxc.backends.target import PRESETS, host
from onyxc.compiler.ir import infer, reference
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.schema import DOMAIN
from onyxc.compiler.ir.types import TensorType

Array = np.ndarray[Any, Any]
Compare = Callable[..., dict[str, str]]
RANGE = {"uint8": {"dtype": "uint8", "low": 0, "high": 255}, "int8": {"dtype": "int8", "low": -128, "high": 127}}

LEVELS = [n for n in ("x86-64-v2", "x86-64-v3") if host().name.startswith("x86") and n < host().name]


def job(op: str, *arrays: Array, **attrs: Any) -> Any:
    def graph() -> Graph:
        made = Graph(opset=26)
        inputs = [made.add_input(f"x{k}", TensorType(a.dtype.name, a.shape)) for k, a in enumerate(arrays)]
        made.add_output(infer.add(made, op, inputs, domain=DOMAIN, **attrs).output)
        return made

    source = graph()
    feeds = dict(zip((v.name for v in source.inputs), arrays, strict=True))
    return f"{op} {attrs}", graph, arrays, list(reference.evaluate(source, feeds).values()), 0, 0


def pairs(dtype: str) -> tuple[Array, Array]:
    """Every pair of 8-bit numbers."""
    every = np.arange(256, dtype=np.uint8).view(dtype)
    return np.repeat(every, 256).reshape(256, 256), np.tile(every, 256).reshape(256, 256)


@pytest.mark.parametrize("level", ["", *LEVELS])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_exact(dtype: str, level: str, compare: Compare) -> None:
    a, b = pairs(dtype)
    rng = np.random.default_rng(0)
    limits = RANGE[dtype]

    def jobs() -> Iterator[Any]:
        for sa, sb, sy, za, zb, zy in (
            (0.1, 0.2, 0.15, 3, 7, 5),
            (0.5, 0.25, 0.5, 0, 0, 1),
            (0.031, 0.0123, 0.05, 100, 9, 3),
            (0.3, 0.08, 0.12, 27, 212, 135),  # 701 differ if products are rounded before they are added
            (0.1, 1e-7, 0.1, 0, 0, 0),  # the sums do not fit float64
        ):
            scales = {"a_scale": sa, "b_scale": sb, "y_scale": sy}
            points = {"a_zero_point": za, "b_zero_point": zb, "y_zero_point": zy}
            yield job("QAdd", a, b, **scales, **points, **limits)
            yield job("QMul", a, b, **scales, **points, **limits)
            rescale = {"x_scale": sa, "x_zero_point": za, "y_scale": sy, "y_zero_point": zy}
            yield job("Rescale", a[:, 0].copy(), **rescale, **limits)
        acc = rng.integers(-(2**20), 2**20, (2, 5, 7, 9)).astype(np.int32)
        yield job("Requantize", acc, np.float32(0.001), zero_point=3, **limits)
        scale = rng.uniform(1e-4, 1e-3, (5, 1, 1)).astype(np.float32)
        yield job("Requantize", acc, scale, zero_point=3, **{**limits, "low": 3})
        yield job("Lookup", a, rng.integers(0, 256, 256).astype(np.uint8))
        x = rng.integers(0, 256, (2, 3, 8, 9)).astype(np.uint8).view(dtype)
        pool = {"x_scale": 0.13, "x_zero_point": 4, "y_scale": 0.21, "y_zero_point": 9, **limits}
        yield job("QAveragePool", x, kernel_shape=(3, 3), strides=(2, 2), **pool)
        yield job("QAveragePool", x, kernel_shape=(8, 9), **pool)
        yield job("QAveragePool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=0, **pool)
        pool["channels_last"] = 1
        yield job("QAveragePool", x, kernel_shape=(2, 3), strides=(1, 2), pads=(1, 1, 0, 1), **pool)

    wrong = {name: error for name, error in compare(list(jobs()), PRESETS[level] if level else host()).items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
