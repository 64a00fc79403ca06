"""The graph: values, nodes with use-def links, and the few operations that may change them.

A pass may insert and erase nodes while it walks (`order`). Everything that reads a value is in ``value.uses``;
only the methods of `Graph` change uses, so they cannot drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from onyxc.compiler.ir.order import Order
from onyxc.compiler.ir.types import TensorType, Type

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Attribute: TypeAlias = "int | float | str | bytes | tuple[Any, ...] | Array | Graph | Type"
Use: TypeAlias = "tuple[Node | Graph, int]"  # a node's input slot, or a graph's output slot


@dataclass(eq=False, slots=True)
class Value:
    """A tensor (or sequence, optional) in the graph.

    Exactly one of these holds: it has a ``producer``, it is a constant (``const`` is a read-only array),
    or it is a graph input. ``facts`` are what passes know of a constant and later passes must keep:
    ``sparsity`` (bool mask of kept elements), ``palette`` (codebook array), quantization parameters.
    """

    name: str
    type: Type
    producer: Node | None = None
    index: int = 0
    const: Array | None = None
    uses: dict[Use, None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def tensor(self) -> TensorType:
        """The type, when it is a tensor.

        Raises:
            TypeError: the value is a sequence or an optional.
        """
        if not isinstance(self.type, TensorType):
            raise TypeError(f"{self.name} is {self.type}, not a tensor")
        return self.type

    @property
    def array(self) -> Array:
        """The contents of a constant.

        Raises:
            ValueError: the value is none.
        """
        if self.const is None:
            raise ValueError(f"{self.name} is not a constant")
        return self.const

    @property
    def dtype(self) -> str:
        """Element type, as numpy spells it."""
        return self.tensor.dtype

    @property
    def dims(self) -> tuple[int, ...]:
        """The static shape (ValueError if a dimension is unknown)."""
        return self.tensor.dims

    @property
    def users(self) -> list[Node]:
        """Nodes that read the value, in order, each once."""
        return list(dict.fromkeys(u for u, _ in self.uses if isinstance(u, Node)))

    @property
    def is_output(self) -> bool:
        """Whether some graph returns the value."""
        return any(isinstance(u, Graph) for u, _ in self.uses)

    @property
    def only_user(self) -> Node | None:
        """The one node that reads the value through one slot, when nothing else reads it."""
        if len(self.uses) != 1:
            return None
        user = next(iter(self.uses))[0]
        return user if isinstance(user, Node) else None

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False, slots=True)
class Node:
    """One operator application. ``inputs`` holds None where an optional input is left out."""

    op: str
    domain: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: dict[str, Attribute]
    name: str = ""
    graph: Graph | None = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def owner(self) -> Graph:
        """The graph that holds the node.

        Raises:
            ValueError: none does (any more).
        """
        if self.graph is None:
            raise ValueError(f"{self.label()} is in no graph")
        return self.graph

    def operand(self, index: int = 0) -> Value:
        """Input ``index``, which the operator requires.

        Raises:
            ValueError: it is left out.
        """
        value = self.input(index)
        if value is None:
            raise ValueError(f"{self.label()} has no input {index}")
        return value

    def input(self, index: int) -> Value | None:
        """Input ``index``, or None when it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def const(self, index: int) -> Array | None:
        """The constant at input ``index``, or None."""
        value = self.input(index)
        return None if value is None else value.const

    def integer(self, name: str, default: int = 0) -> int:
        """Attribute ``name`` as an int."""
        value: Any = self.attrs.get(name, default)
        return int(value)

    def integers(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Attribute ``name`` as a tuple of ints."""
        value: Any = self.attrs.get(name, default)
        return tuple(value)

    def real(self, name: str, default: float = 0.0) -> float:
        """Attribute ``name`` as a float."""
        value: Any = self.attrs.get(name, default)
        return float(value)

    def subgraph(self, name: str) -> Graph:
        """Attribute ``name`` as a graph.

        Raises:
            TypeError: it is something else.
        """
        value = self.attrs[name]
        if not isinstance(value, Graph):
            raise TypeError(f"{name!r} of {self.label()} is not a graph")
        return value

    def subgraphs(self) -> list[Graph]:
        """Graphs among the attributes, in the order of their names."""
        return [a for _, a in sorted(self.attrs.items()) if isinstance(a, Graph)]

    def is_op(self, *ops: str) -> bool:
        """Whether this is one of the standard operators ``ops``."""
        return self.domain == "" and self.op in ops

    def label(self) -> str:
        """How messages name the node: operator, node name, first output."""
        domain = f"{self.domain}::" if self.domain else ""
        name = f" {self.name!r}" if self.name else ""
        return f"{domain}{self.op}{name}" + (f" (output {self.output.name!r})" if self.outputs else "")

    def __repr__(self) -> str:
        from onyxc.compiler.ir.text import format_node

        return format_node(self)


@dataclass(eq=False)
class Graph:
    """An ordered graph with named inputs and outputs; ``output_names`` survive any rewriting.

    ``opset``: version of the standard operators. ``domains``: versions of the others. ``parent``: the node
    that holds this graph as an attribute. Inner graphs use outer values directly.
    """

    name: str = "graph"
    opset: int = 0
    domains: dict[str, int] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)
    output_names: list[str] = field(default_factory=list)
    parent: Node | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    order: Order[Node] = field(default_factory=Order)
    _names: set[str] = field(default_factory=set)

    # ---- reading

    def __iter__(self) -> Iterator[Node]:
        """Nodes in order; nodes may be inserted and erased meanwhile (an erased one must be the current)."""
        return iter(self.order)

    def __reversed__(self) -> Iterator[Node]:
        return reversed(self.order)

    def __len__(self) -> int:
        return len(self.order)

    @property
    def nodes(self) -> list[Node]:
        """A snapshot of the nodes, in order."""
        return list(self)

    def walk(self) -> Iterator[Node]:
        """Nodes of this graph and of all inner graphs, outer first."""
        for node in self:
            yield node
            for inner in node.subgraphs():
                yield from inner.walk()

    def graphs(self) -> Iterator[Graph]:
        """This graph and all inner graphs, outer first."""
        yield self
        for node in self.walk():
            yield from node.subgraphs()

    def root(self) -> Graph:
        """The outermost graph."""
        graph = self
        while graph.parent is not None and graph.parent.graph is not None:
            graph = graph.parent.graph
        return graph

    def constants(self) -> list[Value]:
        """Constants that nodes or outputs of this graph read, each once, in order of first use."""
        found: dict[Value, None] = {}
        for node in self:
            found.update((v, None) for v in node.inputs if v is not None and v.const is not None)
        found.update((v, None) for v in self.outputs if v.const is not None)
        return list(found)

    def captured(self) -> list[Value]:
        """Values of outer graphs (constants excepted) that this graph or its inner graphs read."""
        own, found = set(self.inputs), dict[Value, None]()
        for node in self.walk():
            own.update(node.outputs)
            for inner in node.subgraphs():
                own.update(inner.inputs)
        for node in self.walk():
            reads = [*node.inputs, *(v for g in node.subgraphs() for v in g.outputs)]
            found.update((v, None) for v in reads if v is not None and v.const is None and v not in own)
        found.update((v, None) for v in self.outputs if v.const is None and v not in own)
        return list(found)

    # ---- building

    def fresh_name(self, hint: str = "v") -> str:
        """A name that nothing in the whole model has."""
        names = self.root()._names
        if hint and hint not in names:
            names.add(hint)
            return hint
        count = 1
        while f"{hint}_{count}" in names:
            count += 1
        names.add(f"{hint}_{count}")
        return f"{hint}_{count}"

    def add_input(self, name: str, type: Type) -> Value:
        """A new graph input."""
        value = Value(self.fresh_name(name), type)
        self.inputs.append(value)
        return value

    def constant(self, array: Any, name: str = "const", dtype: str | None = None) -> Value:
        """A new constant; ``dtype`` only where numpy's differs ("string")."""
        data = np.asarray(array)
        if data.flags.writeable:
            data = data.copy(order="C") if data.base is not None else np.ascontiguousarray(data).reshape(data.shape)
            data.flags.writeable = False
        kind = dtype or ("string" if data.dtype == object or data.dtype.kind in "US" else data.dtype.name)
        return Value(self.fresh_name(name), TensorType(kind, data.shape), const=data)

    def add_output(self, value: Value, name: str | None = None) -> None:
        """Return ``value`` as one more output."""
        self.outputs.append(value)
        self.output_names.append(name or value.name)
        value.uses[self, len(self.outputs) - 1] = None

    def create(
        self,
        op: str,
        inputs: Sequence[Value | None],
        types: Sequence[Type],
        attrs: dict[str, Attribute] | None = None,
        *,
        domain: str = "",
        name: str = "",
        output_names: Sequence[str] = (),
        before: Node | None = None,
    ) -> Node:
        """A new node with outputs of ``types``, before node ``before`` (default: at the end).

        Inputs left out behind the last one that is there are dropped, so that nodes which mean the same look the same.
        Passes usually call `compiler.ir.infer.add`, which fills in default attributes and infers the types.
        """
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        node = Node(op, domain, (), (), dict(attrs or {}), name)
        hints = list(output_names) + [name or op.lower()] * (len(types) - len(output_names))
        node.outputs = tuple(
            Value(self.fresh_name(h) if h else "", t, node, i) for i, (h, t) in enumerate(zip(hints, types, strict=True))
        )
        node.inputs = tuple(inputs)
        for index, value in enumerate(inputs):
            if value is not None:
                value.uses[node, index] = None
        for inner in node.subgraphs():
            inner.parent = node
        self.insert(node, before)
        return node

    def insert(self, node: Node, before: Node | None = None) -> None:
        """Put a node that is in no graph in front of ``before`` (None: at the end)."""
        if before is not None and before.graph is not self:
            raise ValueError(f"{before.label()} is not in this graph")
        node.graph = self
        self.order.insert(node, before)

    # ---- changing

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Make input ``index`` of ``node`` read ``value``; the input list grows as needed."""
        inputs = list(node.inputs) + [None] * (index + 1 - len(node.inputs))
        old = inputs[index]
        if old is not None:
            del old.uses[node, index]
        inputs[index] = value
        if value is not None:
            value.uses[node, index] = None
        node.inputs = tuple(inputs)

    def set_inputs(self, node: Node, values: Sequence[Value | None]) -> None:
        """Replace all inputs of ``node``."""
        for index, old in enumerate(node.inputs):
            if old is not None:
                del old.uses[node, index]
        node.inputs = tuple(values)
        for index, value in enumerate(values):
            if value is not None:
                value.uses[node, index] = None

    def set_output(self, index: int, value: Value) -> None:
        """Return ``value`` as output ``index``; its name stays."""
        del self.outputs[index].uses[self, index]
        self.outputs[index] = value
        value.uses[self, index] = None

    def set_outputs(self, values: Sequence[Value], names: Sequence[str]) -> None:
        """Replace the whole list of outputs."""
        for index, old in enumerate(self.outputs):
            del old.uses[self, index]
        self.outputs, self.output_names = [], []
        for value, name in zip(values, names, strict=True):
            self.add_output(value, name)

    def replace_uses(self, old: Value, new: Value, keep: Iterable[Node] = ()) -> None:
        """Everything that reads ``old`` (except the nodes ``keep``) reads ``new`` instead."""
        kept = set(keep)
        for user, index in list(old.uses):
            if isinstance(user, Graph):
                user.set_output(index, new)
            elif user not in kept:
                self.set_input(user, index, new)

    def move_before(self, node: Node, before: Node | None) -> None:
        """Move ``node`` in front of ``before`` (None: to the end)."""
        if node is before:
            return
        self.order.remove(node)
        self.insert(node, before)

    def erase(self, node: Node) -> None:
        """Remove a node whose outputs nobody reads.

        Raises:
            ValueError: an output still has readers.
        """
        for value in node.outputs:
            if value.uses:
                raise ValueError(f"{value.name} is still read by {[u.label() for u in value.users]}")
        self.set_inputs(node, ())
        for inner in node.subgraphs():
            inner.release()
        self.order.remove(node)
        node.graph = None

    def release(self) -> None:
        """Drop every use that this graph's nodes and outputs make (before the graph is thrown away)."""
        for index, value in enumerate(self.outputs):
            value.uses.pop((self, index), None)
        for node in self.nodes:
            self.set_inputs(node, ())
            for inner in node.subgraphs():
                inner.release()

    def replace(self, node: Node, values: Sequence[Value]) -> None:
        """Readers of ``node``'s outputs read ``values`` instead; ``node`` is erased."""
        for old, new in zip(node.outputs, values, strict=True):
            self.replace_uses(old, new)
        self.erase(node)

    # ---- copying

    def clone(self, outer: dict[Value, Value] | None = None) -> Graph:
        """A deep copy; constants' arrays are shared. ``outer`` maps captured values (default: themselves)."""
        from onyxc.compiler.ir.copying import clone_into

        copy = Graph(self.name, self.opset, dict(self.domains), metadata=dict(self.metadata))
        copy._names = set(self.root()._names)
        return clone_into(self, copy, dict(outer or {}))

    def __str__(self) -> str:
        from onyxc.compiler.ir.text import format_graph

        return format_graph(self)
