"""Operations and bytes of nodes, by the definition of the operators."""

from __future__ import annotations

import onnx.parser
import pytest

from onyxc.compiler.ir import cost
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load


def graph(text: str) -> Graph:
    return load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (
            "(float[1,3,8,8] x, float[4,3,3,3] w) => (float[1,4,8,8] y) { y = Conv <pads = [1,1,1,1]> (x, w) }",
            2 * 4 * 64 * 27,
        ),
        ("(float[2,3] x, float[3,5] w) => (float[2,5] y) { y = MatMul (x, w) }", 60),
        ("(float[2,3] x) => (float[2,3] y) { a = Exp (x) y = Relu (a) }", 12),
        ("(float[2,3] x) => (float[3,2] y) { y = Transpose (x) }", 0),
        ("(float[1,2,4,4] x) => (float[1,2,2,2] y) { y = MaxPool <kernel_shape = [2,2], strides = [2,2]> (x) }", 32),
        ("(float[1,2,4,4] x) => (float[1,2,1,1] y) { y = GlobalAveragePool (x) }", 32),
        ("(float[2,3] x) => (float[2,3] y) { y = Softmax (x) }", 30),
        ("(float[2,3] x) => (float[2] y) { y = ReduceMean <axes = [1], keepdims = 0> (x) }", 6),
        (
            "(float[7,2,5] x, float[1,32,5] w, float[1,32,8] r) => (float[7,1,2,8] y)"
            " { y = LSTM <hidden_size = 8> (x, w, r) }",
            2 * 14 * 32 * 13,
        ),
    ],
)
def test_operations(text: str, count: int) -> None:
    assert cost.operations(graph(text)) == count


@pytest.mark.parametrize(
    "text",
    [
        "(float[2,3] x) => (float[2,3] y) { y = CumSum (x, i) }".replace("(float[2,3] x)", "(float[2,3] x, int64 i)"),
        "(float[n,3] x) => (float[n,3] y) { y = Relu (x) }",
    ],
)
def test_what_is_not_counted(text: str) -> None:
    assert cost.operations(graph(text)) is None


def test_a_table_is_read_where_it_is_taken_from() -> None:
    made = graph("(float[1000,4] t, int64[3] i) => (float[3,4] y) { y = Gather <axis = 0> (t, i) }")
    assert [cost.bytes_read(v) for v in made.inputs] == [48, 24]
    both = graph(
        "(float[10,4] t, int64[3] i) => (float[3,4] y, float[10,4] z) { y = Gather <axis = 0> (t, i) z = Relu (t) }"
    )
    assert cost.bytes_read(both.inputs[0]) == 160
    small = graph("(float[2,4] t, int64[30] i) => (float[30,4] y) { y = Gather <axis = 0> (t, i) }")
    assert cost.bytes_read(small.inputs[0]) == 32
