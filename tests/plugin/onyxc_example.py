"""A pass of another package: Relu becomes Abs, at most ``limit`` times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class ReluToAbs(Pass):
    """Replaces Relu by Abs."""

    limit: int = 10

    name: ClassVar[str] = "relu-to-abs"

    def run(self, graph: Graph) -> PassResult:
        """Edit ``graph`` in place."""
        found = [n for n in graph if n.is_op("Relu")][: self.limit]
        for node in found:
            graph.replace(node, infer.add(graph, "Abs", node.inputs, before=node).outputs)
        return PassResult({"relu": len(found)})
