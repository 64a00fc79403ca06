"""Maximum and average pooling, channels last: vectors of channels, several pixels at a time.

    for row, for panel of channels, for tile of pixels:
        for kernel row:     fold every input column of the tile into an accumulator of its own
        for pixel:          fold the columns under its window; epilogue, store

so that an input element is loaded once for a row of windows. A kernel wider than the registers has an accumulator a
pixel instead. Padding is never read: rows are clipped at run time, columns of a tile at compile time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, turns, valid_rows
from onyxc.backends.cpu.pooling_plan import PoolPlan, PoolShape, plan
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, Signature, cast, constant, fill, function, lanes_of, span, strided
from onyxc.backends.lowering.scalar import lowest
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import is_float

__all__ = ["PoolPlan", "PoolShape", "emit", "plan"]


@dataclass
class State:
    """The buffers of the kernel that is being written."""

    plan: PoolPlan
    epilogue: Epilogue
    x: Expr
    y: Expr
    operands: list[Expr]


@dataclass
class _Place:
    """Where a row lies: first channel, image and row, valid kernel rows, rows that count in an average, row of y."""

    panel: Panel
    channel: Expr
    image: Expr
    row: Expr
    rows: tuple[Expr, Expr]
    count: Expr
    into: Expr


def emit(name: str, plan: PoolPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, operands..., y, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (shape.batch, *shape.out_size, shape.channels)
    with function(name, [("x", shape.x_dtype), *epilogue.parameters(), ("y", epilogue.y_dtype)]) as made:
        x, *operands, y = made.pointers
        state = State(
            plan,
            epilogue,
            strided(x, shape.x_dtype, (shape.batch, *shape.in_size, shape.channels), shape.x_strides),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes),
        )
        (_emit_rows if plan.by_rows else _emit_panels)(state, made)
    return made.kernel(plan.tasks, shape.work, target, plan.note)


def _emit_rows(state: State, made: Signature) -> None:
    """Tasks are rows of all images; what a row of windows reads stays in the cache for all panels."""
    height = state.plan.shape.out_size[0]
    with T.serial(made.begin, made.end) as number:
        image = T.bind(T.truncdiv(number, height))
        row = T.bind(number - image * height)
        emit_row(state, image, row, row)


def emit_row(state: State, image: Expr, row: Expr, into: Expr) -> None:
    """All channels of an output row, written to row ``into`` of y."""
    plan = state.plan
    rows = valid_rows(plan.shape, row)
    count = _row_count(plan.shape, row, rows)
    for run, pixel in each_run(plan.tiles):
        for panel in plan.panels:
            for index in turns(0, panel.count):
                channel = T.bind(panel.start + index * panel.channels)
                _emit_window(state, _Place(panel, channel, image, row, rows, count, into), run, pixel)


def _emit_panels(state: State, made: Signature) -> None:
    """Few rows: tasks are rows of panels of all images."""
    plan, shape = state.plan, state.plan.shape
    counts = [shape.batch * panel.count for panel in plan.panels]
    for kind, number, start, stop in each_panel(made, counts, shape.out_size[0]):
        panel = plan.panels[kind]
        image = T.bind(T.truncdiv(number, panel.count))
        channel = T.bind(panel.start + (number - image * panel.count) * panel.channels)
        with T.serial(start, stop) as row:
            rows = valid_rows(shape, row)
            place = _Place(panel, channel, image, row, rows, _row_count(shape, row, rows), row)
            for run, pixel in each_run(plan.tiles):
                _emit_window(state, place, run, pixel)


def _emit_window(state: State, place: _Place, run: Tiles, pixel: Expr) -> None:
    (_emit_columns if state.plan.by_columns else _emit_tile)(state, place, run, pixel)


def _row_count(shape: PoolShape, row: Expr, rows: tuple[Expr, Expr]) -> Expr:
    """Rows of the window that count in an average."""
    if not shape.count_include_pad:
        return rows[1] - rows[0]
    height, dilation = shape.in_size[0] + shape.pads[0] + shape.pads[2], shape.dilations[0]
    rest = height - row * shape.strides[0] + (dilation - 1)
    return T.bind(T.min(T.truncdiv(rest, dilation), shape.kernel[0]))


def _emit_tile(state: State, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    shape, panel = state.plan.shape, place.panel
    largest = shape.kind == "max"
    tile = Tile(panel.lanes, run.width, shape.acc_dtype, _start(shape))
    offsets = list(accumulate(panel.lanes, initial=0))
    for taps in run.taps:
        with T.serial(*place.rows) as ky, T.serial(taps.begin, taps.end) as kx:
            row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
            column = pixel * shape.strides[1] - shape.pads[1] + kx * shape.dilations[1]
            for m in taps.pixels:
                for block, lanes in enumerate(panel.lanes):
                    place_x = span(place.channel + offsets[block], lanes)
                    value = cast(state.x[place.image, row, column + m * shape.strides[1], place_x], shape.acc_dtype)
                    (tile.maximum if largest else tile.add)(block, m, value)
    for m, offset, value in tile.vectors():
        _finish(state, place, run.start + m, pixel + m, offset, value)


def _emit_columns(state: State, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` on, input column by input column."""
    shape, panel = state.plan.shape, place.panel
    columns = _columns(shape, run)
    number = {column: index for index, column in enumerate(dict.fromkeys(c for own in columns for c in own))}
    offsets = list(accumulate(panel.lanes, initial=0))
    tile = Tile(panel.lanes, len(number), shape.acc_dtype, _start(shape))
    with T.serial(*place.rows) as ky:
        row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
        for column, index in number.items():
            at = pixel * shape.strides[1] - shape.pads[1] + column
            for block, lanes in enumerate(panel.lanes):
                x = state.x[place.image, row, at, span(place.channel + offsets[block], lanes)]
                (tile.maximum if shape.kind == "max" else tile.add)(block, index, cast(x, shape.acc_dtype))
    for m, own in enumerate(columns):
        for block, lanes in enumerate(panel.lanes):
            value = fill(_start(shape), lanes)
            if own:
                values = [tile.get(block, number[c]) for c in own]
                value = reduce(lambda a, b: T.max(a, b) if shape.kind == "max" else a + b, values)
            _finish(state, place, run.start + m, pixel + m, offsets[block], value)


