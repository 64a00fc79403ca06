"""Pooling windows, and means or maxima over whole images."""

from __future__ import annotations

from onyxc.backends.cpu import pooling
from onyxc.backends.cpu.match.group import AnchoredGroup, broadcast_strides, four
from onyxc.backends.cpu.shapes import dense_strides
from onyxc.backends.recipe import Output, Piece, Recipe
from onyxc.backends.target import Target
from onyxc.compiler.ir.channels_last import ints


def pool(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    node, (n, h, w, c) = group.anchor, group.input(0).dims
    if node.attrs["kind"] == "average" and group.input(0).dtype != "float32":
        return None
    shape = pooling.PoolShape(
        kind=node.attrs["kind"], batch=n, channels=c, in_size=(h, w), out_size=group.shape[1:3],  # type: ignore[arg-type]
        kernel=ints(node, "kernel_shape"), strides=ints(node, "strides"), dilations=ints(node, "dilations"),  # type: ignore[arg-type]
        pads=ints(node, "pads"), x_strides=dense_strides(h, w, c), y_strides=dense_strides(*group.shape[1:])[:3],  # type: ignore[arg-type]
        x_dtype=group.input(0).dtype, acc_dtype=group.input(0).dtype, y_dtype=group.body.outputs[0].dtype,
        count_include_pad=bool(node.attrs.get("count_include_pad")),
    )  # fmt: skip
    return _pooled(name, group, shape, target)


def global_pool(name: str, group: AnchoredGroup, target: Target) -> Recipe | None:
    """The mean or maximum over height and width of a channels-last image."""
    x, axes = group.input(0), group.anchor.const(1)
    if len(x.dims) != 4 or axes is None or sorted(a % 4 for a in axes.reshape(-1).tolist()) != [1, 2]:
        return None
    n, h, w, c = x.dims
    kind = "max" if group.anchor.op == "ReduceMax" else "average"
    if x.dtype != "float32" or (not group.anchor.attrs["keepdims"] and group.rest):
        return None
    shape = pooling.PoolShape(
        kind=kind, batch=n, channels=c, in_size=(h, w), out_size=(1, 1), kernel=(h, w), strides=(1, 1),  # type: ignore[arg-type]
        dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=dense_strides(h, w, c), y_strides=(c, c, c),
        y_dtype=group.body.outputs[0].dtype,
    )  # fmt: skip
    return _pooled(name, group, shape, target)


def _pooled(name: str, group: AnchoredGroup, shape: pooling.PoolShape, target: Target) -> Recipe | None:
    operands = group.operands()
    if operands is None:
        return None
    strides = [four(broadcast_strides(v.dims, group.shape)) for v in operands]
    kernel = pooling.emit(name, pooling.plan(shape, target), group.epilogue(operands, strides), target)
    read = (group.role(group.input(0)), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, Output(0)), len(read))]


