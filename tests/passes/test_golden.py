"""Runs every golden case; conftest.py says what a case is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser

from onyxc.compiler.compare import relative_error
from onyxc.compiler.engines import Feeds, run_onnxruntime, run_reference
from onyxc.compiler.inputs import graph_inputs, random_array
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader import load, to_model
from onyxc.compiler.transform import PassManager
from onyxc.passes import parse_many

LINE = "-----\n"
HEADER = '<ir_version: 10, opset_import: ["" : 26]>\n'
TOLERANCE = 1e-5


@dataclass
class Case:
    comment: str
    pipeline: str
    model: str
    expected: str

    @classmethod
    def read(cls, path: Path) -> Case:
        parts = path.read_text().split(LINE)
        assert len(parts) in (2, 3), f"{path}: expected pipeline, model and result between lines of {LINE.strip()}"
        comment = "".join(line for line in parts[0].splitlines(keepends=True) if line.startswith("#"))
        return cls(comment, parts[0][len(comment) :].strip(), parts[1], parts[2] if len(parts) == 3 else "")

    def write(self, path: Path) -> None:
        path.write_text(LINE.join([f"{self.comment}{self.pipeline}\n", self.model, self.expected]))

    def proto(self) -> onnx.ModelProto:
        """The model; random numbers stand in for initializers without data."""
        text, random = self.model, list[tuple[str, str, list[int]]]()
        head = text if text.lstrip().startswith("<") else HEADER + text
        for kind, dims, name in re.findall(r"^\s*random (\w+)\[([\d, ]*)\] (\w+)$", head, re.M):
            random.append((name, kind, [int(d) for d in dims.split(",") if d.strip()]))
        model = onnx.parser.parse_model(re.sub(r"^\s*random .*$", "", head, flags=re.M))
        rng = np.random.default_rng(7)
        for name, kind, dims in random:
            array = random_array(rng, {"float": "float32", "double": "float64"}.get(kind, kind), dims)
            array = np.abs(array) + np.array(0.5, array.dtype) if name.startswith("var") else array
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return model


def text_after(case: Case) -> tuple[str, Graph]:
    """The text of the case's model after its pipeline."""
    graph = load(case.proto())
    PassManager(parse_many(case.pipeline)).run(graph)
    return str(graph), graph


def test_golden(golden_case: Path, update: bool) -> None:
    case = Case.read(golden_case)
    found, graph = text_after(case)
    if update:
        case.expected = found
        case.write(golden_case)
    assert found == case.expected
    _check_results(case, graph)
    PassManager(parse_many(case.pipeline)).run(graph)
    assert str(graph) == case.expected, "a second run changes the graph"


def _run(model: onnx.ModelProto, inputs: Feeds) -> Sequence[Any]:
    """By onnx.reference, or by onnxruntime what that lacks."""
    try:
        return run_reference(model, inputs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return run_onnxruntime(model, inputs)


def _check_results(case: Case, graph: Graph) -> None:
    original = load(case.proto())
    inputs = graph_inputs(original)
    before, after = (_run(to_model(g), inputs) for g in (original, graph))
    for name, wanted, got in zip(graph.output_names, before, after, strict=True):
        assert relative_error(wanted, got) <= TOLERANCE, f"output {name}"
