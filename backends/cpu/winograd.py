"""Winograd convolution, channels last: 3x3 with 2.25 or 4 times fewer products than the direct sum, 5x5 with up to 6.

for strip of tiles (tile: m x m outputs):
    forward   n x n inputs of each tile -> scratch[point, tile, channel]
    for panel of output channels:
        products  for point, for a few tiles: scratch[tile, point, panel] = scratch[point, tile, :] @ weights[panel, point]
        inverse   for tile: n x n products -> m x m outputs, epilogue, store

Threads divide panels as well as strips: the thread that gets a part of a strip's panels transforms the strip for
itself, which costs little where there are many channels, and few strips are only found there.

Largest error of a sum over 512 channels, relative to the result's standard deviation, for normal input and weights:
F(2x2, 3x3) 1e-5, F(4x4, 3x3) and F(2x2, 5x5) 4e-5, F(4x4, 5x5) and F(2x2, 7x7) 1e-4; the direct sum's is 3e-5. An
infinity in the input makes the results of its tile NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from math import ceil
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import (
    Expr,
    Signature,
    constant,
    dense,
    function,
    hold,
    lanes_of,
    prefetch,
    span,
    strided,
)
from onyxc.backends.cpu.winograd_choice import plan
from onyxc.backends.cpu.winograd_plan import Columns, WinogradPlan, pack
from onyxc.backends.cpu.winograd_transforms import Matrix
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["WinogradPlan", "emit", "pack", "plan"]

_LINE = 16  # elements of a cache line


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: WinogradPlan
    epilogue: Epilogue
    x: Expr
    weights: Expr  # flat
    y: Expr
    scratch: Expr  # flat
    operands: list[Expr]


@dataclass
class _Strip:
    """First tile and number of tiles of a strip."""

    first: Expr
    count: Expr


@dataclass
class _Place:
    """Where a tile lies: image, row and column of tiles, and its number in the strip."""

    image: Expr
    row: Expr
    column: Expr
    number: Expr


@dataclass
class _Outputs:
    """The output channels of a panel: first channel, first input channel of its group, first weight."""

    panel: Panel
    channel: Expr
    source: Expr
    weight: Expr


def emit(name: str, plan: WinogradPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, transformed weights, operands..., y, scratch, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (shape.batch, *shape.out_size, shape.out_channels)
    floats = "float32"
    parameters = [("x", floats), ("w", floats), *epilogue.parameters(), ("y", epilogue.y_dtype), ("scratch", floats)]
    with function(name, parameters) as made:
        x, w, *operands, y, scratch = made.pointers
        state = _Kernel(
            plan,
            epilogue,
            strided(x, floats, (shape.batch, *shape.in_size, shape.in_channels), shape.x_strides),
            dense(w, floats, (plan.packed_size,)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            dense(scratch, floats, (plan.scratch,)),
            epilogue.views(operands, sizes),
        )
        _emit_strips(state, made)
    return made.kernel(plan.tasks, shape.work, target, plan.note)


def _emit_strips(state: _Kernel, made: Signature) -> None:
    """All tasks: each strip with the panels that this call has to do."""
    plan = state.plan
    with T.serial(T.truncdiv(made.begin, plan.units), T.truncdiv(made.end + (plan.units - 1), plan.units)) as number:
        first = T.bind(number * plan.strip)
        strip = _Strip(first, T.bind(T.min(plan.tiles - first, plan.strip)))
        low = T.bind(T.max(made.begin - number * plan.units, 0))
        high = T.bind(T.min(made.end - number * plan.units, plan.units))
        _emit_forward(state, strip)
        for outputs in _each_panel(plan, low, high):
            _emit_products(state, strip, outputs)
            _emit_inverse(state, strip, outputs)


def _each_panel(plan: WinogradPlan, low: Expr, high: Expr) -> Iterator[_Outputs]:
    """Loops over the panels number ``low`` to ``high`` of all groups, class by class as they are packed."""
    shape, first, base = plan.shape, 0, 0
    for panel in plan.panels:
        count, size = shape.group * panel.count, panel.width * shape.group_in * plan.points
        with T.serial(T.max(low, first), T.min(high, first + count)) as number:
            inside = T.bind(number - first)
            group = T.bind(T.truncdiv(inside, panel.count)) if shape.group > 1 else 0
            channel = group * shape.group_out + panel.start + (inside - group * panel.count) * panel.channels
            weight = T.bind(base + inside * size)
            yield _Outputs(panel, T.bind(channel), group * shape.group_in, weight)
        first, base = first + count, base + count * size


def _each_tile(plan: WinogradPlan, strip: _Strip, kind: Callable[[Columns], Any]) -> Iterator[tuple[_Place, Columns]]:
    """A loop over the tiles of a strip, inside the case of each ``kind`` of tile column, of which columns comes one."""
    rows, columns = plan.grid
    with T.serial(0, strip.count) as number:
        line = T.bind(T.truncdiv(strip.first + number, columns))
        column = T.bind(strip.first + number - line * columns)
        image = T.bind(T.truncdiv(line, rows)) if plan.shape.batch > 1 else 0
        place = _Place(image, T.bind(line - image * rows), column, number)
        for _, group in groupby(plan.columns, key=kind):
            runs = list(group)
            start, stop = runs[0].start, runs[-1].start + runs[-1].count
            with ExitStack() as case:
                if stop - start < columns:
                    case.enter_context(T.If(tirx.all(column >= start, column < stop)))
                    case.enter_context(T.Then())
                yield place, runs[0]


def _emit_forward(state: _Kernel, strip: _Strip) -> None:
    """Transform the inputs of a strip, all channels."""
    plan, lanes = state.plan, state.plan.lanes
    for place, run in _each_tile(plan, strip, lambda run: run.inputs):
        with T.serial(0, plan.row // lanes) as vector:
            _emit_forward_tile(state, place, run, T.bind(vector * lanes))


def _emit_forward_tile(state: _Kernel, place: _Place, run: Columns, channel: Expr) -> None:
    """One tile and vector of channels: along w in each row, then along h."""
    plan, shape, lanes = state.plan, state.plan.shape, state.plan.lanes
    high, wide = plan.vertical, plan.horizontal
    top = T.bind(place.row * high.step - shape.pads[0])
    left = place.column * wide.step - shape.pads[1]
    half = T.alloc_buffer((high.size, wide.size, lanes), "float32", scope="local")
    rows = plan.grid[0]

    def keep(row: int, values: Sequence[Expr | None]) -> None:
        for j, value in enumerate(values):
            filled = constant(0, "float32", lanes) if value is None else value
            T.buffer_store(half, filled, [row, j, span(0, lanes)])

    for i in range(high.size):

        def transform(i: int = i) -> None:
            line = [
                hold(state.x[place.image, top + i, left + j, span(channel, lanes)]) if j in run.inputs else None
                for j in range(wide.size)
            ]
            keep(i, _apply(wide.forward, line))

        inside = []
        if i < shape.pads[0]:
            inside.append(top + i >= 0)
        if (rows - 1) * high.step - shape.pads[0] + i >= shape.in_size[0]:
            inside.append(top + i < shape.in_size[0])
        _where(inside, transform, partial(keep, i, [None] * wide.size))
    for j in range(wide.size):
        column = [half[i, j, span(0, lanes)] for i in range(high.size)]
        for i, value in enumerate(_apply(high.forward, column)):
            point = i * wide.size + j
            assert value is not None
            T.buffer_store(state.scratch, value, [span(point * plan.plane + place.number * plan.row + channel, lanes)])


def _where(conditions: Sequence[Expr], then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """``then`` where all ``conditions`` hold, else ``otherwise``."""
    if not conditions:
        then()
        return
    with T.If(tirx.all(*conditions)):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def _apply(stages: Sequence[Matrix], values: Sequence[Expr | None]) -> list[Expr | None]:
    """The product of all ``stages`` with a column of vectors; None is a vector of zeros."""
    current = list(values)
    for stage in stages:
        current = [_combine(row, current) for row in stage]
    return current


def _combine(row: Sequence[float], values: Sequence[Expr | None]) -> Expr | None:
    """The sum of ``row`` times ``values``, in a register."""
    terms = [(factor, value) for factor, value in zip(row, values, strict=True) if factor and value is not None]
    terms.sort(key=lambda term: term[0] != 1)
    if not terms:
        return None
    (factor, total), *rest = terms
    if factor != 1:
        total = total * constant(factor, "float32", lanes_of(total))
    elif not rest:
        return total
    for factor, value in rest:
        if factor == 1:
            total = total + value
        elif factor == -1:
            total = total - value
        else:
            total = total + value * constant(factor, "float32", lanes_of(value))
    return hold(total)


def _emit_products(state: _Kernel, strip: _Strip, outputs: _Outputs) -> None:
    """At each point, transformed inputs of all tiles times the weights of a panel."""
    plan, panel = state.plan, outputs.panel
    depth, width = plan.shape.group_in, panel.width
    starts = list(accumulate(panel.lanes, initial=0))
    lines = ceil(width / _LINE)
    asked = ceil(lines / (plan.strip // plan.width))
    turns = T.truncdiv(strip.count + (plan.width - 1), plan.width)
    with T.serial(0, plan.points) as point, T.serial(0, turns) as turn:
        weight = T.bind(outputs.weight + point * (depth * width))
        tile = Tile(panel.lanes, plan.width, "float32")
        first = T.bind(turn * plan.width)
        source = T.bind(point * plan.plane + first * plan.row + outputs.source)
        with T.serial(0, depth // plan.unroll) as step:
            for u in range(plan.unroll):
                channel = step * plan.unroll + u
                weights = [
                    state.weights[span(weight + channel * width + start, lanes)]
                    for start, lanes in zip(starts, panel.lanes, strict=False)
                ]
                for i in range(asked):
                    line = T.truncmod(turn * asked + i, lines) * _LINE
                    prefetch(state.weights, (weight + (depth + channel) * width + line,), level=2)

                def load(m: int, channel: Expr = channel) -> Expr:
                    return state.scratch[source + m * plan.row + channel]

                tile.step(weights, range(plan.width), load)
        for m, offset, value in tile.vectors():
            place = plan.products + ((first + m) * plan.points + point) * plan.panel_width + offset
            T.buffer_store(state.scratch, value, [span(place, lanes_of(value))])


def _emit_inverse(state: _Kernel, strip: _Strip, outputs: _Outputs) -> None:
    """Results of all tiles from the products with a panel."""
    plan, panel = state.plan, outputs.panel
    full = sum(lanes == plan.lanes and (i + 1) * plan.lanes <= panel.channels for i, lanes in enumerate(panel.lanes))
    starts = list(accumulate(panel.lanes, initial=0))
    for place, run in _each_tile(plan, strip, lambda run: run.outputs):
        if full:
            with T.serial(0, full) as block:
                _emit_inverse_tile(state, place, run, outputs, T.bind(block * plan.lanes), plan.lanes, plan.lanes)
        for offset, lanes in list(zip(starts, panel.lanes, strict=False))[full:]:
            _emit_inverse_tile(state, place, run, outputs, offset, lanes, panel.channels - offset)


def _emit_inverse_tile(
    state: _Kernel, place: _Place, run: Columns, outputs: _Outputs, offset: Expr, lanes: int, valid: int
) -> None:
    """One tile and vector of output channels: along h in each column, then along w."""
    plan, shape = state.plan, state.plan.shape
    high, wide = plan.vertical, plan.horizontal
    base = T.bind(plan.products + place.number * (plan.points * plan.panel_width) + offset)
    columns = []
    for j in range(wide.size):
        column = [hold(state.scratch[span(base + (i * wide.size + j) * plan.panel_width, lanes)]) for i in range(high.size)]
        columns.append(_apply(high.inverse, column))
    for i in range(high.outputs):
        row = T.bind(place.row * high.outputs + i)

        def write(i: int = i, row: Expr = row) -> None:
            for m, value in enumerate(_apply(wide.inverse, [column[i] for column in columns])[: run.outputs]):
                index = (place.image, row, place.column * wide.outputs + m, outputs.channel + offset)
                state.epilogue.write(state.y, value, index, valid, state.operands)

        if plan.grid[0] * high.outputs > shape.out_size[0] and i >= (shape.out_size[0] - 1) % high.outputs + 1:
            with T.If(row < shape.out_size[0]), T.Then():
                write()
        else:
            write()
