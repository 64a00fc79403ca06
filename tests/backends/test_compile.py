"""From graphs to programs: control flow, views, outputs of every kind, shared recipes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.compile import Compiler, to_program
from onyxc.backends.program import Call, Copy, If, Loop, Program
from onyxc.backends.target import get
from onyxc.compiler import driver
from onyxc.compiler.engines import run_reference
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import finish

HEAD = '<ir_version: 10, opset_import: ["" : 26]>\n'


def program(text: str) -> Program:
    """The program of a model on the host, fused."""
    graph = load(onnx.parser.parse_model(HEAD + text))
    PassManager(finish(2)).run(graph)
    return to_program(graph, get("host"), "model")


def run(model: onnx.ModelProto | str, inputs: dict[str, Any]) -> list[Any]:
    """Compiled results; they must be those of onnx.reference."""
    proto = onnx.parser.parse_model(HEAD + model) if isinstance(model, str) else model
    return driver.compile(proto).run(inputs)


def same(model: str, inputs: dict[str, Any]) -> list[Any]:
    """Compiled results, after a comparison with onnx.reference."""
    proto = onnx.parser.parse_model(HEAD + model)
    found = run(proto, inputs)
    for wanted, got in zip(run_reference(proto, inputs), found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
        assert got.dtype == wanted.dtype
    return found


X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


def test_outputs_of_every_kind() -> None:
    text = """g (float[2, 3] x) => (float[2, 3] x, float[2, 3] y, float[2, 3] z, float[3] c, float[6] v)
    <float[3] c = {1, 2, 3}, int64[1] all = {-1}> {
      y = Add(x, c)
      z = Identity(y)
      v = Reshape(y, all)
    }"""
    proto = onnx.parser.parse_model(HEAD + text)
    x, y, z, c, v = run(proto, {"x": X})
    np.testing.assert_array_equal(x, X)
    for found in (y, z, v.reshape(2, 3)):
        np.testing.assert_array_equal(found, X + c)


def test_views_cost_no_step() -> None:
    made = program("""g (float[2, 3] x) => (float[6] y) <int64[2] s = {3, 2}, int64[1] f = {6}> {
      a = Relu(x)
      b = Reshape(a, s)
      c = Softmax <axis = 1> (b)
      y = Reshape(c, f)
    }""")
    assert [type(s) for s in made.steps] == [Call, Call]
    root, offset = made.steps[1].args[0].root()  # type: ignore[union-attr]
    assert root is made.steps[0].args[-1].root()[0]  # type: ignore[union-attr]
    assert offset == 0


def test_equal_layers_share_a_kernel() -> None:
    rng = np.random.default_rng(0)
    text = """g (float[4, 8] x) => (float[4, 8] y) {
      a = MatMul(x, w1)
      b = Relu(a)
      c = MatMul(b, w2)
      d = Relu(c)
      e = MatMul(d, w2)
      y = Relu(e)
    }"""
    proto = onnx.parser.parse_model(HEAD + text)
    for name in ("w1", "w2"):
        array = rng.standard_normal((8, 8)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load(proto)
    PassManager(finish(2)).run(graph)
    made = to_program(graph, get("host"), "model")
    calls = [s for s in made.steps if isinstance(s, Call)]
    assert len(calls) == 3
    assert len(made.kernels()) == 1
    weights = [next(a for a in c.args if a.kind == "constant") for c in calls]
    assert weights[0] is not weights[1]
    assert weights[1] is weights[2]


CHOICE = """g (float[2, 3] x, bool c) => (float[2, 3] y, float[2, 3] z) {
  y, z = If (c) <
    then_branch = t () => (float[2, 3] a, float[2, 3] b) { a = Neg(x)  b = Exp(x) },
    else_branch = e () => (float[2, 3] a, float[2, 3] b) { a = Relu(x)  b = Identity(x) }
  >
}"""


@pytest.mark.parametrize("which", [True, False])
def test_if(which: bool) -> None:
    same(CHOICE, {"x": X, "c": np.array(which)})


def test_if_is_a_step() -> None:
    made = program(CHOICE)
    (step,) = [s for s in made.steps if isinstance(s, If)]
    assert [len([s for s in side if isinstance(s, Copy)]) for side in (step.then, step.otherwise)] == [2, 2]


def test_loop_with_scan_outputs_that_ends_early() -> None:
    text = """g (float[2] x) => (float[2] s, float[T, 2] p, int64[T] q) <int64 trip = {9}, bool go = {1}> {
      s, p, q = Loop(trip, go, x) <body = b
          (int64 i, bool g, float[2] a) => (bool on, float[2] d, float[2] f, int64 j) {
        d = Add(a, a)
        f = Identity(a)
        j = Mul(i, i)
        m = ReduceMax <keepdims = 0> (d)
        cap = Constant <value_float = 20.0> ()
        on = Less(m, cap)
      }>
    }"""
    x = np.array([1, 3], np.float32)
    last, found, numbers = run(text, {"x": x})
    np.testing.assert_array_equal(last, x * 8)
    np.testing.assert_array_equal(found, [x, x * 2, x * 4])
    assert numbers.tolist() == [0, 1, 4]
    _, found, _ = run(text, {"x": x / 1000})
    assert found.shape == (9, 2)


def test_long_loop_with_scan_outputs() -> None:
    text = """g (float[3] x) => (float[3] s, float[T, 3] p) <int64 trip = {5000}, bool go = {1}> {
      s, p = Loop(trip, go, x) <body = b (int64 i, bool g, float[3] a) => (bool g, float[3] d, float[3] f) {
        step = Constant <value_float = 0.01> ()
        d = Add(a, step)
        f = Neg(d)
      }>
    }"""
    _, found = same(text, {"x": np.array([0, 1, 2], np.float32)})
    assert found.shape == (5000, 3)


def test_carried_values_may_trade_places() -> None:
    text = """g (float[2] x, float[2] y, int64 n) => (float[2] u, float[2] v) {
      u, v = Loop(n, , x, y) <body = b
        (int64 i, bool g, float[2] a, float[2] c) => (bool g, float[2] c, float[2] a) { }>
    }"""
    x, y = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    for turns, wanted in ((3, (y, x)), (4, (x, y)), (0, (x, y))):
        u, v = run(text, {"x": x, "y": y, "n": np.array(turns)})
        np.testing.assert_array_equal(u, wanted[0])
        np.testing.assert_array_equal(v, wanted[1])


def test_loop_without_a_limit() -> None:
    text = """g (float[2] x, int64 n) => (float[2] s, float[T, 2] p) <bool go = {1}> {
      s, p = Loop(n, go, x) <body = b
        (int64 i, bool g, float[2] a) => (bool g, float[2] d, float[2] a) { d = Add(a, a) }>
    }"""
    with pytest.raises(UnsupportedError, match="scan outputs need a constant number of turns"):
        program(text)


SCAN = """g (float[2] s, float[5000, 2] x, float[3, 5000] z) => (float[2] t, float[5000, 2] y, float[5000, 3] u) {
  t, y, u = Scan <num_scan_inputs = 2, scan_input_axes = [0, 1], scan_input_directions = [1, 0],
      scan_output_directions = [0, 1], body = b
    (float[2] a, float[2] xi, float[3] zi) => (float[2] d, float[2] e, float[3] f) {
      d = Sub(xi, a)
      e = Neg(d)
      f = Exp(zi)
    }> (s, x, z)
}"""


def test_scan_that_is_too_long_to_unroll() -> None:
    rng = np.random.default_rng(1)
    s, x, z = (rng.standard_normal(d).astype(np.float32) for d in ((2,), (5000, 2), (3, 5000)))
    t, y, u = run(SCAN, {"s": s, "x": x, "z": z})
    state, found = s, []
    for row in x[::-1]:
        state = row - state
        found.append(-state)
    np.testing.assert_allclose(t, state, rtol=1e-5)
    np.testing.assert_allclose(y, found, rtol=1e-5)
    np.testing.assert_allclose(u, np.exp(z.T[::-1]), rtol=1e-5)
    made = program(SCAN)
    (step,) = [s for s in made.steps if isinstance(s, Loop)]
    assert sum(isinstance(s, Call) for s in step.body) == 7  # two fetched, three computed, two put


def test_scan_along_inner_axes() -> None:
    text = """g (float[2, 4000] x) => (float[2, 4000] y) {
      y = Scan <num_scan_inputs = 1, scan_input_axes = [-1], scan_output_axes = [-1], body = b
        (float[2] a) => (float[2] d) { e = Exp(a)  f = Neg(e)  d = Relu(a) }> (x)
    }"""
    x = np.random.default_rng(2).standard_normal((2, 4000)).astype(np.float32)
    (y,) = run(text, {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_names_of_kernels() -> None:
    compiler = Compiler(get("host"), "model")
    names = [compiler.unique("softmax_1") for _ in range(3)]
    parts = {f"{name}_{index}" for name in names for index in range(9)}  # what the kernels of one group are called
    assert len({*names, *parts}) == 30
