"""Matrix products of two run-time operands, which are read as they lie in memory."""

from __future__ import annotations

from onyxc.backends.cpu import gemm, gemm_plan
from onyxc.backends.cpu.match.group import OPERANDS, AnchoredGroup, broadcast_strides, zero_points
from onyxc.backends.recipe import Output, Piece, Recipe, Temporary
from onyxc.backends.target import Target


def batched_product(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A product of two tensors that only a run knows, of float32 or 8-bit integers, by strides."""
    a, b = group.input(0), group.input(1)
    zero = zero_points(group)
    operands = group.operands()
    rank = len(group.shape)
    if zero is None or zero[1].ndim or operands is None or a.dtype not in OPERANDS or b.dtype not in OPERANDS:
        return None
    if min(len(a.dims), len(b.dims)) < 2 or "int32" in (a.dtype, b.dtype):
        return None
    (*batch, m, n), k = group.shape, a.dims[-1]
    (a_source, a_strides), (b_source, b_strides) = group.operand(0), group.operand(1)
    shape = gemm_plan.GemmShape(
        batch=tuple(batch), m=m, n=n, k=k, a_strides=broadcast_strides(a.dims, (*batch, m, k), a_strides),
        b_strides=broadcast_strides(b.dims, (*batch, k, n), b_strides), y_strides=group.result_strides()[:-1],
        a_dtype=a.dtype, b_dtype=b.dtype,
        acc_dtype=group.anchor.output.dtype, y_dtype=group.body.outputs[0].dtype, a_zero_point=zero[0],
        b_zero_point=int(zero[1]),
    )  # fmt: skip
    strides = [broadcast_strides(v.dims, group.shape) for v in operands]
    assert all(len(s) == rank for s in strides)
    plan = gemm_plan.plan(shape, target, tuple(strides))
    kernel = gemm.emit(name, plan, group.epilogue(operands, strides), target)
    scratch = [Temporary(plan.scratch_dtype, (plan.scratch_size,))] if plan.scratch_size else []
    read = (group.role(a_source), group.role(b_source), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, *scratch, Output(0)), len(read))]
