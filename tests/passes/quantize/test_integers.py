"""The integer operators against onnxruntime's kernels, code by code: rounding, ties, saturation, zero points, types."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.reference import evaluate
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import PassManager
from onyxc.passes.quantize.canonical_integer import CanonicalInteger
from onyxc.passes.quantize.fold_fake_quant import FoldFakeQuant

Feeds = dict[str, Any]
HEAD = '<ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]>\n'
TYPES = ("uint8", "int8")


def model(text: str, **constants: Any) -> onnx.ModelProto:
    """A model in ONNX text, with constants given as arrays."""
    made = onnx.parser.parse_model(HEAD + text)
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items())
    return made


def run(made: onnx.ModelProto, feeds: Feeds) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def folded(made: onnx.ModelProto) -> Graph:
    graph = load(made)
    PassManager([CanonicalInteger(), FoldFakeQuant()]).run(graph)
    return graph


def operators(graph: Graph) -> list[str]:
    return [n.op for n in graph]


def agrees(made: onnx.ModelProto, feeds: Feeds, *expected: str, written: bool = True) -> Graph:
    """Fold, and compare every code with onnxruntime's, also when the folded model is written and run by it."""
    graph = folded(made)
    assert set(expected) <= set(operators(graph)), operators(graph)
    wanted = run(made, feeds)
    results = [list(evaluate(graph, feeds).values())]
    if written:
        model = to_model(graph)
        onnx.checker.check_model(model)
        results.append(run(model, feeds))
    for got in results:
        for w, g in zip(wanted, got, strict=True):
            assert w.dtype == g.dtype
            np.testing.assert_array_equal(g, w)
    return graph


def codes(rng: np.random.Generator, dtype: str, *shape: int) -> Any:
    low = np.iinfo(dtype).min
    return rng.integers(low, low + 256, shape).astype(dtype)


def pairs(dtype: str) -> Feeds:
    every = np.arange(256, dtype=np.uint8).view(dtype)
    return dict(zip("ab", (v.reshape(-1).copy() for v in np.meshgrid(every, every)), strict=True))


SCALES = [(0.5, 0.25, 0.5), (0.25, 0.125, 1.0), (0.0235, 0.0235, 0.0235), (0.0313, 0.0171, 0.0472), (0.9, 0.001, 0.3)]


@pytest.mark.parametrize(("op", "name"), [("Add", "QAdd"), ("Mul", "QMul")])
@pytest.mark.parametrize(("dtype", "scales"), list(product(TYPES, SCALES)))
def test_arithmetic_on_all_pairs(op: str, name: str, dtype: str, scales: tuple[float, ...]) -> None:
    sa, sb, sy = (np.float32(s) for s in scales)
    low = np.iinfo(dtype).min
    za, zb, zy = (np.array(low + z, dtype) for z in (101, 128, 33))
    kind = dtype
    text = f"""g ({kind}[65536] a, {kind}[65536] b) => ({kind}[65536] y) {{
      y = com.microsoft.QLinear{op}(a, sa, za, b, sb, zb, sy, zy)
    }}"""
    made = model(text, sa=sa, sb=sb, sy=sy, za=za, zb=zb, zy=zy)
    agrees(made, pairs(dtype), name, written=dtype == "uint8")


