"""The convolution as data: sizes, strides in elements, and the rewrites that make a simpler shape of the same one.

A matrix product with constant weights is a 1x1 convolution of a 1 x M image. Nothing here imports TVM.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from onyxc.compiler.ir.types import itemsize

Strides = tuple[int, int, int, int]

_INTEGERS = ("int8", "uint8")


class Window(Protocol):
    """What a convolution and a pooling have in common: where the window lies."""

    @property
    def in_size(self) -> tuple[int, int]: ...
    @property
    def out_size(self) -> tuple[int, int]: ...
    @property
    def kernel(self) -> tuple[int, int]: ...
    @property
    def strides(self) -> tuple[int, int]: ...
    @property
    def dilations(self) -> tuple[int, int]: ...
    @property
    def pads(self) -> tuple[int, int, int, int]: ...


@dataclass(frozen=True)
class ConvShape:
    """One convolution. Input strides are free, output channels are contiguous.

    ``pads``: top, left, bottom, right (bottom and right are implied by the sizes, and only checked);
    ``x_strides``: elements between neighbours along n, h, w, c; ``y_strides``: along n, h, w;
    ``w_dtype``: of the model's weights; 8-bit ones are packed as int16 with their zero point taken off;
    ``x_zero_point``: taken off every input element, so that padding adds nothing. ``shuffle``: input channels are read
    in the order of a table (see `channels_last.shuffle_order`), 0 for their own.
    """

    batch: int
    in_channels: int
    out_channels: int
    group: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    x_strides: Strides
    y_strides: tuple[int, int, int]
    x_dtype: str = "float32"
    w_dtype: str = "float32"
    acc_dtype: str = "float32"
    y_dtype: str = "float32"
    x_zero_point: int = 0
    shuffle: int = 0

    def __post_init__(self) -> None:
        if self.in_channels % self.group or self.out_channels % self.group:
            raise ValueError(f"{self.group} groups do not divide {self.in_channels} -> {self.out_channels} channels")

    @property
    def group_in(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.group

    @property
    def group_out(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.group

    @property
    def image_bytes(self) -> int:
        """Bytes of input and output."""
        read = self.in_channels * prod(self.in_size) * itemsize(self.x_dtype)
        return self.batch * (read + self.out_channels * prod(self.out_size) * itemsize(self.y_dtype))

    @property
    def packed_dtype(self) -> str:
        """Element type of the packed weights."""
        return "int16" if self.w_dtype in _INTEGERS else self.w_dtype

    @property
    def is_pointwise(self) -> bool:
        """Whether an output pixel reads the input pixel of its own place, and no other."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @property
    def work(self) -> int:
        """Operations, a multiplication and an addition counted apart."""
        return 2 * self.batch * prod(self.out_size) * self.out_channels * self.group_in * prod(self.kernel)


def dense_strides(height: int, width: int, channels: int) -> Strides:
    """Strides of a dense channels-last tensor."""
    return (height * width * channels, width * channels, channels, 1)


def planar_strides(channels: int, height: int, width: int) -> Strides:
    """Strides (n, h, w, c) of a dense NCHW tensor."""
    return (channels * height * width, width, 1, height * width)


def matmul_shape(rows: int, depth: int, columns: int, **fields: Any) -> ConvShape:
    """The shape of a dense [rows, depth] x [depth, columns] product; weights are given as [columns, depth, 1, 1]."""
    return ConvShape(
        1, depth, columns, 1, (1, rows), (1, rows), (1, 1), (1, 1), (1, 1), (0, 0, 0, 0),
        (rows * depth, rows * depth, depth, 1), (rows * columns, rows * columns, columns), **fields,
    )  # fmt: skip


def collapse(shape: ConvShape, operands: tuple[Strides, ...] = ()) -> tuple[ConvShape, tuple[Strides, ...], bool]:
    """The same convolution with pixels merged into one row where all strides allow, and whether h and w changed places.

    A 1x1 stride becomes an input stride; rows, then images, of a pointwise convolution merge; a narrow
    and tall image is turned round, because tiles run along w.
    """
    inside = all((o - 1) * s < n for o, s, n in zip(shape.out_size, shape.strides, shape.in_size, strict=True))
    if shape.kernel == (1, 1) and not any(shape.pads[:2]) and inside:
        xn, xh, xw, xc = shape.x_strides
        strided = (xn, xh * shape.strides[0], xw * shape.strides[1], xc)
        shape = replace(shape, in_size=shape.out_size, strides=(1, 1), pads=(0, 0, 0, 0), x_strides=strided)
    if shape.is_pointwise:
        shape, operands = _merge(shape, operands)
    if shape.out_size[1] < min(shape.out_size[0], 5):
        return _turn(shape), tuple((n, w, h, c) for n, h, w, c in operands), True
    return shape, operands, False


def _merge(shape: ConvShape, operands: tuple[Strides, ...]) -> tuple[ConvShape, tuple[Strides, ...]]:
    """Merge h into w, then n into w, of a pointwise convolution."""
    views: list[Strides] = [shape.x_strides, (*shape.y_strides, 1), *operands]
    sizes = [shape.batch, *shape.out_size]
    for outer in (1, 0):
        if sizes[outer] == 1:
            continue
        if outer == 0 and sizes[1] != 1:
            break
        if sizes[2] == 1:
            views = [(v[0], v[1], v[outer], v[3]) for v in views]
        elif any(v[outer] != v[2] * sizes[2] for v in views):
            break
        sizes[2] *= sizes[outer]
        sizes[outer] = 1
    x, y, *rest = views
    size = (sizes[1], sizes[2])
    merged = replace(shape, batch=sizes[0], in_size=size, out_size=size, x_strides=x, y_strides=y[:3])
    return merged, tuple(rest)


def _turn(shape: ConvShape) -> ConvShape:
    """``shape`` with h and w exchanged."""
    xn, xh, xw, xc = shape.x_strides
    yn, yh, yw = shape.y_strides
    top, left, bottom, right = shape.pads
    return replace(
        shape,
        in_size=shape.in_size[::-1],
        out_size=shape.out_size[::-1],
        kernel=shape.kernel[::-1],
        strides=shape.strides[::-1],
        dilations=shape.dilations[::-1],
        pads=(left, top, right, bottom),
        x_strides=(xn, xw, xh, xc),
        y_strides=(yn, yw, yh),
    )
