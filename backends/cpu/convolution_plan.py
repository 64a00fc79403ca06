"""Plan of a direct convolution: register tile, output panels, tiles of a row with their valid taps, packed weights.

Nothing here imports TVM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, Tiles, bands, choose_blocks, panel_tasks, row_tiles, split_panels
from onyxc.backends.cpu.shapes import ConvShape, Strides, collapse
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import itemsize

_COLD = 1 / 4  # share of L2 from which on weights are expected to come from memory at each inference
_STREAM_AHEAD = 4096  # bytes, where every weight is used once
_FROM_MEMORY = 16 << 20  # such weights do not stay in L3 (prefetching from there costs a fifth)
_FEW_CHANNELS = 3  # up to so many, LLVM makes straight code of a kernel row
_FEW_BANDS = 4
_MANY_REGISTERS = 32  # with fewer, the loop over bands makes LLVM spill
_FEW_ROWS = 64  # with more, the way from memory is a small part of a panel's time


@dataclass(frozen=True)
class ConvPlan:
    """How one convolution is computed.

    ``shape`` is collapsed (see `shapes.collapse`), ``turned`` tells that h and w changed places.
    ``flat``: tasks divide the tiles of the only row instead of the rows. ``unroll``: input channels a loop turn.
    ``ahead``: elements between a weight that is used and the one that is prefetched meanwhile, 0 for none.
    ``bands``: parts into which the rows are divided first.
    """

    shape: ConvShape
    turned: bool
    operands: tuple[Strides, ...]
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]
    flat: bool
    unroll: int
    ahead: int
    bands: int

    @property
    def rows(self) -> int:
        """Units of work of one panel: rows of all images, or tiles."""
        if self.flat:
            return sum(t.count for t in self.tiles)
        return self.shape.batch * self.shape.out_size[0]

    @property
    def tasks(self) -> int:
        """Units of work: panels of all groups, times rows."""
        return panel_tasks(self.panels, self.shape.group * self.rows)

    @property
    def depth(self) -> int:
        """Length of the sum."""
        return self.shape.group_in * prod(self.shape.kernel)

    @property
    def packed_size(self) -> int:
        """Elements of the packed weights."""
        return self.shape.group * self.depth * sum(p.count * p.width for p in self.panels)

    @property
    def note(self) -> str:
        """The plan in words."""
        what = "product" if self.flat else "direct convolution"
        return f"{what}, tiles of {tile_words(self.panels, self.tiles)}"


def tile_words(panels: tuple[Panel, ...], tiles: tuple[Tiles, ...]) -> str:
    """The largest tile, as in "16+16+8 channels x 8 pixels"."""
    return f"{'+'.join(map(str, panels[0].lanes))} channels x {max(t.width for t in tiles)} pixels"


def plan(shape: ConvShape, target: Target, operands: tuple[Strides, ...] = ()) -> ConvPlan:
    """Choose the blocks of ``shape``; ``operands``: element strides (n, h, w, c) of the epilogue's inputs."""
    shape, operands, turned = collapse(shape, operands)
    depth = shape.group_in * prod(shape.kernel)
    lanes = target.lanes(itemsize(shape.acc_dtype))
    width = shape.out_size[1]
    step = shape.x_strides[2] * shape.strides[1] * itemsize(shape.x_dtype)
    size = itemsize(shape.packed_dtype)
    straight = target.arch == "x86_64" and shape.group_in <= _FEW_CHANNELS and shape.kernel[1] > 1
    blocks, pixels = choose_blocks(shape.group_out, width, depth, step, lanes, size, target, straight)
    panels = split_panels(shape.group_out, lanes, blocks)
    flat = shape.is_pointwise and shape.batch == shape.out_size[0] == 1
    tiles = row_tiles(shape, pixels)
    made = ConvPlan(shape, turned, operands, panels, tiles, flat, _unroll(shape, panels, target), ahead=0, bands=1)
    weights = shape.out_channels * depth * size
    if made.rows == 1:
        return replace(made, ahead=_STREAM_AHEAD // size if width == 1 and weights > _FROM_MEMORY else 0)
    count = bands(made.rows, shape.batch * prod(shape.out_size), shape.image_bytes, made.packed_size * size)
    cold = made.rows <= _FEW_ROWS and weights > target.l2 * _COLD
    if cold and target.registers < _MANY_REGISTERS:
        count = 1
    # where bands are many, weights stay near, and the first band is too short to prefetch them in
    return replace(made, ahead=panels[0].width * depth if cold and count <= _FEW_BANDS else 0, bands=count)


def _unroll(shape: ConvShape, panels: tuple[Panel, ...], target: Target) -> int:
    """Input channels of one loop turn; one where vectors of two widths, or a table, would make LLVM spill them."""
    if target.arch == "x86_64" and (shape.shuffle or any(len(set(p.lanes)) > 1 for p in panels)):
        return 1
    if target.arch != "x86_64" and target.registers > 16:
        return next(u for u in (4, 3, 2, 1) if shape.group_in % u == 0)
    return shape.group_in if shape.group_in <= 3 else next(u for u in (2, 1) if shape.group_in % u == 0)


def pack(weights: np.ndarray[Any, Any], plan: ConvPlan, zero_point: Any = 0) -> np.ndarray[Any, Any]:
    """Reorder ONNX weights [O, I / group, kh, kw] into the panels of ``plan``, one flat array.

    For each panel: kernel row, kernel column, input channel, output channel (zeros behind the last).
    ``zero_point``: scalar or per output channel, taken off integer weights.
    """
    shape = plan.shape
    weights = reduce_weights(weights.swapaxes(2, 3) if plan.turned else weights, shape, zero_point)
    return pack_panels(weights.reshape(shape.group, shape.group_out, shape.group_in, *shape.kernel), plan.panels)


def reduce_weights(weights: np.ndarray[Any, Any], shape: ConvShape, zero_point: Any) -> np.ndarray[Any, Any]:
    """The weights in the packed type, less their zero point."""
    expected = (shape.out_channels, shape.group_in, *shape.kernel)
    if weights.shape != expected:
        raise ValueError(f"weights have shape {weights.shape}, the plan expects {expected}")
    if shape.packed_dtype != "int16":
        return weights
    return weights.astype(np.int16) - np.asarray(zero_point, np.int16).reshape(-1, 1, 1, 1)


def pack_panels(weights: np.ndarray[Any, Any], panels: tuple[Panel, ...]) -> np.ndarray[Any, Any]:
    """[group, O, I, kh, kw] -> for each class of panels [group, panel, kh, kw, I, padded channel], one flat array."""
    weights = weights.transpose(0, 3, 4, 2, 1)
    parts = []
    for panel in panels:
        stop = panel.start + panel.count * panel.channels
        part = weights[..., panel.start : stop].reshape(*weights.shape[:-1], panel.count, panel.channels)
        padded = np.pad(part, [(0, 0)] * 5 + [(0, panel.width - panel.channels)])
        parts.append(padded.transpose(0, 4, 1, 2, 3, 5).reshape(-1))
    return np.ascontiguousarray(np.concatenate(parts))
