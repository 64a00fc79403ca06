"""Plan of a Winograd convolution: tile of outputs, register tile, strips, scratch memory, transformed weights.

Nothing here imports TVM.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, product
from math import ceil, prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, choose_blocks, register_tiles, split_panels, step_cycles
from onyxc.backends.cpu import convolution_plan
from onyxc.backends.cpu.convolution_plan import pack_panels
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.winograd_transforms import Matrix, Transform, transform
from onyxc.backends.target import Target

FLOAT = 4  # bytes
OUTPUTS = {1: (1,), 3: (4, 2), 5: (2,)}  # taps along an axis -> outputs of a tile
_LINE = 64 // FLOAT  # elements of a cache line
_FEW = 12  # tiles of a strip
_FROM_MEMORY = 16 << 20  # bytes of weights that do not stay in L3
_WIDEST = 10  # tiles in registers
_AGAIN = 0.04  # cycles for a vector of weights that is read from L2
_FEW = 12  # tiles of a strip
_FROM_MEMORY = 16 << 20  # bytes of weights that do not stay in L3
_MOST = 4  # scratch memory in units of L2
_GAIN = 0.93  # share of the direct sum's time from which on larger weights are worth it
_TILE = 20  # cycles to find the place of a tile
_RATE = 5  # cycles in which a vector of weights comes from memory; a share of that is never hidden
_EXPOSED = 0.15


@dataclass(frozen=True)
class Columns:
    """A run of ``count`` tile columns from ``start`` on that are alike.

    ``inputs``: which of a tile's input columns lie inside the image; ``outputs``: output columns inside the result.
    """

    start: int
    count: int
    inputs: tuple[int, ...]
    outputs: int


@dataclass(frozen=True)
class WinogradPlan:
    """How one convolution is computed by F(``vertical``) x F(``horizontal``).

    Tiles are counted through rows and images. A strip of ``strip`` of them is transformed at a time, ``width`` are
    multiplied at a time in registers, with the output channels of one of ``panels``. ``unroll``: input channels a
    loop turn. ``ahead``: whether weights are fetched one product early.
    """

    shape: ConvShape
    vertical: Transform
    horizontal: Transform
    columns: tuple[Columns, ...]
    panels: tuple[Panel, ...]
    lanes: int
    width: int
    strip: int
    unroll: int
    ahead: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles along h and w."""
        return _grid(self.shape, self.vertical, self.horizontal)

    @property
    def tiles(self) -> int:
        """Tiles of all images."""
        return self.shape.batch * prod(self.grid)

    @property
    def strips(self) -> int:
        """How often a strip of inputs is transformed."""
        return ceil(self.tiles / self.strip)

    @property
    def units(self) -> int:
        """Units of work of a strip: panels of all groups."""
        return self.shape.group * sum(p.count for p in self.panels)

    @property
    def tasks(self) -> int:
        """Units of work: panels of the first strip, then of the next."""
        return self.strips * self.units

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return self.vertical.size * self.horizontal.size

    @property
    def row(self) -> int:
        """Elements between two tiles of transformed input."""
        return _padded(self.shape.in_channels, self.lanes)

    @property
    def plane(self) -> int:
        """Elements between two points of transformed input: an odd number of lines, or the points share sets of L1."""
        lines = ceil(self.strip * self.row / _LINE)
        return (lines + 1 - lines % 2) * _LINE

    @property
    def products(self) -> int:
        """Where the products start in scratch memory: [tile, point, channel of the panel]."""
        return self.points * self.plane

    @property
    def scratch(self) -> int:
        """Elements of scratch memory."""
        return self.products + self.strip * self.points * self.panel_width

    @property
    def panel_width(self) -> int:
        """Channels of the widest panel."""
        return max(p.width for p in self.panels)

    @property
    def packed_size(self) -> int:
        """Elements of the transformed weights."""
        return self.shape.group * self.points * self.shape.group_in * sum(p.count * p.width for p in self.panels)

    @property
    def note(self) -> str:
        """The plan in words."""
        v, h = self.vertical, self.horizontal
        blocks = len(self.panels[0].lanes)
        return (
            f"Winograd F({v.outputs}x{h.outputs}, {v.taps}x{h.taps}), {self.strips} x {self.strip} tiles, "
            f"{blocks} x {self.width} registers"
        )


