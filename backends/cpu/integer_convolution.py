"""Direct convolution of 8-bit tensors by sums of four products: 4 input channels a step, 16 output channels a vector.

The shape is planned as a float one of dwords. Activations are unsigned: signed ones are moved up by 128 in registers.
Weights are signed: unsigned ones are packed less 128. With x' = x + 128 and w' = w - 128 where they were moved, and
zero points moved with them, the sum of (x - zx)(w - zw) is

    sum of x' w'  -  zx' * (sum of w' - n * zw')  -  zw' * sum of x'

the middle of which is packed behind the weights, as where the accumulators start. The last is summed by the way, if
there is a zw'. Padding reads as zx'; where that is 0 it is left out. All sums are exact in int32, modulo 2^32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import convolution_plan
from onyxc.backends.cpu.blocking import Panel, Tiles, row_tiles
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.loops import each_panel, each_run, each_tile, valid_rows
from onyxc.backends.cpu.shapes import ConvShape, Strides
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, Signature, dense, fill, function, prefetch, span, strided
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86 import vnni

Array = np.ndarray[Any, Any]
_LINE = 16  # dwords of a cache line
_REGISTERS = 31


@dataclass(frozen=True)
class IntegerPlan:
    """``conv``: the plan in dwords of input channels; ``shape``: what it computes, in bytes.

    ``w_zero``: zero points of the weights, one or one a channel.
    """

    shape: ConvShape
    conv: ConvPlan
    w_zero: tuple[int, ...]

    @property
    def zero(self) -> int:
        """The zero point of the unsigned activations."""
        return self.shape.x_zero_point + (128 if self.shape.x_dtype == "int8" else 0)

    @property
    def moved(self) -> Array:
        """The zero points of the signed weights."""
        return np.array(self.w_zero, np.int64) - (128 if self.shape.w_dtype == "uint8" else 0)

    @property
    def sums(self) -> bool:
        """Whether the sum of the activations is needed."""
        return bool(self.moved.any())


def fits(shape: ConvShape, target: Target) -> bool:
    """Whether this template computes ``shape``: bytes, channels side by side."""
    reach = [(k - 1) * d for k, d in zip(shape.kernel, shape.dilations, strict=True)]
    inside = shape.pads[0] <= reach[0] and shape.pads[1] <= reach[1]
    return vnni.has(target) and shape.x_dtype in ("int8", "uint8") and shape.x_strides[3] == 1 and inside


def plan(shape: ConvShape, target: Target, w_zero: Array, operands: tuple[Strides, ...] = ()) -> IntegerPlan:
    """Choose the blocks of ``shape``."""
    steps = -(-shape.group_in // vnni.STEP)
    words = replace(shape, in_channels=steps * shape.group, w_dtype="int32")
    made = convolution_plan.plan(words, target, operands)
    bytes_ = replace(made.shape, in_channels=shape.in_channels, w_dtype=shape.w_dtype)
    found = IntegerPlan(bytes_, made, tuple(int(z) for z in np.atleast_1d(w_zero)))
    if found.sums:  # an accumulator more for each pixel
        most = (_REGISTERS - len(made.panels[0].lanes)) // (len(made.panels[0].lanes) + 1)
        widest = max(t.width for t in made.tiles)
        found = replace(found, conv=replace(made, tiles=row_tiles(made.shape, max(1, min(most, widest)))))
    return found


def pack(weights: Array, made: IntegerPlan) -> Array:
    """Weights [O, I / group, kh, kw] as dwords of four input channels, in panels; then what accumulators start with,
    and the zero points of the weights, each in the order of the panels."""
    moved = (weights.astype(np.int16) - (128 if weights.dtype == np.uint8 else 0)).astype(np.int8)
    plan, steps = made.conv, made.conv.shape.group_in
    padded = np.pad(moved, [(0, 0), (0, vnni.STEP * steps - moved.shape[1]), (0, 0), (0, 0)])
    o, _, kh, kw = padded.shape
    four = padded.reshape(o, steps, vnni.STEP, kh, kw).transpose(0, 1, 3, 4, 2)
    words = np.ascontiguousarray(four).view(np.int32)[..., 0]
    points = np.broadcast_to(made.moved, (o,))
    start = -made.zero * (moved.sum((1, 2, 3), dtype=np.int64) - moved[0].size * points)
    parts = [convolution_plan.pack(words, plan)]
    for values in (start, -points):
        column = values.astype(np.int64).astype(np.int32).reshape(plan.shape.group, -1, 1, 1, 1)
        parts.append(convolution_plan.pack_panels(column, plan.panels))
    return np.concatenate(parts)


@dataclass
class _Kernel:
    """The buffers of the kernel that is being written."""

    plan: IntegerPlan
    epilogue: Epilogue
    x: Expr
    weights: Expr  # flat, dwords
    y: Expr
    operands: list[Expr]


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
    sizes = (shape.batch, *shape.out_size, shape.out_channels)
    parameters = [("x", shape.x_dtype), ("w", "int32"), *epilogue.parameters(), ("y", epilogue.y_dtype)]
    with function(name, parameters) as made:
        x, w, *operands, y = made.pointers
        state = _Kernel(
            plan,
            epilogue,
            strided(x, shape.x_dtype, (shape.batch, *shape.in_size, shape.in_channels), shape.x_strides),
            dense(w, "int32", (conv.packed_size + 2 * _channels(conv),)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, conv.operands),
        )
        _emit_panels(state, made)
    return made.kernel(conv.tasks, shape.work, target)


def _channels(conv: ConvPlan) -> int:
    """Packed output channels."""
    return conv.shape.group * sum(p.count * p.width for p in conv.panels)


def _emit_panels(state: _Kernel, made: Signature) -> None:
    """All tasks, one class of panels after the other: tasks count panel by panel, rows inside."""
    conv, shape = state.plan.conv, state.plan.shape
    counts = [shape.group * panel.count for panel in conv.panels]
    bases = list(accumulate((c * p.width for c, p in zip(counts, conv.panels, strict=True)), initial=0))
    for kind, number, start, stop in each_panel(made, counts, conv.rows):
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


def _emit_tile(state: _Kernel, place: _Place, run: Tiles, pixel: Expr) -> None:
    """One tile from output pixel ``pixel`` of the row on."""
    plan, (height, width), lanes = state.plan, state.plan.shape.kernel, place.panel.lanes
    tile, sums = Tile(lanes, run.width, "int32"), None
    if plan.sums:
        sums = Tile((max(lanes),), run.width, "int32")
    offsets = list(accumulate(lanes, initial=0))[:-1]
    if plan.zero:
        starts = [T.bind(state.weights[span(place.start + o, n)]) for o, n in zip(offsets, lanes, strict=True)]
        for m in range(run.width):
            for block, start in enumerate(starts):
                tile.add(block, m, start)
    emit = _Taps(state, place, tile, sums, pixel)
    for taps in run.taps:
        with T.serial(*place.rows) as ky, T.serial(taps.begin, taps.end) as kx:
            emit(ky, kx, frozenset(taps.pixels))
    if plan.zero:  # what lies outside the image
        inside = {kx for taps in run.taps for kx in range(taps.begin, taps.end)}
        for kx in sorted(set(range(width)) - inside):
            with T.serial(*place.rows) as ky:
                emit(ky, kx, frozenset())
        for low, high in ((0, place.rows[0]), (place.rows[1], height)):
            if not (isinstance(low, int) and isinstance(high, int) and low >= high):
                with T.serial(low, high) as ky, T.serial(0, width) as kx:
                    emit(ky, kx, frozenset())
    _finish(state, place, tile, sums, pixel)


def _finish(state: _Kernel, place: _Place, tile: Tile, sums: Tile | None, pixel: Expr) -> None:
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

    state: _Kernel
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
        pixels = sorted(inside) if not plan.zero else range(self.tile.pixels)
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
                        # behind the last channel lie others, which weigh nothing; so they must here
                        ones = self._ones(step)
                        self._add(self.sums, 0, m, element, fill(ones, self.sums.lanes[0]))

    def _load(self, inside: bool, index: tuple[Expr, ...]) -> Expr:
        """Four activations, unsigned."""
        if not inside:
            return T.bind(tirx.const(vnni.every(self.state.plan.zero), "int32"))
        value = vnni.dword(self.state.x, *index)
        flip = tirx.const(vnni.every(128), "int32")
        return T.bind(value ^ flip if self.state.plan.shape.x_dtype == "int8" else value)

    def _ones(self, step: Expr) -> Expr:
        """Bytes of one for the channels that there are."""
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
            prefetch(
                self.state.weights, (weight + conv.ahead + T.truncmod(place.turn, lines) * _LINE,), level=2
            )  # fmt: skip
