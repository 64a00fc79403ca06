"""Groups of convolutions and pools that read one another become one group, which can be computed row by row.

    %1 = Fused(x) {1x1}; %2 = Fused(%1) {depthwise}; %3 = Fused(%2) {1x1}   ->   %3 = Fused(x) {1x1, depthwise, 1x1}

so that the large images between them (MobileNet's expansion by six) need not go through memory. All are pointwise or
depthwise, or pools; the first may also be a convolution of few channels, as networks begin. Each reads the one before
and nothing else does. Whether a group is really computed by rows is the backend's choice.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.copying import inline
from onyxc.compiler.ir.fused import body_of, fuse
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import itemsize
from onyxc.compiler.transform import GraphPass

CONV, POOL = "onyxc.Conv", "onyxc.Pool"
FEW_CHANNELS = 4
LARGEST_WINDOW = 7


@dataclass(frozen=True)
class FuseChains(GraphPass):
    """Comes after fuse-groups. ``least``: bytes of an image between two groups, below which they stay apart."""

    name: ClassVar[str] = "fuse-chains"
    least: int = 1 << 18

    def rewrite(self, graph: Graph) -> Counter[str]:
        """The longest chains, from the first convolution on."""
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            if node.graph is not graph:
                continue  # in a chain by now
            chain = [node]
            while (following := self._following(chain[-1], len(chain) == 1)) is not None:
                chain.append(following)
            if len(chain) > 1:
                counts[CONV] += len(chain)
                fuse(graph, [inner for link in chain for inner in _unfused(graph, link)])
        return counts

    def _following(self, node: Node, is_first: bool) -> Node | None:
        """The group that alone reads the result of ``node``, where both can be links."""
        conv = anchor(node)
        if conv is None or not (is_row_by_row(conv) or (is_first and _is_narrow(conv))):
            return None
        result, user = node.output, node.output.only_user
        following = None if user is None or user.graph is not node.graph else anchor(user)
        if user is None or following is None or not is_row_by_row(following):
            return None
        if result.tensor.elements * itemsize(result.dtype) < self.least or _outside(user, following, 0) is not result:
            return None
        return user


def anchor(node: Node) -> Node | None:
    """The float convolution or pool that a group begins with, or the node is; no second one follows."""
    inner = body_of(node).nodes if facts.key(node) == "onyxc.Fused" else [node]
    first, *rest = inner
    if facts.key(first) not in (CONV, POOL) or not all(facts.is_elementwise(n) for n in rest) or len(node.outputs) != 1:
        return None
    weights = _outside(node, first, 1) if facts.key(first) == CONV else None
    if facts.key(first) == CONV and (weights is None or weights.const is None):
        return None
    values = [v for n in inner for v in (*n.inputs[:2], *n.outputs) if v is not None and v.const is None]
    fit = all(v.dtype == "float32" and v.tensor.is_static for v in values)
    return first if fit and not first.attrs.get("shuffle") else None


def is_row_by_row(conv: Node) -> bool:
    """Whether a row of the result needs few rows and few operations for each element: 1x1, depthwise, a pool."""
    if facts.key(conv) == POOL:
        return max(conv.integers("kernel_shape")) <= LARGEST_WINDOW
    x, w = conv.operand(0), conv.operand(1)
    if conv.attrs.get("planar"):
        return False
    channels, (outputs, inputs, *kernel) = x.dims[-1], w.dims
    if conv.attrs["group"] == channels == outputs:
        return True
    plain = conv.integers("strides") == (1, 1) and not any(conv.integers("pads"))
    return inputs == channels and kernel == [1, 1] and plain


def _is_narrow(conv: Node) -> bool:
    if facts.key(conv) == POOL:
        return False
    return conv.operand(1).dims[1] <= FEW_CHANNELS and conv.attrs["group"] == 1


def _outside(group: Node, conv: Node, index: int) -> Value | None:
    """What the convolution of a group reads at ``index``, seen from outside."""
    value = conv.inputs[index]
    if conv is group or value is None:
        return value
    inputs = body_of(group).inputs
    return group.inputs[inputs.index(value)] if value in inputs else value


def _unfused(graph: Graph, group: Node) -> list[Node]:
    """The nodes of a group, in the graph in its place."""
    if facts.key(group) != "onyxc.Fused":
        return [group]
    known = set(graph.nodes)
    made = inline(body_of(group), [v for v in group.inputs if v is not None], graph, group)
    nodes = [n for n in graph.nodes if n not in known]
    for old, new in zip(group.outputs, made, strict=True):
        new.facts.update(old.facts)
        graph.replace_uses(old, new)
    graph.erase(group)
    return nodes
