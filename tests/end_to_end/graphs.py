"""Models for whole runs: small ones built here, and the CNN graphs that the onnx package carries."""

from __future__ import annotations

from collections.abc import Callable
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper, version_converter

Array = np.ndarray[Any, Any]


def model(text: str, opset: int = 20, **weights: Array) -> onnx.ModelProto:
    """A model in ONNX text, and its weights by name."""
    made = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]> g {text}')
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    onnx.checker.check_model(made)
    return made


def normal(*shape: int, seed: int = 0) -> Array:
    """Seeded weights, scaled so that a product keeps the size of its input."""
    rng = np.random.default_rng([seed, *shape])
    return (rng.standard_normal(shape) / sqrt(max(1, prod(shape[1:])))).astype(np.float32)


def mlp() -> onnx.ModelProto:
    """Two layers and a softmax, for a batch of three."""
    return model(
        """(float[3,16] x) => (float[3,10] y) {
            a = Gemm (x, w1, b1) b = Relu (a) c = Gemm <transB = 1> (b, w2, b2) y = Softmax <axis = -1> (c) }""",
        w1=normal(16, 24), b1=normal(24), w2=normal(10, 24), b2=normal(10),
    )  # fmt: skip


def residual() -> onnx.ModelProto:
    """A convolution, a residual block with a depthwise convolution, pooling, a classifier."""
    return model(
        """(float[1,3,16,16] image) => (float[1,10] logits) {
            a = Conv <pads = [1,1,1,1]> (image, w1)
            b = BatchNormalization (a, scale, bias, mean, var)
            c = Relu (b)
            d = Conv <pads = [1,1,1,1], group = 16> (c, w2, b2)
            e = Clip (d, low, high)
            f = Conv (e, w3, b3)
            g = Add (c, f)
            h = Relu (g)
            i = MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> (h)
            j = GlobalAveragePool (i)
            k = Flatten (j)
            logits = Gemm <transB = 1> (k, w4, b4) }""",
        w1=normal(16, 3, 3, 3), scale=1 + normal(16), bias=normal(16, seed=1), mean=normal(16, seed=2),
        var=1 + normal(16, seed=3) ** 2, w2=normal(16, 1, 3, 3), b2=normal(16, seed=4), low=np.float32(0),
        high=np.float32(6), w3=normal(16, 16, 1, 1), b3=normal(16, seed=5), w4=normal(10, 16), b4=normal(10),
    )  # fmt: skip


def transformer() -> onnx.ModelProto:
    """One block of four heads over twelve tokens of width 32."""
    return model(
        """(float[1,12,32] x) => (float[1,12,32] y) {
            n1 = LayerNormalization <axis = -1> (x, g1, s1)
            q = MatMul (n1, wq) k = MatMul (n1, wk) v = MatMul (n1, wv)
            heads = Constant <value = int64[4] {1, 12, 4, 8}> ()
            flat = Constant <value = int64[3] {1, 12, 32}> ()
            q4 = Reshape (q, heads) k4 = Reshape (k, heads) v4 = Reshape (v, heads)
            qt = Transpose <perm = [0,2,1,3]> (q4)
            kt = Transpose <perm = [0,2,3,1]> (k4)
            vt = Transpose <perm = [0,2,1,3]> (v4)
            scores = MatMul (qt, kt)
            scaled = Mul (scores, scale)
            weights = Softmax <axis = -1> (scaled)
            mixed = MatMul (weights, vt)
            back = Transpose <perm = [0,2,1,3]> (mixed)
            joined = Reshape (back, flat)
            out = MatMul (joined, wo)
            r1 = Add (x, out)
            n2 = LayerNormalization <axis = -1> (r1, g2, s2)
            up = MatMul (n2, w1) upb = Add (up, b1) act = Gelu (upb)
            down = MatMul (act, w2) downb = Add (down, b2)
            y = Add (r1, downb) }""",
        **{f"w{n}": normal(32, 32, seed=i) for i, n in enumerate("qkvo")}, scale=np.float32(8**-0.5),
        g1=1 + normal(32), s1=normal(32, seed=1), g2=1 + normal(32, seed=2), s2=normal(32, seed=3),
        w1=normal(32, 64), b1=normal(64), w2=normal(64, 32), b2=normal(32, seed=4),
    )  # fmt: skip


