"""Concat and Split without copies: what lies inside what, and that results stay the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.artifact import memory
from onyxc.backends.compile import to_program
from onyxc.backends.places import dense, is_dense
from onyxc.backends.program import Call, Program
from onyxc.backends.target import get
from onyxc.compiler import driver
from onyxc.compiler.engines import run_reference
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import compilation

HEAD = '<ir_version: 10, opset_import: ["" : 26]>\n'


def build(text: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    """A model in ONNX text with seeded weights by shape."""
    model = onnx.parser.parse_model(HEAD + text)
    rng = np.random.default_rng(0)
    for name, shape in weights.items():
        array: Any = rng.standard_normal(shape) / np.sqrt(max(1, np.prod(shape[1:])))
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return model


def program(model: onnx.ModelProto, target: str = "host") -> Program:
    """The program of a model."""
    graph = load(model)
    PassManager(compilation(2)).run(graph)
    return to_program(graph, get(target), "model")


def check(model: onnx.ModelProto) -> None:
    """Compiled results are those of onnx.reference."""
    rng = np.random.default_rng(1)
    feeds = {
        v.name: rng.standard_normal([d.dim_value for d in v.type.tensor_type.shape.dim]).astype(np.float32)
        for v in model.graph.input
    }
    for wanted, got in zip(run_reference(model, feeds), driver.compile(model).run(feeds), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def kernels(made: Program) -> list[str]:
    """Names of the kernels that are called, numbers left out."""
    return [s.kernel.name.rstrip("0123456789_") for s in made.steps if isinstance(s, Call)]


def results(made: Program) -> list[Any]:
    """The buffers that the calls write."""
    return [s.args[s.reads] for s in made.steps if isinstance(s, Call)]


INCEPTION = build(
    """g (float[1, 8, 9, 9] x) => (float[1, 12, 9, 9] y) {
      s = Relu(x)
      t = Conv(s, start)
      a = Conv <pads = [1, 1, 1, 1]> (t, f)
      b = Relu(a)
      c = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (t)
      d = Conv <pads = [1, 1, 1, 1], group = 16> (t, h)
      e = Neg(d)
      j = Concat <axis = 1> (b, c, e)
      y = Conv(j, last)
    }""",
    start=(16, 8, 1, 1), f=(24, 16, 3, 3), h=(16, 1, 3, 3), last=(12, 56, 1, 1),
)  # fmt: skip


def test_branches_write_into_the_joint_tensor() -> None:
    made = program(INCEPTION)
    assert "concat" not in kernels(made)
    branches = [b for b in results(made) if b.strides]
    assert [b.root()[1] // 4 for b in branches] == [0, 24, 40]
    assert {b.strides for b in branches} == {(9 * 9 * 56, 9 * 56, 56, 1)}
    assert len({b.root()[0] for b in branches}) == 1
    check(INCEPTION)


GROWING = build(
    """g (float[1, 3, 12, 12] x) => (float[1, 10, 1, 1] y) {
      t = Conv <pads = [1, 1, 1, 1]> (x, start)
      r1 = Relu(t)
      a = Conv <pads = [1, 1, 1, 1]> (r1, f)
      u = Concat <axis = 1> (t, a)
      r2 = Relu(u)
      b = Conv <pads = [1, 1, 1, 1]> (r2, g)
      v = Concat <axis = 1> (u, b)
      r3 = Relu(v)
      c = Conv <pads = [1, 1, 1, 1]> (r3, h)
      w = Concat <axis = 1> (v, c)
      m = GlobalAveragePool(w)
      y = Conv(m, last)
    }""",
    start=(16, 3, 3, 3), f=(8, 16, 3, 3), g=(12, 24, 3, 3), h=(20, 36, 3, 3), last=(10, 56, 1, 1),
)  # fmt: skip


def test_a_growing_tensor_is_one_buffer() -> None:
    made = program(GROWING)
    assert "concat" not in kernels(made)
    joint = [b for b in results(made) if b.strides and b.strides[2] == 56]
    assert [b.root()[1] // 4 for b in joint] == [0, 16, 24, 36]
    (root,) = {b.root()[0] for b in joint}
    assert root.nbytes == 12 * 12 * 56 * 4
    life = memory.lifetimes(made)[root]
    assert life.last - life.first > 5
    check(GROWING)


@pytest.mark.parametrize("height", [128, 36])
def test_chains_of_convolutions_go_by_strides(height: int) -> None:
    """As one kernel by rows, where the image between is large, or one after the other."""
    model = build(
        f"""g (float[1, 16, {height}, 48] x) => (float[1, 8, {height}, 48] y) {{
          s = Conv(x, f)
          a = Relu(s)
          b = Conv(a, g)
          c = Relu(b)
          d = Conv <group = 40, pads = [1, 1, 1, 1]> (c, h)
          e = Conv(d, i)
          j = Concat <axis = 1> (a, e)
          y = Conv(j, last)
        }}""",
        f=(16, 16, 1, 1), g=(40, 16, 1, 1), h=(40, 1, 3, 3), i=(24, 40, 1, 1), last=(8, 40, 1, 1),
    )  # fmt: skip
    made = program(model)
    assert "concat" not in kernels(made)
    assert ("chain" in " ".join(k.note for k in made.kernels())) == (height == 128)
    assert [b.root()[1] // 4 for b in results(made) if b.strides] == [0, 16]
    check(model)


def test_what_cannot_go_by_strides_is_copied() -> None:
    """A Resize reads dense tensors: a copy puts what it reads into the joint tensor."""
    model = build(
        """g (float[1, 16, 6, 6] x) => (float[1, 16, 6, 6] a, float[1, 8, 6, 6] y, float[1, 8, 12, 12] z)
        <float[4] scales = {1, 1, 2, 2}> {
          a = Conv(x, f)
          b = Conv(x, g)
          c = Conv(x, h)
          z = Resize(c, , scales)
          j = Concat <axis = 1> (a, b, c)
          y = Conv(j, last)
        }""",
        f=(16, 16, 1, 1), g=(8, 16, 1, 1), h=(8, 16, 1, 1), last=(8, 32, 1, 1),
    )  # fmt: skip
    made = program(model)
    assert kernels(made).count("concat") == 1
    assert sum(b.strides is not None for b in results(made)) == 3
    check(model)


def test_contiguous_parts_need_no_strides() -> None:
    model = build("""g (float[1, 6] x, float[1, 5] w) => (float[1, 11] y, float[1, 4] z, float[1, 7] v) {
      a = Softmax(x)
      b = Exp(w)
      j = Concat <axis = 1> (a, b)
      y = CumSum(j, one)
      z, v = Split <axis = 1> (j, sizes)
    }""")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "one"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4, 7]), "sizes"))
    made = program(model)
    assert "concat" not in kernels(made)
    assert "split" not in kernels(made)
    assert all(b.strides is None for b in results(made))
    check(model)


def test_halves_of_a_tensor_are_read_where_they_lie() -> None:
    model = build(
        """g (float[1, 8, 6, 6] x) => (float[1, 32, 6, 6] y) {
          a = Conv(x, f)
          r = Relu(a)
          b, c = Split <axis = 1, num_outputs = 2> (r)
          d = Conv <pads = [1, 1, 1, 1], group = 16> (b, g)
          e = Conv <pads = [1, 1, 1, 1]> (c, h)
          i = Add(d, e)
          j = Concat <axis = 1> (b, i)
          y = Relu(j)
        }""",
        f=(32, 8, 1, 1), g=(16, 1, 3, 3), h=(16, 16, 3, 3),
    )  # fmt: skip
    made = program(model)
    assert "split" not in kernels(made)
    check(model)


def test_a_slice_that_is_joined_again_is_copied_there() -> None:
    made = build(
        """m (float[1, 16, 9, 9] x) => (float[1, 16, 5, 5] y) {
           h = Conv(x, v)
           a = Slice(h, zero, eight, one)
           b = Slice(h, eight, end, one)
           c = Conv(b, w)
           d = Concat<axis=1>(a, c)
           y = Conv(d, v)
        }""",
        v=(16, 16, 3, 3), w=(8, 8, 1, 1),
    )  # fmt: skip
    for name, value in (("zero", 0), ("eight", 8), ("end", 16), ("one", 1)):
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    assert kernels(program(made)).count("slice") == 1
    check(made)


def test_slice_is_a_view() -> None:
    model = build(
        """g (float[1, 8, 6, 6] x) => (float[1, 4, 6, 6] y)
        <int64[1] starts = {8}, int64[1] ends = {24}, int64[1] axes = {1}> {
          a = Conv(x, f)
          b = Slice(a, starts, ends, axes)
          y = Conv <pads = [1, 1, 1, 1]> (b, g)
        }""",
        f=(32, 8, 1, 1), g=(4, 16, 3, 3),
    )  # fmt: skip
    made = program(model)
    assert "slice" not in kernels(made)
    check(model)


def test_a_part_that_is_joined_twice_is_copied_once() -> None:
    model = build(
        """g (float[1, 8, 6, 6] x) => (float[1, 4, 6, 6] y, float[1, 4, 6, 6] z) {
          a = Conv(x, f)
          b = Conv(x, g)
          c = Conv(x, h)
          j = Concat <axis = 1> (a, b)
          k = Concat <axis = 1> (a, c)
          y = Conv(j, last)
          z = Conv(k, last)
        }""",
        f=(16, 8, 1, 1), g=(16, 8, 3, 3), h=(16, 8, 3, 3), last=(4, 32, 1, 1),
    )  # fmt: skip
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in ("g", "h"):
            node.attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    assert kernels(program(model)).count("concat") == 1
    check(model)


@pytest.mark.parametrize("target", ["x86-64-v2", "aarch64", "cuda:sm_80"])
def test_every_target_has_a_program(target: str) -> None:
    graph = load(GROWING)
    PassManager(compilation(2, get(target).kind)).run(graph)
    made = to_program(graph, get(target), "model")
    assert target.startswith("cuda") == any("concat" in name for name in kernels(made))


def test_dense() -> None:
    assert dense((2, 3, 4)) == (12, 4, 1)
    assert is_dense((1, 3, 4), (99, 4, 1))
    assert not is_dense((2, 3, 4), (24, 4, 1))
