"""CumSum and CumProd: running totals along an axis."""

from __future__ import annotations

from math import prod

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import axes, imperative, required, static
from onyxc.backends.lowering.words import Cell, Expr, fix, split
from onyxc.compiler.ir.graph import Node


@imperative("CumSum", "CumProd")
def cumulative(node: Node) -> Imperative:
    """Every output is the output before it plus (times) one input; the first is an input, or the neutral element.

    Along the last axis the total is a register; otherwise rows are added to rows.
    """
    dims = static(node, 0).dims
    where = required(node, 1, "axis")
    (axis,) = axes(where, len(dims))
    outer, length, inner = split(dims, axis)
    exclusive, reverse = bool(node.attrs.get("exclusive", 0)), bool(node.attrs.get("reverse", 0))
    product = node.op == "CumProd"
    neutral = 1 if product else 0

    def step(total: Expr, value: Expr) -> Expr:
        return total * value if product else total + value

    def emit(code: Code) -> None:
        x, y = code.ins[0], code.outs[0]
        kind = str(x[0].ty.dtype)
        o = code.task
        if inner == 1:
            total = Cell(kind, neutral)
            with T.serial(0, length) as turn:
                at = fix(o * length + (length - 1 - turn if reverse else turn))
                value = fix(x[at])
                if exclusive:
                    y[at] = total.get()
                total.set(step(total.get(), value))
                if not exclusive:
                    y[at] = total.get()
            return
        with T.serial(0, length) as turn:
            at = fix((o * length + (length - 1 - turn if reverse else turn)) * inner)
            before = fix(at + (inner if reverse else -inner))
            with T.If(tirx.EQ(turn, 0)):
                with T.Then(), T.serial(0, inner) as i:
                    y[at + i] = neutral if exclusive else x[at + i]
                with T.Else(), T.serial(0, inner) as i:
                    added = x[(before if exclusive else at) + i]
                    y[at + i] = step(y[before + i], added)

    return kernel(node, None, emit, tasks=outer, work=prod(dims))
