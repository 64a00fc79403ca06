"""Operators over all element types and odd attributes, against onnx.reference: what the conformance cases leave out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from onyxc.compiler.ir import infer, reference
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import TensorType, numpy_dtype

Array = np.ndarray[Any, Any]
Compare = Callable[[Sequence[Any]], dict[str, str]]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64", "bfloat16")
TOLERANCE = {"float16": (5e-3, 5e-3), "bfloat16": (2e-2, 2e-2), "float64": (1e-9, 1e-12)}
_seeds = count()


def values(dtype: str, *shape: int, low: float = -4, high: float = 4) -> Array:
    """Seeded numbers: floats within [low, high], integers over a good part of their range."""
    rng = np.random.default_rng(next(_seeds))
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
    expected = list(
        reference.evaluate(source, dict(zip((v.name for v in source.inputs), arrays, strict=True))).values()
    )
    expected = [np.asarray(e).astype(numpy_dtype(v.dtype)) for e, v in zip(expected, source.outputs, strict=True)]
    rtol, atol = TOLERANCE.get(np.asarray(expected[0]).dtype.name, (1e-4, 1e-5))
    kinds = "/".join("-" if a is None else f"{a.dtype}{list(a.shape)}" for a in operands)
    return f"{op} {kinds} {attrs}", graph, arrays, expected, rtol, atol


def check(compare: Compare, jobs: Iterator[Any]) -> None:
    """All jobs are right."""
    wrong = {name: error for name, error in compare(list(jobs)).items() if error}
    assert not wrong, "\n".join(f"{name}: {error}" for name, error in wrong.items())


def test_arithmetic_of_every_type(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in (*INTEGERS, *FLOATS):
            a, b = values(dtype, 5, 33), values(dtype, 33)
            b = np.where(b == 0, np.ones_like(b), b)
            for op in ("Add", "Sub", "Mul", "Div", "Less", "GreaterOrEqual", "Equal"):
                yield job(op, a, b)
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
        for exponent in (0.5, 2.0, 3.0, -1.0, -2.0, 7.0, 1.7):
            yield job("Pow", values("float32", 40, low=0.1), np.float32([exponent]), fixed=(1,))

    check(compare, jobs())


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


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"]
)
def test_narrow_floats(dtype: str, compare: Compare) -> None:
    codes = {"float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20, "float4_e2m1fn": 23}
    kind = getattr(ml_dtypes, dtype)
    every = np.arange(16 if dtype == "float4_e2m1fn" else 256, dtype=np.uint8).view(kind)
    exact = every.astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    middles = (finite[1:] + finite[:-1]) / 2
    around = np.concatenate(
        [finite, middles, np.nextafter(middles, np.float32(9e9)), np.nextafter(middles, -finite[-1])]
    )
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
        yield job("ReduceMax", values("bool", 7, 4), np.int64([1]), fixed=(1,))
        yield job("ReduceMin", values("bool", 7, 4), np.int64([1]), fixed=(1,))

    check(compare, jobs())


def test_products(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float64", "float16", "int32"):
            yield job("MatMul", values(dtype, 2, 1, 4, 5), values(dtype, 3, 5, 6))
            yield job("MatMul", values(dtype, 5), values(dtype, 3, 5, 6))
            yield job("MatMul", values(dtype, 3, 4, 5), values(dtype, 5))
            yield job("MatMul", values(dtype, 5), values(dtype, 5))
            yield job(
                "Gemm", values(dtype, 5, 4), values(dtype, 6, 5), values(dtype, 4, 1), transA=1, transB=1, beta=2.0
            )
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


def test_pools(compare: Compare) -> None:
    def jobs() -> Iterator[Any]:
        for dtype in ("float32", "float16"):
            x = values(dtype, 2, 3, 9, 8)
            yield job("MaxPool", x, kernel_shape=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1), ceil_mode=1)
            yield job("AveragePool", x, kernel_shape=(3, 3), pads=(1, 1, 1, 1), count_include_pad=1)
            yield job("AveragePool", x, kernel_shape=(3, 2), strides=(2, 1), auto_pad="SAME_UPPER")
            yield job("GlobalAveragePool", x)
            yield job("GlobalMaxPool", x)
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