def lstm() -> onnx.ModelProto:
    """Both directions over seven steps, then a layer on the last state."""
    return model(
        """(float[7,2,5] x) => (float[7,2,2,8] all, float[2,2,3] last) {
            all, h, c = LSTM <hidden_size = 8, direction = "bidirectional"> (x, w, r, b)
            last = MatMul (h, out) }""",
        w=normal(2, 32, 5), r=normal(2, 32, 8), b=normal(2, 64), out=normal(8, 3),
    )  # fmt: skip


def choice() -> onnx.ModelProto:
    """If on what the input is."""
    return model(
        """(float[4,6] x) => (float[4,6] y) {
            zero = Constant <value = float {0}> ()
            sum = ReduceSum <keepdims = 0> (x)
            positive = Greater (sum, zero)
            z = MatMul (x, w)
            y = If (positive) <
                then_branch = t () => (float[4,6] a) { a = Relu (z) },
                else_branch = e () => (float[4,6] b) { n = Neg (z) b = Exp (n) }> }""",
        w=normal(6, 6),
    )  # fmt: skip


def quantized() -> onnx.ModelProto:
    """A convolution between quantizations, its weights per channel: integers inside."""
    steps = np.linspace(0.01, 0.02, 8, dtype=np.float32)
    rng = np.random.default_rng(0)
    return model(
        """(float[1,3,8,8] x) => (float[1,8,8,8] y) {
            xq = QuantizeLinear (x, xs, xz) xd = DequantizeLinear (xq, xs, xz)
            wd = DequantizeLinear <axis = 0> (w, ws, wz)
            bd = DequantizeLinear <axis = 0> (b, bs, bz)
            c = Conv <pads = [1,1,1,1]> (xd, wd, bd)
            r = Relu (c)
            rq = QuantizeLinear (r, rs, rz)
            y = DequantizeLinear (rq, rs, rz) }""",
        xs=np.float32(0.03), xz=np.uint8(120), w=rng.integers(-127, 128, (8, 3, 3, 3), np.int8), ws=steps,
        wz=np.zeros(8, np.int8), b=rng.integers(-500, 500, 8, np.int32), bs=np.float32(0.03) * steps,
        bz=np.zeros(8, np.int32), rs=np.float32(0.05), rz=np.uint8(0),
    )  # fmt: skip


def integers() -> onnx.ModelProto:
    """A network quantized throughout, so that every integer operator comes up; tables, sums and averages are odd-sized."""
    rng = np.random.default_rng(1)
    lines: list[str] = []
    weights: dict[str, Array] = {}

    def dequantized(name: str) -> str:
        lines.append(f"{name}_d = DequantizeLinear ({name}, {name}_s, {name}_z)")
        return f"{name}_d"

    def layer(name: str, call: str, scale: float, zero: int) -> str:
        weights[f"{name}_s"], weights[f"{name}_z"] = np.float32(scale), np.uint8(zero)
        lines.append(f"{name}_r = {call}\n {name} = QuantizeLinear ({name}_r, {name}_s, {name}_z)")
        return dequantized(name)

    def weight(name: str, *shape: int) -> str:
        weights[name] = rng.integers(-127, 128, shape, np.int8)
        weights[f"{name}_s"] = np.linspace(0.002, 0.006, shape[0], dtype=np.float32)
        weights[f"{name}_z"] = np.zeros(shape[0], np.int8)
        lines.append(f"{name}_d = DequantizeLinear <axis = 0> ({name}, {name}_s, {name}_z)")
        weights[f"{name}_b"] = rng.uniform(-1, 1, shape[0]).astype(np.float32)
        return f"{name}_d, {name}_b"

    weights["x_s"], weights["x_z"] = np.float32(0.02), np.uint8(131)
    x = dequantized("x")
    a = layer("a", f"Conv <pads = [1,1,1,1]> ({x}, {weight('w1', 20, 3, 3, 3)})", 0.0371, 0)
    layer("t", f"AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1]> ({a})", 0.0371, 0)
    b = layer("b", f"Conv <pads = [0,0,1,1], strides = [2,2], group = 20> ({a}, {weight('w2', 20, 1, 3, 3)})", 0.0219, 90)
    c = layer("c", f"Conv ({b}, {weight('w3', 20, 20, 1, 1)})", 0.0173, 121)
    d = layer("d", f"Add ({b}, {c})", 0.0311, 117)
    e = layer("e", f"Mul ({c}, {d})", 0.0511, 103)
    f = layer("f", f"Conv <group = 2, dilations = [2,2], pads = [2,2,2,2]> ({e}, {weight('w4', 14, 10, 3, 3)})", 0.02, 60)
    f = layer("g", f"LeakyRelu <alpha = 0.1> ({f})", 0.0151, 40)
    h = layer("h", f"AveragePool <kernel_shape = [3,3], pads = [1,1,1,1]> ({f})", 0.0113, 0)
    i = layer("i", f"MaxPool <kernel_shape = [2,2]> ({f})", 0.0151, 40)
    j = layer("j", f"AveragePool <kernel_shape = [3,3], pads = [0,0,1,1]> ({h})", 0.0101, 0)
    k = layer("k", f"Concat <axis = 1> ({i}, {j})", 0.0161, 39)
    m = layer("m", f"GlobalAveragePool ({k})", 0.0097, 33)
    lines.append(f"flat = Flatten ({m})")
    n = layer("n", f"Gemm <transB = 1> (flat, {weight('w5', 11, 28)})", 0.0412, 128)
    layer("y", f"Softmax <axis = -1> ({n})", 1 / 256, 0)
    outputs = "uint8[1,11] y, uint8[1,20,6,6] t, uint8[1,20,6,6] d, uint8[1,14,6,6] h, uint8[1,28,5,5] k, uint8[1,11] n"
    return model(f"(uint8[1,3,12,12] x) => ({outputs}) {{ {' '.join(lines)} }}", **weights)


