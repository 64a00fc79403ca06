"""Products of bfloat16 matrices with constant weights, where the processor multiplies bfloat16."""

from __future__ import annotations

from math import prod

from onyxc.backends.cpu import bf16_product
from onyxc.backends.cpu.match.group import AnchoredGroup
from onyxc.backends.recipe import Output, Piece, Recipe
from onyxc.backends.target import Target
from onyxc.backends.x86 import bf16


def narrow_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A MatMul of bfloat16 with constant weights, summed in float32 and rounded once; float32 models never get here."""
    a, b = group.input(0), group.input(1)
    if not bf16.has(target) or not a.dtype == b.dtype == "bfloat16" or not group.is_constant(b):
        return None
    if len(b.dims) != 2 or len(a.dims) < 2 or group.rest or group.moved or group.after:
        return None
    plan = bf16_product.plan(prod(group.shape[:-1]), group.shape[-1], b.dims[0], target)
    weights = group.packed(b, lambda w: bf16_product.pack(w, plan))
    return [Piece(bf16_product.emit(name, plan, target), (group.role(a), weights, Output(0)), 2)]
