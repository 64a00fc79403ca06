"""Plan of a product with constant weights by fewer multiplications of blocks (`strassen_tables`). No TVM here.

    A is cut into m x k blocks, B into k x n:  C[i, j] = sum of +-P[p],  P[p] = (sum of +-A[..]) * (sum of +-B[..])

The right factors are made at compile time in float64. On random data the result is as far from the exact product as
the plain sum within a factor of three; `error_bound` is what no data exceed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, Tiles, choose_blocks, join, split_evenly, split_panels
from onyxc.backends.cpu.shapes import ConvShape, Strides, collapse
from onyxc.backends.cpu.strassen_tables import ALGORITHMS, Algorithm
from onyxc.backends.target import Target

LINE = 16  # floats of a cache line
_MOST_ROWS = 128  # of a part: its products and a panel of weights stay in L2
_LEAST = 1 / 20  # share of the time that must be saved
# measured, in cycles that start two multiply-adds: a vector of a product stored, loaded and added, or of a left factor;
# a vector of weights that comes from memory
_MOVED, _STREAMED = 2.5, 2.0


@dataclass(frozen=True)
class StrassenPlan:
    """How one product [rows, depth] x [depth, columns] is computed.

    ``shape``: the product as a pointwise convolution of a single row (`as_product`); ``operands``: element strides
    (n, h, w, c) of the epilogue's inputs; ``panels`` divide the columns of a block, ``tiles`` its rows; ``parts``: tasks
    of a panel, which share its tiles; ``unroll``: steps of the sum a loop turn.
    """

    shape: ConvShape
    operands: tuple[Strides, ...]
    algorithm: Algorithm
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]
    parts: int
    unroll: int

    @property
    def rows(self) -> int:
        """Rows of a block of A."""
        return -(-self.shape.out_size[1] // self.algorithm.m)

    @property
    def last(self) -> int:
        """Rows of the last blocks, which may have fewer."""
        return self.shape.out_size[1] - (self.algorithm.m - 1) * self.rows

    @property
    def depth(self) -> int:
        """Length of the sum in a block."""
        return self.shape.in_channels // self.algorithm.k

    @property
    def columns(self) -> int:
        """Columns of a block of B."""
        return self.shape.out_channels // self.algorithm.n

    @property
    def pitch(self) -> int:
        """Elements between rows of the left factors: an odd number of cache lines, so that they share no L1 set."""
        return (-(-self.depth // LINE) | 1) * LINE

    @property
    def factors(self) -> tuple[int, int, int]:
        """Shape of the left factors."""
        return self.algorithm.products, self.rows, self.pitch

    @property
    def tasks(self) -> int:
        """Units of work: panels of columns, times parts of the rows."""
        return sum(p.count for p in self.panels) * self.parts

    @property
    def count(self) -> int:
        """Number of row tiles."""
        return sum(t.count for t in self.tiles)

    @property
    def most_rows(self) -> int:
        """Rows of a part, at most."""
        return min(self.rows, -(-self.count // self.parts) * self.tiles[0].width)

    @property
    def scratch_size(self) -> int:
        """Elements of the left factors and of the products behind them."""
        return prod(self.factors) + self.products_size

    @property
    def products_size(self) -> int:
        """Elements of the products of one panel with one part of the rows."""
        return self.algorithm.products * self.most_rows * max(p.width for p in self.panels)

    @property
    def packed_size(self) -> int:
        """Elements of the right factors."""
        return self.algorithm.products * self.depth * sum(p.count * p.width for p in self.panels)


def as_product(shape: ConvShape, operands: tuple[Strides, ...] = ()) -> tuple[ConvShape, tuple[Strides, ...]] | None:
    """The convolution as a pointwise one of a single row, with its operands, where its windows are runs of memory.

    So are those of a one-dimensional convolution without padding: they overlap, and each begins a stride further on.
    """
    shape, operands, _ = collapse(shape, operands)
    (_, width), (tall, wide) = shape.out_size, shape.kernel
    if shape.group > 1 or shape.shuffle or any(shape.pads) or shape.batch * shape.out_size[0] * tall > 1:
        return None
    step = shape.x_strides[2]
    if shape.x_strides[3] != 1 or (wide > 1 and (shape.dilations[1] > 1 or step != shape.in_channels)):
        return None
    strides = (*shape.x_strides[:2], step * shape.strides[1], 1)
    return replace(
        shape, in_channels=wide * shape.in_channels, in_size=(1, width), kernel=(1, 1), strides=(1, 1), x_strides=strides
    ), operands


def choose(shape: ConvShape, target: Target) -> Algorithm | None:
    """The algorithm that is expected to save most time, None where none is allowed or saves enough."""
    floats = shape.x_dtype == shape.w_dtype == shape.acc_dtype == "float32"
    if target.exact or target.favor == "size" or not floats:
        return None
    product = as_product(shape)
    if product is None:
        return None
    best = min(ALGORITHMS, key=lambda a: expected_time(product[0], a, target))
    return best if expected_time(product[0], best, target) < 1 - _LEAST else None


def expected_time(shape: ConvShape, algorithm: Algorithm, target: Target) -> float:
    """Modelled time over that of the plain product, above 1 where the algorithm does not fit."""
    rows, depth, columns = shape.out_size[1], shape.in_channels, shape.out_channels
    lanes = target.lanes(4)
    if depth % (algorithm.k * lanes) or columns % algorithm.n or rows < 4 * algorithm.m:
        return 2.0
    block, inner, outer = -(-rows // algorithm.m), depth // algorithm.k, columns // algorithm.n
    sums = algorithm.products * inner * outer * (block / 2 + _STREAMED)
    moved = algorithm.products * block * (inner + outer) * _MOVED
    return (sums + moved) / (depth * columns * (rows / 2 + _STREAMED))


def plan(shape: ConvShape, algorithm: Algorithm, target: Target, operands: tuple[Strides, ...] = ()) -> StrassenPlan:
    """Choose the blocks of ``shape``, for which ``algorithm`` is chosen; ``operands``: element strides (n, h, w, c)."""
    product = as_product(shape, operands)
    if product is None:
        raise ValueError("not a product of matrices")
    shape, operands = product
    rows, depth = -(-shape.out_size[1] // algorithm.m), shape.in_channels // algorithm.k
    columns, lanes = shape.out_channels // algorithm.n, target.lanes(4)
    blocks, pixels = choose_blocks(columns, rows, depth, 4 * LINE, lanes, 4, target)
    widths = split_evenly(rows, pixels)
    starts = accumulate(widths, initial=0)
    tiles = join(Tiles(start, 1, width) for start, width in zip(starts, widths, strict=False))
    parts = min(-(-rows // _MOST_ROWS), len(widths))
    unroll = next(u for u in ((4, 2, 1) if target.arch != "x86_64" else (2, 1)) if depth % u == 0)
    return StrassenPlan(shape, operands, algorithm, split_panels(columns, lanes, blocks), tiles, parts, unroll)


def pack(weights: np.ndarray[Any, Any], plan: StrassenPlan) -> np.ndarray[Any, Any]:
    """The right factors of ``weights`` [depth, columns]: per panel [product, k, padded column], one flat array."""
    factors = right_factors(weights, plan.algorithm).astype(np.float32)
    parts = []
    for panel in plan.panels:
        part = factors[:, :, panel.start : panel.start + panel.count * panel.channels]
        part = part.reshape(*factors.shape[:2], panel.count, panel.channels)
        part = np.pad(part, [(0, 0)] * 3 + [(0, panel.width - panel.channels)])
        parts.append(part.transpose(2, 0, 1, 3).reshape(-1))
    return np.concatenate(parts)


def right_factors(b: np.ndarray[Any, Any], algorithm: Algorithm) -> np.ndarray[Any, Any]:
    """The right factors [product, k, column] of ``b``, in float64."""
    k, n = b.shape[0] // algorithm.k, b.shape[1] // algorithm.n
    blocks = b.astype(np.float64).reshape(algorithm.k, k, algorithm.n, n).transpose(0, 2, 1, 3).reshape(-1, k * n)
    return (algorithm.right.astype(np.float64) @ blocks).reshape(-1, k, n)


def error_bound(plan: StrassenPlan, a: float, b: float) -> float:
    """How far an element of the sum may be from the exact one, for factors up to ``a`` and ``b`` in magnitude.

    Every product is a sum of ``depth`` terms after at most eight additions on each side, and few are added: to first
    order, (depth + 24) roundings of what `Algorithm.growth` times depth * a * b bounds.
    """
    return (plan.depth + 24) * 2.0**-24 * plan.algorithm.growth * plan.depth * a * b
