"""Heads that share keys and values read them where they are: grouped queries.

    k' = Reshape(Expand(k[B, G, 1, keys, D])); v' likewise      Softmax(f(MatMul(q[B, H, rows, D], k'^T))) v'
      ->   Softmax(f(MatMul(q[B, G, H/G, rows, D], k^T))) v     then Reshape

Kernels of products and of attention repeat an operand by a stride of 0. With one new row and a long cache the copies took
more time than attention itself. Refused: anything but movement between Expand and the products.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.strides import MOVES, view
from onyxc.compiler.transform import GraphPass
from onyxc.passes.fuse.attention import Parts, around


@dataclass(frozen=True)
class GroupQueries(GraphPass):
    """Attention of heads that share keys and values without copies of these."""

    name: ClassVar[str] = "group-queries"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """Rewrite around every Softmax of ``graph``."""
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            parts = around(node)
            if parts is not None and _rewrite(graph, parts):
                counts["attention"] += 1
        return counts


def _rewrite(graph: Graph, parts: Parts) -> bool:
    q, k, v = parts.inputs
    if {value.tensor.rank for value in parts.inputs} != {4}:
        return False
    keys, values = _shared(k, turned=True), _shared(v, turned=False)
    if keys is None or values is None or keys.dims[:2] != values.dims[:2]:
        return False
    batch, heads = q.dims[:2]
    split = (keys.dims[1], heads // keys.dims[1])

    def add(op: str, *inputs: Value | None, domain: str = "", **attrs: Any) -> Value:
        return infer.add(graph, op, inputs, parts.second, domain=domain, **attrs).output

    def spread(value: Value | None) -> Value | None:
        """An operand of the scores with its heads in two axes."""
        if value is None or value.tensor.rank <= 2:
            return value
        first, *rest = (1,) * (4 - value.tensor.rank) + value.dims
        return reshaped(value, (first, *(split if rest[0] == heads else (1, 1)), *rest[1:]))

    def reshaped(value: Value, dims: tuple[int, ...]) -> Value:
        if value.const is not None:
            return graph.constant(value.const.reshape(dims), value.name, value.dtype)
        return add("Reshape", value, graph.constant(np.array(dims, np.int64), "shape"))

    queries = reshaped(q, (batch, *split, *q.dims[2:]))
    made = {parts.first.output: add("MatMul", queries, add("Transpose", keys, perm=(0, 1, 2, 4, 3)))}
    for node in (*parts.scores, parts.softmax, *parts.guard):
        attrs: dict[str, Any] = {**node.attrs, **({"axis": -1} if node is parts.softmax else {})}
        inputs = [made[i] if i in made else spread(i) for i in node.inputs]
        made[node.output] = add(node.op, *inputs, domain=node.domain, **attrs)
    result = add("MatMul", made[parts.second.operand(0)], values)
    graph.replace(parts.second, [reshaped(result, parts.second.output.dims)])
    return True


def _shared(value: Value, *, turned: bool) -> Value | None:
    """k [B, G, 1, keys, D] of which ``value`` is a copy for each of its heads, transposed if ``turned``; None otherwise."""
    chain: list[Node] = []
    node = value.producer
    while node is not None and node.is_op(*MOVES):
        chain.append(node)
        node = node.operand().producer
    found = None if node is None or not node.is_op("Expand") else view(value, chain)
    if node is None or found is None or found.start or not node.operand().tensor.is_static:
        return None
    source, dims = node.operand(), node.output.dims
    if len(dims) != 5 or source.dims != (*dims[:2], 1, *dims[3:]) or dims[2] == 1:
        return None
    keys, depth = dims[3:]
    inner = (1, depth) if turned else (depth, 1)
    wanted = (dims[1] * dims[2] * keys * depth, keys * depth, *inner)
    size = (dims[0], dims[1] * dims[2], *((depth, keys) if turned else (keys, depth)))
    fits = all(d == 1 or f == w for d, f, w in zip(size, found.strides, wanted, strict=True))
    return source if fits and value.dims == size else None
