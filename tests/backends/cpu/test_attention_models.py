"""Small transformers from model to result: attention and products with constant weights against onnxruntime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from onyxc.backends.compile import to_program
from onyxc.backends.target import get
from onyxc.compiler import driver
from onyxc.compiler.check import run_onnxruntime
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import finish

TAIL = """
  s = MatMul(q2, k2)
  s1 = Mul(s, root)
  s2 = Add(s1, mask)
  p = Softmax(s2)
  o = MatMul(p, v2)
  z = Transpose <perm = [0, 2, 1, 3]> (o)
  y = Reshape(z, rows)
}"""
PROJECTED = (
    """(float[1, 20, 32] x) => (float[1, 20, 32] y)
<int64[4] heads = {1, 20, 4, 8}, int64[3] rows = {1, 20, 32}, float root = {0.35}> {
  q = MatMul(x, wq)
  q0 = Add(q, bq)
  q1 = Reshape(q0, heads)
  q2 = Transpose <perm = [0, 2, 1, 3]> (q1)
  k = MatMul(x, wk)
  k1 = Reshape(k, heads)
  k2 = Transpose <perm = [0, 2, 3, 1]> (k1)
  v = MatMul(x, wv)
  v1 = Reshape(v, heads)
  v2 = Transpose <perm = [0, 2, 1, 3]> (v1)"""
    + TAIL
)
SHARED = """(float[1, 2, 2, 20, 8] q, float[1, 20, 2, 8] k, float[1, 2, 20, 8] v) => (float[1, 2, 2, 20, 8] y)
<int64[1] axes = {2}> {
  k1 = Transpose <perm = [0, 2, 3, 1]> (k)
  k2 = Unsqueeze(k1, axes)
  v2 = Unsqueeze(v, axes)
  s = MatMul(q, k2)
  s2 = Add(s, mask)
  p = Softmax(s2)
  y = MatMul(p, v2)
}"""
GUARDED = """(float[1, 2, 20, 8] q, float[1, 2, 8, 20] k, float[1, 2, 20, 8] v) => (float[1, 2, 20, 8] y)
<float zero = {0}> {
  s = MatMul(q, k)
  s2 = Add(s, mask)
  p = Softmax(s2)
  n = IsNaN(p)
  w = Where(n, zero, p)
  y = MatMul(w, v)
}"""
CAUSAL = np.triu(np.full((20, 20), -1e4, np.float32), 1)


def model(text: str, **weights: Any) -> onnx.ModelProto:
    """The model, with arrays, or seeded ones of a shape."""
    made = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 21]> g ' + text)
    rng = np.random.default_rng(1)
    for name, value in weights.items():
        array = value if isinstance(value, np.ndarray) else rng.standard_normal(value).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return made


PROJECTIONS = {"wq": (32, 32), "wk": (32, 32), "wv": (32, 32), "bq": (32,)}
CASES = {
    "one product for queries, keys and values": model(PROJECTED, **PROJECTIONS, mask=np.zeros((1, 20), np.float32)),
    "causal": model(PROJECTED, **PROJECTIONS, mask=CAUSAL),
    "nothing hidden at the end, all in one row": model(
        PROJECTED, **PROJECTIONS, mask=np.where(np.arange(20)[:, None] == 7, -1e9, CAUSAL[::-1]).astype(np.float32)
    ),
    "keys shared by heads": model(SHARED, mask=CAUSAL),
    "rows that see nothing are zero": model(
        GUARDED, mask=np.where(np.arange(20)[:, None] % 7 == 3, -np.inf, CAUSAL).astype(np.float32)
    ),
}


def kernels(proto: onnx.ModelProto, **options: Any) -> list[str]:
    """The notes of the program's kernels."""
    graph = load(proto)
    PassManager(finish(2)).run(graph)
    return [k.note for k in to_program(graph, replace(get("x86-64-v4"), **options), "m").kernels()]


@pytest.mark.parametrize("name", CASES)
def test_attention(name: str) -> None:
    proto = CASES[name]
    notes = kernels(proto)
    assert sum(note.startswith("attention") for note in notes) == 1
    projected = "wq" in {t.name for t in proto.graph.initializer}
    assert len(notes) == (2 if projected else 1)
    rng = np.random.default_rng(2)
    feeds = {
        i.name: rng.standard_normal([d.dim_value for d in i.type.tensor_type.shape.dim]).astype(np.float32)
        for i in proto.graph.input
    }
    (wanted,) = run_onnxruntime(proto, feeds)
    for threads in (1, 2):
        (found,) = driver.compile(proto, threads=threads).run(feeds)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_large_products() -> None:
    proto = model(
        "(float[1, 101, 384] x) => (float[1, 101, 768] y) { a = MatMul(x, w) b = Add(a, c) y = Gelu(b) }",
        w=(384, 768), c=(768,),
    )  # fmt: skip
    assert any("15 products" in note for note in kernels(proto))
    assert not any("products" in note for note in kernels(proto, exact=True))
    assert not any("products" in note for note in kernels(proto, favor="size"))
    feeds = {"x": np.random.default_rng(3).standard_normal((1, 101, 384)).astype(np.float32)}
    (wanted,) = run_onnxruntime(proto, feeds)
    results = [driver.compile(proto, threads=t, exact=e).run(feeds)[0] for t, e in ((1, False), (2, False), (1, True))]
    np.testing.assert_array_equal(results[0], results[1])
    for found in results:
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
