"""From a checked ModelProto to our Graph."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper, shape_inference

from onyxc.compiler.errors import ModelError, UnsupportedError
from onyxc.compiler.ir import infer, proto, schema
from onyxc.compiler.ir.graph import Array, Attribute, Graph, Node, Value
from onyxc.compiler.ir.types import DTYPES, Dim, TensorType, Type
from onyxc.compiler.loader.checks import check_node, check_output

Scope = MutableMapping[str, Value]


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Types of all inner values, constants propagated through shape arithmetic.

    Declared shapes of inner values and outputs are dropped first: exporters leave stale ones. Where inference fails
    for a node (it also does for some valid functions of onnx.defs), its outputs stay untyped; `to_graph` infers them,
    or says what is wrong.
    """
    del model.graph.value_info[:]
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError):
        return shape_inference.infer_shapes(model, data_prop=True)


def complete(value: Value, declared: Type) -> None:
    """Take over from a declared type the dimensions of which inference knows nothing."""
    if not isinstance(value.type, TensorType) or not isinstance(declared, TensorType) or declared.shape is None:
        return
    if value.const is None and (value.type.shape is None or len(value.type.shape) == len(declared.shape)):
        found = value.type.shape or declared.shape
        shape = tuple(d if _guess(f) else f for f, d in zip(found, declared.shape, strict=True))
        value.type = TensorType(value.type.dtype, shape)


def _guess(dim: Dim) -> bool:
    """Whether the dimension is a name that shape inference made up."""
    return isinstance(dim, str) and (dim == "?" or dim.startswith("unk__"))


def to_graph(model: onnx.ModelProto, tensors: dict[str, Array]) -> Graph:
    """The Graph of a model whose big initializers are in ``tensors``."""
    domains = {o.domain if o.domain != "ai.onnx" else "": o.version for o in model.opset_import}
    opset = domains.pop("", schema.OPSET)
    graph = Graph(model.graph.name or "graph", opset, domains, metadata={p.key: p.value for p in model.metadata_props})
    _fill(graph, model.graph, {}, tensors)
    return graph


def _fill(
    graph: Graph, source: onnx.GraphProto, outer: Scope, tensors: dict[str, Array], inputs: Sequence[Type] = ()
) -> None:
    """``inputs``: types of the graph's inputs where it does not say them itself."""
    if source.sparse_initializer:
        raise UnsupportedError(f"graph {source.name!r} has sparse initializers; store them as dense tensors")
    scope: Scope = ChainMap({}, outer)
    for tensor in source.initializer:
        array = numpy_helper.to_array(tensor)
        scope[tensor.name] = graph.constant(array, tensor.name, DTYPES[tensor.data_type])
    for index, value in enumerate(source.input):
        if value.name in tensors:
            scope[value.name] = graph.constant(tensors[value.name], value.name)
        elif value.name not in {t.name for t in source.initializer}:
            typed = value.type.WhichOneof("value") is not None or index >= len(inputs)
            scope[value.name] = graph.add_input(value.name, declared_type(value) if typed else inputs[index])
    known = [v for v in (*source.value_info, *source.output) if v.type.WhichOneof("value") is not None]
    types = {v.name: declared_type(v) for v in known}
    _add_nodes(graph, source.node, scope, types)
    for value in source.output:
        if value.name not in scope:
            raise ModelError(f"output {value.name!r} is not produced by any node")
        if value.type.WhichOneof("value") is not None:
            check_output(scope[value.name], declared_type(value), graph.root().opset)
        graph.add_output(scope[value.name], value.name)


def declared_type(value: onnx.ValueInfoProto) -> Type:
    """The type that a model states for a value.

    Raises:
        UnsupportedError: values of that kind are not supported.
    """
    try:
        return proto.type_from_proto(value.type)
    except ValueError as error:
        raise UnsupportedError(f"value {value.name!r}: {error}") from error


def _add_nodes(
    graph: Graph,
    nodes: Iterable[onnx.NodeProto],
    scope: Scope,
    types: dict[str, Type],
) -> None:
    opset = graph.root().opset
    for source in nodes:
        domain = "" if source.domain == "ai.onnx" else source.domain
        attrs = dict(schema.defaults(source.op_type, opset, domain))
        inner_graphs: list[tuple[Graph, onnx.GraphProto]] = []
        for attribute in source.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = Graph(attribute.g.name or attribute.name, opset)
                inner_graphs.append((inner, attribute.g))
                attrs[attribute.name] = inner
            else:
                attrs[attribute.name] = _attribute(source, attribute)
        if domain == "" and source.op_type == "Constant":
            scope[source.output[0]] = graph.constant(*_constant(attrs, source.output[0]))
            continue
        try:
            inputs = [scope[name] if name else None for name in source.input]
        except KeyError as error:
            raise ModelError(f"node {source.name!r} ({source.op_type}) reads {error}, which nothing defines") from None
        known = [types.get(name, TensorType("float32", None)) for name in source.output]
        node = graph.create(
            source.op_type, inputs, known, attrs, domain=domain, name=source.name, output_names=list(source.output)
        )
        for inner, body in inner_graphs:
            _fill(inner, body, scope, {}, _body_inputs(node))
        scope.update((n, v) for n, v in zip(source.output, node.outputs, strict=True) if n)
        if not all(_known(types.get(n)) for n in source.output if n):
            _infer(node, opset)
        check_node(node, opset)


def _known(type: Type | None) -> bool:
    return type is not None and not (isinstance(type, TensorType) and type.shape is None)


def _constant(attrs: dict[str, Attribute], name: str) -> tuple[Any, str, str | None]:
    """Value, name and dtype of a Constant node, whichever attribute carries it."""
    if "value" in attrs:
        return attrs["value"], name, None
    if "sparse_value" in attrs:
        raise UnsupportedError(f"Constant {name!r} is sparse; store it as a dense tensor")
    (kind, value), *_ = attrs.items()
    if kind.startswith("value_string"):
        return np.array(value, object), name, "string"
    return np.array(value, np.float32 if kind.startswith("value_float") else np.int64), name, None


def _body_inputs(node: Node) -> list[Type]:
    """Types of the inputs of a Loop's body as far as the Loop says them."""
    if not node.is_op("Loop"):
        return []
    state = [v.type for v in node.inputs[2:] if v is not None]
    return [TensorType("int64", ()), TensorType("bool", ()), *map(_any_shape, state)]


def _any_shape(type: Type) -> Type:
    return TensorType(type.dtype, None) if isinstance(type, TensorType) else type


def _infer(node: Node, opset: int) -> None:
    if node.subgraphs():
        body = node.subgraphs()[0]
        results = [v.type for v in body.outputs[node.is_op("Loop") :]]
        state = len(results) if node.is_op("If") else len(node.inputs) - 2
        for index, (value, type) in enumerate(zip(node.outputs, results, strict=False)):
            value.type = _any_shape(type)
            if index >= state and isinstance(type, TensorType) and type.shape is not None:
                value.type = TensorType(type.dtype, ("?", *type.shape))
        return
    if schema.find(node.op, opset, node.domain) is not None or node.domain == schema.DOMAIN:
        infer.refine(node, opset)


def _attribute(node: onnx.NodeProto, attribute: AttributeProto) -> Attribute:
    try:
        return schema.from_proto(attribute)
    except ValueError as error:
        raise UnsupportedError(f"node {node.name!r} ({node.op_type}): {error}") from error
