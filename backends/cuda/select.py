"""Fused groups that a kernel was written for by hand; all else is a generic group (`generic.build_all`)."""

from __future__ import annotations

from onyxc.backends.cuda import recurrent
from onyxc.backends.recipe import Constant, Input, Output, Piece, Recipe
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Graph


def template(name: str, body: Graph, target: Target) -> Recipe | None:
    """The recipe of a body that a kernel was written for by hand."""
    if len(body.nodes) != 1 or body.nodes[0].op not in ("LSTM", "GRU", "RNN") or body.nodes[0].domain:
        return None
    (node,) = body.nodes
    kernel = recurrent.build(name, node)
    if kernel is None:
        return None
    reads = [v for v in node.inputs if v is not None]
    inputs = [Input(body.inputs.index(v)) if v.const is None else Constant(v.const) for v in reads]
    outputs = [Output(i) for i, v in enumerate(node.outputs) if v.name]
    return [Piece(kernel, (*inputs, *outputs), len(inputs))]
