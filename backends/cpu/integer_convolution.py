"""Direct convolution of 8-bit tensors by sums of four products: 4 input channels a step, 16 output channels a vector.

The shape is planned as a float one of dwords. Zero points: see `zero_points`. What the sum of activations needs is
summed by the way, if there is a zero point of the weights; padding reads as the zero point, or is left out where that
is 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import buffers, convolution_plan
from onyxc.backends.cpu.blocking import Panel, Tiles, costs, row_tiles
from onyxc.backends.cpu.buffers import Buffers
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, each_tile, valid_rows
from onyxc.backends.cpu.shapes import ConvShape, Strides
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, Signature, fill, prefetch, span
from onyxc.backends.cpu.zero_points import HALF, ZeroPoints, signed, words
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86 import vnni

Array = np.ndarray[Any, Any]
_LINE = 16  # dwords of a cache line
_REGISTERS = 31


@dataclass(frozen=True)
class IntegerPlan:
    """``conv``: the plan in dwords of input channels; ``shape``: what it computes, in bytes."""

    shape: ConvShape
    conv: ConvPlan
    points: ZeroPoints

    @property
    def note(self) -> str:
        """The plan in words."""
        return f"8-bit {self.conv.note}{', sums of x' if self.points.sums else ''}"


def fits(shape: ConvShape, target: Target) -> bool:
    """Whether this template computes ``shape``: bytes, channels side by side."""
    reach = [(k - 1) * d for k, d in zip(shape.kernel, shape.dilations, strict=True)]
    inside = shape.pads[0] <= reach[0] and shape.pads[1] <= reach[1]
    return vnni.has(target) and shape.x_dtype in ("int8", "uint8") and shape.x_strides[3] == 1 and inside


def plan(shape: ConvShape, target: Target, w_zero: Array, operands: tuple[Strides, ...] = ()) -> IntegerPlan:
    """Choose the blocks of ``shape``."""
    steps = -(-shape.group_in // vnni.STEP)
    coarse = replace(shape, in_channels=steps * shape.group, w_dtype="int32")
    made = convolution_plan.plan(coarse, target, operands)
    bytes_ = replace(made.shape, in_channels=shape.in_channels, w_dtype=shape.w_dtype)
    points = ZeroPoints.of(shape, w_zero)
    if points.sums:  # an accumulator more for each pixel
        blocks, widest = len(made.panels[0].lanes), max(t.width for t in made.tiles)
        most = max(1, min((_REGISTERS - blocks) // (blocks + 1), widest))
        made = replace(made, tiles=row_tiles(made.shape, most))
    return IntegerPlan(bytes_, made, points)


def pack(weights: Array, made: IntegerPlan) -> Array:
    """Weights [O, I / group, kh, kw] as dwords of four input channels, in panels, and what comes behind them."""
    moved = signed(weights)
    four = words(moved.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    behind = made.points.behind(moved, made.conv.shape.group, made.conv.panels)
    return np.concatenate([convolution_plan.pack(four, made.conv), *behind])


_State = Buffers[IntegerPlan]  # packed weights are dwords


@dataclass
class _Place:
    """Where a tile lies: group, first channel and first weight of its panel, image and row, valid kernel rows."""

    panel: Panel
    group: Expr
    channel: Expr
    weight: Expr
    start: Expr
    image: Expr
    row: Expr
    rows: tuple[Expr, Expr]
    turn: Expr | None = None  # counts rows or tiles, where the next panel's weights are to be prefetched


def emit(name: str, plan: IntegerPlan, epilogue: Epilogue, target: Target) -> Kernel:
    """The kernel ``name(x, packed weights, operands..., y, begin, end)`` of ``plan``."""
    shape, conv = plan.shape, plan.conv
    weights = "int32", conv.packed_size + 2 * _channels(conv)
    with buffers.convolution(name, plan, shape, weights, epilogue, conv.operands) as (made, state):
        _emit_panels(state, made)
    return made.kernel(conv.tasks, shape.work, target, plan.note)


def _channels(conv: ConvPlan) -> int:
    """Packed output channels."""
    return conv.shape.group * sum(p.count * p.width for p in conv.panels)


def _emit_panels(state: _State, made: Signature) -> None:
    """All tasks, one class of panels after the other: tasks count panel by panel, rows inside."""
    conv, shape = state.plan.conv, state.plan.shape
    counts = [shape.group * panel.count for panel in conv.panels]
    bases = list(accumulate((c * p.width for c, p in zip(counts, conv.panels, strict=True)), initial=0))
    for kind, number, start, stop in each_panel(made, counts, conv.rows, costs(conv.panels)):
        panel = conv.panels[kind]
        group = T.bind(T.truncdiv(number, panel.count)) if shape.group > 1 else 0
        inside = number - group * panel.count
        channel = T.bind(group * shape.group_out + panel.start + inside * panel.channels)
        first = T.bind(bases[kind] + number * panel.width)
        weight, behind = T.bind(first * conv.depth), T.bind(conv.packed_size + first)
        place = _Place(panel, group, channel, weight, behind, 0, 0, (0, shape.kernel[0]))
        if conv.flat:
            for run, pixel in each_tile(conv.tiles, start, stop):
                place.turn = T.truncdiv(pixel, run.width) if conv.ahead else None
                _emit_tile(state, place, run, pixel)
            continue
        with T.serial(start, stop) as number:
            place.image = T.bind(T.truncdiv(number, shape.out_size[0])) if shape.batch > 1 else 0
            place.row = T.bind(number - place.image * shape.out_size[0])
            place.rows = valid_rows(shape, place.row)
            for run, pixel in each_run(conv.tiles):
                place.turn = number if conv.ahead and run.start == 0 else None
                _emit_tile(state, place, run, pixel)


def _emit_tile(state: _State, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    plan, (height, width), lanes = state.plan, state.plan.shape.kernel, place.panel.lanes
    tile, sums = Tile(lanes, run.width, "int32"), None
    if plan.points.sums:
        sums = Tile((max(lanes),), run.width, "int32")
    offsets = list(accumulate(lanes, initial=0))[:-1]
    if plan.points.x:
        starts = [T.bind(state.weights[span(place.start + o, n)]) for o, n in zip(offsets, lanes, strict=True)]
        for m in range(run.width):
            for block, start in enumerate(starts):
                tile.add(block, m, start)
    emit = _Taps(state, place, tile, sums, pixel)
    for taps in run.taps:
        with T.serial(*place.rows) as ky, T.serial(taps.begin, taps.end) as kx:
            emit(ky, kx, frozenset(taps.pixels))
    if plan.points.x:  # what lies outside the image
        inside = {kx for taps in run.taps for kx in range(taps.begin, taps.end)}
        for kx in sorted(set(range(width)) - inside):
            with T.serial(*place.rows) as ky:
                emit(ky, kx, frozenset())
        for low, high in ((0, place.rows[0]), (place.rows[1], height)):
            if not (isinstance(low, int) and isinstance(high, int) and low >= high):
                with T.serial(low, high) as ky, T.serial(0, width) as kx:
                    emit(ky, kx, frozenset())
    _finish(state, place, tile, sums, pixel)


def _finish(state: _State, place: _Place, tile: Tile, sums: Tile | None, pixel: Expr) -> None:
    """The epilogue on all vectors of a tile."""
    totals = {m: value for m, _, value in sums.vectors()} if sums is not None else {}
    points = place.start + _channels(state.plan.conv)
    for m, offset, value in tile.vectors():
        if totals:
            lanes = int(value.ty.dtype.lanes)
            total = totals[m] if lanes == max(place.panel.lanes) else fill(tirx.Shuffle([totals[m]], [0]), lanes)
            value = value + total * state.weights[span(points + offset, lanes)]
        index = (place.image, place.row, pixel + m, place.channel + offset)
        state.epilogue.write(state.y, value, index, place.panel.channels - offset, state.operands)


@dataclass
class _Taps:
    """Adds one kernel position to all pixels of a tile; called with the pixels for which it lies inside the image."""

    state: _State
    place: _Place
    tile: Tile
    sums: Tile | None
    pixel: Expr

    def __call__(self, ky: Expr, kx: Expr, inside: frozenset[int]) -> None:
        state, place, plan = self.state, self.place, self.state.plan
        shape, conv, lanes = plan.shape, plan.conv, self.tile.lanes
        row = place.row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0]
        column = self.pixel * shape.strides[1] - shape.pads[1] + kx * shape.dilations[1]
        tap = T.bind(place.weight + (ky * shape.kernel[1] + kx) * (conv.shape.group_in * place.panel.width))
        pixels = sorted(inside) if not plan.points.x else range(self.tile.pixels)
        with T.serial(0, conv.shape.group_in // conv.unroll) as turn:
            for u in range(conv.unroll):
                step = turn * conv.unroll + u
                weight = tap + step * place.panel.width
                offsets = accumulate(lanes, initial=0)
                held = [T.bind(state.weights[span(weight + o, n)]) for o, n in zip(offsets, lanes, strict=False)]
                if place.turn is not None and inside:
                    self._prefetch(weight)
                channel = place.group * shape.group_in + step * vnni.STEP
                for m in pixels:
                    element = self._load(m in inside, (place.image, row, column + m * shape.strides[1], channel))
                    for block, vector in enumerate(held):
                        self._add(self.tile, block, m, element, vector)
                    if self.sums is not None:
                        self._add(self.sums, 0, m, element, fill(self._ones(step), self.sums.lanes[0]))

    def _load(self, inside: bool, index: tuple[Expr, ...]) -> Expr:
        """Four activations, unsigned."""
        if not inside:
            return T.bind(tirx.const(vnni.every(self.state.plan.points.x), "int32"))
        value = vnni.dword(self.state.x, *index)
        flip = tirx.const(vnni.every(HALF), "int32")
        return T.bind(value ^ flip if self.state.plan.points.flip else value)

    def _ones(self, step: Expr) -> Expr:
        """A one for each channel that there is (weights of others are zeros)."""
        left = self.state.plan.shape.group_in % vnni.STEP
        whole = tirx.const(vnni.every(1), "int32")
        if not left:
            return whole
        last = self.state.plan.conv.shape.group_in - 1
        return tirx.Select(tirx.EQ(step, last), tirx.const(vnni.every(1) & ((1 << (8 * left)) - 1), "int32"), whole)

    def _add(self, tile: Tile, block: int, pixel: int, element: Expr, vector: Expr) -> None:
        lanes = tile.lanes[block]
        tile.set(block, pixel, vnni.dot(tile.get(block, pixel), fill(element, lanes), vector))

    def _prefetch(self, weight: Expr) -> None:
        """Ask for weights that are used later: all of a step where each is used once, else one line a turn."""
        conv, place = self.state.plan.conv, self.place
        lines = -(-place.panel.width // _LINE)
        if conv.rows == 1:
            for i in range(lines):
                prefetch(self.state.weights, (weight + (conv.ahead + i * _LINE),), level=1)
        else:
            line = T.truncmod(place.turn, lines) * _LINE
            prefetch(self.state.weights, (weight + conv.ahead + line,), level=2)
