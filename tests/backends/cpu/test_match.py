"""Which template computes what on a CPU: told by the kernels of small programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.bodies import as_body
from onyxc.backends.compile import to_program
from onyxc.backends.cpu import match
from onyxc.backends.target import get
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import finish

TARGET = get("x86-64-v3")


def compiled(text: str, **weights: tuple[int, ...]) -> Graph:
    """The graph of a model, seeded weights by shape, after layout and fusion."""
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 26]> g ' + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load(model)
    PassManager(finish(2)).run(graph)
    return graph


def templates(graph: Graph) -> list[bool]:
    """For each group, whether a template takes it."""
    made = []
    for node in graph:
        if not node.is_op("Reshape"):
            body, arguments = as_body(node)
            constant = tuple(v.const is not None for v in arguments)
            made.append(match.recipe("k", body, constant, TARGET) is not None)
    return made


def kernels(graph: Graph) -> list[str]:
    """Names of the program's kernels."""
    return [k.name for k in to_program(graph, TARGET, "m").kernels()]


CASES = {
    "convolution with all that follows": (
        "(float[1,3,8,8] x) => (float[1,8,8,8] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) c = HardSwish(a) y = Mul(c, s) }",
        {"w": (8, 3, 3, 3), "b": (8,), "s": (8, 1, 1)},
        [True, False],  # and the Transpose to the output's layout
    ),
    "depthwise": (
        "(float[1,8,8,8] x) => (float[1,8,1,1] y) { a = Conv<group=8>(x, w) b = Relu(a) y = GlobalAveragePool(b) }",
        {"w": (8, 1, 3, 3)},
        [False, True, True],
    ),
    "one-dimensional": (
        "(float[1,2,64] x) => (float[1,16,1] y) { a = Conv(x, w, b) c = Relu(a) y = GlobalMaxPool(c) }",
        {"w": (16, 2, 5), "b": (16,)},
        [True, True],
    ),
    "pool with an epilogue": (
        "(float[1,3,8,8] x) => (float[1,1,2,2] y) { a = Conv(x, w) b = MaxPool<kernel_shape=[3,3],strides=[3,3]>(a)"
        " c = Relu(b) y = Conv(c, v) }",
        {"w": (8, 3, 1, 1), "v": (1, 8, 1, 1)},
        [True, True, True],
    ),
    "product with weights": (
        "(float[2,5,8] x) => (float[2,5,16] y) { a = MatMul(x, w) b = Add(a, c) y = Gelu(b) }",
        {"w": (8, 16), "c": (16,)},
        [True],
    ),
    "product of two activations, Transposes and mask": (
        "(float[1,5,2,8] q, float[1,5,2,8] k, float[1,1,1,5] m) => (float[1,2,5,5] y) {"
        " a = Transpose<perm=[0,2,1,3]>(q) b = Transpose<perm=[0,2,3,1]>(k) c = MatMul(a, b) y = Add(c, m) }",
        {},
        [True],
    ),
    "convolution with the weights of a run": (
        "(float[1,16,8,8] x, float[24,16,3,3] w) => (float[1,24,1,1] y) { a = Conv<pads=[1,1,1,1]>(x, w) b = Relu(a)"
        " y = GlobalMaxPool(b) }",
        {},
        [False, True, True],  # the image is moved first
    ),
    "double precision": (
        "(double[2,8] x, double[8,4] w) => (double[2,4] y) { y = MatMul(x, w) }",
        {},
        [False],
    ),
    "arithmetic": ("(float[4,5] x) => (float[4,5] y) { a = Exp(x) y = Neg(a) }", {}, [False]),
}


@pytest.mark.parametrize("case", CASES)
def test_templates(case: str) -> None:
    text, weights, wanted = CASES[case]
    assert templates(compiled(text, **weights)) == wanted


def test_a_kernel_a_group() -> None:
    graph = compiled(
        "(float[1,3,8,8] x) => (float[1,4] y) { a = Conv(x, w, b) c = Relu(a) d = GlobalAveragePool(c) e = Flatten(d)"
        " f = MatMul(e, v) y = Softmax(f) }",
        w=(8, 3, 3, 3), b=(8,), v=(8, 4),
    )  # fmt: skip
    names = kernels(graph)
    assert [n.partition("_")[0] for n in names] == ["conv", "reducemean", "matmul", "softmax"]


def test_transposed_convolution_is_a_convolution() -> None:
    graph = compiled(
        "(float[1,4,8,8] x) => (float[1,1,16,16] y) { a = ConvTranspose<strides=[2,2]>(x, w, b) y = Sigmoid(a) }",
        w=(4, 1, 2, 2), b=(1,),
    )  # fmt: skip
    assert [n.partition("_")[0] for n in kernels(graph)] == ["transpose", "conv", "transpose"]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({}, True), ({"exact": True}, False), ({"favor": "size"}, False)],
)
def test_winograd_unless_refused(options: dict[str, Any], wanted: bool) -> None:
    graph = compiled(
        "(float[1,32,24,24] x) => (float[1,32,24,24] y) { a = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(a) }",
        w=(32, 32, 3, 3), b=(32,),
    )  # fmt: skip
    notes = [k.note for k in to_program(graph, replace(TARGET, **options), "m").kernels()]
    assert any(note.startswith("Winograd F(") for note in notes) == wanted
