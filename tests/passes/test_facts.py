"""What passes promised of weights stays true in folding."""

from __future__ import annotations

import numpy as np
import onnx.parser

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
