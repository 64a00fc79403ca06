"""From a Graph back to a valid ONNX model.

Nodes of our domain ``onyxc`` that hold a body graph, or that have a decomposition, are written as model-local
functions, so that any ONNX engine can run the result.
"""

from __future__ import annotations

import onnx
from onnx import helper

from onyxc.compiler.ir import integer, proto, schema
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import TensorType
from onyxc.compiler.loader.read import IR_VERSION

_ = integer  # its operators and their decompositions are registered on import


def to_model(graph: Graph) -> onnx.ModelProto:
    """A ModelProto of the graph; output names are those of the model that was loaded."""
    body = _graph(graph, graph.opset, {})
    functions: dict[str, onnx.FunctionProto] = {}
    _functions(graph, functions)
    domains = dict(graph.domains)
    if functions or any(n.domain == schema.DOMAIN for n in graph.walk()):
        domains[schema.DOMAIN] = 1
    imports = [helper.make_opsetid(d, v) for d, v in sorted({"": graph.opset, **domains}.items())]
    model = helper.make_model(body, opset_imports=imports, ir_version=IR_VERSION, producer_name="onyxc")
    model.functions.extend(functions[name] for name in sorted(functions))
    helper.set_model_props(model, graph.metadata)
    return model


Renamed = dict[Value, str]


def operator_to_model(node: Node, version: int) -> tuple[onnx.ModelProto, list[Value]]:
    """A model of one node, and the values that its inputs stand for: all that the node reads, each once."""
    inner = [v for g in node.subgraphs() for v in (*g.captured(), *_constants(g))]
    read = list(dict.fromkeys([*(v for v in node.inputs if v is not None), *inner]))
    opset = node.graph.root().opset if node.graph is not None else version
    made = _node(node, opset, {})
    inputs, outputs = ([_info(v.name, v) for v in values if v.name] for values in (read, node.outputs))
    graph = helper.make_graph([made], node.op, inputs, outputs)
    imports = [helper.make_opsetid(d, v) for d, v in {"": opset, node.domain: version}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION), read


def _graph(graph: Graph, opset: int, outer_names: Renamed) -> onnx.GraphProto:
    """A graph with its inner graphs; the outermost one holds all constants."""
    renamed = {**outer_names, **_output_names(graph)}
    made = onnx.GraphProto(name=graph.name)
    made.input.extend(_info(renamed.get(v, v.name), v) for v in graph.inputs)
    outer = _is_inner(graph)
    for value in () if outer else _constants(graph):
        name = renamed.get(value, value.name)
        made.initializer.append(proto.tensor_to_proto(value.array, name, value.dtype))
    for node in graph:
        made.node.append(_node(node, opset, renamed))
    for index, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        own = renamed.get(value, value.name)
        direct = value.producer is not None and value.producer.graph is graph and graph.outputs.index(value) == index
        if not direct:
            name = f"{own}__out{index}" if outer else name
            made.node.append(helper.make_node("Identity", [own], [name]))
        made.output.append(_info(own if direct else name, value))
    made.value_info.extend(
        _info(renamed.get(v, v.name), v)
        for n in graph
        for v in n.outputs
        if v.name and not v.is_output and isinstance(v.type, TensorType) and v.type.shape is not None
    )
    return made


def _is_inner(graph: Graph) -> bool:
    """Whether the graph sees the names of an outer one; the body of a function does not."""
    return graph.parent is not None and not _is_function(graph.parent)


def _constants(graph: Graph) -> dict[Value, None]:
    """Constants of a graph and its inner graphs; those of functions go into the functions."""
    found = dict.fromkeys(graph.constants())
    for node in graph:
        for inner in () if _is_function(node) else node.subgraphs():
            found.update(_constants(inner))
    return found


def _output_names(graph: Graph) -> Renamed:
    """Values that take an output's name: those that this graph's nodes produce."""
    renamed: Renamed = {}
    if _is_inner(graph):
        return renamed
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        if value.producer is not None and value.producer.graph is graph and value not in renamed:
            renamed[value] = name
    taken = set(renamed.values())
    _, *inner = graph.graphs()
    others = [*_constants(graph), *(v for n in graph.walk() for v in n.outputs), *(v for g in inner for v in g.inputs)]
    renamed.update((v, f"{v.name}__inner") for v in others if v.name in taken and v not in renamed)
    return renamed


def _node(node: Node, opset: int, renamed: Renamed) -> onnx.NodeProto:
    made = proto.node_to_proto(node, schema.find(node.op, opset, node.domain))
    del made.input[:]
    del made.output[:]
    made.input.extend("" if v is None else renamed.get(v, v.name) for v in node.inputs)
    made.output.extend(renamed.get(v, v.name) for v in node.outputs)
    if _is_function(node):
        made.op_type, made.name = _function_name(node), node.name
        del made.attribute[:]
        return made
    for key, value in sorted(node.attrs.items()):
        if isinstance(value, Graph):
            made.attribute.append(helper.make_attribute(key, _graph(value, opset, renamed)))
    return made


def _is_function(node: Node) -> bool:
    return node.domain == schema.DOMAIN and ("body" in node.attrs or node.op in schema.DECOMPOSITIONS)


def _body(node: Node, opset: int) -> Graph:
    """What a function node computes: its body, or its decomposition."""
    body = node.attrs.get("body")
    return body if isinstance(body, Graph) else schema.decomposed(node, opset)


def _function_name(node: Node) -> str:
    return f"{node.op}_{node.output.name}"


def _functions(graph: Graph, found: dict[str, onnx.FunctionProto]) -> None:
    for node in graph.walk():
        if not _is_function(node):
            continue
        opset = graph.root().opset
        inner = _graph(_body(node, opset), opset, {})
        constants = [helper.make_node("Constant", [], [t.name], value=t) for t in inner.initializer]
        name = _function_name(node)
        found[name] = helper.make_function(
            schema.DOMAIN,
            name,
            [i.name for i in inner.input],
            [o.name for o in inner.output],
            [*constants, *inner.node],
            [helper.make_opsetid("", opset), helper.make_opsetid(schema.DOMAIN, 1)],
        )


def _info(name: str, value: Value) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, proto.type_to_proto(value.type))