def plan(shape: ConvShape, target: Target) -> WinogradPlan | None:
    """The plan that is expected to be the fastest, or None where the direct sum is, or has to be taken."""
    if not fits(shape, target):
        return None
    made = [make(shape, outputs, target) for outputs in product(*(OUTPUTS[k] for k in shape.kernel))]
    best = min(made, key=lambda p: cycles(p, target))
    return best if cycles(best, target) < _GAIN * direct_cycles(shape, target) else None


def fits(shape: ConvShape, target: Target) -> bool:
    """Whether the algorithm applies, and may be used."""
    floats = {shape.x_dtype, shape.w_dtype, shape.acc_dtype} == {"float32"}
    plain = shape.strides == shape.dilations == (1, 1) and shape.x_strides[3] == 1 and not shape.shuffle
    known = all(k in OUTPUTS for k in shape.kernel) and shape.kernel != (1, 1)
    return floats and plain and known and not target.exact and target.favor == "speed"


def make(shape: ConvShape, outputs: tuple[int, int], target: Target) -> WinogradPlan:
    """The plan with tiles of ``outputs`` (h, w) results."""
    vertical, horizontal = (transform(m, r) for m, r in zip(outputs, shape.kernel, strict=True))
    points, lanes = vertical.size * horizontal.size, target.lanes(FLOAT)
    tiles = shape.batch * prod(_grid(shape, vertical, horizontal))
    blocks, width = _register_tile(shape, tiles, target)
    panels = split_panels(shape.group_out, lanes, blocks)
    weights = points * shape.out_channels * shape.group_in * FLOAT
    tile = points * (_padded(shape.in_channels, lanes) + panels[0].width) * FLOAT
    strip = _strip(tiles, width, tile, weights, target)
    unroll = next(u for u in (4, 2, 1) if shape.group_in % u == 0)
    columns = _columns(shape, horizontal)
    ahead = weights > target.l2 / 2
    return WinogradPlan(shape, vertical, horizontal, columns, panels, lanes, width, strip, unroll, ahead)


def _grid(shape: ConvShape, vertical: Transform, horizontal: Transform) -> tuple[int, int]:
    return ceil(shape.out_size[0] / vertical.outputs), ceil(shape.out_size[1] / horizontal.outputs)


def _padded(channels: int, lanes: int) -> int:
    return ceil(channels / lanes) * lanes


def _columns(shape: ConvShape, along: Transform) -> tuple[Columns, ...]:
    """The tile columns of ``shape``, equal neighbours joined."""

    def kind(tile: int) -> tuple[tuple[int, ...], int]:
        first = tile * along.outputs - shape.pads[1]
        inputs = tuple(j for j in range(along.size) if 0 <= first + j < shape.in_size[1])
        return inputs, min(along.outputs, shape.out_size[1] - tile * along.outputs)

    made = []
    for (inputs, outputs), run in groupby(range(ceil(shape.out_size[1] / along.outputs)), key=kind):
        tiles = list(run)
        made.append(Columns(tiles[0], len(tiles), inputs, outputs))
    return tuple(made)


def _register_tile(shape: ConvShape, tiles: int, target: Target) -> tuple[int, int]:
    """The (vectors of channels, tiles) kept in registers that need the fewest modelled cycles."""

    def cost(tile: tuple[int, int]) -> float:
        blocks, width = tile
        total = 0.0
        for panel in split_panels(shape.group_out, target.lanes(FLOAT), blocks):
            size = panel.width * shape.group_in * FLOAT
            vectors = len(panel.lanes)
            cycles = step_cycles(vectors, width, size, shape.group_in, target) + _AGAIN * vectors
            total += panel.count * cycles
        return ceil(tiles / width) * total

    return min((t for t in register_tiles(target) if t[1] <= min(tiles, _WIDEST)), key=cost)


