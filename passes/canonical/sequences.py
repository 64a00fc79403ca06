"""Sequences and optionals whose contents are known become plain tensors.

    SequenceAt(SequenceConstruct(%a, %b), @1)            ->   %b
    ConcatFromSequence(SplitToSequence(%x)), axis        ->   Concat(Split(%x))
    SequenceLength(SequenceConstruct(%a, %b))            ->   @2
    OptionalGetElement(Optional(%x))                     ->   %x
    If(%c) {return SequenceConstruct(%a)} {... (%b)}     ->   SequenceConstruct(If(%c) {return %a} {return %b})

Positions must be constant. Refused: sequences that are model inputs (`loader.load` settles what they hold), or that a
Loop builds (unroll comes first); branches that return different numbers of elements. A sequence that the model returns
is built by one node at its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import ONNX_CODES, OptionalType, TensorType
from onyxc.compiler.rewrite import Builder
from onyxc.compiler.transform import Pass, PassResult

Known = dict[Value, list[Value]]  # a sequence's elements; an optional's one element, or none
BUILDERS = ("SequenceConstruct", "SequenceEmpty", "Optional")


@dataclass(frozen=True)
class ResolveSequences(Pass):
    """Replaces operators on sequences and optionals of known contents."""

    name: ClassVar[str] = "resolve-sequences"

    def run(self, graph: Graph) -> PassResult:
        """One forward walk that carries what every sequence holds."""
        counts: Counter[str] = Counter()
        known: Known = {}
        _walk(graph, known, counts)
        _build_outputs(graph, known, counts)
        return PassResult(dict(counts))


def _walk(graph: Graph, known: Known, counts: Counter[str]) -> None:
    for node in graph:
        for inner in node.subgraphs():
            _walk(inner, known, counts)
        if node.domain:
            continue
        if node.op == "If":
            counts["If"] += _split_branches(node, known)
        elif node.op in _MAKERS:
            elements = _MAKERS[node.op](node, known)
            if elements is not None:
                known[node.output] = elements
        elif node.op in _READERS:
            value = _READERS[node.op](node, known)
            if value is not None:
                graph.replace(node, [value])
                counts[node.op] += 1


def _build_outputs(graph: Graph, known: Known, counts: Counter[str]) -> None:
    """Sequences and optionals that the model returns are made of their elements at once."""
    for index, value in enumerate(graph.outputs):
        maker = value.producer
        if isinstance(value.type, TensorType) or value not in known or (maker is not None and maker.op in BUILDERS):
            continue
        graph.set_output(index, _built(Builder(graph, None), value, known))
        counts["output"] += 1


def _built(op: Builder, value: Value, known: Known) -> Value:
    if isinstance(value.type, TensorType) or value not in known:
        return value
    parts = [_built(op, v, known) for v in known[value]]
    if isinstance(value.type, OptionalType):
        return op.Optional(*parts) if parts else op.Optional(type=value.type.element)
    if parts:
        return op.SequenceConstruct(*parts)
    element = value.type.element
    return op.SequenceEmpty(dtype=ONNX_CODES[element.dtype] if isinstance(element, TensorType) else 1)


def _split_branches(node: Node, known: Known) -> int:
    """An If that returns sequences of as many elements on both sides returns the elements; 1 if it does now."""
    sides = node.subgraphs()
    if all(isinstance(v.type, TensorType) for v in node.outputs):
        return 0
    lists = [[_elements(v, known) for v in side.outputs] for side in sides]
    for one, other in zip(*lists, strict=True):
        if one is None or other is None or len(one) != len(other):
            return 0
        if any(a.type != b.type or not isinstance(a.type, TensorType) for a, b in zip(one, other, strict=True)):
            return 0
    graph = node.owner
    for side, parts in zip(sides, lists, strict=True):
        values = [v for part in parts for v in part or ()]
        side.set_outputs(values, [f"{v.name}_{i}" for i, v in enumerate(values)])
    made = graph.create("If", node.inputs, [v.type for v in sides[0].outputs], node.attrs, before=node, name=node.name)
    node.attrs = {}
    found = iter(made.outputs)
    for value, part in zip(node.outputs, lists[0], strict=True):
        known[value] = [next(found) for _ in part or ()]
        single = isinstance(value.type, TensorType)
        new = known[value][0] if single else _built(Builder(graph, node), value, known)
        known[new] = known[value]
        graph.replace_uses(value, new)
    graph.erase(node)
    return 1


def _elements(value: Value, known: Known) -> list[Value] | None:
    return [value] if isinstance(value.type, TensorType) else known.get(value)


def _position(node: Node, index: int, length: int) -> int | None:
    """A constant position, counted from the front; by default the end."""
    if node.input(index) is None:
        return length
    data = node.const(index)
    if data is None:
        return None
    at = int(data.ravel()[0])
    return at + length if at < 0 else at


def _contents(node: Node, known: Known) -> list[Value] | None:
    first = node.input(0)
    return None if first is None else known.get(first)


# ---- what makes sequences


def _construct(node: Node, known: Known) -> list[Value] | None:
    return [v for v in node.inputs if v is not None]


def _insert(node: Node, known: Known) -> list[Value] | None:
    elements, value = _contents(node, known), node.input(1)
    at = None if elements is None else _position(node, 2, len(elements))
    return None if elements is None or at is None or value is None else [*elements[:at], value, *elements[at:]]


def _erase(node: Node, known: Known) -> list[Value] | None:
    elements = _contents(node, known)
    at = None if elements is None else _position(node, 1, len(elements) - 1)
    return None if elements is None or at is None else elements[:at] + elements[at + 1 :]


def _split(node: Node, known: Known) -> list[Value] | None:
    value, axis = node.inputs[0], node.integer("axis")
    sizes = _split_sizes(node)
    if sizes is None or value is None or node.graph is None:
        return None
    op = Builder(node.graph, node)
    split = op.constant(np.array(sizes, np.int64), "split")
    parts = op.node("Split", value, split, outputs=len(sizes), axis=axis).outputs if sizes else ()
    if node.input(1) is not None or node.attrs["keepdims"]:
        return list(parts)
    at = op.constant(np.array([axis], np.int64), "axis")
    return [op.Squeeze(part, at) for part in parts]


def _split_sizes(node: Node) -> list[int] | None:
    value, given = node.inputs[0], node.const(1)
    shape = None if value is None else value.tensor.shape
    size = None if shape is None else shape[node.integer("axis")]
    if not isinstance(size, int) or (node.input(1) is not None and given is None):
        return None
    if given is None:
        return [1] * size
    if given.ndim:
        return [int(n) for n in given]
    step = int(given)
    return [min(step, size - start) for start in range(0, size, step)]


_MAKERS: dict[str, Callable[[Node, Known], list[Value] | None]] = {
    "Identity": _contents,
    "SequenceEmpty": lambda node, known: [],
    "SequenceConstruct": _construct,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SplitToSequence": _split,
    "Optional": _construct,
}


# ---- what reads them


def _at(node: Node, known: Known) -> Value | None:
    elements = _contents(node, known)
    at = None if elements is None else _position(node, 1, len(elements))
    return elements[at] if elements is not None and at is not None and 0 <= at < len(elements) else None


def _length(node: Node, known: Known) -> Value | None:
    elements = _contents(node, known)
    return None if elements is None else node.owner.constant(np.array(len(elements), np.int64), node.output.name)


def _concat(node: Node, known: Known) -> Value | None:
    elements = _contents(node, known)
    if not elements or node.graph is None:
        return None
    op, axis = Builder(node.graph, node), node.attrs["axis"]
    if node.attrs["new_axis"]:
        at = op.constant(np.array([axis], np.int64), "axis")
        elements = [op.Unsqueeze(v, at) for v in elements]
    return op.Concat(*elements, axis=axis)


def _get(node: Node, known: Known) -> Value | None:
    value = node.inputs[0]
    if value is not None and not isinstance(value.type, OptionalType):
        return value
    elements = _contents(node, known)
    return elements[0] if elements else None


def _has(node: Node, known: Known) -> Value | None:
    value = node.input(0)
    elements = [] if value is None else known.get(value)
    if value is not None and not isinstance(value.type, OptionalType):
        elements = [value]
    return None if elements is None else node.owner.constant(np.array(bool(elements)), node.output.name)


_READERS: dict[str, Callable[[Node, Known], Value | None]] = {
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "OptionalGetElement": _get,
    "OptionalHasElement": _has,
}
