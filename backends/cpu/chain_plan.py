"""Plan of a chain of convolutions computed row by row: what lies between two of them stays in a few rows of scratch.

    image -> [1x1, 3x3 ...] -> ring of rows -> [depthwise] -> ring of rows -> [1x1] -> image

Each is pointwise or depthwise; the first may be any convolution of few channels (the first of a network). A ring holds
the rows that the next convolution's kernel covers, a power of two. Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

from onyxc.backends.cpu import convolution_plan, depthwise_plan
from onyxc.backends.cpu.convolution_plan import ConvPlan
from onyxc.backends.cpu.depthwise_plan import DepthwisePlan
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.target import Target

_FLOAT = 4  # bytes
_LINE = 16  # elements
_SET = 4096  # bytes: rows so far apart share a set of L1
_BEYOND = 5 / 8  # share of L2: images smaller than that stay there by themselves
_ROOM = 1 / 2  # share of L2 for the rings and the weights
_FEW_CHANNELS = 4


@dataclass(frozen=True)
class Link:
    """One convolution of a chain. ``shape`` is the whole one; its plan, where it is pointwise, that of a row.

    ``rows``: of its result that the ring holds, 0 behind the last; ``pitch``: elements between them; ``start``: of the
    ring in the scratch memory.
    """

    shape: ConvShape
    plan: ConvPlan | DepthwisePlan
    rows: int = 0
    pitch: int = 0
    start: int = 0

    @property
    def reach(self) -> int:
        """Input rows under the kernel."""
        return (self.shape.kernel[0] - 1) * self.shape.dilations[0] + 1


@dataclass(frozen=True)
class ChainPlan:
    """A chain of at least two convolutions; ``scratch``: elements that a thread needs."""

    links: tuple[Link, ...]
    scratch: int

    @property
    def tasks(self) -> int:
        """Rows of the result, of all images."""
        last = self.links[-1].shape
        return last.batch * last.out_size[0]

    @property
    def work(self) -> int:
        """Operations."""
        return sum(link.shape.work for link in self.links)

    @property
    def note(self) -> str:
        """The plan in words."""
        rings = ", ".join(f"{link.rows} rows of {link.shape.out_channels}" for link in self.links[:-1])
        return f"chain of {len(self.links)} by rows, between them {rings}"


def is_link(shape: ConvShape, first: bool) -> bool:
    """Whether ``shape`` can be part of a chain."""
    plain = shape.x_dtype == shape.w_dtype == shape.y_dtype == "float32" and not shape.shuffle
    if not plain or not (first or shape.x_strides == dense_strides(*shape.in_size, shape.in_channels)):
        return False
    if depthwise_plan.fits(shape) or (shape.is_pointwise and shape.group == 1):
        return True
    return first and shape.group == 1 and shape.in_channels <= _FEW_CHANNELS


def split(shapes: Sequence[ConvShape], target: Target) -> tuple[int, ...]:
    """Divide convolutions, each of which reads the one before, into chains: the number of links of each.

    Two are joined where the image between them is too large for L2, and rings and weights fit.
    """
    counts, room = [1], 0.0
    for before, shape in pairwise(shapes):
        image = prod(before.out_size) * before.out_channels * _FLOAT
        needed = _weights(shape) + _ring(before, shape) + (0 if room else _weights(before))
        links = is_link(before, counts[-1] == 1) and is_link(shape, False)
        if links and image > target.l2 * _BEYOND and room + needed <= target.l2 * _ROOM:
            counts[-1] += 1
            room += needed
        else:
            counts.append(1)
            room = 0.0
    return tuple(counts)


def plan(shapes: Sequence[ConvShape], target: Target) -> ChainPlan:
    """The plan of one chain that `split` found."""
    links, start = list[Link](), 0
    for index, shape in enumerate(shapes):
        if index:
            shape = replace(shape, x_strides=(0, links[-1].pitch, shape.in_channels, 1))
        link = Link(shape, _plan(shape, target), start=start)
        if index + 1 < len(shapes):
            rows, pitch = _rows(shapes[index + 1]), _pitch(shape)
            link = replace(link, rows=rows, pitch=pitch)
            start += rows * pitch
        links.append(link)
    return ChainPlan(tuple(links), start + _LINE)


def _plan(shape: ConvShape, target: Target) -> ConvPlan | DepthwisePlan:
    if depthwise_plan.fits(shape):
        return depthwise_plan.plan(shape, target)
    if shape.is_pointwise:
        size = (1, shape.out_size[1])
        shape = replace(shape, batch=1, in_size=size, out_size=size)
    return convolution_plan.plan(shape, target)


def _rows(following: ConvShape) -> int:
    """Rows of a ring in front of ``following``: a power of two."""
    reach = (following.kernel[0] - 1) * following.dilations[0] + 1
    return 1 << (reach - 1).bit_length()


def _pitch(shape: ConvShape) -> int:
    size = -(-shape.out_size[1] * shape.out_channels // _LINE) * _LINE
    return size + _LINE if size * _FLOAT % _SET == 0 else size


def _ring(before: ConvShape, following: ConvShape) -> int:
    """Bytes."""
    return _rows(following) * _pitch(before) * _FLOAT


def _weights(shape: ConvShape) -> int:
    """Bytes."""
    return prod(shape.kernel) * shape.group_in * shape.out_channels * _FLOAT
