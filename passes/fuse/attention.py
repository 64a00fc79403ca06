"""Attention as one group: both products, what happens to the scores between them, the softmax.

    s = MatMul(q, k'); s = Add(Mul(s, c), mask); p = Softmax(s); y = MatMul(p, v)   ->   one onyxc.Fused

also where rows from which everything is hidden become zero, p = Where(IsNaN(p), 0, p), as PyTorch's exporter writes it;
with the movement in front (Transpose, Split, Slice and the Reshapes between them) that only the group reads, and the
Transpose behind. So a kernel can compute it a block of rows at a time, reading and writing by strides, and the matrix
of scores never exists as a whole. Refused: few rows or keys, other types than float32, scores that something else reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.fused import fuse
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.strides import MOVES, view
from onyxc.compiler.transform import GraphPass
from onyxc.passes.fuse.forms import number

LEAST_ROWS, LEAST_KEYS = 8, 8


@dataclass(frozen=True)
class Parts:
    """The nodes of attention.

    ``scores``: the elementwise ones between ``first`` and ``softmax``, in order; ``guard``: those between ``softmax``
    and ``second``, which make zeros of what is not a number.
    """

    first: Node
    scores: tuple[Node, ...]
    softmax: Node
    guard: tuple[Node, ...]
    second: Node

    @property
    def inputs(self) -> tuple[Value, Value, Value]:
        """q [*batch, row, depth], k [*batch, depth, key], v [*batch, key, column]."""
        return self.first.operand(0), self.first.operand(1), self.second.operand(1)


@dataclass(frozen=True)
class FuseAttention(GraphPass):
    """Attention as one group."""

    name: ClassVar[str] = "fuse-attention"

    def rewrite(self, graph: Graph) -> Counter[str]:
        """Fuse around every Softmax of ``graph``."""
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            parts = find(node)
            if parts is not None:
                place = {n: index for index, n in enumerate(graph)}
                fuse(graph, sorted(_with_movement(parts), key=place.__getitem__))
                counts["attention"] += 1
        return counts


def find(softmax: Node) -> Parts | None:
    """The attention around a Softmax, where there are rows and keys enough for a kernel of its own."""
    parts = around(softmax)
    rows, keys = (0, 0) if parts is None else softmax.operand().dims[-2:]
    return parts if rows >= LEAST_ROWS and keys >= LEAST_KEYS else None


def around(softmax: Node) -> Parts | None:
    """The attention around a Softmax."""
    if not softmax.is_op("Softmax") or softmax.inputs[0] is None:
        return None
    x, guard = softmax.inputs[0], _guard(softmax)
    weights = guard[-1].output if guard else softmax.output
    shape, second = x.tensor.shape, weights.only_user
    if shape is None or second is None or not second.is_op("MatMul") or second.inputs[0] is not weights:
        return None
    if not x.tensor.is_static or len(shape) < 2 or softmax.integer("axis", -1) % len(shape) != len(shape) - 1:
        return None
    nodes: list[Node] = []
    node = _behind(x, softmax)
    while node is not None and not node.is_op("MatMul"):
        nodes.insert(0, node)
        node = next((m for v in node.inputs if (m := _behind(v, node)) is not None), None)
    if node is None or second.inputs[1] is weights or second.graph is not softmax.graph:
        return None
    parts = Parts(node, tuple(nodes), softmax, guard, second)
    values = [*parts.inputs, node.output, second.output]
    if any(v.dtype != "float32" or not v.tensor.is_static or v.tensor.rank < 2 for v in values):
        return None
    return parts


def _guard(softmax: Node) -> tuple[Node, ...]:
    """The nodes of Where(IsNaN(p), 0, p), where nothing else reads p."""
    weights = softmax.output
    users = [user for user, _ in weights.uses if isinstance(user, Node)]
    tests = [user for user in users if user.is_op("IsNaN")]
    where = tests[0].output.only_user if len(tests) == 1 else None
    if where is None or len(weights.uses) != 2 or where not in users or not where.is_op("Where"):
        return ()
    fits = where.inputs[2] is weights and number(where.inputs[1]) == 0
    return (tests[0], where) if fits and where.graph is softmax.graph else ()


def _behind(value: Value | None, user: Node) -> Node | None:
    """The product or elementwise node that makes scores, which nothing but ``user`` reads."""
    node = None if value is None else value.producer
    if node is None or value is None or value.only_user is not user or node.graph is not user.graph:
        return None
    if value.dtype != "float32" or value.tensor.shape != user.output.tensor.shape:
        return None
    return node if node.is_op("MatMul") or (facts.is_elementwise(node) and _is_readable(node)) else None


def _is_readable(node: Node) -> bool:
    """Whether kernels can read the node's operands beside the scores; single numbers are immediates."""
    values = [v for v in node.inputs if v is not None]
    return all(
        v.dtype in ("float32", "int32", "int8", "uint8") or (v.const is not None and v.const.size == 1) for v in values
    )


def _with_movement(parts: Parts) -> list[Node]:
    """The nodes of the group: what moves q, k and v and nothing else reads, as far as strides tell where they lie."""
    group = {parts.first, *parts.scores, parts.softmax, *parts.guard, parts.second}
    chains = [_chain(value) for value in parts.inputs]
    while True:  # what one chain gives up, others may not keep
        inside = group.union(*chains)
        kept = [_kept(v, chain, inside) for v, chain in zip(parts.inputs, chains, strict=True)]
        if kept == chains:
            break
        chains = kept
    after = parts.second.output.only_user
    if after is not None and after.is_op("Transpose") and after.graph is parts.second.graph:
        perm = after.integers("perm")
        inside |= {after} if perm[-1:] == (len(perm) - 1,) else set()
    return list(inside)


def _chain(value: Value) -> list[Node]:
    """The nodes that move ``value``, the last one first."""
    chain: list[Node] = []
    node = value.producer
    while node is not None and node.is_op(*MOVES) and (not chain or node.graph is chain[0].graph):
        chain.append(node)
        node = node.inputs[0].producer if node.inputs[0] is not None else None
    return chain


def _kept(value: Value, chain: list[Node], group: Container[Node | Graph]) -> list[Node]:
    """The longest start of ``chain`` that only the group reads and that leaves vectors whole, without views at its end."""
    best: list[Node] = []
    for length in range(1, len(chain) + 1):
        part = chain[:length]
        if any(user not in group for output in part[-1].outputs for user, _ in output.uses):
            break
        found = view(value, part)
        if found is not None and 1 in found.strides[-2:] and not part[-1].is_op(*facts.VIEWS):
            best = part
    return best
