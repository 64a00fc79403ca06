"""Depthwise convolution of 8-bit tensors by sums of four products: four kernel rows a step, 16 channels a vector.

    for panel of channels, for image row, for tile of pixels:
        for four kernel rows, for input column: the bytes of the rows in one dword a channel, which serves all kernel
        columns that reach it

Rows and columns outside the image read as the zero point; columns are left out where that is 0. Zero points: see
`zero_points`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import buffers, depthwise
from onyxc.backends.cpu.blocking import Panel, Tiles, row_tiles, split_panels
from onyxc.backends.cpu.buffers import Buffers
from onyxc.backends.cpu.convolution_plan import pack_panels
from onyxc.backends.cpu.depthwise import DepthwisePlan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, cast, constant, fill, span
from onyxc.backends.cpu.zero_points import HALF, ZeroPoints, signed, words
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86 import vnni

Array = np.ndarray[Any, Any]
_PIXELS, _WITH_SUMS = 12, 6  # of a tile


@dataclass(frozen=True)
class IntegerPlan:
    """``conv``: panels and tiles; ``points``: zero points."""

    conv: DepthwisePlan
    points: ZeroPoints

    @property
    def note(self) -> str:
        """The plan in words."""
        return f"8-bit {self.conv.note}{', sums of x' if self.points.sums else ''}"

    @property
    def fours(self) -> int:
        """Steps of four kernel rows."""
        return -(-self.conv.shape.kernel[0] // vnni.STEP)

    @property
    def channels(self) -> int:
        """Packed channels."""
        return sum(p.count * p.width for p in self.conv.panels)

    @property
    def depth(self) -> int:
        """Packed dwords of a channel."""
        return self.fours * self.conv.shape.kernel[1]


def fits(shape: ConvShape, target: Target) -> bool:
    """Whether this template computes ``shape``: bytes, one output channel for each input channel."""
    return vnni.has(target) and shape.x_dtype in ("int8", "uint8") and depthwise.fits(shape)


def plan(shape: ConvShape, target: Target, w_zero: Array) -> IntegerPlan:
    """Choose the tiles of ``shape``."""
    points = ZeroPoints.of(shape, w_zero)
    panels = split_panels(shape.out_channels, target.lanes(vnni.STEP), 1)
    return IntegerPlan(DepthwisePlan(shape, panels, row_tiles(shape, _WITH_SUMS if points.sums else _PIXELS)), points)


def pack(weights: Array, made: IntegerPlan) -> Array:
    """Weights [C, 1, kh, kw] as dwords of four kernel rows: for each vector of channels step, kernel column, channel;
    and what comes behind them."""
    moved = signed(weights)
    four = words(moved.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    return np.concatenate([pack_panels(four[None], made.conv.panels), *made.points.behind(moved, 1, made.conv.panels)])


_State = Buffers[IntegerPlan]  # packed weights are dwords


@dataclass
class _Place:
    """Where a row lies: its panel, first channel, weights, what is behind them, image and row; ``inside``: whether the
    kernel lies inside the image from top to bottom."""

    panel: Panel
    channel: Expr
    weight: Expr
    start: Expr
    image: Expr
    row: Expr
    inside: bool = True


def emit(name: str, plan: IntegerPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, operands..., y, begin, end)`` of ``plan``."""
    conv, shape = plan.conv, plan.conv.shape
    weights = "int32", plan.channels * (plan.depth + 2)
    with buffers.convolution(name, plan, shape, weights, epilogue) as (made, state):
        counts = [shape.batch * panel.count for panel in conv.panels]
        for kind, number, start, stop in each_panel(made, counts, shape.out_size[0]):
            panel = conv.panels[kind]
            image = T.bind(T.truncdiv(number, panel.count))
            first = T.bind(panel.start + (number - image * panel.count) * panel.width)  # the panels before are full
            behind = T.bind(first + plan.channels * plan.depth)
            with T.serial(start, stop) as row:
                place = _Place(panel, first, T.bind(first * plan.depth), behind, image, row)
                _emit_row(state, place)
    return made.kernel(conv.tasks, shape.work, target, plan.note)


