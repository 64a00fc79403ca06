"""Which stages of a TE group become kernels of their own; the others are inlined into their readers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import tvm
import tvm_ffi
from tvm import te

from onyxc.compiler.errors import UnsupportedError

COPIES = 8  # an inlined expression may be written out this often in one kernel ...
REPEATS = 4  # ... and computed this often per element, if it is heavy
LIGHT = 16  # operations that are cheaper than a round trip through memory
HEAVY = frozenset(
    f"tirx.{name}"
    for name in (
        *("exp", "exp2", "exp10", "log", "log2", "log10", "log1p", "pow", "erf", "tanh", "sigmoid", "sqrt", "rsqrt"),
        *("sin", "cos", "tan", "sinh", "cosh", "asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2", "fmod"),
    )
)


Key = tuple[int, int]


def key(tensor: te.Tensor) -> Key:
    """Identity of a tensor, to look it up by (TVM refuses to compare tensors of rank 0)."""
    return hash(tensor.op), int(tensor.value_index)


@dataclass(eq=False)
class Stage:
    """One TE operation with what its body does."""

    op: Any
    loads: list[Any] = field(default_factory=list)  # the operation read, once a load
    work: int = 0
    heavy: bool = False

    @property
    def is_reduction(self) -> bool:
        """Whether it sums, or the like, over axes of its own."""
        return len(self.op.reduce_axis) > 0

    @property
    def size(self) -> int:
        """Elements that it makes."""
        return prod(int(a.dom.extent) for a in self.op.axis)

    @property
    def domain(self) -> int:
        """Times that its body is evaluated."""
        return self.size * prod(int(a.dom.extent) for a in self.op.reduce_axis)

    @property
    def tensors(self) -> list[te.Tensor]:
        """Its results: several for a reduction of tuples (argmax)."""
        return [self.op.output(i) for i in range(self.op.num_outputs)]


def _stage(op: Any) -> Stage:
    stage = Stage(op)

    def visit(node: Any) -> None:
        if isinstance(node, tvm.ir.Call):
            name = getattr(node.op, "name", "")
            if name == "te.tensor_load":
                stage.loads.append(node.args[0].op)
            stage.heavy |= name in HEAVY
            stage.work += 1
        elif isinstance(node, tvm.ir.prim.expr.BinaryOpExpr | tvm.ir.prim.expr.CmpExpr):
            stage.work += 1

    body = op.body[0]
    for root in body.source if isinstance(body, tvm.tirx.expr.Reduce) else [body]:
        tvm_ffi.structural_walk(root, (object, visit))
    return stage


def walk(inputs: Sequence[te.Tensor], outputs: Sequence[te.Tensor]) -> Iterator[Any]:
    """The operations between ``inputs`` and ``outputs``, producers first.

    Raises:
        UnsupportedError: one of them is no te.compute.
    """
    done = {t.op for t in inputs}
    stack = [(t.op, False) for t in reversed(outputs)]
    while stack:
        op, ready = stack.pop()
        if op in done:
            continue
        if not isinstance(op, te.ComputeOp):
            raise UnsupportedError(f"CUDA: stage {op.name!r} is a {type(op).__name__}, expected te.compute")
        if ready:
            done.add(op)
            yield op
        else:
            stack += [(op, True), *((t.op, False) for t in reversed(op.input_tensors))]


def materialised(inputs: Sequence[te.Tensor], outputs: Sequence[te.Tensor]) -> list[Stage]:
    """The stages that write memory, in order: outputs, reductions, and what is dear to compute again."""
    order = [_stage(op) for op in walk(inputs, outputs)]
    wanted = {t.op for t in outputs}
    copies: dict[Any, int] = {}
    repeats: dict[Any, int] = {}
    kept = []
    for stage in reversed(order):
        copied, repeated = copies.get(stage.op, 0), repeats.get(stage.op, 0)
        dear = (stage.heavy or stage.work > LIGHT) and repeated > REPEATS * stage.size
        if stage.op in wanted or stage.is_reduction or copied > COPIES or dear:
            kept.append(stage)
            copied, repeated = 1, stage.domain
        for op in stage.loads:
            copies[op] = copies.get(op, 0) + copied
            repeats[op] = repeats.get(op, 0) + repeated
    return kept[::-1]
