"""Depthwise convolution, channels last: every vector of channels is convolved for itself, or for a few outputs each.

    for panel of channels, for image row, for tile of pixels:    one accumulator a vector and pixel
        for kernel row (clipped to the image):
            every input column of the tile is loaded once and serves all kernel columns that reach it
        epilogue, store

The panel of channels is the outer loop, so that the rows under the kernel stay in L1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import buffers
from onyxc.backends.cpu.blocking import Panel, Tiles
from onyxc.backends.cpu.buffers import Buffers
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan, fits, pack, plan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, turns, valid_rows
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, cast, constant, span
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["DepthwisePlan", "emit", "fits", "pack", "plan"]


State = Buffers[DepthwisePlan]


@dataclass
class Place:
    """Where a row lies: its panel of channels, its weights, image and row, valid kernel rows, and the row of y."""

    panel: Panel
    channel: Expr
    weight: Expr
    image: Expr
    row: Expr
    rows: tuple[Expr, Expr]
    into: Expr


def emit(name: str, plan: DepthwisePlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, operands..., y, begin, end)`` of ``plan``."""
    shape = plan.shape
    weights = shape.packed_dtype, plan.packed_size
    with buffers.convolution(name, plan, shape, weights, epilogue) as (made, state):
        counts = [shape.batch * panel.count for panel in plan.panels]
        for kind, number, start, stop in each_panel(made, counts, shape.out_size[0], bands=plan.bands):
            panel = plan.panels[kind]
            image = T.bind(T.truncdiv(number, panel.count))
            inside = T.bind(number - image * panel.count)
            channel = T.bind(panel.start + inside * panel.channels)
            base = panel.start * plan.taps  # all panels before the last class are full
            with T.serial(start, stop) as row:
                weight = base + inside * (plan.taps * panel.width)
                place = Place(panel, channel, weight, image, row, valid_rows(shape, row), row)
                for run, pixel in each_run(plan.tiles):
                    _emit_tile(state, place, run, pixel)
    return made.kernel(plan.tasks, shape.work, target, plan.note)


def emit_row(state: State, image: Expr, row: Expr, into: Expr) -> None:
    """All channels of an output row, written to row ``into`` of y."""
    plan, base = state.plan, 0
    rows = valid_rows(plan.shape, row)
    for panel in plan.panels:
        size = plan.taps * panel.width
        for number in turns(0, panel.count):
            channel, weight = panel.start + number * panel.channels, base + number * size
            place = Place(panel, channel, weight, image, row, rows, into)
            for run, pixel in each_run(plan.tiles):
                _emit_tile(state, place, run, pixel)
        base += panel.count * size


def _emit_tile(state: State, place: Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    tile = Tile(place.panel.lanes, run.width, state.plan.shape.acc_dtype)
    for ky in turns(*place.rows):
        _emit_kernel_row(state, place, tile, run, pixel, ky)
    for m, offset, value in tile.vectors():
        index = (place.image, place.into, pixel + m, place.channel + offset)
        state.epilogue.write(state.y, value, index, place.panel.channels - offset, state.operands)


def _emit_kernel_row(state: State, place: Place, tile: Tile, run: Tiles, pixel: Expr, ky: Expr) -> None:
    """Add one kernel row to all pixels of the tile."""
    shape, panel = state.plan.shape, place.panel
    step, dilation, dtype = shape.strides[1], shape.dilations[1], shape.acc_dtype
    base = T.bind(place.weight + ky * (shape.kernel[1] * panel.width))
    row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
    users: dict[int, list[tuple[int, int]]] = {}  # input column -> (pixel, kernel column) that meet there
    for taps in run.taps:
        for kx in range(taps.begin, taps.end):
            for m in taps.pixels:
                users.setdefault(m * step + kx * dilation, []).append((m, kx))
    blocks = list(zip(accumulate(panel.lanes, initial=0), panel.lanes, strict=False))
    weights = {
        (block, kx): T.bind(cast(state.weights[span(base + kx * panel.width + offset, lanes)], dtype))
        for block, (offset, lanes) in enumerate(blocks)
        for kx in sorted({kx for pairs in users.values() for _, kx in pairs})
    }
    for column in sorted(users):
        for block, (offset, lanes) in enumerate(blocks):
            index = (place.image, row, pixel * step - shape.pads[1] + column)
            value = cast(_channels(state, index, place.channel + offset, lanes), dtype)
            if shape.x_zero_point:
                value = value - constant(shape.x_zero_point, dtype, lanes)
            value = T.bind(value)
            for m, kx in users[column]:
                tile.add(block, m, weights[block, kx] * value)


def _channels(state: State, pixel: Sequence[Expr], channel: Expr, lanes: int) -> Expr:
    """What ``lanes`` output channels from ``channel`` on read at a pixel: several in a row may read the same."""
    times = state.plan.shape.group_out
    if times == 1:
        return state.x[(*pixel, span(channel, lanes))]
    read = T.bind(state.x[(*pixel, span(T.truncdiv(channel, times), lanes // times))])
    return tirx.Shuffle([read] * times, [tirx.const(lane // times, "int32") for lane in range(lanes)])
