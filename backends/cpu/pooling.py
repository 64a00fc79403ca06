"""Maximum and average pooling, channels last: vectors of channels, several pixels at a time.

Padding is never read: rows are clipped at run time, columns of a tile at compile time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, valid_rows
from onyxc.backends.cpu.pooling_plan import PoolPlan, PoolShape, plan
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, cast, constant, fill, function, lanes_of, span, strided
from onyxc.backends.lowering.scalar import lowest
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import is_float

__all__ = ["PoolPlan", "PoolShape", "emit", "plan"]


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: PoolPlan
    epilogue: Epilogue
    x: Expr
    y: Expr
    operands: list[Expr]


@dataclass
class _Place:
    """Where a row lies: first channel, image and row, valid kernel rows, rows that count in an average."""

    panel: Panel
    channel: Expr
    image: Expr
    row: Expr
    rows: tuple[Expr, Expr]
    count: Expr


def emit(name: str, plan: PoolPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, operands..., y, begin, end)`` of ``plan``."""
    shape = plan.shape
    sizes = (shape.batch, *shape.out_size, shape.channels)
    with function(name, [("x", shape.x_dtype), *epilogue.parameters(), ("y", epilogue.y_dtype)]) as made:
        x, *operands, y = made.pointers
        state = _Kernel(
            plan,
            epilogue,
            strided(x, shape.x_dtype, (shape.batch, *shape.in_size, shape.channels), shape.x_strides),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes),
        )
        counts = [shape.batch * panel.count for panel in plan.panels]
        for kind, number, start, stop in each_panel(made, counts, shape.out_size[0]):
            panel = plan.panels[kind]
            image = T.bind(T.truncdiv(number, panel.count))
            channel = T.bind(panel.start + (number - image * panel.count) * panel.channels)
            with T.serial(start, stop) as row:
                rows = valid_rows(shape, row)
                place = _Place(panel, channel, image, row, rows, _row_count(shape, row, rows))
                for run, pixel in each_run(plan.tiles):
                    _emit_tile(state, place, run, pixel)
    return made.kernel(plan.tasks, shape.work, target)


def _row_count(shape: PoolShape, row: Expr, rows: tuple[Expr, Expr]) -> Expr:
    """Rows of the window that count in an average."""
    if not shape.count_include_pad:
        return rows[1] - rows[0]
    height, dilation = shape.in_size[0] + shape.pads[0] + shape.pads[2], shape.dilations[0]
    rest = height - row * shape.strides[0] + (dilation - 1)
    return T.bind(T.min(T.truncdiv(rest, dilation), shape.kernel[0]))


def _emit_tile(state: _Kernel, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    shape, panel = state.plan.shape, place.panel
    largest = shape.kind == "max"
    start = lowest(shape.acc_dtype) if largest else tirx.const(0, shape.acc_dtype)
    tile = Tile(panel.lanes, run.width, shape.acc_dtype, start)
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
        if not largest:
            value = _divide(value, place.count * shape.column_count(run.start + m))
        index = (place.image, place.row, pixel + m, place.channel + offset)
        state.epilogue.write(state.y, value, index, panel.channels - offset, state.operands)


def _divide(total: Expr, count: Expr) -> Expr:
    """The average in floating point."""
    dtype = str(total.ty.dtype).partition("x")[0]
    dtype = dtype if is_float(dtype) else "float32"
    lanes = lanes_of(total)
    if isinstance(count, int):
        return cast(total, dtype) / constant(count, dtype, lanes)
    return cast(total, dtype) / fill(T.bind(cast(count, dtype)), lanes)
