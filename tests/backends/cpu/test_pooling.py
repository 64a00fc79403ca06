"""Pooling against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from onyxc.backends.cpu import pooling
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.pooling import PoolShape
from onyxc.backends.cpu.shapes import dense_strides
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]
CASES: dict[str, dict[str, Any]] = {
    "2x2": {"op": "MaxPool", "kernel_shape": [2, 2], "strides": [2, 2]},
    "3x3 padded": {"op": "MaxPool", "kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    "dilated": {"op": "MaxPool", "kernel_shape": [3, 3], "dilations": [2, 2], "pads": [2, 1, 2, 2]},
    "ceiling": {"op": "MaxPool", "kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "global": {"op": "GlobalMaxPool"},
    "average": {"op": "AveragePool", "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    "average of all": {"op": "AveragePool", "kernel_shape": [3, 2], "pads": [1, 1, 0, 1], "count_include_pad": 1},
    "average stride": {"op": "AveragePool", "kernel_shape": [5, 5], "strides": [2, 2], "pads": [2, 2, 2, 2]},
    "average ceiling": {"op": "AveragePool", "kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    "global average": {"op": "GlobalAveragePool"},
}


def run_onnx(attrs: dict[str, Any], x: Array) -> Array:
    """The NHWC result of onnxruntime for NHWC ``x``."""
    attrs = dict(attrs)
    node = helper.make_node(attrs.pop("op"), ["x"], ["y"], **attrs)
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    planar = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    inputs = [helper.make_tensor_value_info("x", kind, planar.shape)]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    graph = helper.make_graph([node], "pool", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.ascontiguousarray(session.run(None, {"x": planar})[0].transpose(0, 2, 3, 1))


def make_shape(attrs: dict[str, Any], x: Array, y: Array) -> PoolShape:
    """The shape of a node with these attributes."""
    n, h, w, c = x.shape
    size = tuple(y.shape[1:3])
    everything = attrs["op"].startswith("Global")
    return PoolShape(
        "max" if "Max" in attrs["op"] else "average",
        n,
        c,
        (h, w),
        size,
        (h, w) if everything else tuple(attrs["kernel_shape"]),
        tuple(attrs.get("strides", (1, 1))),
        tuple(attrs.get("dilations", (1, 1))),
        tuple(attrs.get("pads", (0, 0, 0, 0))),
        dense_strides(h, w, c),
        dense_strides(*size, c)[:3],
        str(x.dtype),
        str(x.dtype),
        str(x.dtype),
        bool(attrs.get("count_include_pad", 0)),
    )


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("size", [(1, 14, 15, 40), (2, 7, 7, 13), (1, 9, 33, 64)])
@pytest.mark.parametrize("case", CASES)
def test_float(case: str, size: tuple[int, ...], level: str, call: Any) -> None:
    x = np.random.default_rng(6).standard_normal(size, np.float32) - 3
    expected = run_onnx(CASES[case], x)
    shape, target = make_shape(CASES[case], x, expected), get(level)
    y = np.zeros(expected.shape, np.float32)
    call(pooling.emit("kernel", pooling.plan(shape, target), Epilogue(), target), target, [x, y])
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("case", [name for name, attrs in CASES.items() if attrs["op"] == "MaxPool"])
def test_bytes(case: str, dtype: str, level: str, call: Any) -> None:
    limits = np.iinfo(dtype)
    x = np.random.default_rng(7).integers(limits.min, limits.max + 1, (2, 9, 11, 77)).astype(dtype)
    expected = run_onnx(CASES[case], x)
    shape, target = make_shape(CASES[case], x, expected), get(level)
    y = np.zeros(expected.shape, dtype)
    call(pooling.emit("kernel", pooling.plan(shape, target), Epilogue(y_dtype=dtype), target), target, [x, y])
    np.testing.assert_array_equal(y, expected)
