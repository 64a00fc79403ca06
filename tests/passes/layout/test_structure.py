"""Whole networks in channels-last form: where Transposes remain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import run_reference
from onyxc.compiler.inputs import graph_inputs
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import PassManager
from onyxc.passes import parse_many
from onyxc.passes.pipelines import compilation

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
STEPS = "split-bias channels-last no-ops fold-constants dead-code common-subexpressions"


def operators(graph: Graph) -> list[str]:
    """Keys of the nodes, in order."""
    return [facts.key(n) for n in graph]


def light(name: str) -> Graph:
    """A network of the onnx package, compiled as far as passes go, not fused."""
    graph = load(LIGHT / f"light_{name}.onnx")
    PassManager([p for p in compilation(2) if p.name != "fuse-groups"]).run(graph)
    return graph


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "resnet50", "densenet121", "shufflenet"])
def test_no_transpose_between_convolutions(name: str) -> None:
    """Channel shuffles end in the weights."""
    found = operators(light(name))
    assert "Conv" not in found
    assert "Transpose" not in found


def build(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model in ONNX text with seeded weights by shape."""
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 26]> g ' + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array: Any = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


def lowered(model: onnx.ModelProto) -> Graph:
    """The model in channels-last form, its results compared with those before."""
    before, graph = load(model), load(model)
    PassManager(parse_many(STEPS)).run(graph)
    inputs = graph_inputs(before)
    for wanted, got in zip(run_reference(to_model(before), inputs), run_reference(to_model(graph), inputs), strict=True):
        assert relative_error(wanted, got) <= 1e-5
    return graph


def test_inverted_residuals() -> None:
    graph = lowered(build(
        """(float[1,3,16,16] x) => (float[1,10] y) {
          a = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w0, b0) b = HardSwish(a)
          c = Conv(b, w1, b1) d = Relu(c) e = Conv<group=16,pads=[1,1,1,1]>(d, w2, b1) f = Relu(e)
          p = GlobalAveragePool(f) q = Conv(p, w4, b0) r = Relu(q) s = Conv(r, w5, b1) t = HardSigmoid(s) u = Mul(f, t)
          h = Conv(u, w3, b0) i = Add(b, h) j = GlobalAveragePool(i) k = Flatten(j) y = Gemm<transB=1>(k, v, bv) }""",
        w0=(8, 3, 3, 3), b0=(8,), w1=(16, 8, 1, 1), b1=(16,), w2=(16, 1, 3, 3), w3=(8, 16, 1, 1), w4=(8, 16, 1, 1),
        w5=(16, 8, 1, 1), v=(10, 8), bv=(10,),
    ))  # fmt: skip
    assert "Transpose" not in operators(graph)


def test_feature_pyramid() -> None:
    graph = lowered(build(
        """(float[1,3,16,16] x) => (float[1,384,2] y) <float[4] s = {1,1,2,2}, int64[3] rows = {1,-1,2}> {
          a = Conv<pads=[1,1,1,1]>(x, w0) b = Conv<pads=[1,1,1,1],strides=[2,2]>(a, w1)
          c = Resize<mode="nearest">(b, , s) d = Add(a, c) e = Concat<axis=1>(a, d) f = Conv(e, w2) g1 = Conv(b, w2b)
          t = Transpose<perm=[0,2,3,1]>(f) u = Transpose<perm=[0,2,3,1]>(g1) v = Reshape(t, rows) w = Reshape(u, rows)
          z = Concat<axis=1>(v, w) y = Sigmoid(z) }""",
        w0=(8, 3, 3, 3), w1=(8, 8, 3, 3), w2=(2, 16, 1, 1), w2b=(4, 8, 1, 1),
    ))  # fmt: skip
    assert "Transpose" not in operators(graph)


def test_upsampling_decoder() -> None:
    graph = lowered(build(
        """(float[1,3,4,4] x) => (float[1,1,16,16] y) {
          a = Conv(x, w0) b = ConvTranspose<strides=[2,2]>(a, w1, b1) c = Relu(b)
          d = ConvTranspose<strides=[2,2],pads=[1,1,1,1]>(c, w2) y = Sigmoid(d) }""",
        w0=(8, 3, 1, 1), w1=(8, 4, 2, 2), b1=(4,), w2=(4, 1, 4, 4),
    ))  # fmt: skip
    assert operators(graph).count("Transpose") == 2  # one for each pixel shuffle
    assert "ConvTranspose" not in operators(graph)


def test_keyword_spotting_in_one_dimension() -> None:
    graph = lowered(build(
        """(float[1,1,64] x) => (float[1,12] y) <int64[1] last = {2}> {
          a = Conv<strides=[4],pads=[2,2]>(x, w0, b0) c = Relu(a)
          d = Conv<group=16,pads=[4,4]>(c, w1) e = Conv(d, w2, b0) f = Add(e, c) h = PRelu(f, slope)
          i = ReduceMean<keepdims=0>(h, last) y = MatMul(i, v) }""",
        w0=(16, 1, 5), b0=(16,), w1=(16, 1, 9), w2=(16, 16, 1), slope=(16, 1), v=(16, 12),
    ))  # fmt: skip
    found = operators(graph)
    assert "Transpose" not in found
    assert found.count("Reshape") <= 2  # the signal as an image, and the mean as a row
