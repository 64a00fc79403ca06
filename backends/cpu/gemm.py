"""Batched matrix product with both operands known only at run time.

    for batch, panel of columns, part of rows:   the panel of b is copied to scratch, or read where it lies
        for tile of rows:                        accumulators in registers
            for k: accumulators += b[k, panel] * broadcast(a[row, k]);  epilogue, store

Any strides of a will do, for single elements are broadcast; b is transposed while it is copied. With few rows, and both
operands contiguous along k, nothing is copied:

    for batch, as many columns as a vector has lanes, row:
        for vector of k:  sums[column] += b[column, k] * a[row, k];   the sums are transposed and added at once
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import prod

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, costs
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.gemm_plan import GemmPlan, GemmShape, plan
from onyxc.backends.cpu.loops import each_panel, each_tile
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.transpose import Block, copy_elements, copy_rows, copy_turned
from onyxc.backends.cpu.vectors import Expr, Signature, cast, constant, dense, function, lanes_of, span, strided
from onyxc.backends.lowering.rowdots import transposed_sum
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["GemmPlan", "GemmShape", "emit", "indices", "plan"]


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: GemmPlan
    epilogue: Epilogue
    a: Expr
    b: Expr
    scratch: Expr  # flat, None when b is read in place
    y: Expr
    operands: list[Expr]


@dataclass
class _Place:
    """One panel of one batch: its index, first column, and first element in scratch."""

    panel: Panel
    batch: tuple[Expr, ...]
    column: Expr
    slot: Expr


def emit(name: str, plan: GemmPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(a, b, operands..., [scratch], y, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (*shape.batch, shape.m, shape.n)
    parameters = [("a", shape.a_dtype), ("b", shape.b_dtype), *epilogue.parameters()]
    parameters += [("scratch", plan.scratch_dtype)] * plan.packed + [("y", epilogue.y_dtype)]
    with function(name, parameters) as made:
        a, b, *operands, y = made.pointers
        scratch = dense(operands.pop(), plan.scratch_dtype, (plan.scratch_size,)) if plan.packed else None
        state = _Kernel(
            plan,
            epilogue,
            strided(a, shape.a_dtype, (*shape.batch, shape.m, shape.k), shape.a_strides),
            _view_b(plan, b),
            scratch,
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, plan.operands),
        )
        _emit_panels(state, made)
    return made.kernel(plan.tasks, shape.work, target, plan.note)


def _view_b(plan: GemmPlan, pointer: Expr) -> Expr:
    """b as [*batch, k, n], or [*batch, n, k] where it is contiguous along k."""
    shape = plan.shape
    sizes, strides = (shape.k, shape.n), shape.b_strides[-2:]
    if plan.turned or plan.dots:
        sizes, strides = sizes[::-1], strides[::-1]
    return strided(pointer, shape.b_dtype, (*shape.batch, *sizes), (*shape.b_strides[:-2], *strides))


def _emit_panels(state: _Kernel, made: Signature) -> None:
    """All tasks, one class of panels after the other: batch by batch, panel by panel, units of m inside."""
    plan, shape = state.plan, state.plan.shape
    batches, units = prod(shape.batch), plan.units
    counts = [batches * panel.count for panel in plan.panels]
    sizes = [panel.width * shape.k for panel in plan.panels]
    bases = list(accumulate((c * s * plan.chunks for c, s in zip(counts, sizes, strict=True)), initial=0))
    for kind, number, start, stop in each_panel(made, counts, units, costs(plan.panels)):
        panel = plan.panels[kind]
        batch = T.bind(T.truncdiv(number, panel.count))
        column = T.bind(panel.start + (number - batch * panel.count) * panel.channels)
        place = _Place(panel, indices(batch, shape.batch), column, 0)
        if not plan.packed:
            (_emit_dots if plan.dots else _emit_tiles)(state, place, start, stop)
            continue
        with T.serial(start, stop) as chunk:
            place.slot = T.bind(bases[kind] + (number * units + chunk) * sizes[kind])
            _emit_copy(state, place)
            ends = [T.bind(T.truncdiv((chunk + i) * plan.rows, units)) for i in (0, 1)]
            _emit_tiles(state, place, *ends)


def indices(number: Expr, sizes: tuple[int, ...]) -> tuple[Expr, ...]:
    """The batch index in every dimension."""
    indices: list[Expr] = []
    for size in reversed(sizes):
        outer = T.bind(T.truncdiv(number, size))
        indices.insert(0, T.bind(number - outer * size))
        number = outer
    return tuple(indices)


def _emit_copy(state: _Kernel, place: _Place) -> None:
    """Copy the panel of b to its slot, row by row of k."""
    shape, panel = state.plan.shape, place.panel
    dtype = state.plan.scratch_dtype

    def keep(k: Expr, vector: Expr, offset: int) -> None:
        lanes = lanes_of(vector)
        vector = cast(vector, dtype)
        if shape.b_zero_point:
            vector = vector - constant(shape.b_zero_point, dtype, lanes)
        T.buffer_store(state.scratch, vector, [span(place.slot + k * panel.width + offset, lanes)])

    contiguous = copy_rows if shape.b_strides[-1] == 1 else copy_elements
    copy = copy_turned if state.plan.turned else contiguous
    offset = 0
    for lanes in panel.lanes:
        block = Block(place.batch, place.column + offset, shape.k, lanes, min(lanes, panel.channels - offset))
        copy(state.b, block, partial(keep, offset=offset))
        offset += lanes


def _emit_tiles(state: _Kernel, place: _Place, start: Expr, stop: Expr) -> None:
    """The tiles number ``start`` to ``stop`` of one panel."""
    shape, panel = state.plan.shape, place.panel
    starts = list(accumulate(panel.lanes, initial=0))
    for run, row in each_tile(state.plan.tiles, start, stop):
        tile = Tile(panel.lanes, run.width, shape.acc_dtype)
        with T.serial(0, shape.k) as k:
            weights = [_weights(state, place, k, s, lanes) for s, lanes in zip(starts, panel.lanes, strict=False)]

            def load(m: int, row: Expr = row, k: Expr = k) -> Expr:
                value = cast(state.a[(*place.batch, row + m, k)], shape.acc_dtype)
                return value - shape.a_zero_point if shape.a_zero_point else value

            tile.step(weights, range(run.width), load)
        for m, offset, value in tile.vectors():
            index = (*place.batch, row + m, place.column + offset)
            state.epilogue.write(state.y, value, index, panel.channels - offset, state.operands)


def _emit_dots(state: _Kernel, place: _Place, start: Expr, stop: Expr) -> None:
    """All rows of one panel, a single vector of columns; the only unit is done if ``start`` < ``stop``."""
    (lanes,), (run,) = place.panel.lanes, state.plan.tiles
    block = Block(place.batch, place.column, state.plan.shape.k, lanes, place.panel.channels)
    with T.serial(start * run.width, stop * run.width) as row:
        sums = Tile((lanes,), lanes, "float32")
        with T.serial(0, block.rows // lanes) as number:
            along = span(number * lanes, lanes)
            factor = T.bind(state.a[(*place.batch, row, along)])
            for column, line in enumerate(block.lines()):
                sums.add(0, column, state.b[(*place.batch, line, along)] * factor)
        value = transposed_sum([vector for _, _, vector in sums.vectors()], lanes)
        state.epilogue.write(state.y, value, (*place.batch, row, place.column), block.valid, state.operands)


def _weights(state: _Kernel, place: _Place, k: Expr, offset: int, lanes: int) -> Expr:
    """One vector of row ``k`` of the panel of b."""
    shape = state.plan.shape
    if state.plan.packed:
        return cast(state.scratch[span(place.slot + k * place.panel.width + offset, lanes)], shape.acc_dtype)
    value = cast(state.b[(*place.batch, k, span(place.column + offset, lanes))], shape.acc_dtype)
    return value - constant(shape.b_zero_point, shape.acc_dtype, lanes) if shape.b_zero_point else value
