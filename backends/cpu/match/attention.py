"""Attention that `passes.fuse.attention` found: reads q, k and v where movement left them."""

from __future__ import annotations

from functools import partial

import numpy as np

from onyxc.backends.cpu import attention
from onyxc.backends.cpu.attention_plan import AttentionPlan, AttentionShape
from onyxc.backends.cpu.match.group import AnchoredGroup, broadcast_strides
from onyxc.backends.recipe import Argument, Output, Piece, Recipe, Scratch
from onyxc.backends.target import Target
from onyxc.compiler.ir.graph import Array, Graph, Value
from onyxc.compiler.ir.strides import View, view
from onyxc.passes.fuse.attention import Parts, find

HIDDEN, LOWEST = -1e4, -1e30  # masks that leave nothing of a score: of any sensible one, of any finite one


def fused_attention(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe | None:
    """The recipe of a body that is attention, None of any other."""
    parts = next((p for node in body if (p := find(node)) is not None), None)
    if parts is None:
        return None
    nodes = body.nodes
    last = parts.second.output.only_user
    after = last if last is not None and last.is_op("Transpose") else None
    views = [view(value, nodes) for value in parts.inputs]
    scores = AnchoredGroup(body, parts.first, list(parts.scores), constant, [], None)
    operands = scores.operands()
    if operands is None or any(v is None or v.source.producer is not None for v in views):
        return None
    q, k, v = (found for found in views if found is not None)
    result = AnchoredGroup(body, parts.second, [], constant, [], after)
    shape = _shape(parts, q, k, v, result.result_strides())
    plan = attention.plan(shape, target)
    strides = [broadcast_strides(value.dims, scores.shape) for value in operands]
    mask = _mask(scores, parts)
    limits: list[Argument] = (
        []
        if mask is None
        else [scores.packed(mask, partial(limits_of, plan=plan, hidden=LOWEST if target.exact else HIDDEN))]
    )
    epilogue = scores.epilogue(operands, strides)
    kernel = attention.emit(name, plan, epilogue, target, limited=mask is not None, guarded=bool(parts.guard))
    read = (*(scores.role(found.source) for found in (q, k, v)), *(scores.role(o) for o in operands), *limits)
    return [Piece(kernel, (*read, Output(0), Scratch("float32", (plan.scratch_size,))), len(read))]


def _shape(parts: Parts, q: View, k: View, v: View, y_strides: tuple[int, ...]) -> AttentionShape:
    (q_value, k_value, v_value), (*batch, rows, width) = parts.inputs, parts.second.output.dims
    depth, keys = k_value.dims[-2:]
    sizes = ((rows, depth), (depth, keys), (keys, width))
    q_strides, k_strides, v_strides = (
        broadcast_strides(value.dims, (*batch, *size), found.strides)
        for value, size, found in zip((q_value, k_value, v_value), sizes, (q, k, v), strict=True)
    )
    return AttentionShape(
        tuple(batch), rows, keys, depth, width, q_strides, k_strides, v_strides, y_strides[:-1],
        starts=(q.start, k.start, v.start),
    )  # fmt: skip


def _mask(scores: AnchoredGroup, parts: Parts) -> Value | None:
    """A constant that is added to the scores at last, the same for all batches."""
    if not parts.scores or not parts.scores[-1].is_op("Add"):
        return None
    for value in parts.scores[-1].inputs:
        if value is not None and value.const is None and scores.is_constant(value):
            alike = all(d == 1 for d in value.dims[:-2]) and value.dims[-1:] == scores.shape[-1:]
            return value if alike else None
    return None


def limits_of(mask: Array, plan: AttentionPlan, hidden: float = HIDDEN) -> Array:
    """For each tile of rows, the number of keys in front of those that ``mask`` hides from all of its rows, int32.

    A number up to ``hidden`` does so. Rows from which everything is hidden need all keys: their result is not a number,
    or the mean.
    """
    shape = plan.shape
    seen = np.broadcast_to(mask.reshape(-1, mask.shape[-1]), (shape.rows, shape.keys)) > hidden
    needed = np.where(seen.any(1), shape.keys - np.argmax(seen[:, ::-1], axis=1), shape.keys)
    tiles = [(t.start + i * t.width, t.width) for t in plan.tiles for i in range(t.count)]
    return np.array([needed[start : start + width].max() for start, width in tiles], np.int32)
