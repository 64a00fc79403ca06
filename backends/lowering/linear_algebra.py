"""Einsum, Det."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import te, tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import imperative, lowers, static
from onyxc.backends.lowering.scalar import HALF, cast
from onyxc.backends.lowering.tensors import at, compute
from onyxc.backends.lowering.words import Cell, Expr, fix, i32, when
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.einsum import parse
from onyxc.compiler.ir.graph import Node


@lowers("Einsum")
def einsum(node: Node, inputs: Sequence[Any]) -> list[Any]:
    """The sum, over all labels that the result lacks, of the product of the operands."""
    operands = [x for x in inputs if x is not None]
    shapes = [static(node, i).dims for i in range(len(operands))]
    equation = parse(node, [len(s) for s in shapes])
    extents: dict[str, int] = {}
    for labels, shape in zip(equation.operands, shapes, strict=True):
        for label, extent in zip(labels, shape, strict=True):
            known = extents.get(label, 1)
            if extent != known and 1 not in (extent, known):
                raise UnsupportedError(f"{node.label()}: label {label!r} is both {known} and {extent} long")
            extents[label] = extent if known == 1 else known
    summed = {n: te.reduce_axis((0, extents[n]), f"sum_{n}") for n in extents if n not in equation.result}
    kind = str(operands[0].dtype)
    wide = "float32" if kind in HALF else kind

    def element(*index: Expr) -> Expr:
        places = {**{n: axis.var for n, axis in summed.items()}, **dict(zip(equation.result, index, strict=True))}
        total: Expr = None
        for x, labels, shape in zip(operands, equation.operands, shapes, strict=True):
            where = [i32(0) if extent == 1 else places[n] for n, extent in zip(labels, shape, strict=True)]
            value = cast(at(x, where), wide)
            total = value if total is None else total * value
        return te.sum(total, axis=list(summed.values())) if summed else total

    result = compute([extents[n] for n in equation.result], element, "einsum")
    if wide == kind:
        return [result]
    return [compute(result.shape, lambda *i: cast(at(result, i), kind), "narrow")]


@imperative("Det")
def det(node: Node) -> Imperative:
    """Elimination with row pivoting in scratch; a task is a matrix."""
    dims = static(node, 0).dims
    n, count = dims[-1], prod(dims[:-2])
    kind = "float64" if node.output.dtype == "float64" else "float32"

    def emit(code: Code) -> None:
        x, (m,) = code.ins[0], code.scratch
        base = fix(code.task * (n * n))
        with T.serial(0, n * n) as i:
            m[base + i] = x[base + i]
        total = Cell(kind, 1)
        with T.serial(0, n) as k:
            pivot = Cell("int32", k)
            with T.serial(k + 1, n) as i:
                new, old = tirx.abs(m[base + i * n + k]), tirx.abs(m[base + pivot.get() * n + k])
                with when(new > old):
                    pivot.set(i)
            row = fix(pivot.get())
            with when(tirx.NE(row, k)):
                total.set(tirx.const(0, kind) - total.get())
                with T.serial(0, n) as j:
                    kept = fix(m[base + k * n + j])
                    m[base + k * n + j] = m[base + row * n + j]
                    m[base + row * n + j] = kept
            head = fix(m[base + k * n + k])
            total.set(total.get() * head)
            with when(tirx.NE(head, tirx.const(0, kind))), T.serial(k + 1, n) as i:
                factor = fix(m[base + i * n + k] / head)
                with T.serial(k, n) as j:
                    m[base + i * n + j] = m[base + i * n + j] - factor * m[base + k * n + j]
        code.outs[0][code.task] = total.get()

    return kernel(node, None, emit, tasks=count, scratch=[((max(1, count * n * n),), kind)], work=count * n**3)
