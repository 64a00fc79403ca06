"""Nodes that nothing reads go away, and so do results and outputs that nobody asked for.

    %0 = Relu(%x)            ->   (nothing)
    %1, %2 = MaxPool(%x)     ->   %1 = MaxPool(%x)        where %2 is unread and the operator may leave it out
    %3, %4 = If(%c) {...}    ->   %3 = If(%c) {...}       and what the branches computed for %4

Constants need no removal: a graph holds only those that something reads. Kept: graph inputs, because they are the
model's interface; results of Loop and Scan, whose position in the body means something.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import schema
from onyxc.compiler.ir.graph import Graph, Node
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class DeadCode(Pass):
    """Removes nodes and results that nothing reads, in inner graphs too."""

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph) -> PassResult:
        """One backward walk: readers go before what they read."""
        counts: Counter[str] = Counter()
        _sweep(graph, graph.root().opset, counts)
        return PassResult(dict(+counts))


def _sweep(graph: Graph, opset: int, counts: Counter[str]) -> None:
    for node in reversed(graph):
        if not any(v.uses for v in node.outputs):
            graph.erase(node)
            counts["nodes"] += 1
            continue
        if node.is_op("If"):
            counts["branch results"] += _trim_if(node)
        elif not node.subgraphs():
            counts["unread outputs"] += _trim(node, opset)
        for inner in node.subgraphs():
            _sweep(inner, opset, counts)


def _trim(node: Node, opset: int) -> int:
    """Drop unread outputs at the end where the operator's schema lets them be left out."""
    found = schema.find(node.op, opset, node.domain)
    keep = max(i for i, v in enumerate(node.outputs) if v.uses) + 1
    last = node.outputs[keep:]
    formal = [] if found is None else list(found.outputs)[keep : len(node.outputs)]
    optional = len(formal) == len(last) and all(o.option.name == "Optional" for o in formal)
    dropped = len(last) if optional else 0
    node.outputs = node.outputs[: len(node.outputs) - dropped]
    return dropped


def _trim_if(node: Node) -> int:
    kept = [i for i, v in enumerate(node.outputs) if v.uses]
    dropped = len(node.outputs) - len(kept)
    if dropped:
        for branch in node.subgraphs():
            branch.set_outputs([branch.outputs[i] for i in kept], [branch.output_names[i] for i in kept])
        node.outputs = tuple(node.outputs[i] for i in kept)
        for index, value in enumerate(node.outputs):
            value.index = index
    return dropped
