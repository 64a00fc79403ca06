"""Operators that onnx.defs defines by others are replaced by that definition, again and again.

    %0 = MeanVarianceNormalization(%x)   ->   ReduceMean, Pow, Sub, Sqrt, Div ... of %x

``keep`` names the operators that stay: those with a direct lowering. Refused: a body in an older opset whose operators
take other inputs or attributes today (the operator stays, and the lowering says what it lacks).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx

from onyxc.compiler.ir import infer, proto, schema
from onyxc.compiler.ir.graph import Graph, Node, inline
from onyxc.compiler.loader import function_to_graph
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
            if node.domain or node.op in self.keep or node.graph is None or not has_body(node, graph.opset):
                continue
            body = body_of(node, graph.opset)
            if body is None:
                refused[f"{node.op}: its body cannot be written at opset {graph.opset}"] += 1
                continue
            work += _expand(node, body)[::-1]
            counts[node.op] += 1
        return PassResult(dict(counts), dict(refused))


def has_body(node: Node, opset: int) -> bool:
    """Whether onnx.defs has a function body for the operator."""
    found = schema.find(node.op, opset)
    return found is not None and bool(found.has_function or found.has_context_dependent_function)


def body_of(node: Node, opset: int) -> Graph | None:
    """The body as a Graph, when one exists whose operators mean the same at ``opset``."""
    found = schema.find(node.op, opset)
    assert found is not None
    for version in sorted(found.function_opset_versions, reverse=True):
        function = onnx.FunctionProto.FromString(found.get_function_with_opset_version(version))
        if _valid(function.node, opset):
            return function_to_graph(function, node, opset)
    made = proto.node_to_proto(node, found).SerializeToString()
    types = [b"" if v is None else proto.type_to_proto(v.type).SerializeToString() for v in node.inputs]
    for version in sorted(found.context_dependent_function_opset_versions, reverse=True):
        data = found.get_context_dependent_function_with_opset_version(version, made, types)
        function = onnx.FunctionProto.FromString(data)
        if function.node and _valid(function.node, opset):
            return function_to_graph(function, node, opset)
    return None


def _valid(nodes: Iterable[Any], opset: int) -> bool:
    """Whether the nodes have only inputs and attributes that the operators of ``opset`` know."""
    for node in nodes:
        found = schema.find(node.op_type, opset)
        if found is None or not found.min_input <= len(node.input) <= found.max_input:
            return False
        if any(a.name not in found.attributes for a in node.attribute):
            return False
        if not all(_valid(a.g.node, opset) for a in node.attribute if a.HasField("g")):
            return False
    return True


def _expand(node: Node, body: Graph) -> list[Node]:
    graph, before = node.graph, node._prev
    assert graph is not None
    given = [v for v in node.inputs if v is not None]
    results = inline(body, given, graph, node)
    for old, new in zip(node.outputs, results, strict=True):
        if new.producer is not None:
            new.type = infer.merge(new.type, old.type)
    made: list[Node] = []
    last = node._prev
    while last is not None and last is not before:
        made.append(last)
        last = last._prev
    graph.replace(node, results)
    return [n for top in reversed(made) for n in (top, *(i for g in top.subgraphs() for i in g.walk()))]
