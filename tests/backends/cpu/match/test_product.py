"""Products with constant weights beside Transposes, which they read and write through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.artifact import manifest
from onyxc.compiler import driver
from onyxc.compiler.engines import OnnxRuntime

CASES = {
    "sum axis apart": "(float[1,48,32] x) => (float[1,32,64] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, w) }",
    "batch": "(float[2,48,32] x) => (float[2,32,64] y) { t = Transpose<perm=[0,2,1]>(x) a = MatMul(t, w) y = Gelu(a) }",
    "rows exchanged": """(float[1,6,8,48] x, float[1,8,6,64] r) => (float[1,8,6,64] y)
        { a = MatMul(x, w) b = Add(a, c) t = Transpose<perm=[0,2,1,3]>(b) y = Add(t, r) }""",
    "columns apart": "(float[1,32,48] x) => (float[1,64,32] y) { a = MatMul(x, w) y = Transpose<perm=[0,2,1]>(a) }",
    "both": """(float[2,48,32] x) => (float[2,64,32] y)
        { t = Transpose<perm=[0,2,1]>(x) a = MatMul(t, w) b = Add(a, c) y = Transpose<perm=[0,2,1]>(b) }""",
    "large": "(float[1,768,128] x) => (float[1,128,1536] y) { t = Transpose<perm=[0,2,1]>(x) y = MatMul(t, v) }",
}

KERNELS = {"columns apart": 2, "both": 2, "rows exchanged": 2}  # the last one adds r by a kernel of its own


@pytest.mark.parametrize("case", CASES)
def test_as_onnxruntime(case: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g ' + CASES[case])
    rng = np.random.default_rng(0)
    for name, shape in {"w": (48, 64), "c": (64,), "v": (768, 1536)}.items():
        if any(name in node.input for node in model.graph.node):
            array = rng.uniform(-1, 1, shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    artifact = driver.compile(model, out=tmp_path / "a", exact=True)
    feeds = {
        value.name: rng.uniform(-1, 1, [d.dim_value for d in value.type.tensor_type.shape.dim]).astype(np.float32)
        for value in model.graph.input
    }
    depth = 768 if case == "large" else 48
    np.testing.assert_allclose(artifact.run(feeds)[0], OnnxRuntime(model)(feeds)[0], rtol=1e-5, atol=1e-7 * depth)
    assert manifest.read(artifact.folder).levels[0].kernels == KERNELS.get(case, 1)
