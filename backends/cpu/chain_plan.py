"""Plan of a chain of convolutions and pools computed row by row: what lies between two stays in a few rows of scratch.

    image -> [1x1, 3x3 ...] -> ring of rows -> [depthwise] -> ring of rows -> [1x1] -> image

Each is pointwise, depthwise or a pool; the first may be any convolution of few channels (the first of a network). A
ring holds the rows that the next one's kernel covers, a power of two. Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from onyxc.backends.cpu import convolution_plan, depthwise_plan, pooling_plan
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan
from onyxc.backends.cpu.pooling_plan import PoolPlan, PoolShape
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.target import Target

Shape = ConvShape | PoolShape
Plan = ConvPlan | DepthwisePlan | PoolPlan

_FLOAT = 4  # bytes
_LINE = 16  # elements
_SET = 4096  # bytes: rows so far apart share a set of L1
_BEYOND = 5 / 8  # share of L2: images smaller than that stay there by themselves
_ROOM = 1 / 2  # share of L2 for the rings and the weights
_AGAIN = 1 / 4  # share of the rows that may be computed twice, where threads meet
_FEW_CHANNELS = 4
_PIXELS = 8  # a row shorter than a register tile is slow


@dataclass(frozen=True)
class Link:
    """One part of a chain. ``shape`` is the whole one; its plan, where it is pointwise, that of a row.

    ``rows``: of its result that the ring holds, 0 behind the last; ``pitch``: elements between them; ``start``: of the
    ring in the scratch memory.
    """

    shape: Shape
    plan: Plan
    rows: int = 0
    pitch: int = 0
    start: int = 0

    @property
    def reach(self) -> int:
        """Input rows under the kernel."""
        return _reach(self.shape)


@dataclass(frozen=True)
class ChainPlan:
    """A chain of at least two parts; ``scratch``: elements that a thread needs."""

    links: tuple[Link, ...]
    scratch: int

    @property
    def tasks(self) -> int:
        """Rows of the result, of all images."""
        last = self.links[-1].shape
        return last.batch * last.out_size[0]

    @property
    def channels(self) -> int:
        """Channels of the first image."""
        return _inputs(self.links[0].shape)

    @property
    def weights(self) -> int:
        """Links that have weights."""
        return sum(not isinstance(link.plan, PoolPlan) for link in self.links)

    @property
    def work(self) -> int:
        """Operations."""
        return sum(link.shape.work for link in self.links)

    @property
    def note(self) -> str:
        """The plan in words."""
        rings = ", ".join(f"{link.rows} rows of {channels(link.shape)}" for link in self.links[:-1])
        return f"chain of {len(self.links)} by rows, between them {rings}"


def channels(shape: Shape) -> int:
    """Channels of the result."""
    return shape.channels if isinstance(shape, PoolShape) else shape.out_channels


def _inputs(shape: Shape) -> int:
    return shape.channels if isinstance(shape, PoolShape) else shape.in_channels


def is_link(shape: Shape, first: bool) -> bool:
    """Whether ``shape`` can be part of a chain."""
    if shape.x_dtype != "float32" or shape.acc_dtype != "float32" or shape.y_dtype != "float32":
        return False
    if shape.out_size[1] < _PIXELS or not (first or shape.x_strides == dense_strides(*shape.in_size, _inputs(shape))):
        return False
    if isinstance(shape, PoolShape):
        return True
    if shape.shuffle:
        return False
    if depthwise_plan.fits(shape) or (shape.is_pointwise and shape.group == 1):
        return True
    return first and shape.group == 1 and shape.in_channels <= _FEW_CHANNELS


def split(shapes: Sequence[Shape], target: Target) -> tuple[int, ...]:
    """Divide shapes, each of which reads the one before, into chains: the number of links of each.

    Two are joined where the image between them is too large for L2, rings and weights fit, and threads compute few
    rows for themselves that others compute too.
    """
    counts, room = [1], 0.0
    for before, shape in pairwise(shapes):
        image = prod(before.out_size) * channels(before) * _FLOAT
        needed = _weights(shape) + _ring(before, shape) + (0 if room else _weights(before))
        again = (_reach(shape) - shape.strides[0]) * target.cores / shape.in_size[0]
        links = is_link(before, counts[-1] == 1) and is_link(shape, False) and again <= _AGAIN
        if links and image > target.l2 * _BEYOND and room + needed <= target.l2 * _ROOM:
            counts[-1] += 1
            room += needed
        else:
            counts.append(1)
            room = 0.0
    return tuple(counts)


def plan(shapes: Sequence[Shape], target: Target) -> ChainPlan:
    """The plan of one chain that `split` found."""
    links, start = list[Link](), 0
    for index, shape in enumerate(shapes):
        if index:
            shape = replace(shape, x_strides=(0, links[-1].pitch, _inputs(shape), 1))
        link = Link(shape, _plan(shape, target), start=start)
        if index + 1 < len(shapes):
            rows, pitch = _rows(shapes[index + 1]), _pitch(shape)
            link = replace(link, rows=rows, pitch=pitch)
            start += rows * pitch
        links.append(link)
    return ChainPlan(tuple(links), start + _LINE)


def _plan(shape: Shape, target: Target) -> Plan:
    if isinstance(shape, PoolShape):
        return pooling_plan.plan(shape, target)
    if depthwise_plan.fits(shape):
        return depthwise_plan.plan(shape, target)
    if shape.is_pointwise:
        size = (1, shape.out_size[1])
        shape = replace(shape, batch=1, in_size=size, out_size=size)
    return convolution_plan.plan(shape, target)


def _rows(following: Shape) -> int:
    """Rows of a ring in front of ``following``: a power of two."""
    return 1 << (_reach(following) - 1).bit_length()


def _reach(shape: Shape) -> int:
    return (shape.kernel[0] - 1) * shape.dilations[0] + 1


def _pitch(shape: Shape) -> int:
    size = -(-shape.out_size[1] * channels(shape) // _LINE) * _LINE
    return size + _LINE if size * _FLOAT % _SET == 0 else size


def _ring(before: Shape, following: Shape) -> int:
    """Bytes."""
    return _rows(following) * _pitch(before) * _FLOAT


def _weights(shape: Shape) -> int:
    """Bytes."""
    if isinstance(shape, PoolShape):
        return 0
    return prod(shape.kernel) * shape.group_in * shape.out_channels * _FLOAT
