"""What golden text cannot show of one-hot products: infinite tables, and indices outside."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

from onyxc.compiler.check import run_reference
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load, to_model
from onyxc.passes import parse

MODEL = """<ir_version: 10, opset_import: ["" : 26]>
g (int64[5, 1] i) => (float[5, 2] y) <int64[1, 3] steps = {0, 1, 2}> {
  e = Equal(steps, i)
  h = Cast <to = 1> (e)
  y = MatMul(h, w)
}"""


def folded(table: list[list[float]]) -> Graph:
    """The graph with ``table``, after the pass."""
    model = onnx.parser.parse_model(MODEL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(table, np.float32), "w"))
    graph = load(model)
    parse("fold-one-hot").run(graph)
    return graph


def test_indices_outside_give_zeros() -> None:
    graph = folded([[1, 2], [3, 4], [5, 6]])
    assert not any(n.is_op("MatMul") for n in graph)
    (found,) = run_reference(to_model(graph), {"i": np.array([[-1], [0], [2], [3], [1 << 40]])})
    np.testing.assert_array_equal(found, [[0, 0], [1, 2], [5, 6], [0, 0], [0, 0]])


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_infinite_tables_stay(value: float) -> None:
    assert any(n.is_op("MatMul") for n in folded([[1, 2], [value, 4], [5, 6]]))
