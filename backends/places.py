"""Values that lie inside others, so that nothing is copied: parts in what a Concat joins, slices in what they are cut of.

    y = Concat(a, b)                 the kernels of a and b write where y wants them
    a, b = Split(y); c = Slice(y)    their readers read them where they lie

One rule, for all of them. A value may lie inside another
  - as a contiguous piece, wherever a kernel computes it (the axes in front of the joined one have one element);
  - or with strides, if it is float32, whole runs of `RUN` elements lie together, and both the group that computes it
    and all groups that read it go by strides: convolutions, pools, arithmetic, movement (`_strides_fit`).
What cannot is copied into its place, by a Concat of its own. The last Concat of a chain decides first, so that a
tensor that grows (DenseNet) is one buffer from the start. A body's inputs and outputs get to know their strides by
`note`, for kernels to read by `strides_of`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from onyxc.compiler.ir import facts, infer
from onyxc.compiler.ir.fused import body_of
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import TensorType

RUN = 8  # elements that must lie together for strides to pay
CONTROL = frozenset(["If", "Loop", "Scan"])
STRIDED = frozenset(["onyxc.Conv", "onyxc.Pool", "onyxc.LRN"])  # anchors whose kernels go by strides
Strides = tuple[int, ...]
_FACT = "strides"


@dataclass(frozen=True)
class Place:
    """``offset`` elements from where ``host`` begins, with so many elements between neighbours along each axis."""

    host: Value
    offset: int
    strides: Strides


def dense(dims: Sequence[int]) -> Strides:
    """Element strides of a dense tensor."""
    return tuple(prod(dims[i + 1 :]) for i in range(len(dims)))


def is_dense(dims: Sequence[int], strides: Strides) -> bool:
    """Whether elements lie one behind the other."""
    return all(d == 1 or s == want for d, s, want in zip(dims, strides, dense(dims), strict=True))


def strides_of(value: Value) -> Strides:
    """Element strides of a body's input or output."""
    found: Strides | None = value.facts.get(_FACT)
    return dense(value.dims) if found is None else found


def note(value: Value, strides: Strides | None) -> None:
    """Tell a body's input or output its strides; None or dense ones are not worth a note."""
    value.facts.pop(_FACT, None)
    if strides is not None and not is_dense(value.dims, strides):
        value.facts[_FACT] = strides


def strided(body: Graph) -> tuple[Strides | None, ...]:
    """What has been noted: strides of inputs and outputs, None for dense ones."""
    return tuple(v.facts.get(_FACT) for v in (*body.inputs, *body.outputs))


def find(graph: Graph) -> dict[Value, Place]:
    """Where values lie inside others; parts that must be copied get a Concat of their own in ``graph``."""
    found: dict[Value, Place] = {}
    for node in reversed(graph.nodes):
        if node.is_op("Concat") and len(node.inputs) > 1:
            _join(graph, node, found)
    for node in graph.nodes:
        if node.is_op("Split", "Slice"):
            _cut(graph, node, found)
    return found


def _join(graph: Graph, node: Node, found: dict[Value, Place]) -> None:
    """Place the parts of a Concat."""
    joint, parts = node.output, list(node.inputs)
    if not all(_is_static(v) for v in (joint, *parts)) or len(set(parts)) < len(parts):
        return
    axis = node.integer("axis") % joint.tensor.rank
    places, at = list[Place | None](), 0
    for part in parts:
        assert part is not None
        place = _inside(joint, axis, at, found)
        fits = part not in found and _is_computed(part, graph) and _may_lie(part, place, graph, part.producer)
        places.append(place if fits else None)
        at += part.dims[axis]
    if not any(places):
        return
    at = 0
    for index, (part, fitting) in enumerate(zip(parts, places, strict=True)):
        assert part is not None
        if fitting is None:
            part = infer.add(graph, "Concat", [part], node, axis=axis).output
            graph.set_input(node, index, part)
        found[part] = _inside(joint, axis, at, found)
        at += part.dims[axis]


def _cut(graph: Graph, node: Node, found: dict[Value, Place]) -> None:
    """Place what a Split or a Slice gives in what it is cut of."""
    source, starts = node.inputs[0], _starts(node)
    if starts is None or source is None or not all(_is_static(v) for v in (source, *node.outputs)):
        return
    places = [_inside(source, axis, start, found) for axis, start in starts]
    pairs = list(zip(node.outputs, places, strict=True))
    if all(v not in found and _may_lie(v, p, graph, None) for v, p in pairs if v.uses):
        found.update(pairs)


def _starts(node: Node) -> list[tuple[int, int]] | None:
    """For each output the axis along which it is cut and the first element there."""
    source = node.inputs[0]
    if source is None or not _is_static(source):
        return None
    if node.op == "Split":
        axis = node.integer("axis") % source.tensor.rank
        sizes = [v.dims[axis] if _is_static(v) else 0 for v in node.outputs]
        return [(axis, sum(sizes[:i])) for i in range(len(sizes))]
    starts, axes, steps = node.const(1), node.const(3), node.const(4)
    if starts is None or starts.size != 1 or (steps is not None and steps.item() != 1):
        return None
    if axes is None and node.input(3) is not None:
        return None
    axis = (0 if axes is None else int(axes.item())) % source.tensor.rank
    first, _, _ = slice(int(starts.item()), None).indices(source.dims[axis])
    return [(axis, first)]


def _is_static(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.is_static and 0 not in value.dims


def _inside(host: Value, axis: int, start: int, found: dict[Value, Place]) -> Place:
    strides = found[host].strides if host in found else dense(host.dims)
    return Place(host, start * strides[axis], strides)


def _is_computed(value: Value, graph: Graph) -> bool:
    """Whether a kernel of ``graph`` writes the value (and no branch, no turn of a loop does)."""
    node = value.producer
    return node is not None and node.graph is graph and not node.is_op(*CONTROL, *facts.VIEWS)


def _may_lie(value: Value, place: Place, graph: Graph, producer: Node | None) -> bool:
    """Whether ``producer`` (None: nobody) and all readers can take the value where it would lie."""
    if is_dense(value.dims, place.strides):
        return True
    if value.dtype != "float32" or place.strides[-1] != 1 or _run(value.dims, place.strides) < RUN:
        return False
    users = [user for user, _ in value.uses]
    inside = all(isinstance(u, Node) and u.graph is graph for u in users)
    return inside and all(_strides_fit(n) for n in (*users, producer) if isinstance(n, Node))


def _run(dims: Sequence[int], strides: Strides) -> int:
    """Elements that lie together."""
    run = 1
    for d, s in zip(reversed(dims), reversed(strides), strict=True):
        if s != run and d != 1:
            break
        run *= d
    return run


def _strides_fit(node: Node) -> bool:
    """Whether the kernels of a node go by strides."""
    return len(node.outputs) == 1 and all(map(_goes_by_strides, _computed(node)))


def _computed(node: Node) -> Iterator[Node]:
    yield from body_of(node) if node.op == "Fused" else (node,)


def _goes_by_strides(node: Node) -> bool:
    return (
        facts.is_elementwise(node)
        or facts.key(node) in STRIDED
        or node.is_op(*(facts.MOVEMENT - facts.VIEWS))
    )  # fmt: skip
