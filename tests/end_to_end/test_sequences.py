"""Models that take and give sequences and optionals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import onyxc.backends.build  # noqa: F401 - TVM once, before `compile` forks
from onyxc.compiler import compile
from onyxc.compiler.cli import main
from onyxc.compiler.errors import InputError, OptionError, UnsupportedError

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g '
SCALE = HEAD + "(seq(float[N]) x, float w) => (seq(float[N]) y, float[N] last, int64 n) <int64 end = {-1}> {"
SCALE += """
  y = SequenceMap (x, w) <body = b (float[N] a, float k) => (float[N] r) { r = Mul(a, k) }>
  last = SequenceAt(x, end)
  n = SequenceLength(y)
}"""
CHOICE = HEAD + "(bool c, seq(float[N]) x, float[2] z) => (seq(float[2]) y) {"
CHOICE += """
  y = If (c) <
    then_branch = t () => (seq(float[2]) a) { a = SequenceInsert(x, z) },
    else_branch = e () => (seq(float[2]) b) { b = SequenceConstruct(z, z) }
  >
}"""
ARRAYS = [np.arange(3, dtype="f4"), np.ones(2, "f4")]


def test_a_sequence_in_and_out(tmp_path: Path) -> None:
    made = compile(onnx.parser.parse_model(SCALE), input_shapes={"x": [(3,), (2,)]}, out=tmp_path / "a")
    y, last, n = made.run({"x": ARRAYS, "w": np.float32(2)})
    for got, array in zip(y, ARRAYS, strict=True):
        np.testing.assert_array_equal(got, 2 * array)
    np.testing.assert_array_equal(last, ARRAYS[1])
    assert n == 2
    with pytest.raises(InputError, match="sequence of 2, not of 1"):
        made.run({"x": ARRAYS[:1], "w": np.float32(2)})


def test_branches_of_a_run_time_condition_give_sequences() -> None:
    made = compile(onnx.parser.parse_model(CHOICE), input_shapes={"x": [(2,)]})
    feeds = {"x": ARRAYS[1:], "z": np.array([5, 6], "f4")}
    assert [v.tolist() for v in made.run({**feeds, "c": np.array(True)})[0]] == [[1, 1], [5, 6]]
    assert [v.tolist() for v in made.run({**feeds, "c": np.array(False)})[0]] == [[5, 6], [5, 6]]


def test_what_only_a_run_knows_is_refused() -> None:
    model = onnx.parser.parse_model(HEAD + "(seq(float[N]) x, int64 i) => (float[N] y) { y = SequenceAt(x, i) }")
    with pytest.raises(OptionError, match="give the shapes of its elements with --input-shape 'x:"):
        compile(model)
    with pytest.raises(UnsupportedError, match=r"SequenceAt .* only sequences .* whose contents and positions are known"):
        compile(model, input_shapes={"x": [(2,), (2,)]})


def test_the_command_line_names_the_elements(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(SCALE), tmp_path / "m.onnx")
    np.save(tmp_path / "x1.npy", ARRAYS[1])
    model, out, results = (str(tmp_path / n) for n in ("m.onnx", "out", "y.npz"))
    for command in (
        ["compile", model, "-o", out, "--input-shape", "x:3;2"],
        ["run", out, "--input", f"x.1={tmp_path / 'x1.npy'}", "-o", results],
        ["verify", model, out],
    ):
        assert main(command) == 0
    with np.load(results) as found:
        assert sorted(found) == ["last", "n", "y.0", "y.1"]
        np.testing.assert_array_equal(found["last"], ARRAYS[1])
