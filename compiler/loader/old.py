"""What operators of old opsets meant, where onnx.version_converter leaves it out."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

PRELU_CHANGED = 7  # opset from which a slope broadcasts as numpy does


def channel_slopes(proto: onnx.ModelProto) -> None:
    """PRelu before opset 7: slopes [C] belong to the channels, wherever those are the second axis of three or more."""
    graph = proto.graph
    if not any(n.op_type == "PRelu" for n in graph.node):
        return
    known = onnx.shape_inference.infer_shapes(proto).graph
    ranks = {v.name: len(v.type.tensor_type.shape.dim) for v in (*known.value_info, *known.input)}
    ranks |= {t.name: len(t.dims) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        rank = ranks.get(node.input[0], 0) if node.op_type == "PRelu" else 0
        if rank > 2 and ranks.get(node.input[1]) == 1:
            name = f"{node.output[0]}_slopes"
            shape = np.array([-1, *[1] * (rank - 2)], np.int64)
            graph.initializer.append(numpy_helper.from_array(shape, f"{name}_shape"))
            nodes.append(helper.make_node("Reshape", [node.input[1], f"{name}_shape"], [name]))
            node.input[1] = name
        nodes.append(node)
    made = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(made.node)
