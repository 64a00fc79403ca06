"""The frame of an imperative lowering: flat arrays of a node's inputs, outputs and scratch.

A kernel takes every input that is not left out, in order, constants included (`arguments`); then every output, also
those left out (without a name), which it does not write; then the real shapes of its `dynamic` outputs; then scratch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onyxc.backends.kernels.imperative import Array, Emitter, Imperative, Pack, Spec
from onyxc.backends.lowering.dynamic import bound, dynamic
from onyxc.backends.lowering.words import Expr
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Node, Value


@dataclass
class Code:
    """What the writer of a task works on. Arrays are flat; None stands for what is left out.

    ``shapes``: for a dynamic output, its number -> the array of its real shape.
    """

    node: Node
    task: Expr
    ins: list[Any]
    outs: list[Any]
    scratch: list[Array]
    shapes: dict[int, Array]
    emitter: Emitter

    @property
    def lanes(self) -> int:
        """float32 elements of a vector; 1 where there are no vectors."""
        return 1 if self.emitter.target.kind == "cuda" else self.emitter.target.lanes(4)

    def report(self, output: int, shape: Sequence[Expr | int]) -> None:
        """Write the real shape of a dynamic output (nothing if the output is left out)."""
        if output in self.shapes:
            for axis, extent in enumerate(shape):
                self.shapes[output][axis] = extent


def arguments(node: Node) -> list[Value]:
    """The inputs that the kernel of ``node`` takes, in order."""
    return [v for v in node.inputs if v is not None]


def kernel(
    node: Node,
    outputs: Sequence[Spec] | None,
    write: Callable[[Code], None],
    *,
    tasks: int = 1,
    scratch: Sequence[Spec] = (),
    work: int = 0,
    packs: Callable[[Target], dict[int, Pack]] | None = None,
) -> Imperative:
    """The Imperative of ``node``, one task of which ``write`` writes.

    Its outputs are those of the node (what is left out is not written), then an int64[rank] for each dynamic one.
    ``outputs``: shapes and dtypes of all; default: those of the node (for a dynamic output, its bound).
    ``packs``: as in `Imperative`.
    """
    if outputs is None:
        outputs = [(s, v.dtype) for s, v in zip(bound(node), node.outputs, strict=True)]
    reported = dynamic(node)
    counts: list[Spec] = [((len(outputs[i][0]),), "int64") for i in reported]

    def emit(task: Expr, inputs: list[Array], results: list[Array], emitter: Emitter) -> None:
        given = iter(inputs)
        outs = [a.flat if v.name else None for v, a in zip(node.outputs, results, strict=False)]
        shapes = dict(zip(reported, results[len(node.outputs) :], strict=True))
        ins = [None if v is None else next(given).flat for v in node.inputs]
        write(Code(node, task, ins, outs, [a.flat for a in emitter.scratch], shapes, emitter))

    return Imperative([*outputs, *counts], max(1, tasks), emit, list(scratch), work, packs)
