"""Channels-last rules for operators that change shapes: they mostly relabel the axes of the stored form.

    Reshape [N, C, H, W] -> [N, g, C/g, H, W]   of   [N, H, W, C]:   a view, [N, H, W, g, C/g]
    Transpose                                                        nothing: other axes have other names
    Reshape [N, C/g, g, H, W] -> [N, C, H, W]   of   [N, H, W, g, C/g]:  one Transpose of each pixel's channels

so that a channel shuffle costs one Transpose, and a pixel shuffle (DepthToSpace, taken apart into the same three)
one as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.channels_last import TO_FIRST
from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.passes.layout.twins import Order, Twin, Twins, is_plain, is_static, plain, stored_dims

CONVOLUTIONS = ("Conv", "ConvInteger", "ConvTranspose")


def transpose(node: Node, twins: Twins) -> bool:
    """The axes get other names; a Transpose from channels-last, or from tokens to an image, starts a twin."""
    x = node.operand()
    if not node.output.tensor.is_static:
        return False
    perm = node.integers("perm", tuple(range(node.output.tensor.rank))[::-1])
    known = twins.primary.get(x)
    if known is not None:
        return _settle(node, twins, renamed(known, perm))
    lifted = perm == (0, 2, 1) and any(u.is_op(*CONVOLUTIONS) for u in node.output.users)
    if perm == TO_FIRST or lifted or (perm[-1] != len(perm) - 1 and any(map(_makes_image, node.output.users))):
        twins.primary[node.output] = renamed(Twin(x, plain(len(perm))), perm)
    return False


def _makes_image(node: Node) -> bool:
    """Whether the last axis becomes the rows and columns of an image: [N, C, H * W] -> [N, C, H, W]."""
    if not node.is_op("Reshape") or not node.output.tensor.is_static or node.output.tensor.rank != 4:
        return False
    h, w = node.output.dims[2:]
    return h > 1 and w > 1 and node.operand().dims[-1] == h * w


def reshape(node: Node, twins: Twins) -> bool:
    """Groups of axes that become other axes: a view where each lies together, else one Transpose makes it so."""
    known, x = twins.find(node), node.inputs[0]
    if known is None or x is None or 0 in node.output.dims or 0 in x.dims:
        return False
    return _settle(node, twins, regrouped(known, x.dims, node.output.dims, twins, node))


def _settle(node: Node, twins: Twins, made: Twin) -> bool:
    """``made`` is the twin of the node's output, or replaces it where nothing is out of order."""
    if is_plain(made.order):
        twins.graph.replace(node, [twins.reshaped(made.stored, node.output.dims, node)])
        return True
    twins.primary[node.output] = made
    return False


