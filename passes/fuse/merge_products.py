"""The products that make queries, keys and values of one tensor become one product.

    q = Add(MatMul(x, wq), bq); k = MatMul(x, wk); v = MatMul(x, wv)
        ->   q, k, v = Split(Add(MatMul(x, [wq wk wv]), [bq 0 0]))

where attention (`attention.find`) alone reads them, by movement alone: it then reads the parts where they lie, and the
Split costs nothing. What a product does once for its left operand is done once for all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.strides import MOVES, view
from onyxc.compiler.transform import GraphPass
from onyxc.passes.fuse.attention import find


@dataclass(frozen=True)
class Source:
    """``value`` = x times ``weights`` [depth, columns] plus ``bias`` [columns].

    ``strided``: what is moved from it would still be a view if its rows lay apart.
    """

    value: Value
    x: Value
    weights: Array
    bias: Array | None
    strided: bool


@dataclass(frozen=True)
class MergeProducts(GraphPass):
    """Products of queries, keys and values as one."""

    name: ClassVar[str] = "merge-products"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """Merge in front of every attention of ``graph``."""
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            parts = find(node)
            found = [s for v in parts.inputs if (s := _source(v)) is not None and s.strided] if parts is not None else []
            first = max(found, key=lambda s: sum(o.x is s.x for o in found), default=None)
            same = [s for s in found if first is not None and s.x is first.x]
            if len(same) > 1 and len({s.value for s in same}) == len(same):
                _merge(graph, same)
                counts["products"] += len(same)
        return counts


def _source(value: Value) -> Source | None:
    """The product that ``value`` is moved from, when nothing else reads what lies between."""
    moved_to, moves, node = value, set[Node](), value.producer
    while node is not None and node.is_op(*MOVES) and len(node.outputs) == 1 and value.only_user is not None:
        moved = node.inputs[0]
        if moved is None:
            return None
        moves.add(node)
        value, node = moved, moved.producer
    if node is None or value.only_user is None:
        return None
    graph, bias = node.graph, None
    if node.is_op("Add"):
        made = [(a, b) for a, b in (node.inputs, node.inputs[::-1]) if b is not None and b.const is not None]
        if not made or made[0][0] is None or made[0][0].only_user is None:
            return None
        ((product, added),) = made
        bias = None if added is None else added.const
        node = product.producer if product is not None else None
    if node is None or not node.is_op("MatMul") or node.graph is not graph:
        return None
    x, w = node.inputs
    if x is None or w is None or w.const is None or w.const.ndim != 2 or w.facts or value.dtype != "float32":
        return None
    if bias is not None and bias.size != w.const.shape[1]:
        return None
    strided = view(moved_to, moves, pitch=2) is not None
    return Source(value, x, w.const, None if bias is None else bias.reshape(-1), strided)


def _merge(graph: Graph, sources: Sequence[Source]) -> None:
    """One product in the place of the first, split for the readers of all."""
    order = {n: i for i, n in enumerate(graph)}
    before = min((s.value.producer for s in sources if s.value.producer is not None), key=order.__getitem__)
    weights = graph.constant(np.concatenate([s.weights for s in sources], axis=1), "weights")
    value = infer.add(graph, "MatMul", [sources[0].x, weights], before).output
    if any(s.bias is not None for s in sources):
        parts = [np.zeros(s.weights.shape[1], np.float32) if s.bias is None else s.bias for s in sources]
        value = infer.add(graph, "Add", [value, graph.constant(np.concatenate(parts), "bias")], before).output
    sizes = graph.constant(np.array([s.weights.shape[1] for s in sources], np.int64), "sizes")
    split = infer.add(graph, "Split", [value, sizes], before, outputs=len(sources), axis=-1)
    for source, part in zip(sources, split.outputs, strict=True):
        node = source.value.producer
        graph.replace_uses(source.value, part)
        while node is not None and not any(o.uses for o in node.outputs):
            below = next((v.producer for v in node.inputs if v is not None and v.producer is not None), None)
            graph.erase(node)
            node = below
