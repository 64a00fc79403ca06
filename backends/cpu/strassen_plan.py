"""Plan of a product with constant weights by fewer multiplications of blocks (`strassen_tables`). No TVM here.

    A is cut into m x k blocks, B into k x n:  C[i, j] = sum of +-P[p],  P[p] = (sum of +-A[..]) * (sum of +-B[..])

The rows of a block are every m-th row of A, so that a run of rows of all blocks is a run of rows of A: threads that
divide the rows read and write what they wrote and read in the layers around.

On random data the result is as far from the exact product as the plain sum within a factor of three; `error_bound` is
what no data exceed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import prod
from typing import Any

import numpy as np

from onyxc.backends.cpu.blocking import Panel, Tiles, choose_blocks, join, split_evenly, split_panels
from onyxc.backends.cpu.shapes import ConvShape, Strides, collapse
from onyxc.backends.cpu.strassen_tables import ALGORITHMS, Algorithm, Signs
from onyxc.backends.target import Target

LINE = 16  # floats of a cache line
_MOST_ROWS = 128  # of a part: its products and a panel of weights stay in L2
_OUTWEIGHS = 4  # weights so many times larger than A and C are better read by one thread each than by all
_BANDS = 2  # parts of the rows, at least, where they are not
_SHARE = 5 / 8  # of L2, for a panel's weights
_LEAST = 1 / 20  # share of the time that must be saved
_SAME = 3 / 100  # share of the time that is not worth more memory
_MOST_KEPT = 2  # times the weights, for premade right factors
# measured, in cycles that start two multiply-adds: a vector of weights that comes from memory; a vector of a right factor
# made in the kernel (with narrow vectors, with wide ones); a vector of a product stored, loaded and added, or of a left
# factor (made in the kernel, premade: these leave more of L2 to them)
_STREAMED, _MADE, _MOVED = 2.0, (5.0, 1.5), (6.0, 2.5)
_LEAST_ROWS = (48, 24)  # of a part that is there for threads alone (narrow, wide): each makes all right factors
_FEW_ROWS = 8  # of a tile, so that steps of the sum can be unrolled
_BLOCKS = 2  # vectors of a panel: more rows of a tile are there to hide a right factor's making, and it stays in L1


@dataclass(frozen=True)
class Method:
    """An ``algorithm``, and whether its right factors are ``premade`` at compile time, in float64, and kept in place of
    the weights; else the kernel makes them."""

    algorithm: Algorithm
    premade: bool

    @property
    def name(self) -> str:
        """The method in words."""
        return self.algorithm.name + (", right factors stored" if self.premade else "")

    @property
    def right(self) -> Signs:
        """Signs [product, block] of the right factors, by the blocks that are kept."""
        return np.eye(self.algorithm.products, dtype=np.int8) if self.premade else self.algorithm.right

    @property
    def forms(self) -> list[tuple[int, ...]]:
        """The different sums that right factors are, as the signs of their terms, positive ones first."""
        return sorted({self._signs(row) for row in self.right})

    @property
    def terms(self) -> np.ndarray[Any, Any]:
        """[product, 1 + most terms] int32: the number of each right factor's form, then its blocks in that order.

        The first block fills what is left.
        """
        forms = self.forms
        made = np.zeros((len(self.right), 1 + max(map(len, forms))), np.int32)
        for line, row in zip(made, self.right, strict=True):
            blocks = [*np.flatnonzero(row > 0), *np.flatnonzero(row < 0)]
            line[:] = [forms.index(self._signs(row)), *blocks, *[blocks[0]] * (made.shape[1] - 1 - len(blocks))]
        return made

    @staticmethod
    def _signs(row: Signs) -> tuple[int, ...]:
        return (1,) * int((row > 0).sum()) + (-1,) * int((row < 0).sum())


METHODS = tuple(
    Method(algorithm, premade)
    for algorithm, premade in product(ALGORITHMS, (False, True))
    if not premade or algorithm.products <= _MOST_KEPT * algorithm.k * algorithm.n
)


@dataclass(frozen=True)
class StrassenPlan:
    """How one product [rows, depth] x [depth, columns] is computed.

    ``shape``: the product as a pointwise convolution of a single row (`as_product`); ``operands``: element strides
    (n, h, w, c) of the epilogue's inputs; ``panels`` divide the columns of a block, ``tiles`` its rows, ``parts`` these
    tiles; ``slice``: steps of the sum for which a panel's weights stay in L2; ``unroll``: steps a loop turn.
    """

    shape: ConvShape
    operands: tuple[Strides, ...]
    method: Method
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]
    parts: int
    slice: int
    unroll: int

    @property
    def algorithm(self) -> Algorithm:
        """The method's algorithm."""
        return self.method.algorithm

    @property
    def blocks(self) -> int:
        """Blocks of weights, or right factors, that are kept."""
        return int(self.method.right.shape[1])

    @property
    def rows(self) -> int:
        """Rows of a block of A."""
        return -(-self.shape.out_size[1] // self.algorithm.m)

    @property
    def full(self) -> int:
        """Rows that all blocks of A have; a row more may be missing in some."""
        return self.shape.out_size[1] // self.algorithm.m

    @property
    def depth(self) -> int:
        """Length of the sum in a block."""
        return self.shape.in_channels // self.algorithm.k

    @property
    def slices(self) -> int:
        """Slices of the depth."""
        return self.depth // self.slice

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
        """Shape of the left factors of a part."""
        return self.algorithm.products, self.most_rows, self.pitch

    @property
    def tasks(self) -> int:
        """Units of work: panels of the first part of the rows, then of the next."""
        return self.units * self.parts

    @property
    def units(self) -> int:
        """Panels of columns."""
        return sum(p.count for p in self.panels)

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
        """Elements of the left factors, of the products behind them, and of a right factor."""
        return prod(self.factors) + self.products_size + self.right_size

    @property
    def products_size(self) -> int:
        """Elements of the products of one panel with one part of the rows."""
        return self.algorithm.products * self.most_rows * max(p.width for p in self.panels)

    @property
    def right_size(self) -> int:
        """Elements of a slice of a right factor in one panel."""
        return self.slice * max(p.width for p in self.panels)

    @property
    def packed_size(self) -> int:
        """Elements of the packed weights."""
        return self.blocks * self.depth * sum(p.count * p.width for p in self.panels)


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


def choose(shape: ConvShape, target: Target) -> Method | None:
    """Of the methods that are expected to save most time, about, the one that keeps fewest weights.

    None where none is allowed or saves enough.
    """
    floats = shape.x_dtype == shape.w_dtype == shape.acc_dtype == "float32"
    found = as_product(shape)
    if target.exact or found is None or not floats:
        return None
    allowed = [m for m in METHODS if not (m.premade and target.favor == "size")]
    times = {m: expected_time(found[0], m, target) for m in allowed}
    least = min(times.values())
    best = min((m for m in allowed if times[m] < least + _SAME), key=lambda m: (m.premade, times[m]))
    return best if times[best] < 1 - _LEAST else None


def expected_time(shape: ConvShape, method: Method, target: Target) -> float:
    """Modelled time over that of the plain product, above 1 where the method does not fit."""
    algorithm, lanes = method.algorithm, target.lanes(4)
    rows, depth, columns = shape.out_size[1], shape.in_channels, shape.out_channels
    if depth % (algorithm.k * lanes) or columns % algorithm.n or rows < 4 * algorithm.m:
        return 2.0
    block, inner, outer = -(-rows // algorithm.m), depth // algorithm.k, columns // algorithm.n
    right = _STREAMED if method.premade else _MADE[target.vector_bytes >= 64] * -(-block // _MOST_ROWS)
    sums = algorithm.products * inner * outer * (block / 2 + right)
    moved = algorithm.products * block * (inner + outer) * _MOVED[method.premade]
    streamed = depth * columns * _STREAMED
    return (sums + moved + (0 if method.premade else streamed)) / (depth * columns * rows / 2 + streamed)


def plan(shape: ConvShape, method: Method, target: Target, operands: tuple[Strides, ...] = ()) -> StrassenPlan:
    """Choose the blocks of ``shape``, for which ``method`` is chosen; ``operands``: element strides (n, h, w, c)."""
    found, algorithm = as_product(shape, operands), method.algorithm
    if found is None:
        raise ValueError("not a product of matrices")
    shape, operands = found
    rows, depth = -(-shape.out_size[1] // algorithm.m), shape.in_channels // algorithm.k
    columns, lanes = shape.out_channels // algorithm.n, target.lanes(4)
    most = columns if method.premade else _BLOCKS
    blocks, pixels = choose_blocks(columns, rows, depth, 4 * LINE, lanes, 4, target, most_blocks=most)
    panels, widths = split_panels(columns, lanes, blocks), split_evenly(rows, pixels)
    starts = accumulate(widths, initial=0)
    tiles = join(Tiles(start, 1, width) for start, width in zip(starts, widths, strict=False))
    bands = _BANDS if _OUTWEIGHS * shape.image_bytes > 4 * method.right.shape[1] * depth * columns else 1
    least = 1 if method.premade else _LEAST_ROWS[target.vector_bytes >= 64]
    parts = min(max(-(-rows // _MOST_ROWS), min(bands, rows // least)), len(widths))
    few = pixels <= _FEW_ROWS  # else LLVM loads the inputs of all steps before the first is computed
    unroll = next(u for u in ((4, 2, 1) if target.arch != "x86_64" else (2, 1)) if depth % u == 0 and (few or u == 1))
    fits = depth if method.premade else _SHARE * target.l2 // (4 * algorithm.k * algorithm.n * panels[0].width)
    slices = (depth // count for count in range(1, depth // unroll + 1) if depth % (count * unroll) == 0)
    size = next((s for s in slices if s <= fits), unroll)
    return StrassenPlan(shape, operands, method, panels, tiles, parts, size, unroll)


def pack(weights: np.ndarray[Any, Any], plan: StrassenPlan) -> np.ndarray[Any, Any]:
    """The blocks of ``weights`` [depth, columns], or the right factors, as one flat array.

    Per panel [slice, block, k, padded column].
    """
    k, n = plan.algorithm.k, plan.algorithm.n
    rows = weights.reshape(k, plan.depth, n, plan.columns).transpose(0, 2, 1, 3).reshape(k * n, -1)
    if plan.method.premade:
        rows = (plan.algorithm.right.astype(np.float64) @ rows.astype(np.float64)).astype(np.float32)
    blocks = rows.reshape(-1, plan.slices, plan.slice, plan.columns).swapaxes(0, 1)
    parts = []
    for panel in plan.panels:
        part = blocks[..., panel.start : panel.start + panel.count * panel.channels]
        part = part.reshape(*blocks.shape[:-1], panel.count, panel.channels)
        part = np.pad(part, [(0, 0)] * 4 + [(0, panel.width - panel.channels)])
        parts.append(np.moveaxis(part, 3, 0).reshape(-1))
    return np.concatenate(parts)


def error_bound(plan: StrassenPlan, a: float, b: float) -> float:
    """How far an element of the sum may be from the exact one, for factors up to ``a`` and ``b`` in magnitude.

    To first order, as many roundings as an element goes through, of what `Algorithm.growth` times depth * a * b bounds.
    """
    return (plan.depth + plan.algorithm.roundings) * 2.0**-24 * plan.algorithm.growth * plan.depth * a * b
