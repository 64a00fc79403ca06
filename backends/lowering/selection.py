"""Operators that pick elements by a condition: NonZero, Compress, NonMaxSuppression. See `dynamic` for the outputs."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.dynamic import axis_of, bound
from onyxc.backends.lowering.registry import imperative, static
from onyxc.backends.lowering.words import (
    Cell,
    Expr,
    Less,
    Swap,
    copy,
    every,
    fix,
    heapify,
    i32,
    i64,
    sift,
    split,
    unravel,
    when,
)
from onyxc.compiler.ir.graph import Node


def is_set(value: Expr) -> Expr:
    """Whether an element counts as true."""
    kind = str(value.ty.dtype)
    return value if kind == "bool" else tirx.NE(value, tirx.const(0, kind))


@imperative("NonZero")
def nonzero(node: Node) -> Imperative:
    """Count, then write every coordinate's row."""
    dims = static(node, 0).dims

    def emit(code: Code) -> None:
        x, y = code.ins[0], code.outs[0]
        count = Cell("int32", 0)
        with T.serial(0, prod(dims)) as i, when(is_set(x[i])):
            count.add(1)
        total = fix(count.get())
        count.set(0)
        with T.serial(0, prod(dims)) as i, when(is_set(x[i])):
            for axis, coordinate in enumerate(unravel(i, dims)):
                y[axis * total + count.get()] = coordinate
            count.add(1)
        code.report(0, [len(dims), total])

    return kernel(node, None, emit, work=2 * prod(dims))


@imperative("Compress")
def compress(node: Node) -> Imperative:
    """Slices along an axis, or elements, whose condition holds; a short condition leaves the rest out."""
    dims, conditions = static(node, 0).dims, prod(static(node, 1).dims)
    axis = axis_of(node, len(dims))
    outer, length, inner = (1, prod(dims), 1) if axis is None else split(dims, axis)
    limit = min(length, conditions)

    def emit(code: Code) -> None:
        x, chosen, y = code.ins[0], code.ins[1], code.outs[0]
        at, count = Cell("int32", 0), Cell("int32", 0)
        with T.serial(0, limit) as j, when(is_set(chosen[j])):
            count.add(1)
        with T.serial(0, outer) as o, T.serial(0, limit) as j, when(is_set(chosen[j])):
            copy(y, fix(at.get()), x, fix((o * length + j) * inner), inner)
            at.add(inner)
        shape = [length] if axis is None else list(dims)
        code.report(0, [count.get() if d == (axis or 0) else n for d, n in enumerate(shape)])

    return kernel(node, None, emit, work=prod(dims))


@imperative("NonMaxSuppression")
def non_max_suppression(node: Node) -> Imperative:
    """For each image and class: boxes by falling score, kept unless they overlap one that is already kept.

    Equal scores go by box number. Boxes that touch no area overlap nothing, as in onnxruntime.
    """
    batches, classes, boxes = static(node, 1).dims
    center = bool(node.attrs.get("center_point_box", 0))
    nothing = bound(node)[0][0] == 0

    def emit(code: Code) -> None:
        rows = Cell("int32", 0)
        if not nothing:
            limit = fix(T.min(T.max(code.ins[2][0], tirx.const(0, "int64")), tirx.const(boxes, "int64")))
            with T.serial(0, batches) as image, T.serial(0, classes) as kind:
                _Suppression(code, boxes, center, image).run(kind, classes, i32(limit), rows)
        code.report(0, [rows.get(), 3])

    scratch = [((max(1, boxes),), "int32")] * 2
    return kernel(node, None, emit, scratch=scratch, work=batches * classes * boxes * 16)


class _Suppression:
    """One image's boxes."""

    def __init__(self, code: Code, count: int, center: bool, image: Expr) -> None:
        self.boxes, self.scores = code.ins[0], code.ins[1]
        optional = [*code.ins[3:], None, None]
        self.overlap: Any = optional[0][0] if optional[0] is not None else tirx.const(0, "float32")
        self.least: Any = optional[1][0] if optional[1] is not None else None
        self.y = code.outs[0]
        self.order, self.kept = code.scratch
        self.count, self.center, self.image = count, center, image

    def run(self, kind: Expr, classes: int, limit: Expr, rows: Cell) -> None:
        """Append the kept boxes of class ``kind`` to the output; the next best is taken from a heap, while any fit."""
        base = fix((self.image * classes + kind) * self.count)
        live = Cell("int32", self.candidates(base))
        worse, swap = self.heap(base)
        heapify(fix(live.get()), worse, swap)
        used = Cell("int32", 0)
        with T.While(every(live.get() > 0, used.get() < limit)):
            box = fix(self.order[0])
            corners = self.corners(box)
            free, other = Cell("bool", True), Cell("int32", 0)
            with T.While(every(free.get(), other.get() < used.get())):
                free.set(tirx.Not(self.overlaps(corners, self.corners(fix(self.kept[other.get()])))))
                other.add(1)
            with when(free.get()):
                self.kept[used.get()] = box
                for column, value in enumerate((self.image, kind, box)):
                    self.y[rows.get() * 3 + column] = i64(value)
                used.add(1)
                rows.add(1)
            live.add(-1)
            self.order[0] = self.order[live.get()]
            sift(fix(live.get()), i32(0), worse, swap)

    def candidates(self, base: Expr) -> Expr:
        """Fill ``order`` with the boxes whose score is high enough; how many."""
        live = Cell("int32", 0)
        with T.serial(0, self.count) as i:
            good = tirx.const(True, "bool") if self.least is None else self.scores[base + i] > self.least
            with when(good):
                self.order[live.get()] = i
                live.add(1)
        return fix(live.get())

    def heap(self, base: Expr) -> tuple[Less, Swap]:
        """How two places of ``order`` compare (the better box rises), and how they swap."""
        order, scores = self.order, self.scores

        def worse(a: Expr, b: Expr) -> Expr:
            left, right = fix(order[a]), fix(order[b])
            x, y = fix(scores[base + left]), fix(scores[base + right])
            return tirx.Or(x < y, every(tirx.EQ(x, y), left > right))

        def swap(a: Expr, b: Expr) -> None:
            saved = fix(order[a])
            order[a] = order[b]
            order[b] = saved

        return worse, swap

    def corners(self, box: Expr) -> list[Expr]:
        """The least and the greatest coordinates of a box: y1, x1, y2, x2."""
        at = (self.image * self.count + box) * 4
        a, b, c, d = (fix(self.boxes[at + i]) for i in range(4))
        if self.center:  # x, y, width, height
            half = tirx.const(0.5, "float32")
            return [fix(v) for v in (b - d * half, a - c * half, b + d * half, a + c * half)]
        return [fix(v) for v in (T.min(a, c), T.min(b, d), T.max(a, c), T.max(b, d))]

    def overlaps(self, a: list[Expr], b: list[Expr]) -> Expr:
        """Whether intersection over union is above the limit."""
        zero = tirx.const(0, "float32")
        height, width = (T.min(a[i + 2], b[i + 2]) - T.max(a[i], b[i]) for i in (0, 1))
        shared = fix(T.max(height, zero) * T.max(width, zero))
        one, two = ((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
        union = fix(one + two - shared)
        return fix(every(shared > zero, union > zero, shared / union > self.overlap))
