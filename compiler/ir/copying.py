"""Copies of graphs: whole ones, and their nodes in the middle of another graph."""

from __future__ import annotations

from collections.abc import Sequence

from onyxc.compiler.ir.graph import Attribute, Graph, Node, Value


def clone_into(source: Graph, target: Graph, mapped: dict[Value, Value], *, names: Graph | None = None) -> Graph:
    """Copy ``source`` into the empty ``target``; ``mapped`` holds the images of outer values, and gets those made.

    With ``names`` the copy joins that graph's model: fresh names, and constants are the same values; without, the copy
    is a model of its own with the same names.
    """

    def image(value: Value | None) -> Value | None:
        if value is None:
            return None
        if value not in mapped and value.const is not None and names is None:
            mapped[value] = Value(value.name, value.type, const=value.const, facts=dict(value.facts))
        return mapped.get(value, value)

    def copy(value: Value, producer: Node | None = None) -> Value:
        name = names.fresh_name(value.name) if names is not None and value.name else value.name
        mapped[value] = Value(name, value.type, producer, value.index, facts=dict(value.facts))
        return mapped[value]

    target.inputs += [copy(v) for v in source.inputs]
    for node in source:
        made = Node(node.op, node.domain, (), (), _attributes(node, mapped, names), node.name)
        made.outputs = tuple(copy(v, made) for v in node.outputs)
        target.insert(made)
        target.set_inputs(made, [image(v) for v in node.inputs])
        for inner in made.subgraphs():
            inner.parent = made
    for value, name in zip(source.outputs, source.output_names, strict=True):
        result = image(value)
        assert result is not None
        target.add_output(result, name)
    return target


def _attributes(node: Node, mapped: dict[Value, Value], names: Graph | None) -> dict[str, Attribute]:
    """The attributes of a copy: inner graphs are copied, everything else is shared."""
    attrs = dict(node.attrs)
    for key, attr in attrs.items():
        if isinstance(attr, Graph):
            inner = Graph(attr.name, attr.opset, dict(attr.domains))
            attrs[key] = clone_into(attr, inner, mapped, names=names)
    return attrs


def inline(graph: Graph, arguments: Sequence[Value], target: Graph, before: Node | None) -> list[Value]:
    """Copy the nodes of ``graph`` into ``target`` in front of ``before``; returns the images of its outputs.

    Constants are shared. Those of another model get fresh names, for that model is used up.
    """
    if graph.root() is not target.root():
        for value in dict.fromkeys(v for g in graph.graphs() for v in g.constants()):
            value.name = target.fresh_name(value.name)
    mapped: dict[Value, Value] = dict(zip(graph.inputs, arguments, strict=True))

    def image(value: Value | None) -> Value | None:
        return None if value is None else mapped.get(value, value)

    for node in graph:
        made = target.create(
            node.op,
            [image(v) for v in node.inputs],
            [v.type for v in node.outputs],
            _attributes(node, mapped, target),
            domain=node.domain,
            name=node.name,
            output_names=[v.name for v in node.outputs],
            before=before,
        )
        for old, new in zip(node.outputs, made.outputs, strict=True):
            new.facts.update(old.facts)
            mapped[old] = new
    return [v for v in map(image, graph.outputs) if v is not None]
