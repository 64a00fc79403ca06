"""Plan of a pointwise convolution behind arithmetic: strips of pixels, small enough for a cache. Nothing imports TVM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from onyxc.backends.cpu import convolution_plan
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.shapes import ConvShape, Strides, collapse
from onyxc.backends.target import Target

_SHARE = 1 / 4  # of L2 that a strip may fill: the weights pass through it as well
_LINE = 16  # elements: pixels of a strip lie one line off any power of two, lest they share a set of L1
_LEAST = 2  # strips, for two threads


@dataclass(frozen=True)
class StripPlan:
    """``inner``: of the convolution that reads the strip; ``x_step``: elements between pixels of the image.

    ``strip``: tiles of a strip; ``row``: elements between pixels of the strip.
    """

    inner: ConvPlan
    x_step: int
    strip: int
    row: int

    @property
    def tiles(self) -> int:
        """Tiles of the whole image."""
        return sum(t.count for t in self.inner.tiles)

    @property
    def tasks(self) -> int:
        """Strips."""
        return ceil(self.tiles / self.strip)

    @property
    def scratch(self) -> int:
        """Elements of a strip."""
        return self.strip * max(t.width for t in self.inner.tiles) * self.row


def plan(shape: ConvShape, target: Target, operands: tuple[Strides, ...] = ()) -> StripPlan | None:
    """The plan of ``shape``, or None where its pixels do not form one row."""
    shape, operands, turned = collapse(shape, operands)
    if turned or shape.group > 1 or not shape.is_pointwise or shape.batch * shape.out_size[0] > 1:
        return None
    lanes = target.lanes()
    row = ceil(shape.in_channels / lanes) * lanes + _LINE
    inner = convolution_plan.plan(replace(shape, x_strides=(0, 0, row, 1)), target, operands)
    width, tiles = max(t.width for t in inner.tiles), sum(t.count for t in inner.tiles)
    most = max(1, int(target.l2 * _SHARE) // (4 * row * width))
    count = max(ceil(tiles / most), min(_LEAST, tiles))
    return StripPlan(inner, shape.x_strides[2], ceil(tiles / count), row)
