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
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.attention_plan import AttentionPlan, AttentionShape, KeyBlock, plan
from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.gemm import indices
from onyxc.backends.cpu.loops import each_tile
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.transpose import Block, Store, copy_elements, copy_rows, copy_turned
from onyxc.backends.cpu.vectors import Expr, across, constant, dense, fill, function, lanes_of, span, store, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["AttentionPlan", "AttentionShape", "emit", "plan"]

_LOWEST = -3.4028234663852886e38  # stands for the maximum of keys that are all hidden


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: AttentionPlan
    epilogue: Epilogue
    q: Expr
    k: _Matrix  # [*batch, depth, key]
    v: _Matrix  # [*batch, key, column]
    y: Expr
    operands: list[Expr]
    limits: Expr  # None without
    scratch: Expr  # flat


@dataclass
class _Place:
    """A tile of rows and a block of keys: indices of the batch, first row, first key, keys that are needed."""

    batch: tuple[Expr, ...]
    rows: int
    row: Expr
    block: KeyBlock
    key: Expr
    needed: Expr


def emit(name: str, plan: AttentionPlan, epilogue: Epilogue, target: Target, *, limited: bool = False) -> Kernel:
    """The kernel ``name(q, k, v, operands..., [limits], y, scratch, begin, end)``; ``epilogue`` makes the scores."""
    shape = plan.shape
    parameters = [(n, "float32") for n in ("q", "k", "v")] + epilogue.parameters()
    parameters += [("limits", "int32")] * limited + [("y", "float32"), ("scratch", "float32")]
    with function(name, parameters) as made:
        q, k, v, *operands, y, scratch = made.pointers
        limits = dense(operands.pop(), "int32", (plan.count,)) if limited else None
        depth, width, keys = shape.depth, shape.width, shape.keys
        state = _Kernel(
            plan,
            epilogue,
            strided(q, "float32", (*shape.batch, shape.rows, depth), shape.q_strides, shape.starts[0]),
            _matrix(k, (*shape.batch, depth, keys), shape.k_strides, shape.starts[1]),
            _matrix(v, (*shape.batch, keys, width), shape.v_strides, shape.starts[2]),
            strided(y, "float32", (*shape.batch, shape.rows, width), (*shape.y_strides, 1)),
            epilogue.views(operands, (*shape.batch, shape.rows, keys)),
            limits,
            dense(scratch, "float32", (plan.scratch_size,)),
        )
        with T.serial(made.begin, made.end) as task:
            number = T.bind(T.truncdiv(task, plan.chunks))
            part = task - number * plan.chunks
            first, last = (T.bind(T.truncdiv((part + i) * plan.count, plan.chunks)) for i in (0, 1))
            _emit_rows(state, indices(number, shape.batch), first, last)
    size = f"{shape.rows} x {keys} keys of {depth}"
    note = f"attention {size}, values of {width}: {plan.tiles[0].width} rows at a time"
    return made.kernel(plan.tasks, shape.work, target, note)


@dataclass
class _Matrix:
    """k or v, with the last two dimensions exchanged where that makes rows contiguous, and how to copy it."""

    buffer: Expr
    copy: Callable[[Expr, Block, Store], None]


def _matrix(pointer: Expr, sizes: tuple[int, ...], strides: tuple[int, ...], start: int) -> _Matrix:
    copy = copy_rows if strides[-1] == 1 or sizes[-1] == 1 else copy_elements
    if strides[-2] == 1 != strides[-1]:
        copy, sizes, strides = copy_turned, (*sizes[:-2], *sizes[:-3:-1]), (*strides[:-2], *strides[:-3:-1])
    return _Matrix(strided(pointer, "float32", sizes, strides, start), copy)


def _emit_rows(state: _Kernel, batch: tuple[Expr, ...], first: Expr, last: Expr) -> None:
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
                place = _Place(batch, run.width, row, block, key, needed)
                _emit_scores(state, place)
                (_emit_step if plan.long else _emit_whole)(state, place)
    if plan.long:
        for run, row in each_tile(plan.tiles, first, last):
            _emit_end(state, batch, run, row)


def _tile_number(plan: AttentionPlan, run: Tiles, row: Expr) -> Expr:
    before = sum(t.count for t in plan.tiles[: plan.tiles.index(run)])
    return before + T.truncdiv(row - run.start, run.width)


# ---- copies and scores


