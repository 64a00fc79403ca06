"""Quantized networks give the same integers everywhere, and those are onnxruntime's."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import pytest

from onyxc.backends import runtime
from onyxc.backends.target import PRESETS, host
from onyxc.compiler import compile
from onyxc.compiler.engines import OnnxRuntime
from onyxc.compiler.ir import facts, schema
from onyxc.compiler.ir.fused import body_of
from onyxc.compiler.loader import load
from onyxc.compiler.transform import PassManager
from onyxc.passes import pipelines

LEVELS = [name for name, t in PRESETS.items() if t.arch == host().arch and set(t.features) <= set(host().features)]


@pytest.mark.parametrize("target", LEVELS)
def test_every_value_equals_onnxruntime(tmp_path: Path, target: str) -> None:
    model = graphs.integers()
    compile(model, out=tmp_path / "integers", target=target)
    artifact, reference = runtime.load(tmp_path / "integers"), OnnxRuntime(model)
    rng = np.random.default_rng(3)
    for _ in range(60):
        feeds = {"x": rng.integers(0, 256, (1, 3, 12, 12)).astype(np.uint8)}
        for output, wanted, got in zip(reference.outputs, reference(feeds), artifact.run(feeds), strict=True):
            np.testing.assert_array_equal(got, wanted, err_msg=str(output))


def test_nothing_stays_float() -> None:
    graph = load(graphs.integers())
    PassManager(pipelines.compilation(2)).run(graph)
    groups = [[n.op for n in body_of(node)] for node in graph if node.op == "Fused"]
    assert ["Conv", "Add", "Requantize", "Lookup"] in groups
    nodes = [n for node in graph for n in (body_of(node) if node.op == "Fused" else [node])]
    own = {facts.key(n) for n in nodes if n.domain == schema.DOMAIN}
    wanted = "Conv Pool Requantize Rescale QAdd QMul QAveragePool QSoftmax Lookup"
    assert {f"onyxc.{op}" for op in wanted.split()} <= own
    assert not [n for n in nodes for v in n.outputs if v.dtype == "float32"]
