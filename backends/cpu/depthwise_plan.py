"""Plan of a depthwise convolution. Nothing here imports TVM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, Tiles, row_tiles, split_panels
from onyxc.backends.cpu.convolution_plan import pack_panels, reduce_weights
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import itemsize

_MOST_PIXELS = 14


@dataclass(frozen=True)
class DepthwisePlan:
    """How one depthwise convolution is computed: vectors of channels, and the tiles of a row."""

    shape: ConvShape
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]

    @property
    def tasks(self) -> int:
        """Units of work: vectors of channels of all images, times rows."""
        return self.shape.batch * sum(p.count for p in self.panels) * self.shape.out_size[0]

    @property
    def taps(self) -> int:
        """Weights of one channel."""
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def packed_size(self) -> int:
        """Elements of the packed weights."""
        return self.taps * sum(p.count * p.width for p in self.panels)


def fits(shape: ConvShape) -> bool:
    """Whether ``shape`` is one that this template computes: one output channel for each input channel."""
    return shape.group == shape.in_channels == shape.out_channels and shape.x_strides[3] == 1


def plan(shape: ConvShape, target: Target) -> DepthwisePlan:
    """Choose the tiles of ``shape``: a register each for pixels, kernel columns and the input, and two to spare."""
    lanes = target.lanes(itemsize(shape.acc_dtype))
    pixels = max(4, min(_MOST_PIXELS, target.registers - min(shape.kernel[1], 7) - 3))
    return DepthwisePlan(shape, split_panels(shape.out_channels, lanes, 1), row_tiles(shape, pixels))


def pack(weights: np.ndarray[Any, Any], plan: DepthwisePlan, zero_point: Any = 0) -> np.ndarray[Any, Any]:
    """Reorder ONNX weights [C, 1, kh, kw]: for each vector of channels kernel row, kernel column, channel."""
    weights = reduce_weights(weights, plan.shape, zero_point)
    return pack_panels(weights[None], plan.panels)
