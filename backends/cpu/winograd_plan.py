"""Plan of a Winograd convolution: tile of outputs, register tile, strips, scratch memory, transformed weights.

Nothing here imports TVM.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from math import ceil, prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, register_tiles, split_panels, step_cycles
from onyxc.backends.cpu.convolution_plan import pack_panels
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.winograd_transforms import Transform, transform
from onyxc.backends.target import Target

FLOAT = 4  # bytes
_LINE = 64 // FLOAT  # elements of a cache line
_FEW = 12  # tiles of a strip, at least
_ROOM = 0.8  # share of L2 for scratch memory
_KEPT = 0.6  # share of L2 that weights may need to stay there
_FROM_MEMORY = 16 << 20  # bytes of weights that do not stay in L3
_WIDEST = 10  # tiles in registers: with more, broadcasts cost as much as products
_AGAIN = 0.04  # cycles for a vector of weights that is read from L2
_PASS = 0.5  # cycles for a vector of weights that is read for one more strip
_MOST = 4  # scratch memory in units of L2


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
    loop turn.
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
            f"Winograd F({v.outputs}x{h.outputs}, {v.taps}x{h.taps}{'' if v.stride == h.stride == 1 else ', strided'}), "
            f"{self.strips} x {self.strip} tiles, {blocks} x {self.width} registers"
        )


def make(shape: ConvShape, outputs: tuple[int, int], target: Target) -> WinogradPlan:
    """The plan with tiles of ``outputs`` (h, w) results."""
    vertical, horizontal = map(transform, outputs, shape.kernel, shape.strides)
    points, lanes = vertical.size * horizontal.size, target.lanes(FLOAT)
    tiles = shape.batch * prod(_grid(shape, vertical, horizontal))
    weights = points * shape.out_channels * shape.group_in * FLOAT
    columns = _columns(shape, horizontal)
    unroll = next(u for u in (4, 2, 1) if shape.group_in % u == 0)

    def blocked(blocks: int, width: int) -> list[WinogradPlan]:
        panels = split_panels(shape.group_out, lanes, blocks)
        scratch = points * (_padded(shape.in_channels, lanes) + panels[0].width) * FLOAT
        strips = _strips(tiles, width, scratch, weights, target)
        return [WinogradPlan(shape, vertical, horizontal, columns, panels, lanes, width, s, unroll) for s in strips]

    most = min(tiles, _WIDEST), ceil(shape.group_out / lanes)
    fit = [tile for tile in register_tiles(target) if tile[1] <= most[0] and tile[0] <= most[1]]
    return min((plan for tile in fit for plan in blocked(*tile)), key=lambda plan: _halves_cycles(plan, target))


def product_cycles(plan: WinogradPlan, target: Target) -> float:
    """Model of the cycles of all products."""
    return sum(_task_cycles(plan, target))


def _halves_cycles(plan: WinogradPlan, target: Target) -> float:
    """The mean of that and of twice the larger half, where two threads share the tasks, and of reading weights again."""
    tasks = _task_cycles(plan, target)
    first, total = sum(tasks[: len(tasks) // 2]), sum(tasks)
    return total / 2 + max(first, total - first) + _PASS * (plan.strips - 1) * (plan.packed_size // plan.lanes)


def _task_cycles(plan: WinogradPlan, target: Target) -> list[float]:
    """Model of the cycles of each task's products."""
    depth, turns = plan.shape.group_in, []
    for panel in plan.panels:
        vectors = len(panel.lanes)
        step = step_cycles(vectors, plan.width, panel.width * depth * FLOAT, depth, target) + _AGAIN * vectors
        turns += [plan.points * depth * step] * (plan.shape.group * panel.count)
    rest = plan.tiles - (plan.strips - 1) * plan.strip
    counts = [plan.strip] * (plan.strips - 1) + [rest]
    return [ceil(tiles / plan.width) * turn for tiles in counts for turn in turns]


def _grid(shape: ConvShape, vertical: Transform, horizontal: Transform) -> tuple[int, int]:
    return ceil(shape.out_size[0] / vertical.outputs), ceil(shape.out_size[1] / horizontal.outputs)


def _padded(channels: int, lanes: int) -> int:
    return ceil(channels / lanes) * lanes


def _columns(shape: ConvShape, along: Transform) -> tuple[Columns, ...]:
    """The tile columns of ``shape``, equal neighbours joined."""

    def kind(tile: int) -> tuple[tuple[int, ...], int]:
        first = tile * along.step - shape.pads[1]
        inputs = tuple(j for j in range(along.size) if 0 <= first + j < shape.in_size[1])
        return inputs, min(along.outputs, shape.out_size[1] - tile * along.outputs)

    made = []
    for (inputs, outputs), run in groupby(range(ceil(shape.out_size[1] / along.outputs)), key=kind):
        tiles = list(run)
        made.append(Columns(tiles[0], len(tiles), inputs, outputs))
    return tuple(made)


def _strips(tiles: int, width: int, tile: int, weights: int, target: Target) -> list[int]:
    """Tiles of a strip, by choice; ``tile``: bytes of scratch a tile, ``weights``: bytes of all.

    As many as stay in L2, and fewer; few, if all weights stay there too; more, if they would come from memory for each.
    """
    room = _ROOM * target.l2 if weights < _FROM_MEMORY else _MOST * target.l2
    most = _FEW if weights <= _KEPT * target.l2 else max(_FEW, room // tile)
    least = ceil(tiles / most)
    return [ceil(ceil(tiles / strips) / width) * width for strips in (least, least + 1)]


def pack(weights: np.ndarray[Any, Any], plan: WinogradPlan) -> np.ndarray[Any, Any]:
    """Transform ONNX weights [O, I / group, kh, kw] in double precision into the panels of ``plan``, one flat array.

    For each panel: point, input channel, output channel (zeros behind the last).
    """
    shape = plan.shape
    expected = (shape.out_channels, shape.group_in, *shape.kernel)
    if weights.shape != expected:
        raise ValueError(f"weights have shape {weights.shape}, the plan expects {expected}")
    flat = pack_panels(weights.reshape(shape.group, shape.group_out, shape.group_in, *shape.kernel), plan.panels)
    both = np.kron(plan.vertical.filter, plan.horizontal.filter)  # [point, tap]
    parts, start = [], 0
    for panel in plan.panels:
        lines = flat[start:][: shape.group * panel.count * both.shape[1] * shape.group_in * panel.width]
        taps = lines.reshape(-1, both.shape[1], shape.group_in * panel.width).astype(np.float64)
        parts.append((both @ taps).astype(np.float32).reshape(-1))
        start += lines.size
    return np.concatenate(parts)
