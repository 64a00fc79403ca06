"""Which constants are weights: what pruning and clustering agree on.

A weight is a float constant in a weight slot of one of the chosen operators. Patterns in the manner of the shell
(fnmatch) match the name of the node or of the weight: with ``include`` only what matches is taken, and ``exclude``
wins over it. A weight that several nodes share is taken once, and only if all of them are chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from onyxc.compiler.errors import PassError
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import is_float

DEFAULT = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant, a node that reads it, and the axes along which outputs and inputs lie (counted from the front)."""

    value: Value
    node: Node
    outputs: int
    inputs: int

    @property
    def array(self) -> Array:
        """The numbers."""
        return self.value.array

    @property
    def label(self) -> str:
        """How statistics name it."""
        return f"{self.node.name or self.node.op}: {self.value.name}"

    def matrix(self, array: Array) -> Array:
        """``array`` of the weight's shape as [outputs, inputs, rest] (a view)."""
        moved = np.moveaxis(array, (self.outputs, self.inputs), (0, 1))
        return moved.reshape(*moved.shape[:2], -1)

    def restore(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""
        shape = np.moveaxis(self.array, (self.outputs, self.inputs), (0, 1)).shape
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(shape), (0, 1), (self.outputs, self.inputs)))


def _gemm(node: Node, slot: int) -> tuple[int, int]:
    transposed = bool(node.attrs["transB" if slot else "transA"])
    return (0, 1) if transposed == bool(slot) else (1, 0)


# operator -> function (node, slot) that gives the axes of outputs and inputs of the weight in that slot, or None
AXES: dict[str, Callable[[Node, int], tuple[int, int] | None]] = {
    "Conv": lambda _, slot: (0, 1) if slot == 1 else None,
    "ConvTranspose": lambda _, slot: (1, 0) if slot == 1 else None,
    "Gemm": lambda node, slot: _gemm(node, slot) if slot < 2 else None,
    "MatMul": lambda _, slot: (-1, -2) if slot else (-2, -1),
    "LSTM": lambda _, slot: (1, 2) if slot in (1, 2) else None,
    "GRU": lambda _, slot: (1, 2) if slot in (1, 2) else None,
    "RNN": lambda _, slot: (1, 2) if slot in (1, 2) else None,
    "Gather": lambda _, slot: (0, 1) if slot == 0 else None,
}


def find(graph: Graph, operators: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> list[Weight]:
    """The chosen weights of ``graph`` and its inner graphs, each once, in order of first use.

    Raises:
        PassError: a pattern matches nothing, an operator is unknown, or a weight is not finite.
    """
    unknown = [o for o in operators if o not in AXES]
    if unknown:
        raise PassError(f"operator {unknown[0]!r} has no known weights; there are {', '.join(AXES)}")
    _check_patterns(graph, [*include, *exclude])
    chosen: dict[Value, Weight] = {}
    dropped: set[Value] = set()
    for node in graph.walk():
        for slot, value in enumerate(node.inputs):
            if value is None or value.const is None or not is_float(value.dtype) or value.const.ndim < 2:
                continue
            names = (node.name, value.name)
            wanted = (not include or matches(names, include)) and not matches(names, exclude)
            axes = AXES[node.op](node, slot) if wanted and node.op in operators and node.domain == "" else None
            if axes is None:
                dropped.add(value)
                continue
            outputs, inputs = (a % value.const.ndim for a in axes)
            chosen.setdefault(value, Weight(value, node, outputs, inputs))
    weights = [w for v, w in chosen.items() if v not in dropped]
    for weight in weights:
        if not np.all(np.isfinite(weight.array.astype(np.float32))):
            raise PassError(f"weight {weight.value.name!r} of {weight.node.label()} holds NaN or infinite numbers")
    return weights


def matches(names: Iterable[str], patterns: Sequence[str]) -> bool:
    """Whether one of the patterns fits one of the names."""
    return any(fnmatchcase(n, p) for n in names for p in patterns)


def _check_patterns(graph: Graph, patterns: Sequence[str]) -> None:
    names = {n.name for n in graph.walk()} | {v.name for n in graph.walk() for v in n.inputs if v is not None}
    for pattern in patterns:
        if not matches(names, [pattern]):
            raise PassError(f"the pattern {pattern!r} matches no node and no weight")


def put(weight: Weight, array: Array) -> int:
    """Give the weight new numbers; how many changed."""
    data = np.ascontiguousarray(array.astype(weight.array.dtype, copy=False))
    changed = int(np.count_nonzero(data != weight.array))
    if changed:
        data.flags.writeable = False
        weight.value.const = data
    return changed
