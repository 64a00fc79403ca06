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
from onyxc.compiler.ir.graph import Node, Value
from onyxc.passes.layout.twins import Order, Twin, Twins, is_plain, plain, stored_dims

CONVOLUTIONS = ("Conv", "ConvInteger", "ConvTranspose")


def transpose(node: Node, twins: Twins) -> bool:
    """The axes get other names; a Transpose from channels-last starts a twin."""
    x = node.inputs[0]
    assert x is not None
    if not node.output.tensor.is_static:
        return False
    perm = node.integers("perm", tuple(range(node.output.tensor.rank))[::-1])
    known = twins.primary.get(x)
    if known is None:
        lifted = perm == (0, 2, 1) and any(u.is_op(*CONVOLUTIONS) for u in node.output.users)
        if perm == TO_FIRST or lifted:
            twins.primary[node.output] = Twin(x, _renamed(plain(len(perm)), perm))
        return False
    order = _renamed(known.order, perm)
    if is_plain(order):
        twins.graph.replace(node, [twins.reshaped(known.stored, node.output.dims, node)])
        return True
    twins.primary[node.output] = Twin(known.stored, order)
    return False


def _renamed(order: Order, perm: tuple[int, ...]) -> Order:
    return tuple(None if a is None else perm.index(a) for a in order)


def reshape(node: Node, twins: Twins) -> bool:
    """Groups of axes that become other axes: a view where each lies together, else one Transpose makes it so."""
    known = twins.find(node)
    x = node.inputs[0]
    if known is None or x is None or 0 in node.output.dims or 0 in x.dims:
        return False
    groups = list(factor(x.dims, node.output.dims))
    order = regrouped(known.order, x.dims, groups)
    if order is None:
        return False
    stored = known.stored
    if order != known.order:
        stored = twins.move(known, x.dims, order, node)
    order, dims = split(order, x.dims, node.output.dims, groups)
    if is_plain(order):
        twins.graph.replace(node, [twins.reshaped(stored, node.output.dims, node)])
        return True
    twins.primary[node.output] = Twin(twins.reshaped(stored, dims, node), order)
    return False


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


def regrouped(order: Order, dims: tuple[int, ...], groups: list[Group]) -> Order | None:
    """``order`` with the axes of every group together, at the place of the first; None: that is the plain order."""
    group_of = {a: before for before, _ in groups for a in before}
    used = [a for a in order if a is not None and dims[a] != 1]
    wanted: list[int] = []
    for axis in used:
        if axis not in wanted:
            wanted += group_of[axis]
    if wanted == used:
        return order
    return None if wanted == sorted(wanted) else tuple(wanted) + tuple(a for a in order if a is not None and dims[a] == 1)


def split(
    order: Order, old: tuple[int, ...], new: tuple[int, ...], groups: list[Group]
) -> tuple[Order, tuple[int, ...]]:
    """The order and stored shape after the Reshape; old axes of one element become places for new ones."""
    after_of = {before[0]: after for before, after in groups}
    made: list[int | None] = []
    for axis in order:
        if axis is None or old[axis] == 1:
            made.append(None)
        else:
            made += after_of.get(axis, [])
    for axis in (a for a, d in enumerate(new) if d == 1):
        if None in made:
            made[made.index(None)] = axis
        else:
            made.insert(0, axis)
    return tuple(made), stored_dims(new, tuple(made))


def depth_to_space(node: Node, twins: Twins) -> bool:
    """Reshape, Transpose, Reshape: the rules above make one Transpose of them."""
    known, block = twins.find(node), node.integer("blocksize")
    if known is None or known.stored.tensor.rank != 4:
        return False
    n, c, h, w = node.inputs[0].dims  # type: ignore[union-attr]
    if node.op == "SpaceToDepth":
        shape, perm = (n, c, h // block, block, w // block, block), (0, 3, 5, 1, 2, 4)
        perm = (0, 1, 3, 5, 2, 4) if node.attrs.get("mode") == "CRD" else perm
    elif node.attrs.get("mode") == "CRD":
        shape, perm = (n, c // block**2, block, block, h, w), (0, 1, 4, 2, 5, 3)
    else:
        shape, perm = (n, block, block, c // block**2, h, w), (0, 3, 4, 1, 5, 2)
    x = node.inputs[0]
    for op, parameter in (("Reshape", shape), ("Transpose", perm), ("Reshape", node.output.dims)):
        if op == "Reshape":
            made = infer.add(twins.graph, op, [x, twins.constant(parameter, "shape")], node)
        else:
            made = infer.add(twins.graph, op, [x], node, perm=parameter)
        x, producer = made.output, made
        last = made._prev
        (transpose if op == "Transpose" else reshape)(producer, twins)
        if producer.graph is None:  # replaced by what was made in its place
            assert last is not None
            x = last._next.output if last._next is not None and last._next is not node else last.output
    assert x is not None
    twins.graph.replace(node, [x])
    return True


def gather(node: Node, twins: Twins) -> bool:
    """The axis is replaced by those of the indices, where it lies."""
    known, indices = twins.find(node), node.inputs[1]
    if known is None or indices is None or not indices.tensor.is_static:
        return False
    rank, added = node.inputs[0].tensor.rank, indices.tensor.rank  # type: ignore[union-attr]
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
    numbers = axes if axes is not None else np.arange(len(starts))  # type: ignore[arg-type]
    moved = twins.constant([known.axis(int(a)) for a in np.atleast_1d(numbers)], "axes")
    inputs: list[Value | None] = [known.stored, *node.inputs[1:3], moved, *node.inputs[4:]]
    twins.standard(node, inputs, known.order)
    return True
