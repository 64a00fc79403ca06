"""What passes promised of weights stays true in folding."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import load
from onyxc.passes import parse

MODEL = """<ir_version: 10, opset_import: ["" : 26]>
g (float[1, 2, 3, 3] x) => (float[1, 2, 3, 3] y)
<float[2, 2, 1, 1] w = {0.5, 0, 0, -0.5}, float[2, 1, 1] s = {3, 7}, float t = {3}> {
  a = Conv(x, w)
  y = Mul(a, FACTOR)
}"""


def _weight(graph: Graph) -> Value:
    weight = next(n for n in graph if n.op == "Conv").inputs[1]
    assert weight is not None
    return weight


def _folded(factor: str) -> Value:
    graph = load(onnx.parser.parse_model(MODEL.replace("FACTOR", factor)))
    weight = _weight(graph)
    assert weight.const is not None
    weight.facts.update(sparsity=weight.const != 0, palette=np.array([-0.5, 0, 0.5], np.float32))
    parse("fold-batch-norm").run(graph)
    verify(graph)
    return _weight(graph)


def test_one_factor_keeps_the_palette() -> None:
    weight = _folded("t")
    np.testing.assert_array_equal(weight.facts["palette"], [-1.5, 0, 1.5])
    assert weight.facts["sparsity"].sum() == 2


def test_a_factor_per_channel_breaks_the_palette() -> None:
    weight = _folded("s")
    assert "palette" not in weight.facts
    assert weight.facts["sparsity"].sum() == 2


def test_moving_keeps_facts() -> None:
    text = """<ir_version: 10, opset_import: ["" : 26]>
    g (float[3, 1] x) => (float[3, 1] y) <float[2, 3] w = {0, 1, 2, 0, 0, 1}> {
      z = MatMul(w, x)
      t = Transpose(w)
      y = MatMul(t, z)
    }"""
    graph = load(onnx.parser.parse_model(text))
    weight = graph.nodes[0].inputs[0]
    assert weight is not None
    assert weight.const is not None
    weight.facts.update(sparsity=weight.const != 0, palette=np.array([0, 1, 2], np.float32))
    parse("fold-constants").run(graph)
    verify(graph)
    moved = graph.nodes[-1].inputs[0]
    assert moved is not None
    assert moved.const is not None
    np.testing.assert_array_equal(moved.facts["sparsity"], moved.const != 0)
    assert "palette" in moved.facts


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("channels", [False, True])
def test_a_gemm_keeps_its_palette(transposed: int, channels: bool) -> None:
    """Whether one codebook serves the weights or each output has its own."""
    rows, bias = (3, "1, 2, 3") if transposed else (2, "1, 2")
    text = f"""<ir_version: 10, opset_import: ["" : 26]>
    g (float[1, {2 if transposed else 3}] x) => (float[1, {3 if transposed else 2}] y)
      <float[3, 2] w = {{0, 1, 2, 3, 4, 5}}, float[{rows}] b = {{{bias}}}> {{
      y = Gemm<transB = {transposed}>(x, w, b)
    }}"""
    graph = load(onnx.parser.parse_model(text))
    weight = graph.nodes[0].inputs[1]
    assert weight is not None
    assert weight.const is not None
    outputs = weight.const[:, None] if transposed else weight.const.T[None]
    weight.facts["palette"] = outputs.copy() if channels else np.arange(6, dtype=np.float32)
    verify(graph)
    parse("split-bias").run(graph)
    verify(graph)
    made = graph.nodes[0].inputs[1]
    assert made is not None
    assert "palette" in made.facts


def test_moving_a_clustered_weight_keeps_the_graph_valid() -> None:
    """One-dimensional convolutions and transposed constants, with a codebook for each output."""
    text = """<ir_version: 10, opset_import: ["" : 26]>
    g (float[1, 2, 5] x) => (float[1, 3, 5] y, float[3, 2] z)
      <float[3, 2, 1] w = {0, 1, 2, 3, 4, 5}, float[2, 3] v = {0, 1, 2, 3, 4, 5}> {
      y = Conv(x, w)
      t = Transpose(v)
      z = Neg(t)
    }"""
    graph = load(onnx.parser.parse_model(text))
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and value.const is not None:
                first = value.const.reshape(len(value.const), -1)
                value.facts["palette"] = first.reshape(len(first), *(1,) * (value.const.ndim - 1), -1)
    verify(graph)
    for name in ("fold-constants", "channels-last"):
        parse(name).run(graph)
        verify(graph)
