"""Direct convolution, channels last: any kernel, stride, dilation, padding, group; and products with constant weights.

for panel of output channels, for row, for tile of pixels:      accumulators in registers
    for kernel row (clipped to the image), kernel column (only the tile's valid pixels), input channel:
        accumulators += weights[panel, ky, kx, channel] * broadcast(x)
    epilogue, store
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, Taps, Tiles, costs
from onyxc.backends.cpu.convolution_plan import ConvPlan, pack, plan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, each_tile, turns, valid_rows
from onyxc.backends.cpu.shapes import ConvShape, dense_strides, matmul_shape, planar_strides
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, Signature, cast, dense, function, prefetch, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import itemsize

__all__ = ["ConvPlan", "ConvShape", "dense_strides", "emit", "matmul_shape", "pack", "plan", "planar_strides"]

_LINE = 64  # bytes


@dataclass
class State:
    """The buffers of the kernel that is being written."""

    plan: ConvPlan
    epilogue: Epilogue
    target: Target
    x: Expr
    weights: Expr  # flat
    y: Expr
    operands: list[Expr]
    order: Expr | None = None  # the input channel to read for each


@dataclass
class Place:
    """Where a tile lies: group, first channel and first weight of its panel, image and row, valid kernel rows.

    ``into``: the row of y that it is written to, if that is not ``row``.
    """

    panel: Panel
    group: Expr
    channel: Expr
    weight: Expr
    image: Expr
    row: Expr
    rows: tuple[Expr, Expr]
    turn: Expr | None = None  # counts rows or tiles, where the next panel's weights are to be prefetched
    into: Expr | None = None


def emit(name: str, plan: ConvPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, [order], operands..., y, begin, end)`` of ``plan``.

    ``order`` int32 [in_channels]: which channel of x to read for each, where the shape says ``shuffle``.
    """
    shape = plan.shape
    sizes = (shape.batch, *shape.out_size, shape.out_channels)
    parameters = [
        ("x", shape.x_dtype),
        ("w", shape.packed_dtype),
        *([("order", "int32")] if shape.shuffle else []),
        *epilogue.parameters(),
        ("y", epilogue.y_dtype),
    ]
    with function(name, parameters) as made:
        x, w, *operands, y = made.pointers
        order = dense(operands.pop(0), "int32", (shape.in_channels,)) if shape.shuffle else None
        state = State(
            plan,
            epilogue,
            target,
            strided(x, shape.x_dtype, (shape.batch, *shape.in_size, shape.in_channels), shape.x_strides),
            dense(w, shape.packed_dtype, (plan.packed_size,)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, plan.operands),
            order,
        )
        _emit_panels(state, made)
    return made.kernel(plan.tasks, shape.work, target, plan.note)


def _emit_panels(state: State, made: Signature) -> None:
    """All tasks, one class of panels after the other: tasks count panel by panel, rows inside."""
    plan, shape = state.plan, state.plan.shape
    counts = [shape.group * panel.count for panel in plan.panels]
    sizes = [panel.width * plan.depth for panel in plan.panels]
    bases = list(accumulate((c * s for c, s in zip(counts, sizes, strict=True)), initial=0))
    for kind, number, start, stop in each_panel(made, counts, plan.rows, costs(plan.panels), plan.bands):
        panel = plan.panels[kind]
        group = T.bind(T.truncdiv(number, panel.count)) if shape.group > 1 else 0
        inside = number - group * panel.count
        channel = T.bind(group * shape.group_out + panel.start + inside * panel.channels)
        weight = T.bind(bases[kind] + number * sizes[kind])
        place = Place(panel, group, channel, weight, 0, 0, (0, shape.kernel[0]))
        (_emit_flat if plan.flat else _emit_rows)(state, place, start, stop)


def _emit_flat(state: State, place: Place, start: Expr, stop: Expr) -> None:
    """Tiles ``start`` to ``stop`` of the only row."""
    for run, pixel in each_tile(state.plan.tiles, start, stop):
        place.turn = T.truncdiv(pixel, run.width) if state.plan.ahead else None
        _emit_tile(state, place, run, pixel)


