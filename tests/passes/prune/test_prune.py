"""Pruning: exact counts, the right elements, patterns, shared weights, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import numpy_helper

from onyxc import passes
from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import Pass, PassManager
from onyxc.passes.prune.block import BlockPruning
from onyxc.passes.prune.magnitude import MagnitudePruning
from onyxc.passes.prune.masks import keep_largest
from onyxc.passes.prune.n_m import NMPruning

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
TEXT = """net (float[1,8,6,6] x) => (float[1,20] y) {
  [first] a = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  [second] c = Conv(a, v)
  [third] d = Conv<pads = [1, 1, 1, 1]>(c, w)
  f = GlobalAveragePool(d)
  g = Flatten(f)
  [dense] h = Gemm(g, m)
  [last] y = MatMul(h, n)
}"""
SHAPES = {"w": (24, 24, 3, 3), "v": (24, 24, 1, 1), "m": (24, 40), "n": (40, 20), "b": (24,)}


def network(**given_arrays: Any) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(HEAD + TEXT.replace("float[1,8,", "float[1,24,"))
    for name, shape in SHAPES.items():
        array = given_arrays.get(name, rng.normal(size=shape).astype(np.float32))
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return made


def pruned(step: Pass, model: onnx.ModelProto | None = None) -> tuple[Graph, dict[str, int]]:
    graph = load(model or network())
    (record,) = PassManager([step]).run(graph)
    return graph, dict(record.counts)


def weight(graph: Graph, name: str) -> Value:
    return next(v for v in graph.constants() if v.name == name)


def zeros(graph: Graph, name: str) -> int:
    array = weight(graph, name).const
    assert array is not None
    return array.size - int(np.count_nonzero(array))


@given(
    arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(0, 3, width=16)),
    st.floats(0, 1),
)
@settings(max_examples=60, deadline=None)
def test_exact_count_and_order(scores: Any, share: float) -> None:
    drop = round(share * scores.size)
    keep = keep_largest(scores, drop)
    assert np.count_nonzero(~keep) == drop
    if 0 < drop < scores.size:
        assert scores[~keep].max() <= scores[keep].min()
    order = np.argsort(scores, kind="stable")
    np.testing.assert_array_equal(np.sort(order[:drop]), np.flatnonzero(~keep))


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_magnitude_by_layer(sparsity: float) -> None:
    graph, counts = pruned(MagnitudePruning(sparsity=sparsity))
    for name in "wvmn":
        size = int(np.prod(SHAPES[name]))
        assert zeros(graph, name) == round(sparsity * size)
        mask = weight(graph, name).facts["sparsity"]
        assert np.count_nonzero(~mask) == round(sparsity * size)
    assert zeros(graph, "b") == 0
    assert len(counts) == 4
    if sparsity == 0.5:
        assert counts["first: w: 2592 of 5184 are zero"] == 2592


def test_magnitude_over_all_layers() -> None:
    quiet = network(m=np.full(SHAPES["m"], 1e-6, np.float32))
    graph, _ = pruned(MagnitudePruning(sparsity=0.1, scope="global"), quiet)
    sizes = sum(int(np.prod(SHAPES[n])) for n in "wvmn")
    assert sum(zeros(graph, n) for n in "wvmn") == round(0.1 * sizes)
    assert zeros(graph, "m") == round(0.1 * sizes)  # the weakest all lie in m, the first of equals go
    assert not np.any(weight(graph, "m").const.ravel()[: round(0.1 * sizes)])  # type: ignore[union-attr]


def test_n_of_m_along_the_inputs() -> None:
    graph, _ = pruned(NMPruning(n=2, m=4))
    w = weight(graph, "w").const
    assert w is not None
    assert np.all((w.reshape(24, 6, 4, 9) != 0).sum(2) == 2)
    m = weight(graph, "m").const  # Gemm without transB: inputs come first
    assert m is not None
    assert np.all((m.reshape(6, 4, 40) != 0).sum(1) == 2)
    original = numpy_helper.to_array(network().graph.initializer[2])
    kept = np.sort(np.abs(original).reshape(6, 4, 40), axis=1)[:, 2:]
    np.testing.assert_array_equal(np.sort(np.abs(m).reshape(6, 4, 40), axis=1)[:, 2:], kept)


def test_n_of_m_with_a_rest() -> None:
    model = network()
    graph, _ = pruned(NMPruning(n=1, m=7, include=("v",)), model)
    v = weight(graph, "v").const
    assert v is not None
    nonzero = v.reshape(24, 24) != 0
    assert np.all(nonzero[:, :21].reshape(24, 3, 7).sum(2) == 1)
    assert np.all(nonzero[:, 21:].sum(1) == 1)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_blocks(scope: Any) -> None:
    graph, _ = pruned(BlockPruning(sparsity=0.5, block=(16, 1), scope=scope))
    w = weight(graph, "w").const
    assert w is not None
    blocks = [w[:16], w[16:]]  # 24 outputs: one block of 16 and one of 8, for each input and tap
    for block in blocks:
        whole = np.all(block != 0, axis=0) | np.all(block == 0, axis=0)
        assert whole.all()
    if scope == "layer":
        assert sum(int(np.all(b == 0, axis=0).sum()) for b in blocks) == 24 * 9
    n = weight(graph, "n").const  # MatMul: outputs come last
    assert n is not None
    assert all((np.all(n[:, c] == 0, axis=1) | np.all(n[:, c] != 0, axis=1)).all() for c in (slice(16), slice(16, 20)))


def test_patterns() -> None:
    graph, counts = pruned(MagnitudePruning(sparsity=0.5, include=("s*", "m"), exclude=("dense",)))
    assert [zeros(graph, n) > 0 for n in "wvmn"] == [False, True, False, False]
    assert list(counts) == ["second: v: 288 of 576 are zero"]
    with pytest.raises(PassError, match="'conv7' matches no node and no weight"):
        pruned(MagnitudePruning(include=("conv7",)))


def test_a_shared_weight_is_taken_once_and_only_whole() -> None:
    _, counts = pruned(MagnitudePruning())
    assert len([k for k in counts if ": w:" in k]) == 1
    graph, _ = pruned(MagnitudePruning(exclude=("third",)))
    assert zeros(graph, "w") == 0
    assert zeros(graph, "v") > 0


def test_not_a_number_is_refused() -> None:
    bad = np.ones(SHAPES["v"], np.float32)
    bad[3, 4] = np.nan
    for step in (MagnitudePruning(), NMPruning(), BlockPruning()):
        with pytest.raises(PassError, match="weight 'v' of Conv 'second'"):
            pruned(step, network(v=bad))


@pytest.mark.parametrize(
    "step",
    [
        MagnitudePruning(sparsity=1.5),
        NMPruning(n=5, m=4),
        BlockPruning(block=(0, 1)),
        MagnitudePruning(operators=("Relu",)),
    ],
)
def test_bad_options(step: Pass) -> None:
    with pytest.raises(PassError):
        pruned(step)


def test_alone_on_a_model_and_twice() -> None:
    step = passes.MagnitudePruning(sparsity=0.5)
    model = network()
    before = model.SerializeToString()
    made = step(model)
    onnx.checker.check_model(made)
    assert model.SerializeToString() == before
    assert made.SerializeToString() == step(model).SerializeToString()
    graph = load(made)
    (record,) = PassManager([step]).run(graph)
    assert not any(record.counts.values())
    assert to_model(graph).SerializeToString() == made.SerializeToString()
    assert (
        str(passes.parse("magnitude-pruning{sparsity=0.25 scope=global}"))
        == "magnitude-pruning{sparsity=0.25 scope=global}"
    )
