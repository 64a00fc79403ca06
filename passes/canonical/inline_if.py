"""If on a constant becomes the branch that is taken.

    %0 = If(@true) then_branch {%a = Relu(%x) return %a} else_branch {...}   ->   %0 = Relu(%x)

An If on a value that is only known at run time stays; its branches are searched too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir.copying import inline
from onyxc.compiler.ir.graph import Graph, Node
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class InlineIf(Pass):
    """Replaces If on a constant condition by the branch."""

    name: ClassVar[str] = "inline-if"

    def run(self, graph: Graph) -> PassResult:
        """Inner graphs first, so that nested Ifs go at once."""
        count = _inline(graph)
        return PassResult({"if": count} if count else {})


def _inline(graph: Graph) -> int:
    count = 0
    for node in graph:
        count += sum(_inline(inner) for inner in node.subgraphs())
        if node.is_op("If") and node.const(0) is not None:
            take_branch(node)
            count += 1
    return count


def take_branch(node: Node) -> None:
    """Put the branch that a constant condition selects in the place of an If."""
    graph, taken = node.owner, bool(node.operand().array.ravel()[0])
    branch = node.subgraph("then_branch" if taken else "else_branch")
    graph.replace(node, inline(branch, (), graph, node))
