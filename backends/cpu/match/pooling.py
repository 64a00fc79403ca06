"""Pooling windows, and means or maxima over whole images."""

from __future__ import annotations

from typing import Literal

from onyxc.backends.cpu import pooling
from onyxc.backends.cpu.match.group import AnchoredGroup, four
from onyxc.backends.places import strides_of
from onyxc.backends.recipe import Output, Piece, Recipe
from onyxc.backends.target import Target


def pool(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """A maximum or mean over windows."""
    shape = pool_shape(group)
    return None if shape is None else _pooled(name, group, shape, target)


def pool_shape(group: AnchoredGroup) -> pooling.PoolShape | None:
    """The shape of an onyxc.Pool."""
    node, (n, h, w, c) = group.anchor, group.input(0).dims
    if node.attrs["kind"] == "average" and group.input(0).dtype != "float32":
        return None
    (kh, kw), (sh, sw), (dh, dw) = (node.integers(a) for a in ("kernel_shape", "strides", "dilations"))
    top, left, bottom, right = node.integers("pads")
    return pooling.PoolShape(
        kind="average" if node.attrs["kind"] == "average" else "max", batch=n, channels=c, in_size=(h, w),
        out_size=(group.shape[1], group.shape[2]), kernel=(kh, kw), strides=(sh, sw), dilations=(dh, dw),
        pads=(top, left, bottom, right), x_strides=four(strides_of(group.input(0))), y_strides=four(group.y_strides)[:3],
        x_dtype=group.input(0).dtype, acc_dtype=group.input(0).dtype, y_dtype=group.body.outputs[0].dtype,
        count_include_pad=bool(node.integer("count_include_pad")),
    )  # fmt: skip


def global_pool(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """The mean or maximum over height and width of a channels-last image."""
    x, axes = group.input(0), group.anchor.const(1)
    if len(x.dims) != 4 or axes is None or sorted(a % 4 for a in axes.reshape(-1).tolist()) != [1, 2]:
        return None
    n, h, w, c = x.dims
    kind: Literal["max", "average"] = "max" if group.anchor.op == "ReduceMax" else "average"
    if x.dtype != "float32" or (not group.anchor.attrs["keepdims"] and group.rest):
        return None
    shape = pooling.PoolShape(
        kind=kind, batch=n, channels=c, in_size=(h, w), out_size=(1, 1), kernel=(h, w), strides=(1, 1),
        dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=four(strides_of(x)), y_strides=(c, c, c),
        y_dtype=group.body.outputs[0].dtype,
    )  # fmt: skip
    return _pooled(name, group, shape, target)


def _pooled(name: str, group: AnchoredGroup, shape: pooling.PoolShape, target: Target) -> Recipe | None:
    operands = group.operands()
    if operands is None:
        return None
    strides = [group.spread(v) for v in operands]
    kernel = pooling.emit(name, pooling.plan(shape, target), group.epilogue(operands, strides), target)
    read = (group.role(group.input(0)), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, Output(0)), len(read))]
