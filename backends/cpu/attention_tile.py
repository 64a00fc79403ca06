"""A tile of attention: some rows of q beside a block of keys. Scores, their exponentials, and the products with v.

All of them lie in the thread's scratch: copies of the keys and values of the block first, then the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.attention_plan import AttentionPlan, KeyBlock
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.transpose import Block, Store
from onyxc.backends.cpu.vectors import Expr, across, constant, fill, lanes_of, span


@dataclass
class Matrix:
    """k or v, with the last two dimensions exchanged where that makes rows contiguous, and how to copy it."""

    buffer: Expr
    copy: Callable[[Expr, Block, Store], None]


@dataclass
class State:
    """The buffers of the kernel that is being written."""

    plan: AttentionPlan
    epilogue: Epilogue
    q: Expr
    k: Matrix  # [*batch, depth, key]
    v: Matrix  # [*batch, key, column]
    y: Expr
    operands: list[Expr]
    limits: Expr  # None without
    scratch: Expr  # flat
    guarded: bool


@dataclass
class Place:
    """A tile of rows and a block of keys: indices of the batch, first row, first key, keys that are needed."""

    batch: tuple[Expr, ...]
    rows: int
    row: Expr
    block: KeyBlock
    key: Expr
    needed: Expr


def emit_scores(state: State, place: Place) -> None:
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


def _vectors(place: Place) -> list[tuple[int, Expr, int]]:
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


def emit_maximum(state: State, place: Place, m: Expr) -> Expr:
    """The largest score of row ``m``."""
    scores, pitch = state.plan.scores
    peak = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(peak, constant(float("-inf"), "float32"), [0])
    for column, count, lanes in _vectors(place):
        held = T.alloc_buffer((lanes,), "float32", scope="local")
        T.buffer_store(held, constant(float("-inf"), "float32", lanes), [span(0, lanes)])
        with T.serial(0, count) as number:
            value = state.scratch[span(scores + m * pitch + column + number * lanes, lanes)]
            T.buffer_store(held, T.max(held[span(0, lanes)], value), [span(0, lanes)])
        T.buffer_store(peak, T.max(peak[0], across(held[span(0, lanes)], T.max)), [0])
    return peak[0]


def emit_softmax(state: State, place: Place, m: Expr, peak: Expr) -> Expr:
    """Exponentials of row ``m``, less ``peak``, in place; their sum."""
    scores, pitch = state.plan.scores
    total = T.alloc_buffer((1,), "float32", scope="local")
    T.buffer_store(total, constant(0, "float32"), [0])
    for column, count, lanes in _vectors(place):
        held = T.alloc_buffer((lanes,), "float32", scope="local")
        T.buffer_store(held, constant(0, "float32", lanes), [span(0, lanes)])
        with T.serial(0, count) as number:
            at = span(scores + m * pitch + column + number * lanes, lanes)
            T.buffer_store(state.scratch, tirx.exp(state.scratch[at] - fill(peak, lanes)), [at])
            T.buffer_store(held, held[span(0, lanes)] + state.scratch[at], [span(0, lanes)])
        T.buffer_store(total, total[0] + across(held[span(0, lanes)], lambda a, b: a + b), [0])
    return total[0]


def emit_values(state: State, place: Place, write: Callable[[int, Expr, Expr, int], None]) -> None:
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
