"""Clustering: few values, small error, zeros kept, the same every time."""

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

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.verify import VerifyError, verify
from onyxc.compiler.loader import load
from onyxc.compiler.transform import Pass, PassManager
from onyxc.passes.cluster.kmeans import codebook, nearest
from onyxc.passes.cluster.weight_clustering import WeightClustering
from onyxc.passes.prune.magnitude import MagnitudePruning

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
net (float[1,24,6,6] x) => (float[1,40] y) {
  [conv] a = Conv(x, w)
  f = GlobalAveragePool(a)
  g = Flatten(f)
  [dense] y = Gemm(g, m)
}"""


def network(**given_arrays: Any) -> Graph:
    rng = np.random.default_rng(0)
    made = onnx.parser.parse_model(TEXT)
    for name, shape in {"w": (24, 24, 3, 3), "m": (24, 40)}.items():
        array = given_arrays.get(name, rng.normal(size=shape).astype(np.float32))
        made.graph.initializer.append(numpy_helper.from_array(array, name))
    return load(made)


def weight(graph: Graph, name: str) -> Value:
    return next(v for v in graph.constants() if v.name == name)


def run(graph: Graph, *steps: Pass) -> dict[str, int]:
    return dict(PassManager(steps).run(graph)[-1].counts)


NUMBERS = arrays.arrays(np.float32, st.integers(1, 300), elements=st.floats(-4, 4, width=16))


@given(NUMBERS, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_codebook(values: Any, size: int) -> None:
    rng = np.random.default_rng(0)
    centres = codebook(values, size, rng)
    assert len(centres) <= size
    assert np.all(np.diff(centres) >= 0)
    made = centres[nearest(values, centres)]
    assert np.all(np.abs(values - made) <= np.abs(values[:, None] - centres).min(1) + 1e-12)
    if len(np.unique(values)) <= size:
        np.testing.assert_array_equal(made, values)
    np.testing.assert_array_equal(codebook(made, size, rng), np.unique(made))  # a second run changes nothing
    spread = np.square(values.astype(np.float64) - values.astype(np.float64).mean()).sum()
    assert np.square(values - made).sum() <= spread + 1e-9  # never worse than one centre


def test_codebook_is_near_the_best() -> None:
    """Sixteen values of a normal distribution: the Lloyd-Max quantizer leaves 0.009497 of the variance (Max, 1960)."""
    values = np.random.default_rng(0).normal(size=100_000)
    centres = codebook(values, 16, np.random.default_rng(0))
    assert np.square(values - centres[nearest(values, centres)]).mean() < 0.0097


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("granularity", "size"), [("tensor", 1), ("channel", 1), ("group", 5)])
def test_values_and_palette(bits: int, granularity: Any, size: int) -> None:
    graph = network()
    step = WeightClustering(bits=bits, granularity=granularity, group_size=size)
    counts = run(graph, step)
    assert len(counts) == 2
    assert any(counts.values()) or bits == 8
    for name, axis in (("w", 0), ("m", 1)):
        value = weight(graph, name)
        assert value.const is not None
        rows = np.moveaxis(value.const, axis, 0).reshape(value.dims[axis], -1)
        span = {"tensor": len(rows), "channel": 1, "group": 5}[granularity]
        for at in range(0, len(rows), span):
            assert len(np.unique(rows[at : at + span])) <= 1 << bits
        palette = value.facts["palette"]
        wanted = [1] * value.const.ndim
        wanted[axis] = len(rows)
        assert palette.ndim == 1 or palette.shape[:-1] == tuple(wanted)
    again = run(graph, step)
    assert not any(again.values())


def test_error_falls_with_bits_and_with_finer_codebooks() -> None:
    original = weight(network(), "w").const
    assert original is not None

    def error(**options: Any) -> float:
        graph = network()
        run(graph, WeightClustering(**options))
        return float(np.square(weight(graph, "w").const - original).mean())  # type: ignore[operator]

    errors = [error(bits=2), error(bits=3), error(bits=4), error(bits=4, granularity="channel")]
    assert errors == sorted(errors, reverse=True)


@given(st.floats(0, 1), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_pruned_zeros_stay(sparsity: float, seed: int) -> None:
    w = np.random.default_rng(seed).normal(size=(24, 24, 3, 3)).astype(np.float32)
    graph = network(w=w)
    run(graph, MagnitudePruning(sparsity=sparsity), WeightClustering(bits=3, include=("w",)))
    made = weight(graph, "w")
    assert made.const is not None
    assert not np.any(made.const[~made.facts["sparsity"]])
    assert len(np.unique(made.const)) <= 8
    assert 0 in made.facts["palette"]


def test_deterministic_by_seed() -> None:
    texts = []
    for seed in (0, 0, 1):
        graph = network()
        run(graph, WeightClustering(bits=3, seed=seed))
        texts.append(str(graph))
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_the_verifier_guards_the_palette() -> None:
    for granularity in ("tensor", "channel"):
        graph = network()
        run(graph, WeightClustering(granularity=granularity))  # type: ignore[arg-type]
        value = weight(graph, "w")
        assert value.const is not None
        broken = value.const.copy()
        broken[3, 2, 1, 0] += 1
        broken.flags.writeable = False
        value.const = broken
        with pytest.raises(VerifyError, match="not in its palette"):
            verify(graph)


def test_refused() -> None:
    bad = np.full((24, 40), np.inf, np.float32)
    with pytest.raises(PassError, match="weight 'm' of Gemm 'dense'"):
        run(network(m=bad), WeightClustering())
    with pytest.raises(PassError, match="bits=9"):
        run(network(), WeightClustering(bits=9))
    with pytest.raises(PassError, match="prune first"):
        run(network(), WeightClustering(bits=2), MagnitudePruning())
