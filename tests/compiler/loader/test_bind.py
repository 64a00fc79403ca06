"""Binding what inputs hold: sequences and optionals become tensors."""

from __future__ import annotations

from typing import Any

import onnx
import onnx.parser
import pytest

from onyxc.compiler.errors import OptionError
from onyxc.compiler.loader import load


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> g {text}')


LENGTH = "(seq(float[N]) x) => (int64 n) { n = SequenceLength(x) }"
PRESENT = "(optional(float[N]) x) => (bool n) { n = OptionalHasElement(x) }"
NESTED = "(optional(seq(float[N])) x) => (bool n) { n = OptionalHasElement(x) }"


@pytest.mark.parametrize(
    ("text", "shape", "inputs"),
    [
        (LENGTH, [(2,), (3,)], ["%x.0: f32[2]", "%x.1: f32[3]"]),
        (LENGTH, [], []),
        (PRESENT, (4,), ["%x: f32[4]"]),
        (PRESENT, None, []),
        (NESTED, [(5,)], ["%x.0: f32[5]"]),
        (NESTED, None, []),
    ],
)
def test_inputs_in_place_of_sequences_and_optionals(text: str, shape: Any, inputs: list[str]) -> None:
    graph = load(model(text), input_shapes={"x": shape})
    assert [repr(v) for v in graph.inputs] == inputs


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (LENGTH, (2,), "the input is a sequence; give a shape for each"),
        (LENGTH, [(2, 2)], "2 dimensions given, the input has 1"),
        ("(float[N] x) => (float[N] y) { y = Relu(x) }", [(2,), (3,)], "the input is a tensor, it has one shape"),
        ("(float[N] x) => (float[N] y) { y = Relu(x) }", None, "the input is a tensor, it has one shape"),
    ],
)
def test_shapes_of_the_wrong_kind(text: str, shape: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        load(model(text), input_shapes={"x": shape})
