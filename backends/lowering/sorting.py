"""TopK, Unique: by heaps, which need no memory beside the results and cannot degenerate."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array, Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.dynamic import axis_of
from onyxc.backends.lowering.registry import axes, imperative, required, static
from onyxc.backends.lowering.words import (
    Cell,
    Expr,
    every,
    fix,
    heapify,
    heapsort,
    i32,
    i64,
    sift,
    split,
    unheap,
    when,
)
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node


@imperative("TopK")
def topk(node: Node) -> Imperative:
    """A heap of the best K with the worst on top; equal values in the order of their indices.

    The result is sorted also where ``sorted`` is 0, which the operator allows.
    """
    dims = static(node, 0).dims
    wanted = required(node, 1, "K")
    (axis,) = axes(node.attrs.get("axis", -1), len(dims))
    outer, length, inner = split(dims, axis)
    k = int(wanted.reshape(-1)[0])
    if not 0 <= k <= length:
        raise UnsupportedError(f"{node.label()}: K is {k}, but the axis has {length} elements")
    largest = bool(node.attrs.get("largest", 1))
    shape = (*dims[:axis], k, *dims[axis + 1 :])
    dtype = node.outputs[0].dtype

    def emit(code: Code) -> None:
        x, values, places = code.ins[0], code.outs[0], code.outs[1]
        line = code.task
        o, i = fix(tirx.truncdiv(line, inner)), fix(tirx.truncmod(line, inner))
        source, target = fix(o * (length * inner) + i), fix(o * (k * inner) + i)

        def at(place: Expr) -> Expr:
            return target + place * inner

        def better(a: Expr, b: Expr) -> Expr:
            """Whether the element at place ``a`` comes before that at ``b``."""
            left, right = fix(values[at(a)]), fix(values[at(b)])
            earlier = fix(places[at(a)] < places[at(b)])
            ahead = left > right if largest else left < right
            return tirx.Or(ahead, every(tirx.EQ(left, right), earlier))

        def swap(a: Expr, b: Expr) -> None:
            for buffer in (values, places):
                kept = fix(buffer[at(a)])
                buffer[at(a)] = buffer[at(b)]
                buffer[at(b)] = kept

        def put(place: Expr, j: Expr) -> None:
            values[at(place)] = x[source + j * inner]
            places[at(place)] = i64(j)

        count = i32(k)
        with T.serial(0, k) as j:
            put(j, j)
        heapify(count, better, swap)
        with T.serial(k, length) as j:
            new, worst = x[source + j * inner], values[at(i32(0))]
            with when(new > worst if largest else new < worst):
                put(i32(0), j)
                sift(count, i32(0), better, swap)
        unheap(count, better, swap)

    if not k:
        return kernel(node, [(shape, dtype), (shape, "int64")], lambda code: None, tasks=1)
    return kernel(node, [(shape, dtype), (shape, "int64")], emit, tasks=outer * inner, work=prod(dims) * 4)


class Slices:
    """The slices of a tensor along an axis, as things to compare and copy."""

    def __init__(self, x: Array, outer: int, length: int, inner: int) -> None:
        self.x, self.outer, self.length, self.inner = x, outer, length, inner

    def at(self, place: Expr, element: Expr, length: Expr | int | None = None) -> Expr:
        """Where element ``element`` of slice ``place`` lies, among ``length`` slices."""
        count = self.length if length is None else length
        if self.outer == 1:
            return place * self.inner + element
        o, i = tirx.truncdiv(element, self.inner), tirx.truncmod(element, self.inner)
        return (o * count + place) * self.inner + i

    def order(self, a: Expr, b: Expr) -> Expr:
        """Negative, 0, positive: slice ``a`` is before, the same as, behind slice ``b``."""
        result, element = Cell("int32", 0), Cell("int32", 0)
        with T.While(every(tirx.EQ(result.get(), 0), element.get() < self.outer * self.inner)):
            left = fix(self.x[self.at(a, element.get())])
            right = fix(self.x[self.at(b, element.get())])
            with when(left < right):
                result.set(-1)
            with when(left > right):
                result.set(1)
            element.add(1)
        return fix(result.get())


@imperative("Unique")
def unique(node: Node) -> Imperative:
    """Sort the numbers of the slices; equal neighbours are one group, led by its first occurrence."""
    dims = static(node, 0).dims
    axis = axis_of(node, len(dims))
    outer, length, inner = (1, prod(dims), 1) if axis is None else split(dims, axis)
    in_order = bool(node.attrs.get("sorted", 1))

    def emit(code: Code) -> None:
        slices = Slices(code.ins[0], outer, length, inner)
        order, leader, slot = code.scratch
        found = group(slices, order, leader)
        write(code, slices, found, (order if in_order else None, leader, slot))
        shape = [length] if axis is None else list(dims)
        code.report(0, [found if d == (axis or 0) else n for d, n in enumerate(shape)])
        code.report(1, [found])
        code.report(3, [found])

    scratch = [((max(1, length),), "int32")] * 3
    return kernel(node, None, emit, scratch=scratch, work=length * 32)


def group(slices: Slices, order: Array, leader: Array) -> Expr:
    """Fill ``order`` (numbers, sorted by slice) and ``leader`` (slice -> first equal one); how many there are."""
    with T.serial(0, slices.length) as i:
        order[i] = i

    def before(a: Expr, b: Expr) -> Expr:
        left, right = fix(order[a]), fix(order[b])
        result = slices.order(left, right)
        return tirx.Or(result < 0, every(tirx.EQ(result, 0), left < right))

    def swap(a: Expr, b: Expr) -> None:
        kept = fix(order[a])
        order[a] = order[b]
        order[b] = kept

    heapsort(i32(slices.length), before, swap)
    count, head = Cell("int32", 0), Cell("int32", 0)
    with T.serial(0, slices.length) as p:
        this = fix(order[p])
        fresh = Cell("bool", True)
        with when(p > 0):
            fresh.set(tirx.NE(slices.order(head.get(), this), 0))
        with when(fresh.get()):
            head.set(this)
            count.add(1)
        leader[this] = head.get()
    return fix(count.get())


def write(code: Code, slices: Slices, count: Expr, tables: tuple[Array | None, Array, Array]) -> None:
    """The outputs; groups are numbered in the order in which ``order`` (or the tensor itself) meets them."""
    order, leader, slot = tables
    y, indices, inverse, counts = [*code.outs, None, None, None][:4]
    used = Cell("int32", 0)
    with T.serial(0, slices.length) as p:
        row = fix(order[p] if order is not None else p)
        with when(tirx.EQ(leader[row], row)):
            place = fix(used.get())
            slot[row] = place
            if y is not None:
                with T.serial(0, slices.outer * slices.inner) as element:
                    y[slices.at(place, element, count)] = slices.x[slices.at(row, element)]
            if indices is not None:
                indices[place] = row
            if counts is not None:
                counts[place] = 0
            used.add(1)
        mine = fix(slot[leader[row]])
        if inverse is not None:
            inverse[row] = mine
        if counts is not None:
            counts[mine] = counts[mine] + tirx.const(1, "int64")


__all__ = ["topk", "unique"]
