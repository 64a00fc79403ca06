"""Operator fusion: an anchor with the elementwise operators around it, elementwise chains, and movement.

    %0 = Conv(x, w); %1 = Add(%0, b); %2 = Relu(%1)      ->   %0 = onyxc.Fused(x, w, b) {body: Conv, Add, Relu}
    %0 = Sub(x, m); %1 = Mul(%0, %0); ReduceMean(%1)     ->   one group: a reduction reads every element once
    %0 = Transpose(x); %1 = Add(%0, y); Slice(%1)        ->   one group: so does movement

A group grows forward from its start over elementwise readers of the same shape, and is cut at the longest prefix from
which one value alone escapes. Then it takes in what only it reads: elementwise producers of its operands, movement in
front of plain arithmetic. So nothing is computed twice, and no cycle can arise: what escapes is computed last, hence no
argument of the group depends on the group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.fused import body_of, fuse
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.transform import GraphPass

TEMPLATES = facts.CONVOLUTIONS | facts.PRODUCTS | facts.POOLS  # their kernels are written for an epilogue behind them
OPERANDS = frozenset({"float32", "int32", "int8", "uint8"})  # what such an epilogue can read and give
DEAR_LIMIT = 2
BEFORE = frozenset(["Transpose", "Slice", "Concat", "Pad", "Expand", "Tile", "Gather", "DepthToSpace", "SpaceToDepth"])
BEHIND = frozenset(["Transpose", "Slice", "Concat", "Pad", "DepthToSpace", "SpaceToDepth"])  # no element twice


@dataclass(frozen=True)
class FuseGroups(GraphPass):
    """``limit``: at most so many operators in a group."""

    name: ClassVar[str] = "fuse-groups"
    limit: int = 24

    def rewrite(self, graph: Graph) -> Counter[str]:
        """Anchors first, so that every epilogue finds its anchor; then chains of arithmetic; then movement alone."""
        counts: Counter[str] = Counter()
        place = {node: index for index, node in enumerate(graph)}
        for is_start in (_is_anchor, facts.is_elementwise, _is_movement):
            for node in graph.nodes:
                if node.graph is graph and is_start(node):
                    group = _group(node, self.limit, place)
                    if len(group) > 1:
                        counts[facts.key(node)] += 1
                        fuse(graph, group)
        return counts


def _is_anchor(node: Node) -> bool:
    return facts.key(node) in facts.ANCHORS and len(node.outputs) == 1


def _is_movement(node: Node) -> bool:
    return node.is_op(*BEFORE) and len(node.outputs) == 1 and not _joins_images(node)


def _joins_images(node: Node) -> bool:
    """Whether a Concat joins what channels-last kernels compute: these write into the joint tensor at once."""
    return node.is_op("Concat") and any(_is_image(v.producer) for v in node.inputs if v is not None)


def _is_image(node: Node | None) -> bool:
    """Whether a node, or a group's first one, is a convolution or pool of channels-last images, or joins such."""
    if node is None:
        return False
    nodes = body_of(node).nodes if node.op == "Fused" else [node]
    return any(facts.key(n) in ("onyxc.Conv", "onyxc.Pool") or _joins_images(n) for n in nodes)


def _group(start: Node, limit: int, place: dict[Node, int]) -> list[Node]:
    """The whole group around ``start``, in an order in which it can be computed; the last node's output escapes."""
    group = _grow(start, limit)
    key = facts.key(start)
    if key in TEMPLATES:
        found = _taken_in(group, limit, place)
        return [*_in_front(start), *_around([start, *(n for n in found if n is not start)])]
    group = _taken_in(group, limit, place)
    while key not in facts.ANCHORS and (move := _movement_behind(group)) is not None and len(group) < limit:
        group += _grow(move, limit - len(group))
        group = _taken_in(group, limit, place)
    return group


def _in_front(conv: Node) -> list[Node]:
    """Arithmetic of each channel in front of a pointwise convolution, whose kernel does it strip by strip.

    It is there when nothing before could take it as an epilogue: BatchNormalization and Relu of a joint tensor.
    """
    chain: list[Node] = []
    value = conv.inputs[0]
    while value is not None and _is_pointwise(conv) and value.only_user is (chain[0] if chain else conv):
        node, x = value.producer, _image_read(value.producer, conv)
        if node is None or x is None:
            break
        chain.insert(0, node)
        value = x
    return chain


def _is_pointwise(conv: Node) -> bool:
    """Whether a channels-last convolution reads one pixel for each, and all channels."""
    if facts.key(conv) != "onyxc.Conv" or conv.output.dtype != "float32" or not conv.output.tensor.is_static:
        return False
    if conv.operand(1).const is None:
        return False
    plain = conv.attrs["group"] == 1 and not conv.attrs["planar"] and not any(conv.integers("pads"))
    return plain and conv.integers("kernel_shape") == conv.integers("strides") == (1, 1)


