"""From a `Nest` and its `Schedule` to one TIR function: tasks outside, vectors inside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import expr as nodes
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.accumulators import State
from onyxc.backends.kernels.axes import cuts, friendliness
from onyxc.backends.kernels.expression import Expr, Var, dtype_of, identity
from onyxc.backends.kernels.floats import memory_dtype
from onyxc.backends.kernels.lengths import blocks, pieces
from onyxc.backends.kernels.nest import Fold, Nest, expressions, key
from onyxc.backends.kernels.point import Point
from onyxc.backends.kernels.schedule import BLOCK, STRIP, Schedule, level_of
from onyxc.backends.kernels.shuffles import distances, near_loads, shuffled
from onyxc.backends.kernels.squares import same_load, transpose, turned_loads


def lower(name: str, nest: Nest, inputs: list[Any], plan: Schedule, attrs: Mapping[str, Any]) -> Any:
    """The function ``name(inputs..., outputs..., begin, end)`` that runs ``nest`` as ``plan`` says."""
    unknown = nest.buffers.keys() - {key(t) for t in inputs}
    if unknown:
        names = ", ".join(str(nest.buffers[k].name) for k in unknown)
        raise ValueError(f"{name}: {names} is read but not among the inputs")
    with IRBuilder() as builder, T.prim_func():
        T.func_name(name)
        T.func_attr(dict(attrs))
        tensors = [*inputs, *nest.outputs]
        kinds = [memory_dtype(str(t.dtype)) for t in tensors]
        pointers = [T.arg(f"p{i}", T.ptr(kind)) for i, kind in enumerate(kinds)]
        begin, end = (T.arg(n, T.int32()) for n in ("begin", "end"))
        buffers = [
            T.decl_buffer((max(1, prod(int(d) for d in t.shape)),), kind, data=p)
            for t, kind, p in zip(tensors, kinds, pointers, strict=True)
        ]
        known = [(nest.buffers.get(key(t)), b) for t, b in zip(inputs, buffers, strict=False)]
        env = {own: b for own, b in known if own is not None}
        Writer(nest, plan, env, buffers[len(inputs) :]).run(begin, end)
    return builder.get()


class Writer(Point):
    """Writes the loops of one nest around its points."""

    def __init__(self, nest: Nest, plan: Schedule, env: dict[Var, Expr], outputs: list[Any]) -> None:
        super().__init__(nest, env, outputs)
        self.plan = plan
        self.levels = [level_of(f, nest.scope) for f in nest.folds]
        self.strip: tuple[Var, Expr, Expr] | None = None  # axis, first, count of the loop around a vector

    # --- loops

    def run(self, begin: Expr, end: Expr) -> None:
        """The whole function."""
        extents = self.nest.scope.extents
        if not prod(extents):
            T.evaluate(tirx.const(0, "int32"))
            return
        self.folds(0)
        with T.serial(begin, end) as task:
            if self.plan.chunk:
                if self.plan.inner is not None:
                    count = tirx.const(extents[self.plan.inner], "int32")
                    self.strip = self.nest.scope.axes[self.plan.inner], tirx.const(0, "int32"), count
                self.chunks(task)
                return
            if self.plan.inner is not None:
                self.strips(task, self.plan.inner)
                return
            rest: Expr = task
            for at in reversed(range(self.plan.split)):
                var, extent = self.nest.scope.axes[at], extents[at]
                self.env[var] = rest if at == 0 else tirx.floormod(rest, extent)
                rest = tirx.floordiv(rest, extent)
            for level in range(1, self.plan.split + 1):
                self.folds(level)
            self.nested(self.plan.split)

    def chunks(self, task: Expr) -> None:
        """Tasks are pieces of the last axis; the last one may be shorter."""
        extent, chunk = self.nest.scope.extents[-1], self.plan.chunk
        full, rest = divmod(extent, chunk)
        if not rest:
            self.span(task * chunk, chunk)
            return
        with T.If(task < full):
            with T.Then():
                self.span(task * chunk, chunk)
            with T.Else():
                self.span(tirx.const(full * chunk, "int32"), rest)

    def strips(self, task: Expr, inner: int) -> None:
        """Tasks are the outer axes, the one at ``inner`` in strips that run innermost, around the vectors."""
        extents, height = [*self.nest.scope.extents[:-1]], self.plan.square or STRIP
        whole, extents[inner] = extents[inner], -(-extents[inner] // height)
        rest = task
        for axis, extent in reversed(list(zip(self.nest.scope.axes, extents, strict=False))):
            self.env[axis] = tirx.floormod(rest, extent)
            rest = tirx.floordiv(rest, extent)
        axis = self.nest.scope.axes[inner]
        first = T.bind(self.env[axis] * height)
        if self.plan.square:
            self.squares(axis, T.bind(nodes.Min(first, tirx.const(whole - height, "int32"))))
            return
        self.strip = axis, first, nodes.Min(tirx.const(STRIP, "int32"), whole - first)
        self.spans()

    def squares(self, axis: Var, first: Expr) -> None:
        """The last axis in squares with ``axis``, from ``first`` on; a last one that is not whole overlaps."""
        last, extent, side = self.nest.scope.axes[-1], self.nest.scope.extents[-1], self.plan.square
        loads = turned_loads(self.nest, axis)
        with T.serial(0, -(-extent // side)) as number:
            base = T.bind(nodes.Min(number * side, tirx.const(extent - side, "int32")))
            for at, load in enumerate(loads):
                known = next((n for n in loads[:at] if same_load(n, load)), None)
                self.turned[identity(load)] = self.turned[identity(known)] if known else self.square(load, base, first)
            for row in range(side):
                self.env[axis], self.row = first + row, tirx.const(row * side, "int32")
                with self.vector(last, base, side):
                    self.store()
        self.turned.clear()

    def square(self, load: Expr, base: Expr, first: Expr) -> Any:
        """A local buffer with a square of ``load``, a row of it for each step of the strip's axis."""
        axis, last, side = self.nest.scope.axes[self.plan.inner or 0], self.nest.scope.axes[-1], self.plan.square
        kind, columns = dtype_of(load), []
        self.env[axis] = first
        for lane in range(side):
            self.env[last] = base + lane
            index = self.analyzer.simplify(self.emit(load.indices[0]))
            source = self.env.get(load.source, load.source)
            columns.append(T.bind(tirx.BufferLoad(source, [tirx.Ramp(index, 1, side)])))
        local = T.alloc_buffer((side * side,), kind, scope="local")
        for row, vector in enumerate(transpose(columns)):
            T.buffer_store(local, vector, [tirx.Ramp(row * side, 1, side)])
        return local

    def nested(self, level: int) -> None:
        """The loops over the axes from ``level`` on."""
        axes, extents = self.nest.scope.axes, self.nest.scope.extents
        if level < len(axes) - (not self.plan.dot):
            with T.serial(0, extents[level]) as index:
                self.env[axes[level]] = index
                self.folds(level + 1)
                self.nested(level + 1)
        elif self.plan.dot:
            self.store()
        else:
            self.spans()

    # --- the last axis as vectors

    def spans(self) -> None:
        """The last axis, cut where conditions change, each piece in blocks of lanes."""
        last, extent = self.nest.scope.axes[-1], self.nest.scope.extents[-1]
        edges = cuts(expressions(self.nest), last, extent, self.ranges)
        for low, high in pairwise(edges):
            self.span(tirx.const(low, "int32"), high - low)

    def span(self, start: Expr, length: int) -> None:
        """``length`` elements of the last axis from ``start`` on."""
        inner = any(level == len(self.nest.scope.axes) for level in self.levels)
        most = BLOCK if inner and not self.nest.short else 1
        whole = (inner or self.plan.light) and not self.nest.short
        for first, lanes, repeat in blocks(length, self.plan.lanes, most, whole):
            with ExitStack() as stack:
                base = start + first
                if repeat > 1:
                    turn = stack.enter_context(T.serial(0, repeat))
                    self.analyzer.bind(turn, tvm.ir.Range(0, repeat))
                    base = base + turn * lanes
                self.block(self.analyzer.simplify(base), lanes)

    def block(self, base: Expr, lanes: int) -> None:
        """``lanes`` elements at once."""
        last = self.nest.scope.axes[-1]
        self.folds(len(self.nest.scope.axes), last, base, lanes)
        with ExitStack() as stack:
            if self.strip:
                axis, first, count = self.strip
                self.env[axis] = first + stack.enter_context(T.serial(0, count))
            self.shuffle(base, lanes)
            with self.vector(last, base, lanes):
                self.store()
            self.turned.clear()

    def shuffle(self, base: Expr, lanes: int) -> None:
        """Local vectors of the loads whose lanes lie close together, but not one after the other."""
        last, scope = self.nest.scope.axes[-1], self.nest.scope

        def index(load: Expr, lane: int) -> Expr:
            self.env[last] = base + lane
            return self.emit(load.indices[0])

        self.row = tirx.const(0, "int32")
        for load in near_loads([*self.nest.values, *(v for _, v in scope.bindings)], scope.axes, lanes):
            places = distances(partial(index, load), lanes, self.analyzer)
            if places:
                local = T.alloc_buffer((lanes,), dtype_of(load), scope="local")
                first = self.analyzer.simplify(index(load, 0))
                vector = shuffled(self.env.get(load.source, load.source), first, places)
                T.buffer_store(local, vector, [tirx.Ramp(0, 1, lanes)])
                self.turned[identity(load)] = local

    # --- reductions

    def folds(self, level: int, axis: Var | None = None, base: Expr = None, lanes: int = 1) -> None:
        """Compute the folds of ``level``; those along the vector axis need its block."""
        for fold, own in zip(self.nest.folds, self.levels, strict=True):
            if own != level or (level == len(self.nest.scope.axes) and not self.plan.dot and axis is None):
                continue
            if axis is not None:
                self.across(fold, axis, base, lanes)
            else:
                self.along(fold)

    def across(self, fold: Fold, axis: Var, base: Expr, lanes: int) -> None:
        """One accumulator a lane of the nest's last axis, reduction loops outside the vector."""
        state = State(self, fold, lanes)
        with self.vector(axis, base, lanes) as lane:
            state.reset(lane)
        with ExitStack() as stack:
            for var, extent in zip(fold.scope.axes, fold.scope.extents, strict=True):
                self.env[var] = stack.enter_context(T.serial(0, extent))
            with self.vector(axis, base, lanes) as lane:
                state.add(lane)
        for slot, var in enumerate(fold.results):
            self.env[var] = lambda slot=slot: state.get(slot, self.number)
        if fold.init:
            with self.vector(axis, base, lanes) as lane:
                state.include(lane, [self.emit(i) for i in fold.init])

    def along(self, fold: Fold) -> None:
        """A scalar result; lanes run along the fold's own last axis when it reads that contiguously."""
        axes, extents = fold.scope.axes, fold.scope.extents
        exprs = [*fold.sources, *(v for _, v in fold.scope.bindings)]
        lanes = self.plan.lanes
        wide = len(fold.sources) == 1 and axes and lanes > 1 and extents[-1] >= lanes
        if not wide or friendliness(exprs, axes[-1]) < 0:
            lanes = 1
        else:
            lanes *= next(n for n in (BLOCK, 2, 1) if n == 1 or extents[-1] >= 2 * n * lanes)
        state = State(self, fold, lanes)
        with self.vector(self.zero_axis(), tirx.const(0, "int32"), lanes) as lane:
            state.reset(lane)
        with ExitStack() as stack:
            for var, extent in zip(axes[:-1], extents[:-1], strict=True):
                self.env[var] = stack.enter_context(T.serial(0, extent))
            if axes:
                self.run_along(state, exprs, axes[-1], extents[-1], lanes)
            else:
                state.add(tirx.const(0, "int32"))
        state.combine_lanes()
        zero = tirx.const(0, "int32")
        if fold.init:
            state.include(zero, [self.emit(i) for i in fold.init])
        for slot, var in enumerate(fold.results):
            self.env[var] = T.bind(state.get(slot, zero))

    def zero_axis(self) -> Var:
        """An axis that nothing reads."""
        return tirx.Var("unused", "int32")

    def run_along(self, state: State, exprs: list[Expr], axis: Var, extent: int, lanes: int) -> None:
        """Add the sources along ``axis``, in pieces between which conditions do not change."""
        edges = cuts(exprs, axis, extent, self.ranges) if lanes > 1 else [0, extent]
        for low, high in pairwise(edges):
            for first, width, repeat in pieces(high - low, lanes):
                with ExitStack() as stack:
                    base: Expr = tirx.const(low + first, "int32")
                    if repeat > 1:
                        base = base + stack.enter_context(T.serial(0, repeat)) * width
                    with self.vector(axis, base, width) as lane:
                        state.add(lane)
