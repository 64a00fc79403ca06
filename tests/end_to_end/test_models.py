"""Whole models against onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest

from onyxc.backends import runtime
from onyxc.compiler import compile
from onyxc.compiler.compare import difference
from onyxc.compiler.engines import OnnxRuntime
from onyxc.compiler.inputs import random_inputs

Build = Callable[[str], tuple[onnx.ModelProto, Path]]


def agree(model: onnx.ModelProto, folder: Path, seeds: int = 3) -> None:
    artifact, reference = runtime.load(folder), OnnxRuntime(model)
    quantized = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
    for seed in range(seeds):
        feeds = random_inputs(artifact.inputs, seed)
        results = zip(reference.outputs, reference(feeds), artifact.run(feeds), strict=True)
        bad = [d for d in (difference(n, w, g, quantized) for n, w, g in results) if not d.ok]
        assert not bad, bad[0]


@pytest.mark.parametrize("name", graphs.SMALL)
def test_small(built: Build, name: str) -> None:
    agree(*built(name))


def test_both_branches_are_run(built: Build) -> None:
    model, folder = built("choice")
    artifact, reference = runtime.load(folder), OnnxRuntime(model)
    x = np.linspace(-1, 2, 24, dtype=np.float32).reshape(4, 6)
    for feeds in ({"x": x}, {"x": -x}):
        np.testing.assert_allclose(artifact.run(feeds)[0], reference(feeds)[0], rtol=1e-5, atol=1e-6)


def same_with_threads(folder: Path) -> None:
    """One, two and three threads give the same bits."""
    with runtime.load(folder, threads=1) as one:
        feeds = random_inputs(one.inputs)
        expected = one.run(feeds)
    for threads in (2, 3):
        with runtime.load(folder, threads=threads) as model:
            for a, b in zip(expected, model.run(feeds), strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", graphs.SMALL)
def test_threads_change_nothing(built: Build, name: str) -> None:
    same_with_threads(built(name)[1])


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_real_graphs_and_their_inner_tensors(tmp_path: Path, name: str) -> None:
    model = graphs.light(name, probes=12)
    compile(model, out=tmp_path / name)
    agree(model, tmp_path / name, seeds=1)
    same_with_threads(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v1"])
def test_larger_graphs(tmp_path: Path, name: str) -> None:
    model = graphs.light(name, probes=12)
    compile(model, out=tmp_path / name)
    agree(model, tmp_path / name, seeds=1)


def test_two_models_and_two_threads_in_one_process(built: Build) -> None:
    (first, a), (second, b) = built("mlp"), built("residual")
    with runtime.load(a) as one, runtime.load(b) as two, ThreadPoolExecutor(4) as pool:
        work = [(m, random_inputs(m.inputs, seed)) for seed in range(20) for m in (one, two)]
        expected = {one: OnnxRuntime(first), two: OnnxRuntime(second)}
        for (m, feeds), found in zip(work, pool.map(lambda job: job[0].run(job[1]), work), strict=True):
            np.testing.assert_allclose(found[0], expected[m](feeds)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_levels_agree(level: int) -> None:
    model = graphs.residual()
    artifact = compile(model, level=level)
    feeds = random_inputs(artifact.model.inputs)
    np.testing.assert_allclose(artifact.run(feeds)[0], OnnxRuntime(model)(feeds)[0], rtol=1e-4, atol=1e-5)
