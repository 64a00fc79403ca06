"""Product of bfloat16 matrices, the second one constant, summed in float32 by an instruction that takes pairs.

for panel of columns, for tile of rows:       accumulators in registers
    for pair of k: accumulators += b[panel, pair] . broadcast(a[row, pair]);  round, store
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Panel, Tiles, choose_blocks, join, split_evenly, split_panels
from onyxc.backends.cpu.loops import each_panel, each_tile
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import Expr, cast, constant, dense, fill, function, hold, lanes_of, span, store
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.backends.x86 import bf16

_BYTES = 4  # of a pair


@dataclass(frozen=True)
class Bf16Plan:
    """How y[rows, columns] = a[rows, depth] b[depth, columns] is computed: panels of columns, tiles of rows."""

    rows: int
    columns: int
    depth: int
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]

    @property
    def pairs(self) -> int:
        """Steps of the sum."""
        return -(-self.depth // bf16.STEP)

    @property
    def units(self) -> int:
        """Tasks of a panel."""
        return sum(t.count for t in self.tiles)

    @property
    def tasks(self) -> int:
        """Units of work."""
        return sum(p.count for p in self.panels) * self.units

    @property
    def packed_size(self) -> int:
        """Elements (pairs) of the packed weights."""
        return self.pairs * sum(p.count * p.width for p in self.panels)


def plan(rows: int, columns: int, depth: int, target: Target) -> Bf16Plan:
    """Choose the tile."""
    lanes, pairs = target.lanes(), -(-depth // bf16.STEP)
    blocks, pixels = choose_blocks(columns, rows, pairs, bf16.STEP * depth, lanes, _BYTES, target)
    widths = split_evenly(rows, pixels)
    starts = accumulate(widths, initial=0)
    tiles = join(Tiles(start, 1, width) for start, width in zip(starts, widths, strict=False))
    return Bf16Plan(rows, columns, depth, split_panels(columns, lanes, blocks), tiles)


def pack(weights: np.ndarray[Any, Any], plan: Bf16Plan) -> np.ndarray[Any, Any]:
    """bfloat16 weights [depth, columns] as int32: for each panel pair of k, column; zeros behind the last."""
    bits = weights.view(np.uint16)
    bits = np.pad(bits, [(0, bf16.STEP * plan.pairs - plan.depth), (0, 0)])
    words = np.ascontiguousarray(bits.reshape(plan.pairs, bf16.STEP, -1).swapaxes(1, 2)).view(np.int32)[..., 0]
    parts = []
    for panel in plan.panels:
        part = words[:, panel.start : panel.start + panel.count * panel.channels]
        part = part.reshape(plan.pairs, panel.count, panel.channels)
        parts.append(np.pad(part, [(0, 0), (0, 0), (0, panel.width - panel.channels)]).swapaxes(0, 1).reshape(-1))
    return np.concatenate(parts)


def narrowed(value: Expr) -> Expr:
    """A vector of float32 rounded to bfloat16, half to even, as uint16; what is no number stays none."""
    lanes = lanes_of(value)

    def word(number: int) -> Expr:
        return constant(number, "uint32", lanes)

    bits = hold(tirx.reinterpret(f"uint32x{lanes}", value))
    near = bits + (word(0x7FFF) + ((bits >> word(16)) & word(1)))
    is_nan = (bits & word(0x7FFFFFFF)) > word(0x7F800000)
    return cast(tirx.Select(is_nan, bits | word(0x400000), near) >> word(16), "uint16")


def emit(name: str, plan: Bf16Plan, target: Target) -> Kernel:
    """The kernel ``name(a, packed weights, y, begin, end)``; bfloat16 lies in memory as uint16."""
    with function(name, [("a", "uint16"), ("w", "int32"), ("y", "uint16")]) as made, bf16.instructions():
        a, w, y = made.pointers
        x, result = (dense(p, "uint16", (plan.rows, size)) for p, size in ((a, plan.depth), (y, plan.columns)))
        weights = dense(w, "int32", (plan.packed_size,))
        counts = [panel.count for panel in plan.panels]
        bases = list(accumulate((p.count * p.width * plan.pairs for p in plan.panels), initial=0))
        for kind, number, start, stop in each_panel(made, counts, plan.units):
            panel = plan.panels[kind]
            first = T.bind(bases[kind] + number * (panel.width * plan.pairs))
            for run, row in each_tile(plan.tiles, start, stop):
                tile = Tile(panel.lanes, run.width, "float32")
                _emit_sum(plan, panel, tile, x, weights, row, first)
                for m, offset, value in tile.vectors():
                    index = (row + m, panel.start + number * panel.channels + offset)
                    store(result, narrowed(value), index, panel.channels - offset)
    note = f"bfloat16 product, {len(plan.panels[0].lanes)} x {max(t.width for t in plan.tiles)} registers"
    return made.kernel(plan.tasks, 2 * plan.rows * plan.columns * plan.depth, target, note)


def _emit_sum(plan: Bf16Plan, panel: Panel, tile: Tile, x: Expr, weights: Expr, row: Expr, first: Expr) -> None:
    whole, left = divmod(plan.depth, bf16.STEP)
    with T.serial(0, whole) as pair:
        _emit_step(panel, tile, weights, first + pair * panel.width, lambda m: bf16.pair(x, row + m, pair * bf16.STEP))
    if left:  # the other factor is zero, but what lies behind the row may be no number
        last = first + whole * panel.width
        _emit_step(panel, tile, weights, last, lambda m: tirx.Cast("int32", x[row + m, plan.depth - 1]))


def _emit_step(panel: Panel, tile: Tile, weights: Expr, at: Expr, load: Any) -> None:
    starts = accumulate(panel.lanes, initial=0)
    held = [T.bind(weights[span(at + start, lanes)]) for start, lanes in zip(starts, panel.lanes, strict=False)]
    for m in range(tile.pixels):
        element = T.bind(load(m))
        for block, lanes in enumerate(panel.lanes):
            tile.set(block, m, bf16.dot(tile.get(block, m), fill(element, lanes), held[block]))
