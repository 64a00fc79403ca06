"""Plan of a batched matrix product whose second operand is known only at run time. Nothing here imports TVM."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, prod

from onyxc.backends.cpu.blocking import Panel, Tiles, choose_blocks, join, panel_tasks, split_evenly, split_panels
from onyxc.backends.target import Target
from onyxc.compiler.ir.types import is_integer, itemsize

_PACK_ROWS = 24  # with fewer rows, copying a contiguous B costs more than it gains
_PACK_STRIDE = 512  # bytes between rows of B up to which they are read in place
_FEW_TASKS = 8
_DOT_ROWS = 4  # with more, transposing b once for all rows costs less than adding up vectors for each


@dataclass(frozen=True)
class GemmShape:
    """y[*batch, m, n] = sum over k of a[*batch, m, k] * b[*batch, k, n].

    ``a_strides``, ``b_strides``: elements along (*batch, m, k) and (*batch, k, n), 0 to repeat a batch;
    ``y_strides`` along (*batch, m), n being contiguous. Zero points are taken off before multiplying.
    """

    batch: tuple[int, ...]
    m: int
    n: int
    k: int
    a_strides: tuple[int, ...]
    b_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    a_dtype: str = "float32"
    b_dtype: str = "float32"
    acc_dtype: str = "float32"
    y_dtype: str = "float32"
    a_zero_point: int = 0
    b_zero_point: int = 0

    @property
    def work(self) -> int:
        """Operations, a multiplication and an addition counted apart."""
        return 2 * prod(self.batch) * self.m * self.n * self.k


@dataclass(frozen=True)
class GemmPlan:
    """How one product is computed.

    ``shape`` has batches that share b merged into m. ``packed``: each task first copies its panel of b,
    transposed if need be, into its own slot of a scratch buffer; ``chunks``: parts of m with a task each then.
    ``dots``: a and b are multiplied by vectors along k, where both are contiguous, which are added up at the end.
    """

    shape: GemmShape
    operands: tuple[tuple[int, ...], ...]
    panels: tuple[Panel, ...]
    tiles: tuple[Tiles, ...]
    packed: bool
    chunks: int
    dots: bool = False

    @property
    def turned(self) -> bool:
        """Whether b is contiguous along k, and so transposed while it is copied."""
        return self.packed and self.shape.b_strides[-2] == 1 != self.shape.b_strides[-1]

    @property
    def rows(self) -> int:
        """Number of tiles along m."""
        return sum(t.count for t in self.tiles)

    @property
    def units(self) -> int:
        """Tasks of one panel of one batch."""
        return self.chunks if self.packed else self.rows

    @property
    def tasks(self) -> int:
        """Units of work: panels of all batches, times parts of m."""
        return panel_tasks(self.panels, prod(self.shape.batch) * self.units)

    @property
    def note(self) -> str:
        """The plan in words."""
        shape, panel = self.shape, self.panels[0]
        what = f"product {prod(shape.batch)} x {shape.m} x {shape.k} x {shape.n}"
        if self.dots:
            return f"{what}: vectors along the sum, {panel.channels} columns at a time"
        where = "transposed to scratch" if self.turned else "copied to scratch" if self.packed else "read in place"
        return f"{what}: tile {len(panel.lanes)} x {self.tiles[0].width}, right operand {where}"

    @property
    def scratch_dtype(self) -> str:
        """Element type of the scratch buffer."""
        return "int16" if is_integer(self.shape.b_dtype) else self.shape.b_dtype

    @property
    def scratch_size(self) -> int:
        """Elements of the scratch buffer; 0: the kernel takes none."""
        if not self.packed:
            return 0
        slots = prod(self.shape.batch) * self.chunks
        return slots * self.shape.k * sum(p.count * p.width for p in self.panels)


def plan(shape: GemmShape, target: Target, operands: tuple[tuple[int, ...], ...] = ()) -> GemmPlan:
    """Choose the blocks of ``shape``; ``operands``: element strides (*batch, m, n) of the epilogue's inputs."""
    shape, operands = _merge(shape, operands)
    if shape.n == 1:
        shape = replace(shape, b_strides=(*shape.b_strides[:-1], 1))
    lanes = target.lanes(itemsize(shape.acc_dtype))
    if _dots(shape, lanes):
        return GemmPlan(shape, operands, split_panels(shape.n, lanes, 1), (Tiles(0, 1, shape.m),), False, 1, True)
    size = itemsize(shape.b_dtype)
    step = shape.a_strides[-2] * itemsize(shape.a_dtype)
    blocks, rows = choose_blocks(shape.n, shape.m, shape.k, step, lanes, size, target)
    panels = split_panels(shape.n, lanes, blocks)
    widths = split_evenly(shape.m, rows)
    starts = accumulate(widths, initial=0)
    tiles = join(Tiles(start, 1, width) for start, width in zip(starts, widths, strict=False))
    row_stride, column_stride = shape.b_strides[-2:]
    far = row_stride * size > _PACK_STRIDE and shape.m >= _PACK_ROWS
    packed = shape.n > 1 and (column_stride != 1 or far)
    independent = prod(shape.batch) * sum(p.count for p in panels)
    chunks = 1 if not packed or independent >= _FEW_TASKS else min(ceil(_FEW_TASKS / 2 / independent), len(widths))
    return GemmPlan(shape, operands, panels, tiles, packed, chunks)


def _dots(shape: GemmShape, lanes: int) -> bool:
    """Whether vectors along k pay: few rows, a long b whose transposition nothing else would use."""
    along = shape.a_strides[-1] == shape.b_strides[-2] == 1 != shape.b_strides[-1]
    floats = shape.a_dtype == shape.b_dtype == shape.acc_dtype == "float32"
    return along and floats and shape.m <= _DOT_ROWS and shape.k % lanes == 0 and shape.n >= lanes > 1


def _merge(shape: GemmShape, operands: tuple[tuple[int, ...], ...]) -> tuple[GemmShape, tuple[tuple[int, ...], ...]]:
    """Merge the innermost batches into m where they share b and the rows of all else follow on."""
    while shape.batch and shape.b_strides[-3] == 0:
        size, views = shape.batch[-1], [shape.a_strides, (*shape.y_strides, 1), *operands]
        if shape.m == 1:
            views = [(*v[:-2], v[-3], v[-1]) for v in views]
        if size > 1 and any(v[-3] != v[-2] * shape.m for v in views):
            break
        a, y, *rest = [(*v[:-3], *v[-2:]) for v in views]
        b = (*shape.b_strides[:-3], *shape.b_strides[-2:])
        m = shape.m * size
        shape = replace(shape, batch=shape.batch[:-1], m=m, a_strides=a, b_strides=b, y_strides=y[:-1])
        operands = tuple(rest)
    return shape, operands