SMALL: dict[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made for made in (mlp, residual, transformer, lstm, choice, quantized, integers)
}


# ---- the graphs of the onnx package: real networks, their weights stood in for by ConstantOfShape


def light(name: str, probes: int = 0) -> onnx.ModelProto:
    """One of onnx/backend/test/data/light with seeded weights; ``probes``: so many inner tensors become outputs."""
    made = onnx.load(Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx")
    graph = made.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    users = {name: (n.op_type, i) for n in graph.node for i, name in enumerate(n.input)}
    fillers = [n for n in graph.node if n.op_type == "ConstantOfShape"]
    rng = np.random.default_rng(0)
    for node in fillers:
        values = _weights(rng, tuple(map(int, shapes[node.input[0]])), *users.get(node.output[0], ("", 0)))
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    read = {name for n in graph.node for name in n.input}
    _keep(graph.initializer, lambda t: t.name in read)
    weights = {t.name for t in graph.initializer}
    _keep(graph.input, lambda i: i.name in read - weights)
    del graph.value_info[:]
    made.ir_version = 8
    made = version_converter.convert_version(made, 13)
    return _with_probes(made, probes) if probes else made


def _weights(rng: np.random.Generator, shape: tuple[int, ...], op: str, slot: int) -> Array:
    if len(shape) >= 2:
        return rng.normal(0, sqrt(2 / prod(shape[1:])), shape)
    if op == "BatchNormalization":
        low, high = {1: (0.8, 1.2), 2: (-0.1, 0.1), 3: (-0.1, 0.1), 4: (0.5, 1.5)}[slot]
        return rng.uniform(low, high, shape)
    return rng.uniform(0.5, 1, shape) if op == "Unsqueeze" else rng.uniform(-0.1, 0.1, shape)


def _keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    kept = [entry for entry in field if wanted(entry)]
    del field[:]
    field.extend(kept)


def _with_probes(made: onnx.ModelProto, count: int) -> onnx.ModelProto:
    ends = {o.name for o in made.graph.output}
    kinds = ("Relu", "Add", "Sum", "Conv", "Concat", "BatchNormalization")
    inner = [n.output[0] for n in made.graph.node if n.op_type in kinds and n.output[0] not in ends]
    logits = [n.input[0] for n in made.graph.node if n.op_type == "Softmax"]
    for name in dict.fromkeys([*inner[:: max(1, len(inner) // count)], *logits]):
        made.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return onnx.shape_inference.infer_shapes(made)