@pytest.mark.parametrize(("wtype", "channels", "point"), list(product(TYPES, (False, True), (0, 7))))
def test_convolution(wtype: str, channels: bool, point: int) -> None:
    """Every weight type, with and without zero points and scales per channel; scales that make many ties."""
    rng = np.random.default_rng(3)
    w = codes(rng, wtype, 6, 2, 3, 3)
    middle = 128 if wtype == "uint8" else 0
    scale = rng.choice([0.5, 0.25, 0.125], 6) if channels else 0.25
    zero = np.full(6, middle + point) if channels else middle + point
    text = """g (uint8[2,4,9,8] x) => (uint8[2,6,5,4] y) {
      xd = DequantizeLinear(x, xs, xz)
      wd = DequantizeLinear<axis = 0>(w, ws, wz)
      bd = DequantizeLinear<axis = 0>(b, bs)
      c = Conv<group = 2, strides = [2, 2], pads = [1, 1, 1, 1]>(xd, wd, bd)
      r = Relu(c)
      y = QuantizeLinear(r, ys, yz)
    }"""
    xs = np.float32(0.5)
    made = model(
        text, w=w, ws=np.asarray(scale, np.float32), wz=np.asarray(zero, wtype), xs=xs, xz=np.uint8(100),
        ys=np.float32(8), yz=np.uint8(0), b=rng.integers(-999, 999, 6).astype(np.int32),
        bs=np.asarray(xs * scale, np.float32),
    )  # fmt: skip
    agrees(made, {"x": codes(rng, "uint8", 2, 4, 9, 8)}, "ConvInteger", "Requantize")


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_float_bias_and_automatic_padding(auto_pad: str) -> None:
    rng = np.random.default_rng(4)
    text = f"""g (uint8[1,3,8,7] x) => (uint8[1,4,?,?] y) {{
      xd = DequantizeLinear(x, xs, xz)
      wd = DequantizeLinear(w, ws, wz)
      c = Conv<auto_pad = "{auto_pad}", strides = [2, 2]>(xd, wd, b)
      y = QuantizeLinear(c, ys, yz)
    }}""".replace("?,?", "3,3" if auto_pad == "VALID" else "4,4")
    made = model(
        text, w=codes(rng, "int8", 4, 3, 3, 2), ws=np.float32(0.013), wz=np.int8(0), xs=np.float32(0.031),
        xz=np.uint8(9), ys=np.float32(0.25), yz=np.uint8(101), b=rng.normal(0, 4, 4).astype(np.float32),
    )  # fmt: skip
    agrees(made, {"x": codes(rng, "uint8", 1, 3, 8, 7)}, "ConvInteger", "Requantize")


@pytest.mark.parametrize("channels", [False, True])
def test_products(channels: bool) -> None:
    rng = np.random.default_rng(5)
    ws = rng.uniform(0.01, 0.05, 6) if channels else 0.02
    text = """g (uint8[5,16] x) => (uint8[5,6] y, uint8[5,6] z) {
      xd = DequantizeLinear(x, xs, xz)
      wd = DequantizeLinear<axis = 1>(w, ws, wz)
      vd = DequantizeLinear<axis = 0>(v, ws, wz)
      m = MatMul(xd, wd)
      y = QuantizeLinear(m, ys, yz)
      n = Gemm<transB = 1>(xd, vd, b)
      z = QuantizeLinear(n, ys, yz)
    }"""
    made = model(
        text, w=codes(rng, "int8", 16, 6), v=codes(rng, "int8", 6, 16), ws=np.asarray(ws, np.float32),
        wz=np.zeros(6 if channels else (), np.int8), xs=np.float32(0.03), xz=np.uint8(120), ys=np.float32(0.5),
        yz=np.uint8(131), b=rng.normal(0, 5, 6).astype(np.float32),
    )  # fmt: skip
    agrees(made, {"x": codes(rng, "uint8", 5, 16)}, "MatMulInteger", "Requantize")


@pytest.mark.parametrize(("kernel", "dtype"), list(product((2, 3, 8), TYPES)))
def test_averages(kernel: int, dtype: str) -> None:
    """Equal scales and an even count of elements: every other sum is a tie."""
    rng = np.random.default_rng(6)
    low = np.iinfo(dtype).min
    size = 8 - kernel + 1
    text = f"""g ({dtype}[2,3,8,8] x) => ({dtype}[2,3,{size},{size}] y, {dtype}[2,3,1,1] z) {{
      y = com.microsoft.QLinearAveragePool<kernel_shape = [{kernel}, {kernel}]>(x, s, xz, s, yz)
      z = com.microsoft.QLinearGlobalAveragePool(x, s, xz, s, yz)
    }}"""
    if dtype == "int8":  # onnxruntime has no int8 kernel for whole maps
        text = text.replace(", int8[2,3,1,1] z", "").replace("z = com", "# z = com").split("# z")[0] + "}"
    zero = {"xz": np.array(low + 100, dtype), "yz": np.array(low + 91, dtype)}
    made = model(text, s=np.float32(0.0235), **zero)
    agrees(made, {"x": codes(rng, dtype, 2, 3, 8, 8)}, "Requantize" if kernel == 8 else "QAveragePool", written=False)


@pytest.mark.parametrize(("dtype", "axis", "scales"), list(product(TYPES, (1, -1), [(0.02, 1 / 256), (0.1, 1 / 700)])))
def test_softmax(dtype: str, axis: int, scales: tuple[float, float]) -> None:
    """Rows of several lengths, with results that saturate; with opset 11 what lies behind the axis is one row."""
    low = np.iinfo(dtype).min
    zero = {"xz": np.array(low + 100, dtype), "yz": np.array(low + 3, dtype)}
    xs, ys = (np.float32(s) for s in scales)
    text = f"""g ({dtype}[50,9,30] x) => ({dtype}[50,9,30] y) {{
      xd = DequantizeLinear(x, xs, xz)
      s = Softmax<axis = {axis}>(xd)
      y = QuantizeLinear(s, ys, yz)
    }}"""
    x = codes(np.random.default_rng(8), dtype, 50, 9, 30)
    agrees(model(text, xs=xs, ys=ys, **zero), {"x": x}, "QSoftmax")
    made = model(text, xs=xs, ys=ys, **zero)
    made.opset_import[0].version = 11
    made.ir_version = 6
    agrees(made, {"x": x}, "QSoftmax")


