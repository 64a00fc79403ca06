"""Which backend makes a group's recipe: templates first, the generic group always answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from onyxc.backends import groups, places
from onyxc.backends.kernels.imperative import Imperative, Spec
from onyxc.backends.lowering import dynamic, registry
from onyxc.backends.program import Kernel
from onyxc.backends.recipe import Argument, Constant, Count, Input, Output, Packed, Piece, Recipe, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Graph
from onyxc.compiler.ir.types import itemsize


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe:
    """The kernels of ``body``; ``constant`` tells which of its inputs are constants at compile time."""
    if target.kind == "cuda":
        from onyxc.backends.cuda import generic as cuda
        from onyxc.backends.cuda import select as templates

        made, build_all = templates.template(name, body, target), cuda.build_all
    else:
        from onyxc.backends.cpu import match
        from onyxc.backends.kernels import generic

        made, build_all = match.recipe(name, body, constant, target), generic.build_all
    if made is not None:
        for piece in made:
            piece.kernel.planned = True
        return in_place(made, body, 1, target)
    nodes = body.nodes
    if len(nodes) == 1 and (nodes[0].domain, nodes[0].op) in registry.IMPERATIVE:
        return _imperative(name, body, constant, target)
    return in_place(groups.recipe(name, body, target, build_all), body, 0, target)


def in_place(recipe: Recipe, body: Graph, first: int, target: Target) -> Recipe:
    """Mark operands that the one result of a CPU kernel may be written over.

    These are dense, of the result's shape and element size, and read by the elementwise nodes from number ``first`` on
    only: a template reads them in its epilogue, just before it stores the same elements.
    """
    nodes, result = body.nodes, body.outputs[0]
    if len(recipe) != 1 or len(body.outputs) != 1 or target.kind == "cuda":
        return recipe
    if not all(facts.is_elementwise(n) for n in nodes[first:]) or (first and facts.is_elementwise(nodes[0])):
        return recipe
    (piece,) = recipe
    fit = {
        Input(i)
        for i, v in enumerate(body.inputs)
        if v.dims == result.dims and itemsize(v.dtype) == itemsize(result.dtype)
        if not first or v not in nodes[0].inputs
        if places.strides_of(v) == places.strides_of(result) == places.dense(v.dims)
    }
    piece.in_place = tuple(i for i, role in enumerate(piece.args[: piece.reads]) if role in fit)
    if piece.in_place:
        piece.kernel.func = piece.kernel.func.with_attr("tirx.noalias", False)
    return recipe


def _imperative(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe:
    """One kernel: inputs that are there, outputs, real shapes of dynamic outputs, scratch."""
    (node,) = body.nodes
    imp = registry.IMPERATIVE[node.domain, node.op](node)
    known = {v for v, c in zip(body.inputs, constant, strict=True) if c}
    packs = imp.packs(target) if imp.packs and target.kind == "cpu" else {}
    packs = {i: p for i, p in packs.items() if node.inputs[i] in known}
    imp = replace(imp, packed=frozenset(packs))
    specs, reads = list[Spec](), list[Argument]()
    for i, v in enumerate(node.inputs):
        if v is None:
            continue
        specs.append((packs[i].shape if i in packs else v.dims, registry.storage(v.dtype)))
        if v.const is not None:
            reads.append(Constant(v.const))
        else:
            index = body.inputs.index(v)
            reads.append(Packed(index, packs[i].make) if i in packs else Input(index))
    kernel = imperative(name, specs, imp, target)
    counted = dynamic.dynamic(node)
    writes: list[Argument] = [Output(i) for i in range(len(node.outputs))]
    writes += [Count(i, len(dynamic.bound(node)[i])) for i in counted]
    writes += [Temporary(dtype, shape) for shape, dtype in imp.scratch]
    return [Piece(kernel, (*reads, *writes), len(reads))]


def imperative(name: str, specs: Sequence[Spec], imp: Imperative, target: Target) -> Kernel:
    """The kernel of a program on inputs of ``specs``."""
    if target.kind == "cuda":
        from onyxc.backends.cuda.imperative import build
    else:
        from onyxc.backends.kernels.imperative import build_imperative as build
    return build(name, specs, imp, target)
