"""What the tests of lowerings share: onnx's node cases, memory as kernels expect it, a library of kernels."""

from __future__ import annotations

import ctypes
import itertools
import subprocess
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.program import ALIGNMENT, SLACK, Kernel
from onyxc.backends.target import Target

Array = np.ndarray[Any, Any]

_numbers = itertools.count()


@cache
def suite() -> dict[str, list[Any]]:
    """onnx's node conformance cases by operator, expanded functions left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.loader import load_model_tests

        tests = load_model_tests(kind="node")
    found: dict[str, list[Any]] = defaultdict(list)
    for test in tests:
        if "_expanded" not in test.name:
            found[test.model.graph.node[0].op_type].append(test)
    return found


def to_array(value: Any) -> Any:
    """A case's value as an array."""
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def promote(
    model: onnx.ModelProto, arrays: Sequence[Array], parameters: Mapping[str, tuple[int, ...]]
) -> tuple[onnx.ModelProto, list[Array]]:
    """The model with its parameters (operator -> input slots) made initializers, and the inputs that are left."""
    wanted = set()
    for node in model.graph.node:
        slots = (1,) if node.op_type.startswith("Reduce") else parameters.get(node.op_type, ())
        wanted |= {node.input[s] for s in slots if s < len(node.input)}
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.input[:]
    left = []
    for value, array in zip(model.graph.input, arrays, strict=True):
        if value.name in wanted:
            made.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            made.graph.input.append(value)
            left.append(array)
    return made, left


def aligned(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """An array as kernels expect them, filled with a pattern that shows what is read before it is written."""
    raw = np.full(prod(shape) * dtype.itemsize + ALIGNMENT + SLACK, 0xA5, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def link(kernels: Sequence[Kernel], target: Target, folder: Path) -> ctypes.CDLL:
    """The kernels as a loaded library."""
    stem = folder / f"kernels{next(_numbers)}"
    paths = []
    for index, data in enumerate(compile_objects(kernels, target)):
        paths.append(Path(f"{stem}_{index}.o"))
        paths[-1].write_bytes(data)
    subprocess.run(["cc", "-shared", "-Wl,-z,defs", "-o", f"{stem}.so", *paths, "-lm"], check=True)
    return ctypes.CDLL(f"{stem}.so")


def difference(actual: Array, expected: Array, rtol: float, atol: float) -> str:
    """What is wrong with ``actual``; nothing if it is right."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return f"{actual.dtype}{actual.shape} instead of {expected.dtype}{expected.shape}"
    tolerance = max(rtol, 2**-6) if expected.dtype.name == "bfloat16" else rtol
    if expected.dtype.kind not in "fiub" or (expected.dtype.itemsize < 2 and expected.dtype.kind == "f"):
        actual, expected = actual.astype(np.float32), expected.astype(np.float32)
    wrong = ~np.isclose(actual, expected, rtol=tolerance, atol=atol, equal_nan=True)
    where = f"{wrong.sum()} of {wrong.size} differ, first {actual[wrong][:4]} instead of {expected[wrong][:4]}"
    return where if wrong.any() else ""
