"""Operator fusion: an anchor with the elementwise operators that follow it, and elementwise chains.

    %0 = Conv(x, w); %1 = Add(%0, b); %2 = Relu(%1)   ->   %0 = onyxc.Fused(x, w, b) {body: Conv, Add, Relu}

A group grows forward from its anchor over elementwise readers of the same shape, and is cut at the longest
prefix from which one value alone escapes. So nothing is computed twice, and no cycle can arise: what escapes
is computed last, hence no argument of the group depends on the group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import facts, schema
from onyxc.compiler.ir.fused import fuse
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class FuseGroups(Pass):
    """``limit``: at most so many operators in a group."""

    name: ClassVar[str] = "fuse-groups"
    limit: int = 24

    def run(self, graph: Graph) -> PassResult:
        """Fuse anchors first, so that every epilogue finds its anchor, then what elementwise chains remain."""
        counts: Counter[str] = Counter()
        for is_start in (_is_anchor, facts.is_elementwise):
            for node in graph.nodes:
                if node.graph is graph and is_start(node):
                    group = _around(_grow(node, self.limit))
                    if len(group) > 1:
                        counts[facts.key(node)] += 1
                        fuse(graph, group)
        for node in graph.nodes:
            for inner in node.subgraphs():
                if node.domain != schema.DOMAIN:
                    counts.update(self.run(inner).counts)
        return PassResult(counts)


def _is_anchor(node: Node) -> bool:
    return facts.key(node) in facts.ANCHORS and len(node.outputs) == 1


def _around(group: list[Node]) -> list[Node]:
    """A matrix product takes in the Transposes of its operands, and that of its result when rows stay rows.

    Its template reads and writes by strides, so these cost nothing there.
    """
    product, last = group[0], group[-1]
    if not product.is_op("MatMul"):
        return group
    before = [v.producer for v in product.inputs if v is not None and v.producer is not None]
    moved = [p for p in before if p.is_op("Transpose") and p.output.only_user is product and p.graph is product.graph]
    after = last.output.only_user
    perm = after.attrs.get("perm") if after is not None and after.is_op("Transpose") else None
    if after is not None and isinstance(perm, tuple) and len(perm) > 2 and perm[-1] == len(perm) - 1:
        return [*moved, *group, after]
    return [*moved, *group]


def _grow(start: Node, limit: int) -> list[Node]:
    """The group that begins with ``start``: in order, ending with the one node whose output escapes."""
    if not start.output.tensor.is_static:
        return [start]
    group, best = [start], [start]
    inside: set[Node] = {start}
    dependent: set[Node] = set()  # nodes outside the group that depend on it
    for node in _following(start):
        depends = any(v.producer in inside or v.producer in dependent for v in _reads(node))
        if not depends:
            continue
        direct = any(v.producer in inside for v in node.inputs if v is not None)
        clean = not any(v.producer in dependent for v in _reads(node))
        if direct and clean and _joins(node, start) and len(group) < limit:
            group.append(node)
            inside.add(node)
            if _escaping(group, inside) == [node.output]:
                best = list(group)
        else:
            dependent.add(node)
            if not any(_open(n, inside, dependent) for n in group):
                break
    return best


def _following(node: Node) -> Iterator[Node]:
    following = node._next
    while following is not None:
        yield following
        following = following._next


def _reads(node: Node) -> list[Value]:
    """Inputs of a node, and what its inner graphs read from outside."""
    reads = [v for v in node.inputs if v is not None]
    for inner in node.subgraphs():
        reads += inner.captured()
    return reads


def _joins(node: Node, start: Node) -> bool:
    return facts.is_elementwise(node) and node.output.tensor.shape == start.output.tensor.shape


def _escaping(group: list[Node], inside: set[Node]) -> list[Value]:
    return [v for n in group for v in n.outputs if any(u not in inside for u, _ in v.uses)]


def _open(node: Node, inside: set[Node], dependent: set[Node]) -> bool:
    """Whether some reader of ``node`` has not been looked at yet."""
    return any(isinstance(u, Node) and u not in inside and u not in dependent for v in node.outputs for u, _ in v.uses)
