"""Where the calls of a program come from: the nodes of the model, their operations, the bytes that they must read."""

from __future__ import annotations

from onyxc.backends.program import Call, Origin
from onyxc.backends.recipe import Input, Recipe
from onyxc.compiler.ir import cost
from onyxc.compiler.ir.graph import Graph, Value
from onyxc.compiler.ir.statistics import node_flops


def trace(calls: list[Call], recipe: Recipe, body: Graph) -> list[Call]:
    """``calls`` of ``recipe`` with their origin in ``body``.

    The operations of the group are divided among its kernels in proportion to their work.
    """
    nodes = tuple(f"{n.op} {n.name or n.output.name}" for n in body)
    shape = _shape(body)
    work = [max(1, c.kernel.work) for c in calls]
    counted = cost.operations(body)
    flops = sum(c.kernel.work for c in calls) if counted is None else counted
    for call, piece, part in zip(calls, recipe, work, strict=True):
        reads = tuple(
            cost.bytes_read(body.inputs[role.index]) if isinstance(role, Input) else buffer.nbytes
            for role, buffer in zip(piece.args[: piece.reads], call.args, strict=False)
        )
        call.origin = Origin(nodes, shape, flops * part // sum(work), reads)
    return calls


def _shape(body: Graph) -> str:
    """Shapes of the node that computes most: "1x56x56x64 * 64x64x3x3 -> 1x56x56x64"."""
    node = max(body, key=node_flops)
    operands = [v for v in node.inputs[: 2 if node_flops(node) else 1] if v is not None]
    return f"{' * '.join(map(_sizes, operands))} -> {_sizes(node.output)}"


def _sizes(value: Value) -> str:
    return "x".join(map(str, value.tensor.shape or ())) or "1"