@pytest.mark.parametrize("dtype", TYPES)
def test_lookup_and_rescale(dtype: str) -> None:
    low = np.iinfo(dtype).min
    text = f"""g ({dtype}[256] x) => ({dtype}[256] a, {dtype}[256] b, {dtype}[256] c) {{
      xd = DequantizeLinear(x, s, xz)
      u = LeakyRelu<alpha = 0.1>(xd)
      a = QuantizeLinear(u, ys, yz)
      v = HardSwish(xd)
      b = QuantizeLinear(v, s, yz)
      c = QuantizeLinear(xd, ys, yz)
    }}"""
    zero = {"xz": np.array(low + 100, dtype), "yz": np.array(low + 91, dtype)}
    made = model(text, s=np.float32(0.5), ys=np.float32(0.25), **zero)
    graph = agrees(made, {"x": np.arange(256, dtype=np.uint8).view(dtype)}, "Lookup", "Rescale")
    assert "DequantizeLinear" not in operators(graph)


def test_dynamic_quantization() -> None:
    text = """g (float[4,6] x, float[2,2] none) => (uint8[4,6] q, float s, uint8 z, uint8[2,2] n, float t, uint8 u) {
      q, s, z = DynamicQuantizeLinear(x)
      n, t, u = DynamicQuantizeLinear(none)
    }"""
    feeds = {
        "x": np.random.default_rng(1).normal(0.3, 1, (4, 6)).astype(np.float32),
        "none": np.zeros((2, 2), np.float32),
    }
    graph = agrees(model(text), feeds, "QuantizeLinear")
    assert "DynamicQuantizeLinear" not in operators(graph)


def test_requantize_is_found_again() -> None:
    """What the writer makes of our operators becomes them again."""
    rng = np.random.default_rng(8)
    text = """g (uint8[5,16] x) => (uint8[5,6] y) {
      y = QLinearMatMul(x, s, z, w, s, z, t, z)
    }"""
    made = model(text, w=codes(rng, "uint8", 16, 6), s=np.float32(0.01), t=np.float32(0.07), z=np.uint8(128))
    graph = agrees(made, {"x": codes(rng, "uint8", 5, 16)}, "Requantize")
    assert str(folded(to_model(graph))) == str(graph)


@pytest.mark.parametrize(
    ("shape", "group", "attributes"),
    [
        ((2, 4, 9, 8), 2, "strides = [2, 1], dilations = [1, 2], pads = [1, 0, 2, 3]"),
        ((1, 4, 7, 7), 4, "pads = [1, 1, 1, 1]"),
        ((1, 4, 8, 8), 1, 'auto_pad = "SAME_LOWER", strides = [2, 3]'),
    ],
)
def test_reference_convolution(shape: tuple[int, ...], group: int, attributes: str) -> None:
    rng = np.random.default_rng(9)
    dims = ",".join(map(str, shape))
    text = f"""g (uint8[{dims}] x) => (int32[?, 4, ?, ?] y) {{
      y = ConvInteger<group = {group}, {attributes}>(x, w, xz, wz)
    }}""".replace("?", "N")
    made = model(text, w=codes(rng, "int8", 4, 4 // group, 3, 3), xz=np.uint8(77), wz=np.int8(-3))
    x = codes(rng, "uint8", *shape)
    (wanted,) = run(made, {"x": x})
    np.testing.assert_array_equal(evaluate(load(made), {"x": x})["y"], wanted)


def test_reference_pools_agree_with_onnx() -> None:
    text = """g (float[1,2,7,6] x) => (float[N,M,P,Q] y) {
      y = MaxPool<kernel_shape = [3, 2], strides = [2, 3], pads = [1, 0, 1, 1], ceil_mode = 1>(x)
    }"""
    made = model(text)
    x = np.random.default_rng(2).normal(size=(1, 2, 7, 6)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(made).run(None, {"x": x})
    np.testing.assert_array_equal(evaluate(load(made), {"x": x})["y"], wanted)
