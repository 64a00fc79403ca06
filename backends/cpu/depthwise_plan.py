"""Plan of a depthwise convolution. Nothing here imports TVM."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, Tiles, bands, row_tiles, split_panels
from onyxc.backends.cpu.convolution_plan import pack_panels, reduce_weights, tile_words
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import itemsize

_MOST_PIXELS, _FEWEST_PIXELS = 14, 3
_TIMES = (2, 4)  # output channels of an input channel: they divide every vector, for the shortest has four lanes
_LINE = 64  # bytes
_SET = 2048  # lines so far apart fall into one or two sets of L1


@dataclass(frozen=True)
class DepthwisePlan:
    """How one depthwise convolution is computed: vectors of channels, and the tiles of a row."""

    shape: ConvShape
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]

    @property
    def tasks(self) -> int:
        """Units of work: panels of channels of all images, times rows."""
        return self.shape.batch * sum(p.count for p in self.panels) * self.shape.out_size[0]

    @property
    def bands(self) -> int:
        """Parts into which the rows are divided first."""
        shape, weights = self.shape, self.packed_size * itemsize(self.shape.packed_dtype)
        return bands(shape.out_size[0], prod(shape.out_size), shape.image_bytes, weights)

    @property
    def taps(self) -> int:
        """Weights of one channel."""
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def packed_size(self) -> int:
        """Elements of the packed weights."""
        return self.taps * sum(p.count * p.width for p in self.panels)

    @property
    def note(self) -> str:
        """The plan in words."""
        return f"depthwise, tiles of {tile_words(self.panels, self.tiles)}"


def fits(shape: ConvShape) -> bool:
    """Whether ``shape`` is one that this template computes: one output channel, or a few, for each input channel."""
    if shape.group != shape.in_channels or shape.x_strides[3] != 1 or shape.shuffle:
        return False
    return shape.group_out == 1 or (shape.group > 1 and shape.group_out in _TIMES and shape.x_dtype == "float32")


def plan(shape: ConvShape, target: Target) -> DepthwisePlan:
    """Choose the tiles of ``shape``."""
    blocks, pixels = choose_tile(shape, target)
    panels = split_panels(shape.out_channels, target.lanes(itemsize(shape.acc_dtype)), blocks)
    return DepthwisePlan(shape, panels, row_tiles(shape, pixels))


def choose_tile(shape: ConvShape, target: Target) -> tuple[int, int]:
    """(vectors of channels, pixels) of a tile.

    Accumulators, one row of weights and an input vector stay in registers. Few pixels and whole cache lines of
    channels where neighbours lie so that they share a set of L1: such loads are started one after the other only.
    All vectors of a pixel at once where they are few: cache lines that two of them share are then read once.
    """
    many = target.registers > 16
    step = shape.x_strides[2] * itemsize(shape.x_dtype)
    vectors = ceil(shape.out_channels / target.lanes(itemsize(shape.acc_dtype)))
    if step % _SET == 0:
        return (4, 4) if many else (4, 2)
    if not many:
        return {1: (1, 8), 3: (3, 2), 4: (4, 2)}.get(vectors, (2, 4))
    if target.vector_bytes < _LINE or step % (_SET // 2) == 0:
        return (2, 7)
    if 1 < vectors < 4 and (room := (target.registers - 1) // vectors - shape.kernel[1]) >= _FEWEST_PIXELS:
        return vectors, min(_MOST_PIXELS // vectors, room)
    return 1, min(_MOST_PIXELS, target.registers - 1 - min(shape.kernel[1], 7))


def pack(weights: np.ndarray[Any, Any], plan: DepthwisePlan, zero_point: Any = 0) -> np.ndarray[Any, Any]:
    """Reorder ONNX weights [C, 1, kh, kw]: for each vector of channels kernel row, kernel column, channel."""
    weights = reduce_weights(weights, plan.shape, zero_point)
    return pack_panels(weights[None], plan.panels)