def _image_read(node: Node | None, conv: Node) -> Value | None:
    """What an elementwise operator reads beside numbers and values of channels, None if that is not one image."""
    if node is None or not facts.is_elementwise(node) or node.is_op(*facts.DEAR) or node.graph is not conv.graph:
        return None
    images = [v for v in node.inputs if v is not None and v.const is None]
    rows = [v for v in node.inputs if v is not None and v.const is not None]
    x = conv.operand()
    fit = all(v.tensor.elements in (1, v.dims[-1] if v.dims and v.dims[-1] == x.dims[-1] else 1) for v in rows)
    same = len(images) == 1 and images[0].type == node.output.type == x.type
    return images[0] if fit and same and all(v.dtype == "float32" for v in rows) else None


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
        if direct and clean and _joins(node, start) and len(group) < limit and _affordable([*group, node]):
            group.append(node)
            inside.add(node)
            if _escaping(group, inside) == [node.output]:
                best = list(group)
        else:
            dependent.add(node)
            if not any(_open(n, inside, dependent) for n in group):
                break
    return best


def _affordable(group: list[Node]) -> bool:
    """Whether the epilogue of a template stays small; generic groups compute each operator once and need no limit."""
    return facts.key(group[0]) not in TEMPLATES or sum(n.is_op(*facts.DEAR) for n in group) <= DEAR_LIMIT


def _following(node: Node) -> Iterator[Node]:
    order = node.owner.order
    following = order.after(node)
    while following is not None:
        yield following
        following = order.after(following)


def _reads(node: Node) -> list[Value]:
    """Inputs of a node, and what its inner graphs read from outside."""
    reads = [v for v in node.inputs if v is not None]
    for inner in node.subgraphs():
        reads += inner.captured()
    return reads


def _joins(node: Node, start: Node) -> bool:
    if not facts.is_elementwise(node) or node.output.tensor.shape != start.output.tensor.shape:
        return False
    return facts.key(start) not in TEMPLATES or _is_epilogue(node)


def _is_epilogue(node: Node) -> bool:
    """Whether all that the node reads and gives is of types that epilogues know; single numbers are immediates."""
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    return all(v.dtype in OPERANDS or (v.const is not None and v.const.size == 1) for v in values)


def _escaping(group: list[Node], inside: set[Node]) -> list[Value]:
    return [v for n in group for v in n.outputs if any(u not in inside for u, _ in v.uses)]


def _open(node: Node, inside: set[Node], dependent: set[Node]) -> bool:
    """Whether some reader of ``node`` has not been looked at yet."""
    return any(isinstance(u, Node) and u not in inside and u not in dependent for v in node.outputs for u, _ in v.uses)


# ---- what only the group reads


def _taken_in(group: list[Node], limit: int, place: dict[Node, int]) -> list[Node]:
    """The group with the producers that nothing else reads, in the order of the graph."""
    inside, key = dict.fromkeys(group), facts.key(group[0])
    work = list(group)
    while work:
        node = work.pop()
        if not (facts.is_elementwise(node) or facts.key(node) in facts.REDUCTIONS):
            continue
        for value in node.inputs if facts.is_elementwise(node) else node.inputs[:1]:
            made = None if value is None else value.producer
            if made is None or made in inside or made not in place or len(inside) >= limit:
                continue
            if made.graph is group[0].graph and _only_read_by(made, inside) and _fits(made, key):
                inside[made] = None
                work.append(made)
    return sorted(inside, key=place.__getitem__) if len(inside) > len(group) else group


def _only_read_by(node: Node, inside: dict[Node, None]) -> bool:
    """Whether all readers are in the group, and read every element once: arithmetic at one place, or reductions."""
    shape = node.output.tensor.shape
    for user, index in node.output.uses:
        if not isinstance(user, Node) or user not in inside:
            return False
        once = index == 0 and facts.key(user) in facts.REDUCTIONS
        if not once and not (facts.is_elementwise(user) and user.output.tensor.shape == shape):
            return False
    return len(node.outputs) == 1


def _fits(made: Node, start: str) -> bool:
    """Whether ``made`` may be computed inside a group that begins with operator ``start``."""
    if not made.output.tensor.is_static:
        return False
    if facts.is_elementwise(made):
        return not _waits(made) and (start not in TEMPLATES or _is_epilogue(made))
    return start not in facts.ANCHORS and _is_movement(made)


def _waits(node: Node) -> bool:
    """Whether an anchor, whose group is still to come, can take the node as its epilogue."""
    sources = [v.producer for v in node.inputs if v is not None and v.producer is not None]
    return any(_is_anchor(p) and p.output.tensor.shape == node.output.tensor.shape for p in sources)


def _movement_behind(group: list[Node]) -> Node | None:
    """The one reader of the group's result, when it only moves elements and reads none twice."""
    last = group[-1].output
    node = last.only_user
    if node is None or not node.is_op(*BEHIND) or _joins_images(node):
        return None
    if node.graph is not group[0].graph or not node.output.tensor.is_static:
        return None
    if node.is_op("Pad") and node.attrs.get("mode", "constant") != "constant":
        return None
    return node if node.op == "Concat" or node.inputs[0] is last else None
