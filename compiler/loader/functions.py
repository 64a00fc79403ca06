"""Bodies of operators that onnx.defs defines by other operators, as Graphs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import onnx
import onnx.inliner

from onyxc.compiler.ir import proto, schema
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.loader.from_onnx import infer_shapes, to_graph
from onyxc.compiler.loader.to_onnx import operator_to_model

LOCAL = "onyxc.expanded"


def function_body(node: Node, opset: int) -> tuple[Graph, list[Value]] | None:
    """The body of ``node``'s operator and the values that its inputs stand for; None when there is no body.

    A body counts only where its operators mean the same at ``opset``.
    """
    version = opset_of(node)
    model, read = operator_to_model(node, version)
    call = model.graph.node[0]
    types = [b"" if v is None else proto.type_to_proto(v.type).SerializeToString() for v in node.inputs]
    for data in _bodies(schema.find(node.op, version, node.domain), call, types):
        function = onnx.FunctionProto.FromString(data)
        if not function.node or not _valid(function.node, opset):
            continue
        function.domain = call.domain = LOCAL
        del function.opset_import[:]
        function.opset_import.append(onnx.helper.make_opsetid("", opset))
        model.opset_import.append(onnx.helper.make_opsetid(LOCAL, 1))
        model.functions.append(function)
        return to_graph(infer_shapes(onnx.inliner.inline_local_functions(model)), {}), read
    return None


def opset_of(node: Node) -> int:
    """The version of the node's domain in its model."""
    root = node.owner.root()
    return root.domains.get(node.domain, 1) if node.domain else root.opset


def _bodies(found: Any, node: onnx.NodeProto, types: list[bytes]) -> Iterator[bytes]:
    """Serialized FunctionProtos, newest first."""
    if found is None:
        return
    for version in sorted(found.function_opset_versions, reverse=True):
        yield found.get_function_with_opset_version(version)
    for version in sorted(found.context_dependent_function_opset_versions, reverse=True):
        yield found.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), types)


def _valid(nodes: Iterable[onnx.NodeProto], opset: int) -> bool:
    """Whether the nodes have only inputs and attributes that the operators of ``opset`` know."""
    for node in nodes:
        found = schema.find(node.op_type, opset, node.domain)
        if found is None or not found.min_input <= len(node.input) <= found.max_input:
            return False
        if any(a.name not in found.attributes for a in node.attribute):
            return False
        if not all(_valid(a.g.node, opset) for a in node.attribute if a.HasField("g")):
            return False
    return True
