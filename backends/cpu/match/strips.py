"""Elementwise operators with constants of channels, then a pointwise convolution and its epilogue."""

from __future__ import annotations

from dataclasses import replace

from onyxc.backends.cpu import convolution, strips
from onyxc.backends.cpu.match.convolution import conv_shape
from onyxc.backends.cpu.match.group import AnchoredGroup, four, is_expression
from onyxc.backends.places import strides_of
from onyxc.backends.recipe import Output, Piece, Recipe, Scratch
from onyxc.backends.target import Target
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph


def behind_arithmetic(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe | None:
    """The recipe of such a body (`passes.fuse.groups` makes them), None for another."""
    nodes = body.nodes
    at = next((i for i, n in enumerate(nodes) if facts.key(n) == "onyxc.Conv"), 0)
    before, after = nodes[:at], nodes[at + 1 :]
    if not at or len(body.outputs) != 1 or not all(map(is_expression, (*before, *after))):
        return None
    group = AnchoredGroup(body, nodes[at], after, constant, [], None)
    front = AnchoredGroup(body, nodes[at], before, constant, [], None)
    front.start = next(v for v in before[0].inputs if v is not None and v in body.inputs and v not in group.constant)
    front.shape = front.start.dims
    shape, operands, own = conv_shape(group), group.operands(), front.operands()
    if shape is None or operands is None or own is None or shape.x_dtype != "float32":
        return None
    strides = tuple(group.spread(v) for v in operands)
    plan = strips.plan(replace(shape, x_strides=four(strides_of(front.start))), target, strides)
    if plan is None:
        return None
    arithmetic = front.epilogue(own, [front.spread(v) for v in own])
    kernel = strips.emit(name, plan, arithmetic, group.epilogue(operands, list(strides)), target)
    weights = group.packed(group.input(1), lambda w: convolution.pack(w, plan.inner))
    read = (group.role(front.start), weights, *(group.role(v) for v in (*own, *operands)))
    return [Piece(kernel, (*read, Output(0), Scratch("float32", (plan.scratch,))), len(read))]
