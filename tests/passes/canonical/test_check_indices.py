"""Constant indices out of range: one message that names node and tensor."""

from __future__ import annotations

import onnx.parser
import pytest

from onyxc.compiler.errors import ModelError
from onyxc.passes import CheckIndices

CASES = {
    "Gather <axis = 1> (x, i)": ("int64[2] i = {0, 3}", "index 3 in 'i' is out of range, axis 1 of 'x' has 3 elements"),
    "GatherElements (x, i)": ("int64[1, 1] i = {-3}", "index -3 in 'i' is out of range, axis 0 of 'x' has 2"),
    "GatherND (x, i)": ("int64[1, 2] i = {1, 4}", "index 4 in 'i' is out of range, axis 1 of 'x' has 3"),
    "GatherND <batch_dims = 1> (x, i)": ("int64[2, 1] i = {1, 5}", "index 5 .* axis 1 of 'x' has 3"),
    "ScatterElements <axis = 1> (x, i, u)": ("int64[1, 1] i = {7}, float[1, 1] u = {1}", "index 7 .* axis 1"),
    "ScatterND (x, i, u)": ("int64[1, 2] i = {2, 0}, float[1] u = {1}", "index 2 .* axis 0 of 'x' has 2"),
}


@pytest.mark.parametrize("call", CASES)
def test_refused(call: str) -> None:
    constants, message = CASES[call]
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : 21]> g (float[2, 3] x) => (float y) <{constants}> {{ y = {call} }}'
    )
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=rf"{call.split()[0]} \(output 'y'\): {message}"):
        CheckIndices()(model)
