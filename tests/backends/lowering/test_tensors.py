"""Operators on whole tensors, over types and odd attributes, against onnx.reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lowering_jobs import INTEGERS, TOLERANCE, Array, Compare, check, job, values
from tvm import te

from onyxc.backends.lowering.reduction import fold
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import TensorType


def test_movement(compare: Compare) -> None:
    def ints(*v: int) -> Array:
        return np.array(v, np.int64)

    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "int8", "bool", "float16", "int64"):
            x = values(dtype, 3, 4, 5)
            yield job("Transpose", x, perm=(2, 0, 1))
            yield job("Slice", x, ints(-1, 4), ints(-9, 0), ints(0, 2), ints(-1, -2), fixed=(1, 2, 3, 4))
            yield job("Concat", x, x[:, :2], x[:, :0], axis=1)
            yield job("Pad", x, ints(2, 3), None, ints(-1), fixed=(1, 3), mode="reflect")
            yield job("Pad", x, ints(2, 7), None, ints(1), fixed=(1, 3), mode="wrap")
            yield job("Pad", x, ints(2, 1, 0, 3, 0, 2), fixed=(1,), mode="edge")
            yield job("Gather", x, np.int32([[0, -1], [2, 3]]), axis=1)
            yield job("Tile", x, ints(2, 1, 3), fixed=(1,))
            yield job("Expand", x[:, :1], ints(2, 3, 4, 5), fixed=(1,))
            yield job("GatherElements", x, np.tile(np.int64([0, -1, 2]), (3, 4, 1)), axis=2)
            yield job("GatherND", x, np.int64([[0, 1], [2, -1]]))
            yield job("GatherND", x, np.int64([[0], [1], [-1]]), batch_dims=1)
            yield job("Split", x, ints(1, 3), fixed=(1,), axis=1, outputs=2)
            yield job("Reshape", x, ints(0, -1), fixed=(1,))
        yield job("Pad", values("float32", 2, 3), ints(0, 7, 1, 9), fixed=(1,), mode="reflect")

    check(compare, jobs())


def test_negative_pads_crop(compare: Compare) -> None:
    x, pads = values("float32", 3, 4, 5), np.int64([1, -1, 2, 0, 2, -2])
    name, graph, arrays, _, rtol, atol = job("Pad", x, abs(pads), fixed=(1,))
    expected = np.pad(x[:, 1:, :-2], [(1, 0), (0, 2), (2, 0)])

    def negative() -> Graph:
        made = graph()
        node = next(iter(made))
        made.set_input(node, 1, made.constant(pads))
        node.output.type = TensorType("float32", expected.shape)
        return made

    assert not compare([(name, negative, arrays, [expected], rtol, atol)])[name]


def test_reductions(compare: Compare) -> None:
    names = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")

    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float64", "float16", "int32", "int64"):
            x = values(dtype, 3, 5, 40, low=0.5, high=1.5) if dtype not in INTEGERS else values("int8", 3, 5, 4) % 5 + 1
            x = x.astype(dtype)
            for name in names:
                if "Log" in name and dtype in INTEGERS:
                    continue  # opset 28 took them out, and onnx.reference refuses them
                if name == "Prod" and dtype in (*INTEGERS, "float16"):
                    continue
                yield job(f"Reduce{name}", x, np.int64([-1]), fixed=(1,))
                yield job(f"Reduce{name}", x, np.int64([0, 1]), fixed=(1,), keepdims=0)
            yield job("ReduceSum", x)
            yield job("ReduceMax", x, noop_with_empty_axes=1)
            yield job("ReduceSumSquare", x, noop_with_empty_axes=1)
            yield job("ArgMax", x, axis=1)
            yield job("ArgMin", x, axis=-1, keepdims=0, select_last_index=1)
        for name in ("Sum", "Prod", "L2", "LogSumExp", "Max"):
            yield job(f"Reduce{name}", values("float32", 2, 0, 3), np.int64([1]), fixed=(1,))
        wide = np.float32([[1000, 1001, 999], [-np.inf, -np.inf, -np.inf]])
        yield job("ReduceLogSumExp", wide[:1], np.int64([1]), fixed=(1,))
        yield job("Softmax", wide[:1])
        yield job("LogSoftmax", wide[:1])
        for dtype in ("int8", "uint8"):
            yield job("ReduceMax", values(dtype, 7, 40), np.int64([1]), fixed=(1,))
            yield job("ArgMax", values(dtype, 7, 40), axis=1)
        grouped = values("float32", 4, 5, 3, 6)
        for axes in ([0, 1, 3], [1, 3], [0, 3], [0, 2, 3]):  # few inner elements behind an axis that stays
            for keep in (0, 1):
                yield job("ReduceMean", grouped, np.int64(axes), fixed=(1,), keepdims=keep)
                yield job("ReduceL2", grouped, np.int64(axes), fixed=(1,), keepdims=keep)
                yield job("ReduceLogSumExp", grouped, np.int64(axes), fixed=(1,), keepdims=keep)
        yield job("ReduceMax", values("bool", 7, 4), np.int64([1]), fixed=(1,))
        yield job("ReduceMin", values("bool", 7, 4), np.int64([1]), fixed=(1,))

    check(compare, jobs())


@pytest.mark.parametrize(
    ("shape", "along", "apart"),
    [
        ((4, 5, 3, 8), (0, 1, 3), True),
        ((4, 5, 3, 8, 1), (1, 3), True),
        ((4, 5, 3, 40), (0, 1, 3), False),  # long enough for vectors
        ((4, 5, 3, 8), (2, 3), False),  # contiguous
        ((4, 5, 3, 8), (3,), False),
        ((4, 5, 3, 8), (0, 1), False),
    ],
)
def test_a_few_inner_elements_are_reduced_by_themselves(
    shape: tuple[int, ...], along: tuple[int, ...], apart: bool
) -> None:
    folded = fold(te.placeholder(shape), along, te.sum, name="sum")
    (source,) = folded.op.input_tensors
    assert (source.op.name == "sum_outer") == apart
    assert [int(d) for d in folded.shape] == [1 if a in along else d for a, d in enumerate(shape)]


def test_products(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float64", "float16", "int32"):
            yield job("MatMul", values(dtype, 2, 1, 4, 5), values(dtype, 3, 5, 6))
            yield job("MatMul", values(dtype, 5), values(dtype, 3, 5, 6))
            yield job("MatMul", values(dtype, 3, 4, 5), values(dtype, 5))
            yield job("MatMul", values(dtype, 5), values(dtype, 5))
            yield job("Gemm", values(dtype, 5, 4), values(dtype, 6, 5), values(dtype, 4, 1), transA=1, transB=1, beta=2.0)
        yield job("Gemm", values("float32", 4, 5), values("float32", 5, 6), values("float32", 6), alpha=0.5, beta=0.25)
        a, b = values("uint8", 3, 4, 8), values("int8", 8, 5)
        yield job("MatMulInteger", a, b, np.uint8(3), np.int8([-3, 2, 0, 1, 5]))
        yield job("MatMulInteger", a, b)
        scales = [np.float32(s) for s in (0.02, 0.03, 0.9)]
        yield job("QLinearMatMul", a, scales[0], np.uint8(7), b, scales[1], np.int8(-2), scales[2], np.uint8(120))

    check(compare, jobs())


def test_convolutions(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float16", "float64"):
            x, w, b = values(dtype, 2, 4, 9, 8), values(dtype, 6, 2, 3, 2), values(dtype, 6)
            yield job("Conv", x, w, b, group=2, pads=(1, 0, 2, 1), strides=(2, 1))
            yield job("Conv", x, w, group=2, dilations=(2, 3), auto_pad="SAME_LOWER")
            yield job("Conv", values(dtype, 1, 3, 20), values(dtype, 2, 3, 4), auto_pad="VALID", strides=(3,))
        yield job("Conv", values("float32", 1, 2, 5, 6, 7), values("float32", 3, 2, 2, 3, 1), pads=(1, 1, 0, 0, 1, 0))
        x, w = values("uint8", 1, 4, 7, 7), values("int8", 6, 2, 3, 3)
        yield job("ConvInteger", x, w, np.uint8(130), np.int8([0, 1, -2, 3, 4, 5]), group=2, pads=(1, 1, 1, 1))
        sw = np.float32([0.01, 0.02, 0.03, 0.01, 0.02, 0.05])
        parameters = (np.float32(0.02), np.uint8(7), w, sw, np.zeros(6, np.int8), np.float32(0.1), np.uint8(100))
        bias = values("int32", 6) * 50
        yield job("QLinearConv", x, *parameters, bias, group=2, pads=(1, 1, 1, 1), strides=(2, 2))
        for dtype in ("float32", "float16"):
            x, w, b = values(dtype, 2, 4, 5, 4), values(dtype, 4, 3, 3, 2), values(dtype, 3)
            yield job("ConvTranspose", x, w, b, strides=(2, 3), pads=(1, 0, 0, 1), output_padding=(1, 0))
        yield job("ConvTranspose", values("float32", 1, 2, 9), values("float32", 2, 3, 4), strides=(2,), dilations=(2,))

    check(compare, jobs())


def global_lp_pool(x: Array) -> Any:
    """onnx.reference lacks GlobalLpPool."""

    def graph() -> Graph:
        made = Graph(opset=26)
        source = made.add_input("x", TensorType(x.dtype.name, x.shape))
        node = made.create("GlobalLpPool", [source], [TensorType(x.dtype.name, (*x.shape[:2], 1, 1))], {"p": 3})
        made.add_output(node.output)
        return made

    norm = (abs(x.astype(np.float64)) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
    return f"GlobalLpPool {x.dtype}", graph, [x], [norm.astype(x.dtype)], *TOLERANCE.get(x.dtype.name, (1e-4, 1e-5))


def test_pools(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float16"):
            x = values(dtype, 2, 3, 9, 8)
            yield job("MaxPool", x, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1), ceil_mode=1)
            yield job("AveragePool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1)
            yield job("AveragePool", x, kernel_shape=(3, 2), strides=(2, 1), auto_pad="SAME_UPPER")
            yield job("GlobalAveragePool", x)
            yield job("GlobalMaxPool", x)
            yield global_lp_pool(x)
            yield job("LpPool", x, kernel_shape=(2, 2), p=2)
        yield job("MaxPool", values("int8", 1, 2, 7, 7), kernel_shape=(3, 3), pads=(1, 1, 1, 1))

    check(compare, jobs())


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize(mode: str, compare: Compare) -> None:
    coordinates = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")

    def jobs() -> Iterator[Any]:
        x = values("float32", 1, 2, 5, 7)
        for transformation in coordinates:
            common = {"mode": mode, "coordinate_transformation_mode": transformation}
            for scales in ((1, 1, 2, 3), (1, 1, 0.6, 1.3), (1, 1, 0.5, 0.7)):
                yield job("Resize", x, None, np.float32(scales), fixed=(1, 2), **common)
            yield job("Resize", x, None, None, np.int64([1, 2, 8, 3]), fixed=(1, 2, 3), **common)
        for rounding in ("floor", "ceil", "round_prefer_ceil") if mode == "nearest" else ():
            yield job("Resize", x, None, np.float32([1, 1, 1.7, 0.4]), fixed=(1, 2), mode=mode, nearest_mode=rounding)
        if mode != "nearest":
            for extra in ({"antialias": 1}, {"exclude_outside": 1}):
                yield job("Resize", x, None, np.float32([1, 1, 0.3, 0.5]), fixed=(1, 2), mode=mode, **extra)
            yield job("Resize", values("uint8", 1, 1, 6, 6), None, np.float32([1, 1, 2, 0.5]), fixed=(1, 2), mode=mode)

    check(compare, jobs())


def test_quantization(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        x = values("float32", 3, 6, 4, low=-300, high=300)
        for dtype in ("uint8", "int8", "uint16", "int16"):
            zero = np.asarray(5, dtype)
            yield job("QuantizeLinear", x, np.float32(0.7), zero)
            yield job("QuantizeLinear", x, np.float32([0.5, 1, 2, 4, 0.25, 8]), np.full(6, 9, dtype), axis=1)
            q = values(dtype, 3, 6, 4)
            yield job("DequantizeLinear", q, np.float32(0.7), zero)
            yield job("DequantizeLinear", q, np.float32([0.5, 1, 2, 4, 0.25, 8]), np.full(6, 9, dtype), axis=1)
            blocks = values("float32", 3, 2, 4, low=0.1, high=2)
            yield job("DequantizeLinear", q, blocks, axis=1, block_size=3)
            yield job("QuantizeLinear", x, blocks, np.zeros((3, 2, 4), dtype), axis=1, block_size=3)
        yield job("DequantizeLinear", values("int32", 4, 5), np.float32(0.01))
        ties = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, 254.5, 255.5, 300])
        yield job("QuantizeLinear", ties, np.float32(1), np.uint8(1))
        yield job("DynamicQuantizeLinear", x, outputs=3)

    check(compare, jobs())


def test_normalizations(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float16", "float64"):
            x, scale, bias = values(dtype, 3, 4, 6), values(dtype, 6), values(dtype, 6)
            yield job("LayerNormalization", x, scale, bias)
            yield job("LayerNormalization", x, values(dtype, 4, 6), axis=1)
            channel = values(dtype, 4), values(dtype, 4)
            yield job("InstanceNormalization", x, *channel)
            yield job("BatchNormalization", x, *channel, values(dtype, 4), values(dtype, 4, low=0.5))
            if dtype != "float64":  # onnx.reference sums the first len(x) channels only, in float32
                yield job("LRN", values(dtype, 7, 7, 3, 3), size=3, alpha=0.25, beta=0.625)
                yield job("LRN", values(dtype, 7, 7, 3, 3), size=4, alpha=0.25, beta=0.75)
            yield job("Softmax", x, axis=0)
            yield job("LogSoftmax", x, axis=1)
            yield job("LpNormalization", abs(x), p=1, axis=1)

    check(compare, jobs())
