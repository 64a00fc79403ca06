"""Models that were once compiled wrongly, each with the answer worked out by hand or by onnx.reference."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser, reference

from onyxc.compiler import compile
from onyxc.compiler.errors import UnsupportedError


def test_a_kernel_may_be_called_like_a_function_of_libm() -> None:
    """The kernel of Pow was the C symbol ``pow``, and called itself."""
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (int64[3] x, float[3] y) => (int64[3] z) { z = Pow(x, y) }'
    )
    feeds = {"x": np.array([1, 2, 3]), "y": np.float32([4, 5, 6])}
    assert compile(model).run(feeds)[0].tolist() == [1, 32, 729]


@pytest.mark.parametrize(("op", "value"), [("ReduceMax", -np.inf), ("ReduceMin", np.inf)])
def test_extremes_of_infinities_are_infinite(op: str, value: float) -> None:
    model = parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 20]> g (float[2, 33] x) => (float[2, 1] y)'
        f" <int64[1] axes = {{1}}> {{ y = {op}(x, axes) }}"
    )
    x = np.full((2, 33), value, np.float32)
    x[1, 7] = 3
    assert compile(model).run({"x": x})[0].ravel().tolist() == [value, 3]


def test_slopes_of_old_opsets_belong_to_channels() -> None:
    model = parser.parse_model(
        '<ir_version: 3, opset_import: ["": 6]> g (float[2, 3, 4] x) => (float[2, 3, 4] y)'
        " <float[3] slope = {0.1, 0.2, 0.3}> { y = PRelu(x, slope) }"
    )
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    wanted = np.where(x < 0, x * np.float32([0.1, 0.2, 0.3]).reshape(3, 1), x)
    np.testing.assert_allclose(compile(model).run({"x": x})[0], wanted, rtol=1e-6)


def test_pointwise_convolution_with_pads_at_the_end_only() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[1, 2, 3, 4] x) => (float[1, 2, 4, 5] y)'
        " <float[2, 2, 1, 1] w = {1, 2, 3, 4}> { y = Conv<pads = [0, 0, 1, 1]>(x, w) }"
    )
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    wanted = reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(compile(model).run({"x": x})[0], wanted, rtol=1e-5)


def test_a_shape_that_only_a_run_knows_names_the_input() -> None:
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2] x, int64[2] size) => (float[N, M] y) { y = Expand(x, size) }'
    )
    with pytest.raises(UnsupportedError, match=r"Expand .*'y'.*'size'.*--input-value"):
        compile(model)


def test_a_temporary_artifact_has_no_program() -> None:
    model = parser.parse_model('<ir_version: 10, opset_import: ["": 20]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    made = compile(model)
    assert made.model.manifest.runner == ""
    assert not (made.folder / "run").exists()
