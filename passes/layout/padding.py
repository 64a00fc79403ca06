"""Explicit padding of windows, whatever ``auto_pad`` says (ONNX operators, Conv)."""

from __future__ import annotations

from collections.abc import Sequence

from onyxc.compiler.ir.graph import Node


def explicit_pads(node: Node, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, ...]:
    """Padding before each axis, then after each axis."""
    rank = len(kernel)
    mode, pads = node.attrs.get("auto_pad", "NOTSET"), node.attrs.get("pads")
    if mode in ("NOTSET", ""):
        return tuple(pads) if isinstance(pads, tuple) and pads else (0,) * (2 * rank)
    if mode == "VALID":
        return (0,) * (2 * rank)
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    before, after = [], []
    for length, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-length // s) - 1) * s + (k - 1) * d + 1 - length)
        small = total // 2
        before.append(total - small if mode == "SAME_LOWER" else small)
        after.append(small if mode == "SAME_LOWER" else total - small)
    return (*before, *after)
