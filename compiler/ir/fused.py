"""The fused group: a node of domain ``onyxc`` whose attribute ``body`` is the graph that it computes."""

from __future__ import annotations

from collections.abc import Sequence

from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import Type

INLINE = 8  # constants of at most so many elements, and shape-like integers, live inside the body


@schema.own("Fused")
def fused_type(node: Node) -> tuple[Type, ...]:
    """The types of the body's outputs."""
    return tuple(v.type for v in body_of(node).outputs)


def body_of(node: Node) -> Graph:
    """The graph that a fused node computes."""
    return node.subgraph("body")


def is_parameter(value: Value) -> bool:
    """Whether a constant belongs inside the body, where lowerings read its numbers.

    Big weights do not: they are inputs of the group, so that groups that differ in weights share one kernel.
    """
    array = value.const
    return array is not None and (array.size <= INLINE or (array.dtype.kind in "iub" and array.dtype.itemsize > 2))


def fuse(graph: Graph, nodes: Sequence[Node]) -> Node:
    """Replace ``nodes`` (in order) by one fused node at the place of the last.

    Only the last node's outputs may be read outside the group.
    """
    last = nodes[-1]
    arguments: dict[Value, Value] = {}
    body = Graph(nodes[0].op.lower(), graph.root().opset)
    mapped: dict[Value, Value] = {}

    def image(value: Value | None) -> Value | None:
        if value is None:
            return None
        if value not in mapped:
            if is_parameter(value):
                name = body.fresh_name(value.name)
                mapped[value] = Value(name, value.type, const=value.const, facts=dict(value.facts))
            else:
                mapped[value] = arguments[value] = body.add_input(value.name, value.type)
        return mapped[value]

    for node in nodes:
        made = body.create(
            node.op,
            [image(v) for v in node.inputs],
            [v.type for v in node.outputs],
            node.attrs,
            domain=node.domain,
            name=node.name,
            output_names=[v.name for v in node.outputs],
        )
        mapped.update(zip(node.outputs, made.outputs, strict=True))
    for value in last.outputs:
        body.add_output(mapped[value], value.name)
    fused = graph.create(
        "Fused",
        list(arguments),
        [v.type for v in last.outputs],
        {"body": body},
        domain=schema.DOMAIN,
        name=nodes[0].name or last.name,
        output_names=[v.name for v in last.outputs],
        before=last,
    )
    for old, new in zip(last.outputs, fused.outputs, strict=True):
        new.facts.update(old.facts)
        graph.replace_uses(old, new)
    for node in reversed(nodes):
        graph.erase(node)
    return fused
