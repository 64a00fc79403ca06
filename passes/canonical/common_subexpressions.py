"""What is computed twice is computed once; equal constants become one.

    %0 = Relu(%x); %1 = Relu(%x)   ->   %0 = Relu(%x)      and readers of %1 read %0

Two nodes are equal when operator, attributes and inputs are. Inner graphs see what outer graphs computed before them.
Refused: random operators, nodes with inner graphs, constants that passes know different things of.
"""

from __future__ import annotations

import hashlib
from collections import ChainMap, Counter
from collections.abc import Hashable, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merges equal constants and equal nodes."""

    name: ClassVar[str] = "common-subexpressions"

    def run(self, graph: Graph) -> PassResult:
        """Constants first, so that nodes that differ only in a copied constant are equal."""
        counts: Counter[str] = Counter()
        _merge_constants(graph, counts)
        _merge_nodes(graph, {}, counts)
        return PassResult(dict(counts))


def _merge_constants(graph: Graph, counts: Counter[str]) -> None:
    by_type: dict[Hashable, list[Value]] = {}
    for value in dict.fromkeys(v for g in graph.graphs() for v in g.constants()):
        by_type.setdefault(value.type, []).append(value)
    for values in by_type.values():
        first: dict[Hashable, Value] = {}
        for value in values if len(values) > 1 else ():
            kept = first.setdefault((_content(value.array), _content(value.facts)), value)
            if kept is not value:
                graph.replace_uses(value, kept)
                counts["constants"] += 1


def _merge_nodes(graph: Graph, outer: MutableMapping[Hashable, Node], counts: Counter[str]) -> None:
    seen: ChainMap[Hashable, Node] = ChainMap({}, outer)
    for node in graph:
        if node.subgraphs():
            for inner in node.subgraphs():
                _merge_nodes(inner, seen, counts)
            continue
        if node.op in facts.NONDETERMINISTIC or not node.outputs:
            continue
        kept = seen.setdefault((node.domain, node.op, node.inputs, len(node.outputs), _content(node.attrs)), node)
        if kept is not node:
            graph.replace(node, kept.outputs)
            counts[node.op] += 1


def _content(value: Any) -> Hashable:
    """Something hashable that is equal exactly where ``value`` is."""
    if isinstance(value, dict):
        return tuple((k, _content(v)) for k, v in sorted(value.items()))
    if isinstance(value, np.ndarray):
        data = repr(value.tolist()).encode() if value.dtype == object else np.ascontiguousarray(value).tobytes()
        return value.dtype.name, value.shape, hashlib.sha256(data).digest()
    if isinstance(value, tuple):
        return tuple(_content(v) for v in value)
    return (type(value).__name__, repr(value) if isinstance(value, float) else value)
