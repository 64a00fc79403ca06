"""Kernels for any group of TE expressions by one generic rule.

`build_all` is the entry: it cuts the group where one loop nest cannot hold it, and returns one kernel a piece.
`build` makes one kernel and raises `SplitGroup` when the group needs cutting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import te

from onyxc.backends.kernels.axes import across_rows, collapse
from onyxc.backends.kernels.codegen import attributes, plain
from onyxc.backends.kernels.group import plan
from onyxc.backends.kernels.loops import lower
from onyxc.backends.kernels.nest import Nest, SplitGroup, Strides, key, shape_of, stages
from onyxc.backends.kernels.schedule import element_bytes, mathematics, schedule, words
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target

__all__ = ["Piece", "SplitGroup", "build", "build_all", "key"]


@dataclass(eq=False)
class Piece:
    """One kernel of a group; the first ``reads`` of its ``args`` (te.Tensor) are read, the rest written."""

    kernel: Kernel
    args: tuple[Any, ...]
    reads: int


def _kernel(name: str, nest: Nest, inputs: Sequence[Any], target: Target) -> Kernel:
    attrs = attributes(name, target)
    across_rows(nest, target.lanes(element_bytes(nest)), mathematics(nest))
    try:
        decided = schedule(nest, target)
        func = plain(lower(name, nest, list(inputs), decided, attrs), target)
    except Exception:  # whatever TVM's passes dislike about the vectors, scalar loops are right
        decided = schedule(nest, target, simple=True)
        func = plain(lower(name, nest, list(inputs), decided, attrs), target)
    return Kernel(name, decided.tasks, func, work=decided.work, note=words(nest, decided))


def build(name: str, inputs: Sequence[Any], outputs: Sequence[Any], target: Target) -> Kernel:
    """One kernel ``name(inputs..., outputs..., begin, end)``; inputs may be any tensors that are in memory.

    Raises:
        SplitGroup: a stage must be materialised first, or the outputs differ in shape.
    """
    different = next((t for t in outputs if shape_of(t) != shape_of(outputs[0])), None)
    if different is not None:
        raise SplitGroup(different, "outputs of several shapes")
    nest = plan(outputs, inputs)
    collapse(nest)
    return _kernel(name, nest, inputs, target)


def build_all(
    name: str, inputs: Sequence[Any], outputs: Sequence[Any], target: Target, strides: Strides | None = None
) -> tuple[list[Piece], list[Any]]:
    """Kernels, in order, that compute ``outputs`` from the placeholders ``inputs``.

    ``strides``: key of a tensor -> elements between neighbours along each axis, for tensors that are not dense.

    Also returns the tensors between them, which need memory of their own. A kernel's arguments are only those
    tensors that it uses. Names are ``name``, or ``name_0``, ``name_1``, ... when there are several.
    """
    memory: dict[tuple[int, int], Any] = {key(t): t for t in inputs}  # what exists when the next piece runs
    pieces: list[tuple[list[Any], Nest]] = []
    inner: list[Any] = []

    def materialise(wanted: list[Any]) -> None:
        while True:
            try:
                nest = plan(wanted, list(memory.values()), strides)
                break
            except SplitGroup as split:
                inner.append(split.stage)
                materialise([split.stage])
        collapse(nest)
        pieces.append((wanted, nest))
        memory.update({key(t): t for t in wanted})

    todo = {key(t): t for t in outputs if isinstance(t.op, te.ComputeOp)}
    for tensor in [s for s in stages(list(todo.values()), inputs) if key(s) in todo]:  # producers first
        if key(tensor) not in memory:
            materialise([t for k, t in todo.items() if k not in memory and _joins(t, tensor, todo)])
    made = []
    for index, (wanted, nest) in enumerate(pieces):
        reads = [t for k, t in memory.items() if k in nest.buffers]
        kernel = _kernel(name if len(pieces) == 1 else f"{name}_{index}", nest, reads, target)
        made.append(Piece(kernel, (*reads, *wanted), len(reads)))
    return made, [t for t in inner if key(t) not in todo]


def _joins(tensor: Any, first: Any, todo: Mapping[tuple[int, int], Any]) -> bool:
    """Whether ``tensor`` shares the loop nest of ``first``: same shape, and no other output below it."""
    if key(tensor) == key(first):
        return True
    below = {key(s) for s in stages([tensor])} - {key(tensor)}
    return shape_of(tensor) == shape_of(first) and not below & todo.keys()