def _emit_copies(state: _Kernel, batch: tuple[Expr, ...], block: KeyBlock, key: Expr) -> None:
    """k transposed in panels of keys, then v in panels of columns, to the start of scratch."""
    shape = state.plan.shape
    _emit_copy(state, state.k, batch, block.panels, shape.depth, 0, column=key)
    _emit_copy(state, state.v, batch, state.plan.panels, block.keys, shape.depth * block.padded, row=key)


def _emit_copy(
    state: _Kernel, source: _Matrix, batch: tuple[Expr, ...], panels: tuple[Panel, ...], rows: int, start: int,
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


def _emit_scores(state: _Kernel, place: _Place) -> None:
    """Scores of all keys that are needed, in whole panels; what is behind the last key is hidden."""
    plan, block = state.plan, place.block
    depth, (scores, pitch) = plan.shape.depth, plan.scores
    base = 0
    for panel in block.panels:
        wanted = T.truncdiv(place.needed - panel.start + (panel.channels - 1), panel.channels)
        with T.serial(0, T.max(T.min(wanted, panel.count), 0)) as number:
            slot = T.bind(base + number * (panel.width * depth))
            column = T.bind(panel.start + number * panel.channels)
            tile = Tile(panel.lanes, place.rows, "float32")
            starts = list(accumulate(panel.lanes, initial=0))
            with T.serial(0, depth) as k:
                here = slot + k * panel.width
                keys = [state.scratch[span(here + s, n)] for s, n in zip(starts, panel.lanes, strict=False)]

                def load(m: int, k: Expr = k) -> Expr:
                    return state.q[(*place.batch, place.row + m, k)]

                tile.step(keys, range(place.rows), load)
            for m, offset, acc in tile.vectors():
                at = (*place.batch, place.row + m, place.key + column + offset)
                value = state.epilogue.value(acc, at, state.operands)
                lanes, valid = lanes_of(acc), panel.channels - offset
                if valid < lanes:
                    real = tirx.Ramp(0, 1, lanes) < constant(valid, "int32", lanes)
                    value = tirx.Select(real, value, constant(float("-inf"), "float32", lanes))
                T.buffer_store(state.scratch, value, [span(scores + m * pitch + column + offset, lanes)])
        base += panel.count * panel.width * depth


# ---- softmax and values


def _emit_whole(state: _Kernel, place: _Place) -> None:
    """The result of a tile whose scores are all there."""
    inverse = T.alloc_buffer((place.rows,), "float32", scope="local")
    with T.serial(0, place.rows) as m:
        total = _emit_softmax(state, place, m, T.bind(_emit_maximum(state, place, m)))
        T.buffer_store(inverse, constant(1, "float32") / total, [m])

    def write(m: int, column: Expr, value: Expr, valid: int) -> None:
        at = (*place.batch, place.row + m, column)
        store(state.y, value * fill(inverse[m], lanes_of(value)), at, valid)

    _emit_values(state, place, write)


def _emit_step(state: _Kernel, place: _Place) -> None:
    """Add a block of keys to what waits in scratch."""
    with T.serial(0, place.rows) as m:
        start = T.bind(_waiting(state.plan, place.row + m))
        peak, total = (state.scratch[start + state.plan.padded + i] for i in (0, 1))
        old = T.bind(peak)
        new = T.bind(T.max(T.max(constant(_LOWEST, "float32"), old), _emit_maximum(state, place, m)))
        factor = T.bind(tirx.exp(old - new))
        added = _emit_softmax(state, place, m, new)
        T.buffer_store(state.scratch, total * factor + added, [start + state.plan.padded + 1])
        T.buffer_store(state.scratch, new, [start + state.plan.padded])
        for column, lanes, _ in _columns(state.plan):
            at = span(start + column, lanes)
            T.buffer_store(state.scratch, state.scratch[at] * fill(factor, lanes), [at])

    def write(m: int, column: Expr, value: Expr, valid: int) -> None:
        at = span(_waiting(state.plan, place.row + m) + column, lanes_of(value))
        T.buffer_store(state.scratch, state.scratch[at] + value, [at])

    _emit_values(state, place, write)


def _emit_start(state: _Kernel, run: Tiles, row: Expr) -> None:
    """Nothing seen yet: sums of zero, the lowest maximum."""
    plan = state.plan
    with T.serial(0, run.width) as m:
        start = T.bind(_waiting(plan, row + m))
        with T.serial(0, plan.padded + 2) as i:
            T.buffer_store(state.scratch, constant(0, "float32"), [start + i])
        T.buffer_store(state.scratch, constant(float("-inf"), "float32"), [start + plan.padded])


def _emit_end(state: _Kernel, batch: tuple[Expr, ...], run: Tiles, row: Expr) -> None:
    """The sums of v over the sums of exponentials."""
    plan = state.plan
    with T.serial(0, run.width) as m:
        start = T.bind(_waiting(plan, row + m))
        inverse = T.bind(constant(1, "float32") / state.scratch[start + plan.padded + 1])
        for column, lanes, valid in _columns(plan):
            value = state.scratch[span(start + column, lanes)] * fill(inverse, lanes)
            store(state.y, value, (*batch, row + m, column), valid)


def _columns(plan: AttentionPlan) -> Iterator[tuple[Expr, int, int]]:
    """(first column, lanes, real ones) of the vectors of a row of v, inside the loop over its panels."""
    for panel in plan.panels:
        with T.serial(0, panel.count) as number:
            for lanes, offset in zip(panel.lanes, accumulate(panel.lanes, initial=0), strict=False):
                yield panel.start + number * panel.channels + offset, lanes, panel.channels - offset


def _waiting(plan: AttentionPlan, row: Expr) -> Expr:
    """Where the state of a row starts."""
    return plan.state + row * (plan.padded + 2)


def _vectors(state: _Kernel, place: _Place) -> list[tuple[int, Expr, int]]:
    """(first column, count, lanes) of the runs of equal vectors that a row of scores consists of."""
    runs = []
    for panel in place.block.panels:
        wanted = T.truncdiv(place.needed - panel.start + (panel.channels - 1), panel.channels)
        panels = T.max(T.min(wanted, panel.count), 0)
        first = panel.lanes[0]
        equal = sum(n == first for n in panel.lanes)
        runs.append((panel.start, panels * equal, first))
        runs += [(panel.start + equal * first, panels, n) for n in panel.lanes[equal:]]
    return runs


def _emit_maximum(state: _Kernel, place: _Place, m: Expr) -> Expr:
    """The largest score of row ``m``."""
    scores, pitch = state.plan.scores
    peak = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(peak, constant(float("-inf"), "float32"), [0])
    for column, count, lanes in _vectors(state, place):
        held = T.alloc_buffer((lanes,), "float32", scope="local")
        T.buffer_store(held, constant(float("-inf"), "float32", lanes), [span(0, lanes)])
        with T.serial(0, count) as number:
            value = state.scratch[span(scores + m * pitch + column + number * lanes, lanes)]
            T.buffer_store(held, T.max(held[span(0, lanes)], value), [span(0, lanes)])
        T.buffer_store(peak, T.max(peak[0], across(held[span(0, lanes)], T.max)), [0])
    return peak[0]


def _emit_softmax(state: _Kernel, place: _Place, m: Expr, peak: Expr) -> Expr:
    """Exponentials of row ``m``, less ``peak``, in place; their sum."""
    scores, pitch = state.plan.scores
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, constant(0, "float32"), [0])
    for column, count, lanes in _vectors(state, place):
        held = T.alloc_buffer((lanes,), "float32", scope="local")
        T.buffer_store(held, constant(0, "float32", lanes), [span(0, lanes)])
        with T.serial(0, count) as number:
            at = span(scores + m * pitch + column + number * lanes, lanes)
            T.buffer_store(state.scratch, tirx.exp(state.scratch[at] - fill(peak, lanes)), [at])
            T.buffer_store(held, held[span(0, lanes)] + state.scratch[at], [span(0, lanes)])
        T.buffer_store(total, total[0] + across(held[span(0, lanes)], lambda a, b: a + b), [0])
    return total[0]


def _emit_values(state: _Kernel, place: _Place, write: Expr) -> None:
    """The exponentials times v; ``write(row, column, vector, valid)`` takes the sums."""
    plan, (scores, pitch) = state.plan, state.plan.scores
    base = plan.shape.depth * place.block.padded
    for panel in plan.panels:
        with T.serial(0, panel.count) as number:
            slot = T.bind(base + number * (panel.width * place.block.keys))
            tile = Tile(panel.lanes, place.rows, "float32")
            starts = list(accumulate(panel.lanes, initial=0))
            with T.serial(0, place.needed) as key:
                here = slot + key * panel.width
                values = [state.scratch[span(here + s, n)] for s, n in zip(starts, panel.lanes, strict=False)]

                def load(m: int, key: Expr = key) -> Expr:
                    return state.scratch[scores + m * pitch + key]

                tile.step(values, range(place.rows), load)
            for m, offset, value in tile.vectors():
                column = panel.start + number * panel.channels + offset
                write(m, column, value, panel.channels - offset)
        base += panel.count * panel.width * place.block.keys
