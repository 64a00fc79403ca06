"""Programs know what each call computes of the model."""

from __future__ import annotations

import onnx.parser

from onyxc.backends.compile import to_program
from onyxc.backends.program import Call, Kernel, Program
from onyxc.backends.target import get
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes import pipelines

TARGET = get("x86-64-v3")


def program(text: str) -> Program:
    graph = load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}'))
    PassManager(pipelines.compilation(2, "cpu")).run(graph)
    return to_program(graph, TARGET, "m")


def test_a_fused_group_names_its_nodes() -> None:
    (call,) = program(
        "(float[4,8] x) => (float[4,8] y) <float[8,8] w = {" + ",".join(["1"] * 64) + "}> {"
        " a = MatMul (x, w) y = Relu (a) }"
    ).walk()
    assert isinstance(call, Call)
    assert call.origin is not None
    assert [n.split()[0] for n in call.origin.nodes] == ["MatMul", "Relu"]
    assert call.origin.shape == "4x8 * 8x8 -> 4x8"
    assert call.origin.flops == 2 * 4 * 8 * 8 + 4 * 8


def test_operations_of_a_group_are_divided_among_its_kernels() -> None:
    calls = [s for s in program("(float[64,300] x) => (float[64] y) { a = Exp (x) y = ReduceSum <keepdims = 0> (a, i) }"
                                .replace("ReduceSum <keepdims = 0> (a, i)", "ReduceMean <axes = [1], keepdims = 0> (a)")
                                ).walk() if isinstance(s, Call)]  # fmt: skip
    assert abs(sum(c.origin.flops for c in calls if c.origin) - 2 * 64 * 300) < len(calls)


def test_rows_of_a_table() -> None:
    made = program(
        "(int64[2] i) => (float[2,4] y) <float[100,4] t = {" + ",".join(["1"] * 400) + "}> { y = Gather <axis = 0> (t, i) }"
    )
    (call,) = (s for s in made.walk() if isinstance(s, Call))
    assert call.origin is not None
    assert sorted(call.origin.reads) == [16, 32]


def test_kernels_of_control_flow_have_no_origin() -> None:
    assert Call(Kernel("put"), (), 0).origin is None
