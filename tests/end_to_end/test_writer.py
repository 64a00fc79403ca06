"""A graph is valid ONNX at any point, also after fusion and layout."""

from __future__ import annotations

import graphs
import onnx
import pytest

from onyxc.compiler.compare import difference
from onyxc.compiler.engines import OnnxRuntime
from onyxc.compiler.inputs import graph_inputs
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import PassManager
from onyxc.passes import pipelines


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("name", graphs.SMALL)
def test_compiled_form_runs_in_onnxruntime(name: str, kind: str) -> None:
    graph = load(graphs.SMALL[name]())
    PassManager(pipelines.compilation(2, kind)).run(graph)
    written = to_model(graph)
    onnx.checker.check_model(written)
    reference = OnnxRuntime(graphs.SMALL[name]())
    feeds = graph_inputs(graph)
    for output, wanted, got in zip(reference.outputs, reference(feeds), OnnxRuntime(written)(feeds), strict=True):
        found = difference(output, wanted, got)
        assert found.ok, found
