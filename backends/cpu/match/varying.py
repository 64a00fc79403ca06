"""Convolutions whose weights only a run knows: a kernel packs them first (StyleGAN, correlation with a template)."""

from __future__ import annotations

from onyxc.backends.cpu import convolution, depthwise, packing
from onyxc.backends.cpu.match.convolution import read_shape
from onyxc.backends.cpu.match.group import AnchoredGroup
from onyxc.backends.recipe import Output, Piece, Recipe, Temporary
from onyxc.backends.target import Target


def varying_conv(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """An onyxc.Conv of float32, whatever its weights come from."""
    x, w, operands = group.input(0), group.input(1), group.operands()
    if operands is None or not x.dtype == w.dtype == "float32":
        return None
    shape, strides = read_shape(group, 0), [group.spread(v) for v in operands]
    epilogue = group.epilogue(operands, strides)
    if depthwise.fits(shape):
        of_channels = depthwise.plan(shape, target)
        panels, size, turned = of_channels.panels, of_channels.packed_size, False
        kernel = depthwise.emit(name, of_channels, epilogue, target)
    else:
        plan = convolution.plan(shape, target, tuple(strides))
        panels, size, turned, shape = plan.panels, plan.packed_size, plan.turned, plan.shape
        kernel = convolution.emit(name, plan, epilogue, target)
    packed = Temporary(w.dtype, (size,))
    pack = packing.emit(f"{name}_weights", shape, panels, turned, target)
    read = (group.role(x), packed, *(group.role(v) for v in operands))
    return [Piece(pack, (group.role(w), packed), 1), Piece(kernel, (*read, Output(0)), len(read))]
