"""Local response normalization."""

from __future__ import annotations

from onyxc.backends.cpu import lrn as kernels
from onyxc.backends.cpu.match.group import AnchoredGroup, four
from onyxc.backends.places import strides_of
from onyxc.backends.recipe import Output, Piece, Recipe
from onyxc.backends.target import Target


def lrn(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """Local response normalization of float32 images."""
    x, node, operands = group.input(0), group.anchor, group.operands()
    if operands is None or x.dtype != "float32":
        return None
    size, (n, h, w, c) = node.integer("size"), x.dims
    shape = kernels.LrnShape(
        size=(n, h, w, c), before=(size - 1) // 2, after=size // 2, scale=node.real("alpha", 1e-4) / size,
        bias=node.real("bias", 1.0), x_strides=four(strides_of(x)), y_strides=four(group.y_strides),
    )  # fmt: skip
    if not kernels.fits(shape, node.real("beta", 0.75), target):
        return None
    strides = [group.spread(v) for v in operands]
    kernel = kernels.emit(name, shape, group.epilogue(operands, strides), target)
    read = (group.role(x), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, Output(0)), len(read))]