def _columns(shape: PoolShape, run: Tiles) -> list[list[int]]:
    """For each pixel of a tile the input columns in its window, counted from the window of the first pixel."""
    found: list[list[int]] = [[] for _ in range(run.width)]
    for taps in run.taps:
        for kx in range(taps.begin, taps.end):
            for m in taps.pixels:
                found[m].append(m * shape.strides[1] + kx * shape.dilations[1])
    return found


def _start(shape: PoolShape) -> Expr:
    return lowest(shape.acc_dtype) if shape.kind == "max" else tirx.const(0, shape.acc_dtype)


def _finish(state: State, place: _Place, first: int, pixel: Expr, offset: int, value: Expr) -> None:
    """Epilogue and store of one vector; ``first``: the pixel's number, or that of an equal one."""
    shape = state.plan.shape
    if shape.kind != "max":
        value = _divide(value, place.count * shape.column_count(first))
    index = (place.image, place.into, pixel, place.channel + offset)
    state.epilogue.write(state.y, value, index, place.panel.channels - offset, state.operands)


def _divide(total: Expr, count: Expr) -> Expr:
    """The average in floating point."""
    dtype = str(total.ty.dtype).partition("x")[0]
    dtype = dtype if is_float(dtype) else "float32"
    lanes = lanes_of(total)
    if isinstance(count, int):
        return cast(total, dtype) / constant(count, dtype, lanes)
    return cast(total, dtype) / fill(T.bind(cast(count, dtype)), lanes)
