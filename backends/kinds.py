"""Which backend makes a group's recipe: templates first, the generic group always answers."""

from __future__ import annotations

from onyxc.backends import groups
from onyxc.backends.kernels.imperative import build_imperative
from onyxc.backends.lowering import registry
from onyxc.backends.recipe import Argument, Constant, Input, Output, Piece, Recipe, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Graph


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe:
    """The kernels of ``body``; ``constant`` tells which of its inputs are constants at compile time."""
    nodes = body.nodes
    if len(nodes) == 1 and (nodes[0].domain, nodes[0].op) in registry.IMPERATIVE:
        return _imperative(name, body, target)
    if target.kind == "cuda":
        from onyxc.backends.cuda import select

        return select.recipe(name, body, constant, target)
    from onyxc.backends.cpu import select as cpu
    from onyxc.backends.kernels import generic

    return cpu.recipe(name, body, constant, target) or groups.recipe(name, body, target, generic.build_all)
