"""onnx's own node test cases (every third): round trip through the IR, and results after the passes of -O2."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node as cases

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import run_onnxruntime, run_reference
from onyxc.compiler.ir.verify import verify
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import PassManager
from onyxc.passes.pipelines import preset

MODULES = """
    add argmax averagepool batch_normalization cast center_crop_pad clip concat constantofshape conv convtranspose
    dequantizelinear div dropout einsum expand flatten gather gelu gemm groupnormalization gru if_ layernormalization
    loop lstm matmul maxpool mean meanvariancenormalization optionalhaselement pad pow qlinearconv rangeop reducemean
    reducesum reshape resize scan sequence_map sequenceinsert shape slice softmax split splittosequence squeeze tile
    transpose unsqueeze where
"""


def _collect() -> list[Any]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in MODULES.split():
            importlib.import_module(f"onnx.backend.test.case.node.{module}")
    refused = {"test_scan_sum"}  # opset 8, which cannot be upgraded
    wanted = [c for c in cases._NodeTestCases if not c.name.endswith("_expanded") and c.name not in refused]
    return sorted(wanted, key=lambda c: str(c.name))[::3]


def _run(model: onnx.ModelProto, inputs: dict[str, Any]) -> Sequence[Any] | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for runner in (run_reference, run_onnxruntime):
            try:
                return runner(model, inputs)
            except Exception:  # each lacks operators, and says so by whatever it likes
                continue
    return None


def _array(value: Any) -> Any:
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


@pytest.mark.parametrize("case", _collect(), ids=lambda c: str(c.name))
def test_node_model(case: Any) -> None:
    graph = load(case.model)
    verify(graph)
    written = to_model(graph)
    onnx.checker.check_model(written, full_check=False)
    again = load(written)
    assert str(again) == str(graph)
    given, expected = case.data_sets[0]
    inputs = {i.name: _array(v) for i, v in zip(case.model.graph.input, given, strict=True)}
    PassManager(preset(2)).run(graph)
    before, after = _run(case.model, inputs), _run(to_model(graph), inputs)
    if before is None:
        pytest.skip("neither onnx.reference nor onnxruntime runs the case")
    assert after is not None
    for wanted, first, found in zip(map(_array, expected), before, after, strict=True):
        assert relative_error(wanted, found) <= max(1e-4, 2 * relative_error(wanted, first))
