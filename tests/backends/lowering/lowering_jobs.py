"""Seeded arrays and one-node graphs with the results that onnx.reference expects, for the tests of lowerings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from onyxc.compiler.ir import infer, reference
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import TensorType, numpy_dtype

Array = np.ndarray[Any, Any]
Compare = Callable[[Sequence[Any]], dict[str, str]]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64", "bfloat16")
TOLERANCE = {"float16": (5e-3, 5e-3), "bfloat16": (2e-2, 2e-2), "float64": (1e-9, 1e-12)}
_drawn: list[int] = []  # one for each array since the last check, so that a test's arrays do not depend on others


def values(dtype: str, *shape: int, low: float = -4, high: float = 4) -> Array:
    """Seeded numbers: floats within [low, high], integers over a good part of their range."""
    rng = np.random.default_rng(len(_drawn))
    _drawn.append(1)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    if dtype in INTEGERS:
        info = np.iinfo(dtype)
        return rng.integers(max(info.min, -120), min(info.max, 120), shape).astype(dtype)
    return rng.uniform(low, high, shape).astype(numpy_dtype(dtype))


def job(op: str, *operands: Any, domain: str = "", fixed: Sequence[int] = (), outputs: int = 1, **attrs: Any) -> Any:
    """A job for one node: operands are arrays or None; those at ``fixed`` positions are constants."""
    arrays = [a for k, a in enumerate(operands) if a is not None and k not in fixed]

    def graph() -> Graph:
        made = Graph(opset=26)
        inputs: list[Any] = []
        for k, a in enumerate(operands):
            if a is None:
                inputs.append(None)
            elif k in fixed:
                inputs.append(made.constant(a))
            else:
                inputs.append(made.add_input(f"x{k}", TensorType(a.dtype.name, a.shape)))
        node = infer.add(made, op, inputs, domain=domain, outputs=outputs, **attrs)
        for value in node.outputs:
            made.add_output(value)
        return made

    source = graph()
    expected = list(reference.evaluate(source, dict(zip((v.name for v in source.inputs), arrays, strict=True))).values())
    expected = [np.asarray(e).astype(numpy_dtype(v.dtype)) for e, v in zip(expected, source.outputs, strict=True)]
    rtol, atol = TOLERANCE.get(np.asarray(expected[0]).dtype.name, (1e-4, 1e-5))
    kinds = "/".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in operands)
    return f"{op} {kinds} {attrs}", graph, arrays, expected, rtol, atol


def check(compare: Compare, jobs: Iterator[Any]) -> None:
    """All jobs are right."""
    _drawn.clear()
    wrong = {name: error for name, error in compare(list(jobs)).items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())