def _emit_rows(state: State, place: Place, start: Expr, stop: Expr) -> None:
    """Rows ``start`` to ``stop``, counted through all images, each with all its tiles."""
    shape = state.plan.shape
    height = shape.out_size[0]
    with T.serial(start, stop) as number:
        place.image = T.bind(T.truncdiv(number, height)) if shape.batch > 1 else 0
        place.row = T.bind(number - place.image * height)
        place.rows = valid_rows(shape, place.row)
        for run, pixel in each_run(state.plan.tiles):
            place.turn = number if state.plan.ahead and run.start == 0 else None
            _emit_tile(state, place, run, pixel)


def emit_tiles(state: State, start: Expr, stop: Expr) -> None:
    """All channels of tiles ``start`` to ``stop`` of the only row; for flat plans of one group."""
    plan, base = state.plan, 0
    for panel in plan.panels:
        size = panel.width * plan.depth
        for number in turns(0, panel.count):
            channel, weight = panel.start + number * panel.channels, base + number * size
            _emit_flat(state, Place(panel, 0, channel, weight, 0, 0, (0, 1)), start, stop)
        base += panel.count * size


def emit_row(state: State, image: Expr, row: Expr, into: Expr) -> None:
    """All channels of an output row, written to row ``into`` of y; for plans of one group."""
    plan, base = state.plan, 0
    rows = valid_rows(plan.shape, row)
    for panel in plan.panels:
        size = panel.width * plan.depth
        for number in turns(0, panel.count):
            channel, weight = panel.start + number * panel.channels, base + number * size
            place = Place(panel, 0, channel, weight, image, row, rows, into=into)
            for run, pixel in each_run(plan.tiles):
                _emit_tile(state, place, run, pixel)
        base += panel.count * size


def _emit_tile(state: State, place: Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    plan = state.plan
    tile = Tile(place.panel.lanes, run.width, plan.shape.acc_dtype)
    for taps in run.taps:
        for ky in turns(*place.rows):
            for kx in turns(taps.begin, taps.end):
                _emit_taps(state, place, tile, taps, pixel, ky, kx)
    for m, offset, value in tile.vectors():
        row = place.row if place.into is None else place.into
        index = (place.image, row, pixel + m, place.channel + offset)
        state.epilogue.write(state.y, value, index, place.panel.channels - offset, state.operands)


def _emit_taps(state: State, place: Place, tile: Tile, taps: Taps, pixel: Expr, ky: Expr, kx: Expr) -> None:
    """The sum over input channels for one kernel position."""
    plan, shape = state.plan, state.plan.shape
    row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
    column = pixel * shape.strides[1] - shape.pads[1] + kx * shape.dilations[1]
    width = place.panel.width
    tap = T.bind(place.weight + (ky * shape.kernel[1] + kx) * (shape.group_in * width))
    starts = list(accumulate(tile.lanes, initial=0))
    for turn in turns(0, shape.group_in // plan.unroll):
        for u in range(plan.unroll):
            channel = turn * plan.unroll + u
            weights = [
                cast(state.weights[span(tap + channel * width + start, lanes)], shape.acc_dtype)
                for start, lanes in zip(starts, tile.lanes, strict=False)
            ]

            source_channel = place.group * shape.group_in + channel
            if state.order is not None:
                source_channel = T.bind(state.order[source_channel])

            def load(m: int, channel: Expr = source_channel) -> Expr:
                source = (place.image, row, column + m * shape.strides[1], channel)
                value = cast(state.x[source], shape.acc_dtype)
                return value - shape.x_zero_point if shape.x_zero_point else value

            if place.turn is not None:
                _emit_prefetch(state, place.turn, width, tap + channel * width)
            tile.step(weights, taps.pixels, load)


def _emit_prefetch(state: State, turn: Expr, width: int, weight: Expr) -> None:
    """Ask for weights that are used later: all of a step where each is used once, else each row or tile its share.

    ``turn`` counts rows or tiles; ``width``: weights of the step, whose first is ``weight``.
    """
    plan = state.plan
    line = _LINE // itemsize(plan.shape.packed_dtype)
    lines = ceil(width / line)
    if plan.rows == 1:
        for i in range(lines):
            prefetch(state.weights, (weight + (plan.ahead + i * line),), level=1)
    else:
        share = ceil(lines * plan.bands / plan.rows)
        for i in range(share):
            which = T.truncmod(turn * share + i, lines)
            prefetch(state.weights, (weight + plan.ahead + which * line,), level=2)