def _strip(tiles: int, width: int, tile: int, weights: int, target: Target) -> int:
    """Tiles of a strip; ``tile``: bytes of scratch a tile, ``weights``: bytes of all.

    Few, so that scratch memory stays in L2, unless the weights would come from memory for each strip.
    """
    most = _FEW if weights < _FROM_MEMORY else max(_FEW, _MOST * target.l2 // tile)
    strips = max(1, round(tiles / most))
    return ceil(ceil(tiles / strips) / width) * width


def cycles(plan: WinogradPlan, target: Target) -> float:
    """Model of a convolution's cycles, for two vector products a cycle, weights read from memory.

    The constants are fitted to forty layers on a Zen 4: right within 15 %.
    """
    shape, high, wide = plan.shape, plan.vertical, plan.horizontal
    turns = plan.strips * (plan.strip // plan.width)
    products = 0.0
    for panel in plan.panels:
        size = panel.width * shape.group_in * FLOAT
        step = step_cycles(len(panel.lanes), plan.width, size, shape.group_in, target)
        products += shape.group * panel.count * turns * plan.points * shape.group_in * step
    forward = high.size * _operations(wide.forward) + wide.size * _operations(high.forward) + 3 * plan.points
    inverse = wide.size * _operations(high.inverse) + high.outputs * _operations(wide.inverse) + 2 * plan.points
    vectors = shape.group * sum(len(p.lanes) * p.count for p in plan.panels)
    transforms = plan.tiles * (forward * (plan.row // plan.lanes) + inverse * vectors) / 2 + plan.tiles * 2 * _TILE
    return _with_weights(products, plan.packed_size / plan.lanes) + transforms


def direct_cycles(shape: ConvShape, target: Target) -> float:
    """The same model of the direct sum."""
    made = convolution_plan.plan(shape, target)
    shape = made.shape  # collapsed
    height = shape.in_size[0]
    lines = shape.batch * sum(
        0 <= row * shape.strides[0] - shape.pads[0] + ky * shape.dilations[0] < height
        for row, ky in product(range(shape.out_size[0]), range(shape.kernel[0]))
    )
    total = 0.0
    for panel, tile in product(made.panels, made.tiles):
        size = panel.width * made.depth * FLOAT
        for taps in tile.taps:
            step = step_cycles(len(panel.lanes), len(taps.pixels), size, made.depth, target)
            total += panel.count * tile.count * (taps.end - taps.begin) * step
    total *= shape.group * lines * shape.group_in
    return _with_weights(total, made.packed_size / target.lanes(FLOAT))


def _with_weights(cycles: float, vectors: float) -> float:
    """``cycles`` of arithmetic while ``vectors`` of weights come from memory."""
    return max(cycles, _RATE * vectors) + _EXPOSED * _RATE * vectors


def _operations(stages: tuple[Matrix, ...]) -> int:
    """Additions, each with a multiplication or without, of a transform along one axis."""
    return sum(sum(value != 0 for value in row) - 1 for stage in stages for row in stage)


def pack(weights: np.ndarray[Any, Any], plan: WinogradPlan) -> np.ndarray[Any, Any]:
    """Transform ONNX weights [O, I / group, kh, kw] in double precision into the panels of ``plan``, one flat array.

    For each panel: point, input channel, output channel (zeros behind the last).
    """
    shape = plan.shape
    expected = (shape.out_channels, shape.group_in, *shape.kernel)
    if weights.shape != expected:
        raise ValueError(f"weights have shape {weights.shape}, the plan expects {expected}")
    both = np.kron(plan.vertical.filter, plan.horizontal.filter)
    flat = weights.reshape(shape.out_channels, shape.group_in, -1).astype(np.float64)
    points = (flat @ both.T).astype(np.float32)
    return pack_panels(points.reshape(shape.group, shape.group_out, shape.group_in, plan.points, 1), plan.panels)
