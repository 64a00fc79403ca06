"""Plan of a pooling. Nothing here imports TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from onyxc.backends.cpu.blocking import Panel, Tiles, row_tiles, split_panels
from onyxc.backends.cpu.convolution_plan import tile_words
from onyxc.backends.cpu.shapes import Strides
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import itemsize

_ACCUMULATORS = 8  # hide the latency of an addition
_ROWS = 8  # enough of them to be tasks
_BLOCKS = 2  # vectors of channels: two lines, as the processor fetches them


@dataclass(frozen=True)
class PoolShape:
    """One pooling; channels are contiguous in input and output. A global one has the image as kernel.

    ``acc_dtype``: what a maximum is taken, or a sum is made, in. An average reaches the epilogue as float32
    (float64 stays). ``count_include_pad``: padding counts in the divisor (but not what a ceiling added behind it).
    """

    kind: Literal["max", "average"]
    batch: int
    channels: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    x_strides: Strides
    y_strides: tuple[int, int, int]
    x_dtype: str = "float32"
    acc_dtype: str = "float32"
    y_dtype: str = "float32"
    count_include_pad: bool = False

    @property
    def work(self) -> int:
        """Comparisons or additions."""
        return self.batch * prod(self.out_size) * self.channels * prod(self.kernel)

    def column_count(self, pixel: int) -> int:
        """Columns of the window of output column ``pixel`` that count in an average."""
        return _inside(self, 1, pixel, self.count_include_pad)


def _inside(shape: PoolShape, axis: int, position: int, padded: bool) -> int:
    start = position * shape.strides[axis] - shape.pads[axis]
    low = -shape.pads[axis] if padded else 0
    high = shape.in_size[axis] + (shape.pads[axis + 2] if padded else 0)
    places = (start + k * shape.dilations[axis] for k in range(shape.kernel[axis]))
    return sum(low <= place < high for place in places)


@dataclass(frozen=True)
class PoolPlan:
    """How one pooling is computed: panels of channels, and the tiles of a row.

    ``by_columns``: input columns are folded first; ``by_rows``: tasks are rows, else rows of panels.
    """

    shape: PoolShape
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]
    by_columns: bool
    by_rows: bool

    @property
    def tasks(self) -> int:
        """Units of work: rows of all images, or panels of all images, times rows."""
        rows = self.shape.batch * self.shape.out_size[0]
        return rows if self.by_rows else rows * sum(p.count for p in self.panels)

    @property
    def note(self) -> str:
        """The plan in words."""
        order = ", columns first" if self.by_columns else ""
        return f"{self.shape.kind} pool, tiles of {tile_words(self.panels, self.tiles)}{order}"


def plan(shape: PoolShape, target: Target) -> PoolPlan:
    """Choose the blocks of ``shape``: accumulators for as many columns as there are registers.

    Where the kernel is wider than that, a few pixels, and vectors of channels to make eight accumulators.
    """
    lanes = target.lanes(itemsize(shape.acc_dtype))
    by_rows = shape.batch * shape.out_size[0] >= _ROWS
    window, room = (shape.kernel[1] - 1) * shape.dilations[1] + 1, target.registers - 4
    by_columns = shape.out_size[1] > 1 and window * _BLOCKS <= room
    if by_columns:
        pixels, blocks = (room // _BLOCKS - window) // shape.strides[1] + 1, _BLOCKS
        tiles = row_tiles(shape, min(pixels, shape.out_size[1]), same_count=shape.column_count)
    else:
        tiles = row_tiles(shape, min(4, shape.out_size[1]), same_count=shape.column_count)
        blocks = max(1, _ACCUMULATORS // max(t.width for t in tiles))
    return PoolPlan(shape, split_panels(shape.channels, lanes, blocks), tiles, by_columns, by_rows)
