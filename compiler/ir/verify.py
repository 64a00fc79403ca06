"""The verifier: run after every pass, it names the first node that breaks a rule of the IR."""

from __future__ import annotations

import numpy as np

from onyxc.compiler.errors import OnyxcError
from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import TensorType


class VerifyError(OnyxcError):
    """The graph breaks a rule; the message shows the node with its neighbours."""


def verify(graph: Graph) -> None:
    """Check links, order, names, arity, constants and the facts that passes promised to keep.

    Raises:
        VerifyError: with the node and five lines of text around it.
    """
    _verify(graph, set(), {})


def _verify(graph: Graph, outer: set[Value], names: dict[str, Value]) -> None:
    known = set(outer)

    def define(value: Value, node: Node | None) -> None:
        if value.name and names.setdefault(value.name, value) is not value:
            _fail(graph, node, f"two values are called {value.name!r}")
        known.add(value)

    for value in graph.inputs:
        if value.producer is not None or value.const is not None:
            _fail(graph, None, f"graph input {value.name!r} has a producer or is constant")
        define(value, None)
    for node in graph:
        if node.graph is not graph:
            _fail(graph, node, "the node's owner is another graph")
        _verify_inputs(graph, node, known, names)
        _verify_schema(graph, node)
        for index, value in enumerate(node.outputs):
            if value.producer is not node or value.index != index:
                _fail(graph, node, f"output {value.name!r} does not point back at its producer")
            define(value, node)
        for inner in node.subgraphs():
            if inner.parent is not node:
                _fail(graph, node, f"inner graph {inner.name!r} does not point back at its node")
            # the body of a fused group sees nothing but its inputs
            _verify(inner, *((set(), {}) if node.domain == schema.DOMAIN else (known, names)))
    _verify_outputs(graph, known)


def _verify_outputs(graph: Graph, known: set[Value]) -> None:
    if len(graph.outputs) != len(graph.output_names):
        _fail(graph, None, "outputs and output names differ in number")
    for index, value in enumerate(graph.outputs):
        if (graph, index) not in value.uses:
            _fail(graph, None, f"output {value.name!r} does not list the graph as a reader")
        if value.const is None and value not in known:
            _fail(graph, None, f"output {value.name!r} is not defined in the graph")


def _verify_inputs(graph: Graph, node: Node, known: set[Value], names: dict[str, Value]) -> None:
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if (node, index) not in value.uses:
            _fail(graph, node, f"{value.name!r} does not list the node as a reader")
        if value.const is None:
            if value not in known:
                _fail(graph, node, f"{value.name!r} is used before it is defined")
            continue
        if names.setdefault(value.name, value) is not value:
            _fail(graph, node, f"two values are called {value.name!r}")
        _verify_constant(graph, node, value)


def _verify_constant(graph: Graph, node: Node, value: Value) -> None:
    array, type = value.const, value.type
    assert array is not None
    if not isinstance(type, TensorType) or type.shape != array.shape:
        _fail(graph, node, f"constant {value.name!r} of shape {list(array.shape)} is typed {type}")
    if array.flags.writeable:
        _fail(graph, node, f"constant {value.name!r} is writeable")
    mask, palette = value.facts.get("sparsity"), value.facts.get("palette")
    if mask is not None and np.any(array[~mask]):
        _fail(graph, node, f"{value.name!r} was pruned, but a pruned element is no longer zero")
    if isinstance(palette, np.ndarray) and not _in_palette(array, palette):
        _fail(graph, node, f"{value.name!r} was clustered, but a value is not in its palette")


def _in_palette(array: Array, palette: Array) -> bool:
    """Whether all elements are in the palette: [K], or [..., channels, ..., K] with a codebook for each channel."""
    if palette.ndim == 1:
        return bool(np.isin(array, palette).all())
    if palette.ndim != array.ndim + 1:
        return False
    found = np.zeros(array.shape, bool)
    for k in range(palette.shape[-1]):
        found |= array == palette[..., k]
    return bool(found.all())


def _verify_schema(graph: Graph, node: Node) -> None:
    if node.domain == schema.DOMAIN:
        if node.op not in schema.OWN:
            _fail(graph, node, "no operator of that name in domain onyxc")
        return
    found = schema.find(node.op, graph.root().opset, node.domain)
    if found is None:
        return
    if not found.min_input <= len(node.inputs) <= found.max_input:
        _fail(graph, node, f"{len(node.inputs)} inputs, {found.min_input} to {found.max_input} allowed")
    if not found.min_output <= len(node.outputs) <= found.max_output:
        _fail(graph, node, f"{len(node.outputs)} outputs, {found.min_output} to {found.max_output} allowed")
    unknown = [a for a in node.attrs if a not in found.attributes]
    if unknown:
        _fail(graph, node, f"the operator has no attribute {unknown[0]!r}")


def _fail(graph: Graph, node: Node | None, message: str) -> None:
    if node is None:
        raise VerifyError(f"graph {graph.name!r}: {message}")
    nodes = graph.nodes
    at = nodes.index(node) if node in nodes else 0
    lines = [f"{'>' if n is node else ' '} {n!r}" for n in nodes[max(0, at - 5) : at + 6]]
    raise VerifyError("\n".join([f"{node.label()}: {message}", *lines]))
