"""Loading ONNX models into the IR, and writing them back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.loader.bind import Contents, bind
from onyxc.compiler.loader.from_onnx import complete, declared_type, infer_shapes, to_graph
from onyxc.compiler.loader.functions import function_body, opset_of
from onyxc.compiler.loader.read import read
from onyxc.compiler.loader.to_onnx import to_model

__all__ = ["function_body", "load", "opset_of", "to_model"]


def load(
    model: str | Path | bytes | onnx.ModelProto | Graph,
    *,
    input_dims: dict[str, int] | None = None,
    input_shapes: dict[str, Contents] | None = None,
    input_values: dict[str, Any] | None = None,
) -> Graph:
    """A Graph from a path, bytes, a ModelProto (or a Graph, which is copied).

    ``input_dims``: symbolic dimension -> size; ``input_shapes``: input -> whole shape (of a sequence: the list of its
    elements' shapes, which makes inputs x.0, x.1 ... of it; of a missing optional: None); ``input_values``: input ->
    value, which makes the input a constant.

    Raises:
        ModelError: the model cannot be read or is invalid; the message names the node or tensor.
        OptionError: a binding names nothing or contradicts the model.
    """
    if isinstance(model, Graph):
        if not (input_dims or input_shapes or input_values):
            return model.clone()
        model = to_model(model)
    source = read(model)
    bind(source, input_dims, input_shapes, input_values)
    declared = [declared_type(v) for v in source.proto.graph.output]
    graph = to_graph(infer_shapes(source.proto), source.tensors)
    if not (input_dims or input_shapes or input_values):  # which would make stale what is declared
        for value, type in zip(graph.outputs, declared, strict=True):
            complete(value, type)
    return graph
