"""Which backend makes a group's recipe: templates first, the generic group always answers."""

from __future__ import annotations

from onyxc.backends import groups
from onyxc.backends.lowering import dynamic, registry
from onyxc.backends.recipe import Argument, Constant, Count, Input, Output, Piece, Recipe, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Graph


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe:
    """The kernels of ``body``; ``constant`` tells which of its inputs are constants at compile time."""
    if target.kind == "cuda":
        from onyxc.backends.cuda import generic as cuda
        from onyxc.backends.cuda import select as templates

        made, build_all = templates.template(name, body, target), cuda.build_all
    else:
        from onyxc.backends.cpu import select
        from onyxc.backends.kernels import generic

        made, build_all = select.recipe(name, body, constant, target), generic.build_all
    if made is not None:
        return made
    nodes = body.nodes
    if len(nodes) == 1 and (nodes[0].domain, nodes[0].op) in registry.IMPERATIVE:
        return _imperative(name, body, target)
    return groups.recipe(name, body, target, build_all)


def _imperative(name: str, body: Graph, target: Target) -> Recipe:
    """One kernel: inputs that are there, outputs, real shapes of dynamic outputs, scratch."""
    (node,) = body.nodes
    imp = registry.IMPERATIVE[node.domain, node.op](node)
    present = [v for v in node.inputs if v is not None]
    specs = [(v.dims, registry.storage(v.dtype)) for v in present]
    if target.kind == "cuda":
        from onyxc.backends.cuda.imperative import build
    else:
        from onyxc.backends.kernels.imperative import build_imperative as build
    kernel = build(name, specs, imp, target)
    reads: list[Argument] = [
        Constant(v.const) if v.const is not None else Input(body.inputs.index(v)) for v in present
    ]
    counted = dynamic.dynamic(node)
    writes: list[Argument] = [Output(i) for i in range(len(node.outputs))]
    writes += [Count(i, len(dynamic.bound(node)[i])) for i in counted]
    writes += [Temporary(dtype, shape) for shape, dtype in imp.scratch]
    return [Piece(kernel, (*reads, *writes), len(reads))]
