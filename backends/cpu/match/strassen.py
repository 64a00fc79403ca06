"""Products and convolutions with constant weights by fewer multiplications, where that is allowed and pays."""

from __future__ import annotations

from collections.abc import Callable

from onyxc.backends.cpu import strassen
from onyxc.backends.cpu.match.convolution import conv_shape, product_shape
from onyxc.backends.cpu.match.group import AnchoredGroup
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.recipe import Constant, Output, Piece, Recipe, Scratch
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Array


def strassen_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    return _recipe(name, group, product_shape(group), lambda w: w, target)


def strassen_conv(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    shape = conv_shape(group)
    return _recipe(name, group, shape, lambda w: w.transpose(2, 3, 1, 0).reshape(-1, w.shape[0]), target)


def _recipe(
    name: str, group: AnchoredGroup, shape: ConvShape | None, layout: Callable[[Array], Array], target: Target
) -> Recipe | None:
    """``layout`` gives the weights as [depth, columns]."""
    operands = group.operands()
    method = None if shape is None else strassen.choose(shape, target)
    if shape is None or operands is None or method is None:
        return None
    strides = [group.spread(v) for v in operands]
    plan = strassen.plan(shape, method, target, tuple(strides))
    weights = group.packed(group.input(1), lambda w: strassen.pack(layout(w), plan))
    read = (group.role(group.operand(0)[0]), weights, Constant(method.terms), *(group.role(v) for v in operands))
    kernel = strassen.emit(name, plan, group.epilogue(operands, strides), target)
    return [Piece(kernel, (*read, Output(0), Scratch("float32", (plan.scratch_size,))), len(read))]
