"""Tensors made from little or nothing: Range, EyeLike, OneHot, Trilu, AffineGrid; and ReverseSequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from onyxc.backends.lowering.registry import axes, lowers, static
from onyxc.backends.lowering.scalar import cast
from onyxc.backends.lowering.tensors import at, compute, needed, optional, replaced
from onyxc.backends.lowering.words import Expr, every, i32, i64
from onyxc.compiler.ir.graph import Node


@lowers("Range")
def range_(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Start + i * delta; how many must be known at compile time."""
    start, step = needed(node, inputs, 0), needed(node, inputs, 2)
    kind = str(start.dtype)
    wide = "float32" if kind in ("float16", "bfloat16") else kind

    def element(i: Expr) -> Expr:
        return cast(cast(at(start, ()), wide) + cast(i, wide) * cast(at(step, ()), wide), kind)

    return [compute(node.output.dims, element, "range")]


@lowers("EyeLike")
def eye_like(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Ones on diagonal ``k``."""
    k, kind = node.attrs.get("k", 0), node.output.dtype

    def element(i: Expr, j: Expr) -> Expr:
        return cast(tirx.EQ(j, i + k), kind)

    return [compute(node.output.dims, element, "eye_like")]


@lowers("OneHot")
def one_hot(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The on value where the new axis is at the index; an index outside is on nowhere."""
    indices, values = needed(node, inputs, 0), needed(node, inputs, 2)
    shape = node.output.dims
    (axis,) = axes(node.attrs.get("axis", -1), len(shape))
    depth = shape[axis]

    def element(*index: Expr) -> Expr:
        wanted = i64(at(indices, [*index[:axis], *index[axis + 1 :]]))
        place = i64(index[axis])
        same = tirx.Or(tirx.EQ(wanted, place), tirx.EQ(wanted + tirx.const(depth, "int64"), place))
        return tirx.Select(same, at(values, [i32(1)]), at(values, [i32(0)]))

    return [compute(shape, element, "one_hot")]


@lowers("Trilu")
def trilu(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """One side of diagonal ``k``, zeros on the other."""
    x, k = needed(node, inputs), optional(inputs, 1)
    upper = bool(node.attrs.get("upper", 1))
    dims = static(node, 0).dims

    def element(*index: Expr) -> Expr:
        shift: Expr = tirx.const(0, "int64")
        if k is not None:
            shift = i64(at(k, [i32(0)] * len(k.shape)))
        distance = i64(index[-1]) - i64(index[-2])
        kept = distance >= shift if upper else distance <= shift
        return tirx.Select(kept, at(x, index), tirx.const(0, str(x.dtype)))

    return [compute(dims, element, "trilu")]


@lowers("ReverseSequence")
def reverse_sequence(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The first ``sequence_lens`` steps of each batch entry backwards, the others as they are."""
    x, lengths = needed(node, inputs, 0), needed(node, inputs, 1)
    dims = static(node, 0).dims
    (time,) = axes(node.attrs.get("time_axis", 0), len(dims))
    (batch,) = axes(node.attrs.get("batch_axis", 1), len(dims))

    def element(*index: Expr) -> Expr:
        length = i32(at(lengths, [index[batch]]))
        length = tirx.max(tirx.min(length, i32(dims[time])), i32(0))
        step = i32(index[time])
        return at(x, replaced(index, time, tirx.Select(every(step < length), length - 1 - step, step)))

    return [compute(dims, element, "reverse_sequence")]


@lowers("AffineGrid")
def affine_grid(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """Theta times the homogeneous coordinates, from -1 to 1, of every output position; innermost axis first."""
    theta = needed(node, inputs)
    shape = node.output.dims
    size, aligned = shape[1:-1], bool(node.attrs.get("align_corners", 0))
    kind = str(theta.dtype)
    wide = kind if kind == "float64" else "float32"

    def coordinate(index: Expr, extent: int) -> Expr:
        step = 2.0 / max(1, extent - 1) if aligned else 2.0 / extent
        start = -1.0 if aligned else -1.0 + step / 2
        return tirx.const(start, wide) + cast(index, wide) * tirx.const(step, wide)

    def element(n: Expr, *index: Expr) -> Expr:
        *place, row = index
        total = cast(at(theta, [n, row, i32(len(size))]), wide)
        for column, (where, extent) in enumerate(reversed(list(zip(place, size, strict=True)))):
            total = total + cast(at(theta, [n, row, i32(column)]), wide) * coordinate(where, extent)
        return cast(total, kind)

    return [compute(shape, element, "affine_grid")]
