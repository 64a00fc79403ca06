"""Sliding windows: the attributes that convolutions and pools share, with automatic padding worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onyxc.backends.lowering.scalar import attr
from onyxc.compiler.ir.graph import Node


@dataclass(frozen=True)
class Window:
    """One number for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def spans(self) -> tuple[int, ...]:
        """Elements from the first to the last tap, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def window(node: Node, size: Sequence[int], kernel: Sequence[int], out: Sequence[int]) -> Window:
    """The window of a convolution or pool over ``size``, whose output is ``out``."""
    rank = len(size)
    strides = tuple(int(s) for s in attr(node, "strides") or (1,) * rank)
    dilations = tuple(int(d) for d in attr(node, "dilations") or (1,) * rank)
    mode = attr(node, "auto_pad", "NOTSET")
    kernel = tuple(int(k) for k in kernel)
    plain = Window(kernel, strides, dilations, (0,) * rank, (0,) * rank)
    if mode == "VALID":
        return plain
    if mode == "NOTSET":
        pads = tuple(int(p) for p in attr(node, "pads") or (0,) * (2 * rank))
        return Window(kernel, strides, dilations, pads[:rank], pads[rank:])
    missing = [max(0, (o - 1) * s + k - d) for o, s, k, d in zip(out, strides, plain.spans, size, strict=True)]
    less = tuple(m // 2 for m in missing)
    more = tuple(m - m // 2 for m in missing)
    before, after = (less, more) if mode == "SAME_UPPER" else (more, less)
    return Window(kernel, strides, dilations, before, after)
