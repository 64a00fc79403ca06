"""Pools over sliding windows or the whole image, channels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering.reduction import LARGEST, arg_reducer, fold
from onyxc.backends.lowering.registry import lowers
from onyxc.backends.lowering.scalar import attr, cast, like, lowest, raised, select, wide
from onyxc.backends.lowering.tensors import Inputs, at, compute, every, guarded, inside, needed, ravel, shape_of
from onyxc.backends.lowering.windows import window
from onyxc.compiler.ir.graph import Node

Expr = Any


class Pool:
    """The window of a pool node over ``x``: its taps, and reads that ask whether a tap lies inside."""

    def __init__(self, node: Node, x: Any, out: tuple[int, ...] = ()) -> None:
        self.x = x
        self.size = shape_of(x)[2:]
        self.out = out or node.output.dims[2:]
        self.view = window(node, self.size, attr(node, "kernel_shape"), self.out)
        self.taps = [te.reduce_axis((0, k), f"k{i}") for i, k in enumerate(self.view.kernel)]

    def places(self, place: Sequence[Expr], taps: Sequence[Expr] | None = None) -> tuple[list[Expr], list[Expr]]:
        """The input position under the taps, and what has to hold for it to exist."""
        view, where, asked = self.view, [], []
        for axis, (p, tap) in enumerate(zip(place, taps or [t.var for t in self.taps], strict=True)):
            stride, low = view.strides[axis], view.before[axis]
            shifted = p * stride + tap * view.dilations[axis]
            shifted = shifted - low if low else shifted
            high = (self.out[axis] - 1) * stride + view.spans[axis] - 1 - low
            asked += inside(shifted, self.size[axis], -low, high)
            where.append(shifted)
        return where, asked

    def read(self, index: Sequence[Expr], outside: Expr, change: Callable[[Expr], Expr]) -> Expr:
        """``change`` of the element under the taps, ``outside`` where there is none."""
        where, asked = self.places(index[2:])
        return guarded(asked, change(at(self.x, [*index[:2], *where])), outside)

    def count(self, place: Sequence[Expr], with_pads: bool) -> Expr | int:
        """How many taps lie on elements (or on elements and pads)."""
        view, whole = self.view, 1
        counted: Expr | None = None
        for axis, p in enumerate(place):
            kernel, stride, step = view.kernel[axis], view.strides[axis], view.dilations[axis]
            low = -view.before[axis] if with_pads else 0
            high = self.size[axis] + (view.after[axis] if with_pads else 0)
            first, last = -view.before[axis], (self.out[axis] - 1) * stride - view.before[axis]
            if first >= low and last + view.spans[axis] <= high:
                whole *= kernel
                continue
            start = p * stride - view.before[axis]
            upper = tirx.min(tirx.floordiv(high - start + (step - 1), step), kernel)
            lower = tirx.max(tirx.floordiv(low - start + (step - 1), step), 0)
            counted = upper - lower if counted is None else counted * (upper - lower)
        return whole if counted is None else counted * whole


def _pooled(
    pool: Pool, shape: Sequence[int], combine: Callable[..., Expr], outside: Expr, change: Callable[[Expr], Expr]
) -> Any:
    return compute(shape, lambda *i: combine(pool.read(i, outside, change), axis=pool.taps), "pool")


@lowers("MaxPool")
def max_pool(node: Node, inputs: Inputs) -> list[Any]:
    """The largest element under the window, and where in the whole tensor it is."""
    x = needed(node, inputs)
    kind, shape = node.output.dtype, node.output.dims
    pool = Pool(node, x)
    if len(node.outputs) > 1:
        return _max_with_indices(node, pool)
    made = _pooled(pool, shape, LARGEST, lowest(str(x.dtype) if kind != "float16" else "float32"), wide)
    return [compute(shape, lambda *i: cast(at(made, i), kind), "max_pool") if kind == "float16" else made]


def _max_with_indices(node: Node, pool: Pool) -> list[Any]:
    kind, shape, size = node.output.dtype, node.output.dims, pool.size
    reducer = arg_reducer(largest=True, last=False)

    def pair(*index: Expr) -> Any:
        where, asked = pool.places(index[2:])
        order = (where[::-1], size[::-1]) if attr(node, "storage_order") else (where, size)
        number, condition = ravel(*order), every(asked)
        if condition is None:
            value = wide(at(pool.x, [*index[:2], *where]))
        else:
            near = [tirx.max(tirx.min(i, d - 1), 0) for i, d in zip(where, size, strict=True)]
            value = wide(at(pool.x, [*index[:2], *near]))
            value = select(condition, value, lowest(str(value.ty.dtype)))
            number = select(condition, number, like(number, 2**31 - 1))
        return reducer((number, value), axis=pool.taps)

    found = te.compute(tuple(shape), lambda *i: pair(*i), name="max_pool")
    channels, image = shape[1], prod(size)

    def number(*index: Expr) -> Expr:
        return cast(at(found[0], index), "int64") + cast((index[0] * channels + index[1]) * image, "int64")

    value = compute(shape, lambda *i: cast(at(found[1], i), kind), "max_pool_value")
    return [value, compute(shape, number, "max_pool_index")]


@lowers("AveragePool")
def average_pool(node: Node, inputs: Inputs) -> list[Any]:
    """The mean under the window; pads count when asked for, what lies behind them never."""
    x = needed(node, inputs)
    kind, shape = node.output.dtype, node.output.dims
    pool = Pool(node, x)
    total = _pooled(pool, shape, te.sum, tirx.const(0, "float64" if kind == "float64" else "float32"), wide)

    def element(*index: Expr) -> Expr:
        value = at(total, index)
        count = pool.count(index[2:], bool(attr(node, "count_include_pad")))
        return cast(value / (like(value, count) if isinstance(count, int) else cast(count, str(total.dtype))), kind)

    return [compute(shape, element, "average_pool")]


def power_before(p: int) -> Callable[[Expr], Expr]:
    """|x|^p."""

    def change(x: Expr) -> Expr:
        x = wide(x)
        return x * x if p == 2 else raised(tirx.abs(x), p)

    return change


def power_after(x: Expr, p: int) -> Expr:
    """The p-th root of x."""
    return x if p == 1 else tirx.sqrt(x) if p == 2 else tirx.power(x, like(x, 1 / p))


@lowers("LpPool")
def lp_pool(node: Node, inputs: Inputs) -> list[Any]:
    """The p-norm under the window."""
    x, p = needed(node, inputs), node.integer("p", 2)
    kind, shape = node.output.dtype, node.output.dims
    zero = tirx.const(0, "float64" if kind == "float64" else "float32")
    total = _pooled(Pool(node, x), shape, te.sum, zero, power_before(p))
    return [compute(shape, lambda *i: cast(power_after(at(total, i), p), kind), "lp_pool")]


@lowers("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
def global_pool(node: Node, inputs: Inputs) -> list[Any]:
    """Mean, maximum or p-norm over all spatial axes."""
    x, kind = needed(node, inputs), node.output.dtype
    size, p = shape_of(x)[2:], node.integer("p", 2)
    change: Callable[[Expr], Expr] = power_before(p) if node.op == "GlobalLpPool" else wide
    combine = LARGEST if node.op == "GlobalMaxPool" else te.sum
    total = fold(x, range(2, 2 + len(size)), combine, lambda v, _: change(v), name="global_pool")

    def element(*index: Expr) -> Expr:
        value = at(total, index)
        if node.op == "GlobalAveragePool":
            value = value / like(value, prod(size))
        elif node.op == "GlobalLpPool":
            value = power_after(value, p)
        return cast(value, kind)

    return [compute(node.output.dims, element, "global_pool")]
