"""Operators that onnx.defs defines by others are replaced by that definition, again and again.

    %0 = MeanVarianceNormalization(%x)   ->   ReduceMean, Pow, Sub, Sqrt, Div ... of %x

``keep`` names the operators that stay: those with a direct lowering. Refused: bodies in
an opset whose operators do not mean the same today (the operator stays, and the lowering says what it lacks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.copying import inline
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.loader import function_body, opset_of
from onyxc.compiler.transform import Pass, PassResult

# Functions that are better lowered whole: elementwise, normalisations, reductions.
KEEP = (
    "Clip", "DynamicQuantizeLinear", "Elu", "Gelu", "GreaterOrEqual", "HardSigmoid", "HardSwish", "LayerNormalization",
    "LeakyRelu", "LessOrEqual", "LogSoftmax", "Mish", "PRelu", "RMSNormalization", "Range", "ReduceL1", "ReduceL2",
    "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare", "Relu", "Selu", "Softmax", "Softplus", "Softsign", "Swish",
    "ThresholdedRelu",
)  # fmt: skip


@dataclass(frozen=True)
class ExpandFunctions(Pass):
    """Replaces operators by their function bodies, except those in ``keep``."""

    keep: tuple[str, ...] = KEEP

    name: ClassVar[str] = "expand-functions"

    @classmethod
    def keeping(cls, names: Iterable[str]) -> ExpandFunctions:
        """The pass that keeps exactly ``names``, for example all operators with a lowering."""
        return cls(tuple(sorted(names)))

    def run(self, graph: Graph) -> PassResult:
        """Expand until only kept operators and operators without a body are left."""
        counts, refused = Counter[str](), Counter[str]()
        work = list(graph.walk())[::-1]
        while work:
            node = work.pop()
            if node.graph is None or (not node.domain and node.op in self.keep) or not has_body(node):
                continue
            found = function_body(node, graph.opset)
            if found is None:
                refused[f"{node.op}: it has no body at opset {graph.opset}"] += 1
                continue
            work += _replace(node, *found)[::-1]
            counts[node.op] += 1
        return PassResult(dict(counts), dict(refused))


def has_body(node: Node) -> bool:
    """Whether onnx.defs has a function body for the operator."""
    found = schema.find(node.op, opset_of(node), node.domain)
    return found is not None and bool(found.has_function or found.has_context_dependent_function)


def _replace(node: Node, body: Graph, arguments: Sequence[Value]) -> list[Node]:
    """Put the body in the place of the node; returns the new nodes."""
    graph = node.owner
    start = graph.order.before(node)
    results = dict(zip(body.output_names, inline(body, arguments, graph, node), strict=True))
    for value in node.outputs:
        if value.name:
            new = results[value.name]
            new.type = infer.merge(new.type, value.type) if new.producer is not None else new.type
            graph.replace_uses(value, new)
    made = []
    following = graph.order.after(start)
    while following is not None and following is not node:
        made.append(following)
        following = graph.order.after(following)
    graph.erase(node)
    return [n for top in made for n in (top, *(i for g in top.subgraphs() for i in g.walk()))]
