"""Programs on values that the conformance suite does not try, against numpy or onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onyxc.backends.lowering.scatter import box

Array = np.ndarray[Any, Any]
Run = Callable[..., list[Array]]


def model(
    op: str,
    inputs: dict[str, Array],
    outputs: list[tuple[str, int]],
    constants: dict[str, Array] | None = None,
    order: list[str] | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node; ``outputs``: element type and rank of each."""
    fixed = constants or {}
    names = order or [*inputs, *fixed]
    node = helper.make_node(op, names, [f"y{i}" for i in range(len(outputs))], **attributes)
    given = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    results = [
        helper.make_tensor_value_info(f"y{i}", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), [None] * rank)
        for i, (kind, rank) in enumerate(outputs)
    ]
    held = [numpy_helper.from_array(a, n) for n, a in fixed.items()]
    graph = helper.make_graph([node], "one", given, results, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def reference(made: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    """What onnxruntime answers."""
    return onnxruntime.InferenceSession(made.SerializeToString()).run(None, inputs)


@pytest.mark.parametrize(("length", "k"), [(1000, 1), (1000, 50), (257, 257), (1, 1)])
@pytest.mark.parametrize("largest", [0, 1])
def test_topk_with_many_equal_values(length: int, k: int, largest: int, run_model: Run) -> None:
    x = np.random.default_rng(length).integers(0, 20, (3, length, 2)).astype(np.float32)
    made = model("TopK", {"x": x}, [("float32", 3), ("int64", 3)], {"k": np.array([k])}, axis=1, largest=largest)
    for got, want in zip(run_model(made, [x]), reference(made, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)


def test_topk_of_nothing(run_model: Run) -> None:
    x = np.ones((2, 5), np.float32)
    made = model("TopK", {"x": x}, [("float32", 2), ("int64", 2)], {"k": np.array([0])})
    assert [y.shape for y in run_model(made, [x])] == [(2, 0), (2, 0)]


@pytest.mark.parametrize("kind", ["int32", "float32", "bool", "uint8"])
def test_nonzero(kind: str, run_model: Run) -> None:
    x = np.random.default_rng(3).integers(0, 2, (4, 1, 5, 3)).astype(kind)
    made = model("NonZero", {"x": x}, [("int64", 2)])
    np.testing.assert_array_equal(run_model(made, [x])[0], np.nonzero(x))
    assert run_model(made, [np.zeros_like(x)])[0].shape == (4, 0)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_compress(axis: int | None, run_model: Run) -> None:
    rng = np.random.default_rng(4)
    x, chosen = rng.normal(size=(3, 4, 2)).astype(np.float32), np.array([True, False, True])
    attributes = {} if axis is None else {"axis": axis}
    made = model("Compress", {"x": x, "c": chosen}, [("float32", 1 if axis is None else 3)], **attributes)
    np.testing.assert_array_equal(run_model(made, [x, chosen])[0], np.compress(chosen, x, axis))
    fixed = model("Compress", {"x": x}, [("float32", 1 if axis is None else 3)], {"c": chosen}, **attributes)
    np.testing.assert_array_equal(run_model(fixed, [x])[0], np.compress(chosen, x, axis))


@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("axis", [None, 1])
def test_unique(sorted_: int, axis: int | None, run_model: Run) -> None:
    x = np.random.default_rng(5).integers(0, 3, (2, 30)).astype(np.int64)
    attributes = {"sorted": sorted_} | ({} if axis is None else {"axis": axis})
    outputs = [("int64", 1 if axis is None else 2), ("int64", 1), ("int64", 1), ("int64", 1)]
    made = model("Unique", {"x": x}, outputs, **attributes)
    for got, want in zip(run_model(made, [x]), reference(made, {"x": x}), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("limit", [0, 3, 1000])
def test_suppression_of_many_boxes(limit: int, run_model: Run) -> None:
    rng = np.random.default_rng(6)
    corner, size = rng.uniform(0, 10, (2, 60, 2)), rng.uniform(0.5, 4, (2, 60, 2))
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    scores = rng.uniform(0, 1, (2, 3, 60)).astype(np.float32)
    limits = {"most": np.array([limit]), "iou": np.array([0.4], np.float32), "least": np.array([0.3], np.float32)}
    inputs = {"boxes": boxes, "scores": scores}
    for at_run_time in (False, True):
        given = {**inputs, **limits} if at_run_time else inputs
        made = model("NonMaxSuppression", given, [("int64", 2)], {} if at_run_time else limits)
        np.testing.assert_array_equal(run_model(made, list(given.values()))[0], reference(made, given)[0])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_scatter_elements(axis: int, reduction: str, run_model: Run) -> None:
    rng = np.random.default_rng(7)
    x, updates = rng.normal(size=(4, 5, 6)).astype(np.float32), rng.normal(size=(3, 2, 4)).astype(np.float32)
    indices = rng.permuted(np.arange(-2, 2).repeat(6).reshape(4, 6), axis=0)[:3, :].reshape(3, 6)[:, :, None]
    indices = np.broadcast_to(indices[:, :2], (3, 2, 4)).astype(np.int64)
    if reduction == "none":  # one writer for each element
        count = indices.shape[axis]
        shape = [count if a == axis else 1 for a in range(3)]
        indices = np.broadcast_to(np.arange(count).reshape(shape) - 1, indices.shape).astype(np.int64).copy()
    inputs = {"x": x, "i": indices, "u": updates}
    made = model("ScatterElements", inputs, [("float32", 3)], axis=axis, reduction=reduction)
    np.testing.assert_allclose(run_model(made, list(inputs.values()))[0], reference(made, inputs)[0], rtol=1e-6)


BOXES = {  # name -> constant indices for data of shape [4, 6, 5], and whether they are a box
    "elements": (np.stack(np.meshgrid([1, 2], [2, 3, 4], range(5), indexing="ij"), -1), True),
    "rows": (np.stack(np.meshgrid([0, 1], [5], indexing="ij"), -1), True),
    "from_the_end": (np.array([[-2], [-1]]), True),
    "all": (np.stack(np.meshgrid(range(4), range(6), indexing="ij"), -1), True),
    "backwards": (np.array([[2], [1]]), False),
    "twice": (np.array([[1], [1]]), False),
    "apart": (np.array([[0, 1], [2, 1]]), False),
}


@pytest.mark.parametrize("name", BOXES)
def test_scatter_of_a_box(name: str, run_model: Run) -> None:
    indices, is_box = BOXES[name]
    dims, rng = (4, 6, 5), np.random.default_rng(3)
    assert (box(indices, dims) is not None) == is_box
    x = rng.normal(size=dims).astype(np.float32)
    updates = rng.normal(size=(*indices.shape[:-1], *dims[indices.shape[-1] :])).astype(np.float32)
    inputs = {"x": x, "u": updates}
    made = model("ScatterND", inputs, [("float32", 3)], {"i": indices}, order=["x", "i", "u"])
    np.testing.assert_array_equal(run_model(made, list(inputs.values()))[0], reference(made, inputs)[0])


def test_a_box_must_lie_inside() -> None:
    assert box(np.array([[3], [4]]), (4, 2)) is None
    assert box(np.array([[-5], [-4]]), (4, 2)) is None


def test_indices_outside_write_nothing(run_model: Run) -> None:
    x, updates = np.zeros((3, 4), np.float32), np.ones((2, 4), np.float32)
    indices = np.array([[7], [-9]], np.int64)
    made = model("ScatterND", {"x": x, "i": indices, "u": updates}, [("float32", 2)])
    np.testing.assert_array_equal(run_model(made, [x, indices, updates])[0], x)


@pytest.mark.parametrize("length", [1, 7, 12, 60, 97, 128])
@pytest.mark.parametrize(("parts", "inverse", "onesided"), [(1, 0, 0), (1, 0, 1), (2, 0, 0), (2, 1, 0)])
def test_dft(length: int, parts: int, inverse: int, onesided: int, run_model: Run) -> None:
    x = np.random.default_rng(length).normal(size=(2, length + 3, 3, parts)).astype(np.float32)
    constants = {"n": np.array(length), "axis": np.array(1)}
    made = model("DFT", {"x": x}, [("float32", 4)], constants, inverse=inverse, onesided=onesided)
    signal = x[..., 0] + (1j * x[..., 1] if parts == 2 else 0)
    want = (np.fft.ifft if inverse else np.fft.fft)(signal.astype(np.complex128), length, 1)
    want = want[:, : length // 2 + 1] if onesided else want
    np.testing.assert_allclose(run_model(made, [x])[0], np.stack([want.real, want.imag], -1), rtol=1e-5, atol=1e-6)


def test_random_numbers_have_their_distribution(run_model: Run) -> None:
    shape = {"shape": [50, 400]}
    (normal,) = run_model(model("RandomNormal", {}, [("float32", 2)], mean=1.0, scale=2.0, seed=3.0, **shape), [])
    assert abs(normal.mean() - 1) < 0.05
    assert abs(normal.std() - 2) < 0.05
    assert abs(np.mean(((normal - 1) / 2) ** 4) - 3) < 0.15
    (uniform,) = run_model(model("RandomUniform", {}, [("float32", 2)], low=-1.0, high=3.0, seed=4.0, **shape), [])
    assert uniform.min() >= -1
    assert uniform.max() < 3
    counts, _ = np.histogram(uniform, 20, (-1, 3))
    assert counts.min() > 900
    assert abs(np.corrcoef(uniform[:, :-1].ravel(), uniform[:, 1:].ravel())[0, 1]) < 0.03
    p = np.full((100, 100), 0.3, np.float32)
    (drawn,) = run_model(model("Bernoulli", {"p": p}, [("float32", 2)], seed=5.0), [p])
    assert set(np.unique(drawn)) == {0, 1}
    assert abs(drawn.mean() - 0.3) < 0.02


def test_multinomial(run_model: Run) -> None:
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0001]], np.float32))
    (drawn,) = run_model(model("Multinomial", {"x": logits}, [("int32", 2)], sample_size=4000, seed=1.0), [logits])
    shares = np.stack([(drawn == c).mean(1) for c in range(3)], 1)
    np.testing.assert_allclose(shares, np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=0.03)


def test_det_of_a_matrix_that_needs_pivots(run_model: Run) -> None:
    x = np.random.default_rng(8).normal(size=(3, 6, 6)).astype(np.float32)
    x[0, 0, 0], x[1, 2] = 0, x[1, 3]
    made = model("Det", {"x": x}, [("float32", 1)])
    np.testing.assert_allclose(run_model(made, [x])[0], np.linalg.det(x.astype(np.float64)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("equation", ["bij,bjk->bik", "...ij,...jk", "ii->i", "ij,kl->ijkl", "bhqd, bhkd -> bqhk"])
def test_einsum(equation: str, run_model: Run) -> None:
    rng = np.random.default_rng(9)
    shapes = {
        "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)], "...ij,...jk": [(1, 3, 4), (2, 4, 5)], "ii->i": [(4, 4)],
        "ij,kl->ijkl": [(2, 3), (4, 2)], "bhqd, bhkd -> bqhk": [(2, 3, 4, 5), (2, 3, 6, 5)],
    }[equation]  # fmt: skip
    inputs = {f"x{i}": rng.normal(size=s).astype(np.float32) for i, s in enumerate(shapes)}
    want = np.einsum(equation, *inputs.values())
    made = model("Einsum", inputs, [("float32", want.ndim)], equation=equation)
    np.testing.assert_allclose(run_model(made, list(inputs.values()))[0], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("shape", [(9,), (3, 9), (2, 2)])
def test_tf_idf(mode: str, shape: tuple[int, ...], run_model: Run) -> None:
    x = np.random.default_rng(8).integers(0, 3, shape)
    made = model(
        "TfIdfVectorizer", {"x": x}, [("float32", len(shape))], mode=mode, min_gram_length=1, max_gram_length=3,
        max_skip_count=2, ngram_counts=[0, 2, 6], ngram_indexes=[0, 1, 2, 3, 4], weights=[0.5, 2.0, 3.0, 0.25, 1.5],
        pool_int64s=[0, 2, 1, 1, 0, 2, 2, 1, 0],
    )  # fmt: skip
    np.testing.assert_array_equal(run_model(made, [x])[0], reference(made, {"x": x})[0])
