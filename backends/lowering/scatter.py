"""ScatterElements, Scatter, ScatterND, TensorScatter. An index outside the axis is left out, never written."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array, Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import axes, imperative, lowers, static
from onyxc.backends.lowering.tensors import at, compute, needed, optional
from onyxc.backends.lowering.words import (
    Expr,
    copy,
    every,
    fix,
    i32,
    ravel,
    strides,
    unravel,
    when,
    wrapped,
)
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Array as NDArray
from onyxc.compiler.ir.graph import Node


def combine(node: Node, target: Array, at: Expr, value: Expr) -> None:
    """Write ``value`` as the node's ``reduction`` says."""
    rule = node.attrs.get("reduction", "none")
    name = rule.decode() if isinstance(rule, bytes) else str(rule)
    if name == "none":
        target[at] = value
        return
    old, new = target[at], value
    if name not in ("add", "mul", "max", "min"):
        raise UnsupportedError(f"{node.label()}: unknown reduction {name!r}")
    results = {"add": lambda: old + new, "mul": lambda: old * new, "max": lambda: T.max(old, new)}
    target[at] = results[name]() if name in results else T.min(old, new)


@imperative("ScatterElements", "Scatter")
def scatter_elements(node: Node) -> Imperative:
    """A task copies the part of data behind one position of the axes before ``axis``, then writes into it."""
    dims, grid = static(node, 0).dims, static(node, 1).dims
    (axis,) = axes(node.attrs.get("axis", 0), len(dims))
    outer, slab = prod(dims[:axis]), prod(dims[axis:])
    steps = strides(dims)

    def emit(code: Code) -> None:
        data, indices, updates = code.ins
        y = code.outs[0]
        o = code.task
        copy(y, o * slab, data, o * slab, slab)
        before = unravel(o, dims[:axis])
        inside = [c < n for c, n, d in zip(before, grid, dims, strict=False) if n < d]
        with when(every(*inside) if inside else tirx.const(True, "bool")):
            first = fix(ravel(before, strides(grid)[:axis]))
            with T.serial(0, prod(grid[axis:])) as j:
                place = fix(wrapped(indices[first + j], dims[axis]))
                rest = unravel(j, grid[axis:])[1:]
                with when(every(place >= 0, place < dims[axis])):
                    at = fix(o * slab + place * steps[axis] + ravel(rest, steps[axis + 1 :]))
                    combine(node, y, at, updates[first + j])

    return kernel(node, None, emit, tasks=outer, work=prod(dims) + prod(grid) * 4)


def box(indices: NDArray | None, dims: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(first, size) of the box of ``dims`` that constant indices of ScatterND walk in order; None: they are no box.

    That is how exporters write ``x[:, 2:6] = y``, often with an index for every element.
    """
    if indices is None or not indices.size:
        return None
    flat = indices.reshape(-1, indices.shape[-1])
    flat = np.where(flat < 0, flat + dims[: flat.shape[1]], flat)
    first, size = flat.min(0), np.ptp(flat, 0) + 1
    if prod(size) != len(flat) or (first < 0).any() or (first + size > dims[: len(size)]).any():
        return None
    walked = np.stack(np.unravel_index(np.arange(len(flat)), tuple(size)), 1) + first
    return (tuple(map(int, first)), tuple(map(int, size))) if (walked == flat).all() else None


def _runs(size: Sequence[int], dims: Sequence[int]) -> tuple[int, int]:
    """The leading axes of a box that must be walked, and the consecutive elements behind each of their positions."""
    depth, run = len(size), prod(dims[len(size) :])
    while depth:
        depth -= 1
        run *= size[depth]
        if size[depth] != dims[depth]:
            break
    return depth, run


@imperative("ScatterND")
def scatter_nd(node: Node) -> Imperative:
    """Copy data, then write the slices in order (a later one wins); those that form a box in long runs."""
    dims, grid = static(node, 0).dims, static(node, 1).dims
    depth, count = grid[-1], prod(grid[:-1])
    slab, steps = prod(dims[depth:]), strides(dims)
    known = box(node.const(1), dims) if node.attrs.get("reduction", "none") in ("none", b"none") else None

    def emit(code: Code) -> None:
        data, indices, updates = code.ins
        y = code.outs[0]
        copy(y, i32(0), data, i32(0), prod(dims))
        if known is not None:
            first, size = known
            walked, run = _runs(size, dims)
            with T.serial(0, prod(size[:walked])) as row:
                places = [p + f for p, f in zip(unravel(row, size[:walked]), first, strict=False)]
                rest = sum(f * s for f, s in zip(first[walked:], steps[walked:], strict=False))
                copy(y, fix(i32(ravel(places, steps[:walked])) + rest), updates, fix(row * run), run)
            return
        with T.serial(0, count) as q:
            places = [fix(wrapped(indices[q * depth + d], dims[d])) for d in range(depth)]
            inside = [every(p >= 0, p < n) for p, n in zip(places, dims, strict=False)]
            with when(every(*inside) if inside else tirx.const(True, "bool")):
                at = fix(i32(ravel(places, steps[:depth])))
                with T.serial(0, slab) as i:
                    combine(node, y, at + i, updates[q * slab + i])

    return kernel(node, None, emit, work=prod(dims) + count * slab)


@lowers("TensorScatter")
def tensor_scatter(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """A key-value cache with rows from ``write_indices`` on replaced; ``circular`` wraps around its end."""
    cache, update, starts = needed(node, inputs, 0), needed(node, inputs, 1), optional(inputs, 2)
    dims = static(node, 0).dims
    (axis,) = axes(node.attrs.get("axis", -2), len(dims))
    length, fresh = dims[axis], static(node, 1).dims[axis]
    circular = node.attrs.get("mode", "linear") in ("circular", b"circular")

    def element(*index: Expr) -> Expr:
        start = i32(0) if starts is None else i32(at(starts, [index[0]]))
        place = i32(index[axis]) - start
        if circular:
            place = tirx.floormod(place, length)
        new = at(update, [*index[:axis], place, *index[axis + 1 :]])
        return tirx.if_then_else(every(place >= 0, place < fresh), new, at(cache, index))

    return [compute(dims, element, "tensor_scatter")]
