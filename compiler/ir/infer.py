"""Building nodes with defaults and types filled in, by onnx.defs and onnx.shape_inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import shape_inference

from onyxc.compiler.errors import ModelError, UnsupportedError
from onyxc.compiler.ir import proto, schema
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import SequenceType, TensorType, Type

SHAPED_AS_INPUT = {"GroupNormalization", "MeanVarianceNormalization"}  # of which onnx infers the element type only
DATA_LIMIT = 4096  # constants of at most this many elements are shown to shape inference


def output_types(node: Node, opset: int) -> tuple[Type, ...]:
    """The types of ``node``'s outputs from its inputs and attributes.

    Raises:
        UnsupportedError: no schema is known.
        ModelError: the inputs do not fit the operator.
    """
    if node.domain == schema.DOMAIN:
        if node.op not in schema.OWN:
            raise UnsupportedError(f"{node.label()}: no operator of that name")
        return schema.OWN[node.op](node)
    found = schema.find(node.op, opset, node.domain)
    if found is None:
        raise UnsupportedError(f"{node.label()}: operator unknown at opset {opset}")
    types: dict[str, Any] = {}
    data: dict[str, Any] = {}
    for value in node.inputs:
        if value is None:
            continue
        types[value.name] = proto.type_to_proto(value.type)
        if value.const is not None and value.const.size <= DATA_LIMIT:
            data[value.name] = proto.tensor_to_proto(value.const, value.name, value.dtype)
    made = proto.node_to_proto(node, found)
    imports = [onnx.helper.make_opsetid(node.domain, opset)]
    try:
        answer = shape_inference.infer_node_outputs(found, made, types, data, opset_imports=imports, ir_version=10)
    except Exception as error:  # onnx raises several kinds; all mean that the node does not fit
        raise ModelError(f"{node.label()}: {' '.join(str(error).split())}") from error
    made_types = [_type(answer.get(v.name), v.type) for v in node.outputs]
    if node.op in SHAPED_AS_INPUT and not node.domain and node.inputs[0] is not None:
        made_types[0] = merge(TensorType(node.inputs[0].dtype, node.inputs[0].tensor.shape), made_types[0])
    if node.is_op("MaxUnpool") and (size := node.const(2)) is not None:
        made_types[0] = TensorType(node.outputs[0].dtype, tuple(int(n) for n in size))
    return tuple(made_types)


def _type(answer: Any, known: Type) -> Type:
    return known if answer is None or answer.WhichOneof("value") is None else proto.type_from_proto(answer)


def add(
    graph: Graph,
    op: str,
    inputs: Sequence[Value | None],
    before: Node | None = None,
    *,
    outputs: int = 1,
    domain: str = "",
    name: str = "",
    output_names: Sequence[str] = (),
    **attrs: Any,
) -> Node:
    """A new node with default attributes filled in and its output types inferred."""
    opset = graph.root().opset
    full = {**schema.defaults(op, opset, domain), **schema.to_python(attrs)}
    unknown = [TensorType("float32", None)] * outputs
    node = graph.create(op, inputs, unknown, full, domain=domain, name=name, output_names=output_names, before=before)
    try:
        types = output_types(node, opset)
    except Exception:
        graph.erase(node)
        raise
    for value, type in zip(node.outputs, types, strict=True):
        value.type = type
    return node


def refine(node: Node, opset: int) -> bool:
    """Infer the node's types again; keeps what was already known better. Whether anything changed."""
    if node.subgraphs():
        return False
    changed = False
    for value, type in zip(node.outputs, output_types(node, opset), strict=True):
        better = merge(value.type, type)
        changed |= better != value.type
        value.type = better
    return changed


def merge(old: Type, new: Type) -> Type:
    """The more precise of two views of one type, dimension by dimension; numbers win over symbols."""
    if isinstance(old, SequenceType) and isinstance(new, SequenceType):
        return SequenceType(merge(old.element, new.element))
    if not isinstance(old, TensorType) or not isinstance(new, TensorType):
        return new
    if new.shape is None:
        return TensorType(new.dtype, old.shape)
    if old.shape is None or len(old.shape) != len(new.shape):
        return new
    shape = tuple(
        n if isinstance(n, int) or (isinstance(o, str) and o == "?") else o
        for o, n in zip(old.shape, new.shape, strict=True)
    )
    return TensorType(new.dtype, shape)