def _emit_row(state: _State, place: _Place) -> None:
    """All tiles of a row; rows at the border get code of their own."""
    shape = state.plan.conv.shape
    (step, _), (reach, _), height = shape.strides, shape.dilations, shape.in_size[0]
    reach *= shape.kernel[0] - 1
    top = shape.pads[0]
    if not top and (shape.out_size[0] - 1) * step + reach < height:
        _emit_tiles(state, place)
        return
    begin = T.bind(place.row * step - top)
    with T.If(tirx.And(begin >= 0, begin + reach < height)):
        with T.Then():
            _emit_tiles(state, place)
        with T.Else():
            place.inside = False
            _emit_tiles(state, place)


def _emit_tiles(state: _State, place: _Place) -> None:
    for run, pixel in each_run(state.plan.conv.tiles):
        _emit_tile(state, place, run, pixel)


def _emit_tile(state: _State, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    plan, panel = state.plan, place.panel
    (lanes,) = panel.lanes
    tile = Tile(panel.lanes, run.width, "int32")
    sums = Tile(panel.lanes, run.width, "int32") if plan.points.sums else None
    if plan.points.x:
        start = T.bind(state.weights[span(place.start, lanes)])
        for m in range(run.width):
            tile.add(0, m, start)
    for four in range(plan.fours):
        _emit_four(state, place, (tile, sums), run, pixel, four)
    totals = [value for _, _, value in sums.vectors()] if sums is not None else []
    for m, _, value in tile.vectors():
        if totals:
            value = value + totals[m] * state.weights[span(place.start + plan.channels, lanes)]
        index = (place.image, place.row, pixel + m, place.channel)
        state.epilogue.write(state.y, value, index, panel.channels, state.operands)


def _emit_four(state: _State, place: _Place, tiles: tuple[Tile, Tile | None], run: Tiles, pixel: Expr, four: int) -> None:
    """Add four kernel rows to all pixels of the tile."""
    plan, shape, (lanes,) = state.plan, state.plan.conv.shape, place.panel.lanes
    kernel, step, dilation = shape.kernel[1], shape.strides[1], shape.dilations[1]
    valid = {(m, kx) for taps in run.taps for kx in range(taps.begin, taps.end) for m in taps.pixels}
    users: dict[int | None, list[tuple[int, int]]] = {}  # input column, None outside -> (pixel, kernel column)
    for m in range(run.width):
        for kx in range(kernel):
            if (m, kx) in valid or plan.points.x:
                users.setdefault(m * step + kx * dilation if (m, kx) in valid else None, []).append((m, kx))
    offsets = accumulate([lanes] * (kernel - 1), initial=four * kernel * lanes)
    weights = [T.bind(state.weights[span(place.weight + o, lanes)]) for o in offsets]
    rows = range(four * vnni.STEP, min((four + 1) * vnni.STEP, shape.kernel[0]))
    ones = constant(sum(1 << (8 * i) for i in range(len(rows))), "int32", lanes)
    for column in sorted(users, key=lambda c: -1 if c is None else c):
        value = constant(vnni.every(plan.points.x), "int32", lanes)
        if column is not None:
            value = T.bind(_column(state, place, rows, pixel * step - shape.pads[1] + column))
        for m, kx in users[column]:
            for tile, factor in zip(tiles, (weights[kx], ones), strict=True):
                if tile is not None:
                    tile.set(0, m, vnni.dot(tile.get(0, m), value, factor))


def _column(state: _State, place: _Place, rows: range, column: Expr) -> Expr:
    """The unsigned activations of an input column under ``rows`` of the kernel, a dword for each channel."""
    shape, points, (lanes,) = state.plan.conv.shape, state.plan.points, place.panel.lanes
    total: Expr = None
    for i, ky in enumerate(rows):
        row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
        near = row if place.inside else T.max(T.min(row, shape.in_size[0] - 1), 0)
        value = state.x[place.image, near, column, span(place.channel, lanes)]
        value = cast(tirx.reinterpret(f"uint8x{lanes}", value), "int32")
        if not place.inside:  # signed zero points are moved with everything else below
            outside = constant(points.x ^ (HALF if points.flip else 0), "int32", lanes)
            exists = tirx.And(row >= 0, row < shape.in_size[0])
            value = tirx.Select(fill(exists, lanes), value, outside)
        if i:
            value = value << constant(8 * i, "int32", lanes)
        total = value if total is None else total | value
    return total ^ constant(vnni.every(HALF), "int32", lanes) if points.flip else total