def depth_to_space(node: Node, twins: Twins) -> bool:
    """Reshape, Transpose, Reshape, which make one Transpose of the stored form; so does SpaceToDepth."""
    known, block, x = twins.find(node), node.integer("blocksize"), node.inputs[0]
    if known is None or x is None or 0 in x.dims:
        return False
    n, c, h, w = x.dims
    crd = node.attrs.get("mode") == "CRD"
    if node.op == "SpaceToDepth":
        shape = (n, c, h // block, block, w // block, block)
        perm = (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4)
    elif crd:
        shape, perm = (n, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3)
    else:
        shape, perm = (n, block, block, c // block**2, h, w), (0, 3, 4, 1, 5, 2)
    apart = renamed(regrouped(known, x.dims, shape, twins, node), perm)
    made = regrouped(apart, tuple(shape[p] for p in perm), node.output.dims, twins, node)
    twins.replace(node, [made.stored], made.order)
    return True


def renamed(twin: Twin, perm: tuple[int, ...]) -> Twin:
    """The twin of the value transposed by ``perm``."""
    return Twin(twin.stored, tuple(None if a is None else perm.index(a) for a in twin.order))


def regrouped(twin: Twin, old: tuple[int, ...], new: tuple[int, ...], twins: Twins, before: Node) -> Twin:
    """The twin of a value of shape ``old`` reshaped to ``new``."""
    groups = list(factor(old, new))
    order, stored = together(twin.order, old, groups), twin.stored
    if order != twin.order:
        stored = twins.move(twin, old, order, before)
    order = split(order, old, new, groups)
    return Twin(twins.reshaped(stored, stored_dims(new, order), before), order)


Group = tuple[list[int], list[int]]  # axes before, axes after: products of their extents agree


def factor(old: tuple[int, ...], new: tuple[int, ...]) -> Iterator[Group]:
    """The least groups of consecutive axes that a Reshape maps to each other; axes of one element are left out."""
    sides = [[a for a, d in enumerate(dims) if d != 1] for dims in (old, new)]
    while sides[0] or sides[1]:
        before, after = [sides[0].pop(0)], [sides[1].pop(0)]
        while (left := prod(old[a] for a in before)) != (right := prod(new[a] for a in after)):
            if left < right:
                before.append(sides[0].pop(0))
            else:
                after.append(sides[1].pop(0))
        yield before, after


def together(order: Order, dims: tuple[int, ...], groups: list[Group]) -> Order:
    """``order`` with the axes of every group together, at the place of the longest (of several, the first).

    The others are parts of its rows or channels, wherever they lie: rows [H, b], taps of channels [C, k].
    """
    group_of = {max(before, key=lambda a: (dims[a], -a)): before for before, _ in groups}
    used = [a for a in order if a is not None and dims[a] != 1]
    wanted = [a for longest in used for a in group_of.get(longest, ())]
    rest = (a for a in order if a is not None and dims[a] == 1)
    return order if wanted == used else (*rest, *wanted)


def split(order: Order, old: tuple[int, ...], new: tuple[int, ...], groups: list[Group]) -> Order:
    """The order after the Reshape; stored axes of one element become places for new axes of one element."""
    after_of = {before[0]: after for before, after in groups}
    made: list[int | None] = []
    for axis in order:
        made += [None] if axis is None or old[axis] == 1 else after_of.get(axis, [])
    for axis in (a for a, d in enumerate(new) if d == 1):
        if None in made:
            made[made.index(None)] = axis
        else:
            made.insert(0, axis)
    return tuple(made)


def product(node: Node, twins: Twins) -> bool:
    """MatMul(Reshape(Transpose(x), [N, K]), w) reads x as it is: the rows of w move instead."""
    flat, weight = node.inputs[:2]
    reshaped = flat.producer if flat is not None else None
    if weight is None or weight.const is None or weight.const.ndim != 2 or reshaped is None:
        return False
    moved = reshaped.inputs[0].producer if reshaped.is_op("Reshape") and reshaped.inputs[0] is not None else None
    if moved is None or not moved.is_op("Transpose") or moved.inputs[0] is None or not is_static(moved.output):
        return False
    x, perm = moved.inputs[0], moved.integers("perm")
    if not perm or perm[0] != 0 or reshaped.output.dims != (x.dims[0], weight.dims[0]):
        return False

    def pack(rows: Array) -> Array:
        apart = rows.reshape(*moved.output.dims[1:], -1)
        back = [perm.index(a) - 1 for a in range(1, len(perm))]
        return np.ascontiguousarray(apart.transpose(*back, len(perm) - 1).reshape(rows.shape))

    source = twins.reshaped(x, reshaped.output.dims, node)
    made = infer.add(
        twins.graph, node.op, [source, twins.repacked(weight, pack), *node.inputs[2:]], node, name=node.name
    )  # fmt: skip
    twins.graph.replace(node, [made.output])
    return True


def gather(node: Node, twins: Twins) -> bool:
    """The axis is replaced by those of the indices, where it lies."""
    known, indices = twins.find(node), node.inputs[1]
    if known is None or indices is None or not indices.tensor.is_static:
        return False
    rank, added = node.operand().tensor.rank, indices.tensor.rank
    axis = node.integer("axis") % rank
    order: list[int | None] = []
    for a in known.order:
        if a == axis:
            order += range(axis, axis + added)
        else:
            order.append(a if a is None or a < axis else a + added - 1)
    made = infer.add(
        twins.graph, "Gather", [known.stored, indices], node, name=node.name, axis=known.order.index(axis)
    )  # fmt: skip
    twins.replace(node, [made.output], tuple(order))
    return True


def slice_(node: Node, twins: Twins) -> bool:
    """Ranges of stored axes."""
    known, starts, axes = twins.find(node), node.const(1), node.const(3)
    if known is None or (node.input(3) is not None and axes is None) or (axes is None and starts is None):
        return False
    numbers = axes if axes is not None else np.arange(node.operand(1).array.size)
    moved = twins.constant([known.axis(int(a)) for a in np.atleast_1d(numbers)], "axes")
    inputs: list[Value | None] = [known.stored, *node.inputs[1:3], moved, *node.inputs[4:]]
    twins.standard(node, inputs, known.order)
    return True
