"""Channel shuffles of channels-last tensors vanish in the weights behind them.

    s = shuffle(x), which is Reshape(Transpose(Reshape(x, [.., g, n]), [.., n, g]), [.., C])

    depthwise(s, w)      ->   shuffle(depthwise(x, w'))       w' is w in the order of x
    s * c                ->   shuffle(x * c')                 so do other elementwise operators, and pools
    Conv(s, w)           ->   Conv(x, w')                     w' has its input channels in the order of x
    Conv(s, w), grouped  ->   Conv(x, w) {shuffle = g}        it reads single elements, in any order

Only a shuffle that comes to its end in a convolution moves; others stay where they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.channels_last import shuffle_order
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.transform import GraphPass
from onyxc.passes.layout.twins import Twins


@dataclass(frozen=True)
class SinkShuffle(GraphPass):
    """Channel shuffles into the convolutions behind them."""

    name: ClassVar[str] = "sink-shuffle"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """Every shuffle of ``graph`` that a convolution can take in."""
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            last = _end(node) if node.graph is graph else None
            if last is not None and _sink(graph, node, last):
                counts["shuffle"] += 1
        return counts


def _end(node: Node) -> Node | None:
    """The Reshape that ends the shuffle whose Transpose is ``node``."""
    before = node.inputs[0].producer if node.is_op("Transpose") and node.inputs[0] is not None else None
    after = node.output.only_user
    if before is None or after is None or not before.is_op("Reshape") or not after.is_op("Reshape"):
        return None
    x = before.inputs[0]
    if x is None or not all(v.tensor.is_static for v in (x, before.output, after.output)):
        return None
    rank = x.tensor.rank
    swapped = node.integers("perm") == (*range(rank - 1), rank, rank - 1)
    split = before.output.tensor.rank == rank + 1 and before.output.dims[: rank - 1] == x.dims[:-1]
    return after if rank > 1 and swapped and split and after.output.dims == x.dims else None


def _sink(graph: Graph, transpose: Node, last: Node) -> bool:
    """Move the shuffle that ends with ``last`` to the convolution behind it, where there is one."""
    chain = _to_convolution(last)
    if not chain:
        return False
    split = transpose.operand()
    before = split.producer
    assert before is not None
    x, groups = before.operand(), split.dims[-2]
    back = np.argsort(shuffle_order(x.dims[-1], groups))  # where each channel of x goes
    for node in chain:
        _rewire(graph, node, last.output, x, back, groups if node is chain[-1] else 0)
    return True


def _to_convolution(last: Node) -> list[Node]:
    """The nodes that the shuffle passes, and the convolution that takes it in; none where there is no such."""
    value, chain = last.output, list[Node]()
    while (node := value.only_user) is not None and node.graph is last.graph:
        chain.append(node)
        if facts.key(node) == "onyxc.Conv":
            weight = node.inputs[1]
            floats = value.dtype == "float32" and weight is not None and weight.const is not None
            if not floats or node.inputs[0] is not value or node.attrs["planar"] or node.attrs.get("shuffle"):
                return []
            if not _is_depthwise(node):
                return chain
        elif not _passes(node, value):
            return []
        value = node.output
    return []


def _is_depthwise(conv: Node) -> bool:
    return conv.attrs["group"] == conv.operand().dims[-1] == conv.output.dims[-1]


def _passes(node: Node, value: Value) -> bool:
    """Whether the node treats all channels of ``value`` alike, or by constants along the last axis."""
    if facts.key(node) == "onyxc.Pool":
        return True
    if not facts.is_elementwise(node) or "axis" in node.attrs or node.output.type != value.type:
        return False
    others = [v for v in node.inputs if v is not None and v is not value]
    return facts.key(node) not in facts.OWN_ELEMENTWISE and all(v.const is not None for v in others)


def _rewire(graph: Graph, node: Node, old: Value, x: Value, back: Array, groups: int) -> None:
    """``node``, that read ``old`` or what came of it, with its constants in the order of ``x``."""
    twins = Twins(graph)

    def moved(value: Value, axis: int) -> Value:
        take: Callable[[Array], Array] = lambda array: np.ascontiguousarray(array.take(back, axis))  # noqa: E731
        return twins.repacked(value, take)

    inputs = [x if v is old else v for v in node.inputs]
    if facts.key(node) == "onyxc.Conv":
        assert inputs[1] is not None
        if _is_depthwise(node):
            inputs[1] = moved(inputs[1], 0)
        elif node.attrs["group"] == 1:
            inputs[1] = moved(inputs[1], 1)
        elif groups:
            node.attrs["shuffle"] = groups
    elif facts.is_elementwise(node):
        size = len(back)
        inputs = [moved(v, -1) if v is not None and v.const is not None and _is_row(v, size) else v for v in inputs]
    for index, value in enumerate(inputs):
        if value is not node.inputs[index]:
            graph.set_input(node, index, value)


def _is_row(value: Value, size: int) -> bool:
    return value.tensor.rank > 0 and value.dims[-1] == size and size > 1
