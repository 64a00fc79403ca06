"""Fused attention: both products and the softmax between them, without the matrix of scores.

    for batch, part of its rows:
        for block of keys:                       k transposed and v copied to scratch, panel by panel
            for tile of rows:
                scores:   for panel of keys:     q k^T in registers, scaled and masked, to scratch
                softmax:  for row:               maximum, exponentials in place, their sum
                values:   for panel of columns:  exponentials times v in registers, over the sum, stored

With several blocks of keys the sums of v, the maximum and the sum of exponentials of each row wait in scratch, and are
scaled down by exp(old maximum - new one) before a block is added (M. Milakov, N. Gimelshein, Online normalizer
calculation for softmax, 2018). ``limits`` tell for each tile how many keys it needs, where a constant mask hides others.
Rows from which everything is hidden, or whose scores are not numbers, are zero where the kernel is ``guarded``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.attention_plan import AttentionPlan, AttentionShape, KeyBlock, plan
from onyxc.backends.cpu.attention_tile import Matrix, Place, State, emit_maximum, emit_scores, emit_softmax, emit_values
from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.gemm import indices
from onyxc.backends.cpu.loops import each_tile
from onyxc.backends.cpu.transpose import Block, copy_elements, copy_rows, copy_turned
from onyxc.backends.cpu.vectors import Expr, constant, dense, fill, function, lanes_of, span, store, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["AttentionPlan", "AttentionShape", "emit", "plan"]

_LOWEST = -3.4028234663852886e38  # stands for the maximum of keys that are all hidden


def emit(
    name: str, plan: AttentionPlan, epilogue: Epilogue, target: Target, *, limited: bool = False, guarded: bool = False
) -> Kernel:
    """The kernel ``name(q, k, v, operands..., [limits], y, scratch, begin, end)``; ``epilogue`` makes the scores."""
    shape = plan.shape
    parameters = [(n, "float32") for n in ("q", "k", "v")] + epilogue.parameters()
    parameters += [("limits", "int32")] * limited + [("y", "float32"), ("scratch", "float32")]
    with function(name, parameters) as made:
        q, k, v, *operands, y, scratch = made.pointers
        limits = dense(operands.pop(), "int32", (plan.count,)) if limited else None
        depth, width, keys = shape.depth, shape.width, shape.keys
        state = State(
            plan,
            epilogue,
            strided(q, "float32", (*shape.batch, shape.rows, depth), shape.q_strides, shape.starts[0]),
            _matrix(k, (*shape.batch, depth, keys), shape.k_strides, shape.starts[1]),
            _matrix(v, (*shape.batch, keys, width), shape.v_strides, shape.starts[2]),
            strided(y, "float32", (*shape.batch, shape.rows, width), (*shape.y_strides, 1)),
            epilogue.views(operands, (*shape.batch, shape.rows, keys)),
            limits,
            dense(scratch, "float32", (plan.scratch_size,)),
            guarded,
        )
        with T.serial(made.begin, made.end) as task:
            number = T.bind(T.truncdiv(task, plan.chunks))
            part = task - number * plan.chunks
            first, last = (T.bind(T.truncdiv((part + i) * plan.count, plan.chunks)) for i in (0, 1))
            _emit_rows(state, indices(number, shape.batch), first, last)
    size = f"{shape.rows} x {keys} keys of {depth}"
    note = f"attention {size}, values of {width}: {plan.tiles[0].width} rows at a time"
    return made.kernel(plan.tasks, shape.work, target, note)


def _matrix(pointer: Expr, sizes: tuple[int, ...], strides: tuple[int, ...], start: int) -> Matrix:
    copy = copy_rows if strides[-1] == 1 or sizes[-1] == 1 else copy_elements
    if strides[-2] == 1 != strides[-1]:
        copy, sizes, strides = copy_turned, (*sizes[:-2], *sizes[:-3:-1]), (*strides[:-2], *strides[:-3:-1])
    return Matrix(strided(pointer, "float32", sizes, strides, start), copy)


def _emit_rows(state: State, batch: tuple[Expr, ...], first: Expr, last: Expr) -> None:
    """The row tiles ``first`` to ``last`` of one batch."""
    plan = state.plan
    if plan.long:
        for run, row in each_tile(plan.tiles, first, last):
            _emit_start(state, run, row)
    for block in plan.blocks:
        with T.serial(0, block.count) as number:
            key = T.bind(block.start + number * block.keys)
            _emit_copies(state, batch, block, key)
            for run, row in each_tile(plan.tiles, first, last):
                needed: Expr = block.keys
                if state.limits is not None:
                    needed = T.bind(T.max(T.min(state.limits[_tile_number(plan, run, row)] - key, block.keys), 0))
                place = Place(batch, run.width, row, block, key, needed)
                emit_scores(state, place)
                (_emit_step if plan.long else _emit_whole)(state, place)
    if plan.long:
        for run, row in each_tile(plan.tiles, first, last):
            _emit_end(state, batch, run, row)


def _tile_number(plan: AttentionPlan, run: Tiles, row: Expr) -> Expr:
    before = sum(t.count for t in plan.tiles[: plan.tiles.index(run)])
    return before + T.truncdiv(row - run.start, run.width)


# ---- copies


def _emit_copies(state: State, batch: tuple[Expr, ...], block: KeyBlock, key: Expr) -> None:
    """k transposed in panels of keys, then v in panels of columns, to the start of scratch."""
    shape = state.plan.shape
    _emit_copy(state, state.k, batch, block.panels, shape.depth, 0, column=key)
    _emit_copy(state, state.v, batch, state.plan.panels, block.keys, shape.depth * block.padded, row=key)


def _emit_copy(
    state: State, source: Matrix, batch: tuple[Expr, ...], panels: tuple[Panel, ...], rows: int, start: int,
    *, row: Expr = 0, column: Expr = 0,
) -> None:  # fmt: skip
    """Copy ``rows`` rows of ``source`` from (``row``, ``column``) on to scratch from ``start`` on."""

    def keep(index: Expr, vector: Expr, slot: Expr, width: int) -> None:
        T.buffer_store(state.scratch, vector, [span(slot + index * width, lanes_of(vector))])

    for panel, base in zip(panels, accumulate((p.count * p.width * rows for p in panels), initial=start), strict=False):
        with T.serial(0, panel.count) as number:
            slot = T.bind(base + number * (panel.width * rows))
            offset = 0
            for lanes in panel.lanes:
                at = column + panel.start + number * panel.channels + offset
                block = Block(batch, T.bind(at), rows, lanes, min(lanes, panel.channels - offset), row)
                source.copy(source.buffer, block, partial(keep, slot=slot + offset, width=panel.width))
                offset += lanes


# ---- softmax


def _emit_whole(state: State, place: Place) -> None:
    """The result of a tile whose scores are all there."""
    inverse = T.alloc_buffer((place.rows,), "float32", scope="local")
    with T.serial(0, place.rows) as m:
        total = emit_softmax(state, place, m, T.bind(emit_maximum(state, place, m)))
        T.buffer_store(inverse, _inverse(state, total), [m])

    def write(m: int, column: Expr, value: Expr, valid: int) -> None:
        store(state.y, _mean(state, value, inverse[m]), (*place.batch, place.row + m, column), valid)

    emit_values(state, place, write)


def _emit_step(state: State, place: Place) -> None:
    """Add a block of keys to what waits in scratch."""
    with T.serial(0, place.rows) as m:
        start = T.bind(_waiting(state.plan, place.row + m))
        peak, total = (state.scratch[start + state.plan.padded + i] for i in (0, 1))
        old = T.bind(peak)
        new = T.bind(T.max(T.max(constant(_LOWEST, "float32"), old), emit_maximum(state, place, m)))
        factor = T.bind(tirx.exp(old - new))
        added = emit_softmax(state, place, m, new)
        T.buffer_store(state.scratch, total * factor + added, [start + state.plan.padded + 1])
        T.buffer_store(state.scratch, new, [start + state.plan.padded])
        for column, lanes, _ in _columns(state.plan):
            at = span(start + column, lanes)
            T.buffer_store(state.scratch, state.scratch[at] * fill(factor, lanes), [at])

    def write(m: int, column: Expr, value: Expr, valid: int) -> None:
        at = span(_waiting(state.plan, place.row + m) + column, lanes_of(value))
        T.buffer_store(state.scratch, state.scratch[at] + value, [at])

    emit_values(state, place, write)


def _emit_start(state: State, run: Tiles, row: Expr) -> None:
    """Nothing seen yet: sums of zero, the lowest maximum."""
    plan = state.plan
    with T.serial(0, run.width) as m:
        start = T.bind(_waiting(plan, row + m))
        with T.serial(0, plan.padded + 2) as i:
            T.buffer_store(state.scratch, constant(0, "float32"), [start + i])
        T.buffer_store(state.scratch, constant(float("-inf"), "float32"), [start + plan.padded])


def _emit_end(state: State, batch: tuple[Expr, ...], run: Tiles, row: Expr) -> None:
    """The sums of v over the sums of exponentials."""
    plan = state.plan
    with T.serial(0, run.width) as m:
        start = T.bind(_waiting(plan, row + m))
        inverse = T.bind(_inverse(state, state.scratch[start + plan.padded + 1]))
        for column, lanes, valid in _columns(plan):
            value = _mean(state, state.scratch[span(start + column, lanes)], inverse)
            store(state.y, value, (*batch, row + m, column), valid)


def _inverse(state: State, total: Expr) -> Expr:
    """What a row's sums of v are multiplied by; 0 marks a row that is to be zero."""
    inverse = constant(1, "float32") / total
    return tirx.Select(total > constant(0, "float32"), inverse, constant(0, "float32")) if state.guarded else inverse


def _mean(state: State, value: Expr, inverse: Expr) -> Expr:
    """One vector of the result."""
    lanes = lanes_of(value)
    found = value * fill(inverse, lanes)
    if not state.guarded:
        return found
    return tirx.Select(fill(inverse, lanes) > constant(0, "float32", lanes), found, constant(0, "float32", lanes))


def _columns(plan: AttentionPlan) -> Iterator[tuple[Expr, int, int]]:
    """(first column, lanes, real ones) of the vectors of a row of v, inside the loop over its panels."""
    for panel in plan.panels:
        with T.serial(0, panel.count) as number:
            for lanes, offset in zip(panel.lanes, accumulate(panel.lanes, initial=0), strict=False):
                yield panel.start + number * panel.channels + offset, lanes, panel.channels - offset


def _waiting(plan: AttentionPlan, row: Expr) -> Expr:
    """Where the state of a row starts."""
    return plan.state + row * (plan.padded + 2)
