"""Constant indices outside of what they point into are refused.

    Gather(%x: f32[4, 2], @7)   ->   error: index 7 of the constant is out of range

Runtimes disagree about what such a model computes, and it is hardly meant. Nodes in branches and loop bodies are not
looked at: they may never run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onyxc.compiler.errors import ModelError
from onyxc.compiler.ir.graph import Array, Graph, Node
from onyxc.compiler.ir.types import Dim, TensorType
from onyxc.compiler.transform import Pass, PassResult

ALONG_AXIS = ("Gather", "GatherElements", "ScatterElements", "Scatter")


@dataclass(frozen=True)
class CheckIndices(Pass):
    """Refuses constant indices that are out of range."""

    name: ClassVar[str] = "check-indices"

    def run(self, graph: Graph) -> PassResult:
        """Look at every node of the outermost graph; nothing is changed."""
        for node in graph:
            _check(node)
        return PassResult()


def _check(node: Node) -> None:
    data, indices = node.input(0), node.const(1)
    if indices is None or data is None or not isinstance(data.type, TensorType) or data.type.shape is None:
        return
    for axis, dim, column in _columns(node, data.type.shape, indices):
        wrong = column[(column < -dim) | (column >= dim)] if isinstance(dim, int) else column[:0]
        if wrong.size:
            raise ModelError(
                f"{node.label()}: index {int(wrong[0])} in {node.operand(1).name!r} is out of range, "
                f"axis {axis} of {data.name!r} has {dim} elements"
            )


def _columns(node: Node, shape: tuple[Dim, ...], indices: Array) -> list[tuple[int, Dim, Array]]:
    """(axis, its size, the indices along it) for each axis that the node indexes."""
    if node.is_op(*ALONG_AXIS):
        axis = node.integer("axis") % max(1, len(shape))
        return [(axis, shape[axis], indices)]
    if node.is_op("GatherND", "ScatterND"):
        first = node.integer("batch_dims")
        return [(first + k, shape[first + k], indices[..., k]) for k in range(indices.shape[-1])]
    return []
