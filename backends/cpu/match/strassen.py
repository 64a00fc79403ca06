"""Products with constant weights by fewer multiplications, where that is allowed and pays."""

from __future__ import annotations

from onyxc.backends.cpu import strassen
from onyxc.backends.cpu.match.convolution import product_shape
from onyxc.backends.cpu.match.group import AnchoredGroup, broadcast_strides, four
from onyxc.backends.recipe import Output, Piece, Recipe, Scratch, Temporary
from onyxc.backends.target import Target


def strassen_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    shape, operands = product_shape(group), group.operands()
    algorithm = None if shape is None else strassen.choose(shape, target)
    if shape is None or operands is None or algorithm is None:
        return None
    strides = [four(broadcast_strides(v.dims, group.shape)) for v in operands]
    plan = strassen.plan(shape, algorithm, target, tuple(strides))  # type: ignore[arg-type]
    factors = Temporary("float32", plan.factors)
    sums = Piece(strassen.emit_factors(f"{name}_factors", plan, target), (group.role(group.input(0)), factors), 1)
    weights = group.packed(group.input(1), lambda w: strassen.pack(w, plan))
    read = (factors, weights, *(group.role(v) for v in operands))
    kernel = strassen.emit_products(name, plan, group.epilogue(operands, strides), target)
    return [sums, Piece(kernel, (*read, Output(0), Scratch("float32", (plan.scratch_size,))), len(read))]
