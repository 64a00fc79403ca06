"""Which template computes a group on a CPU: the group's anchor decides, what follows becomes the epilogue.

`recipe` answers None where no template fits; the generic group takes over then.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from onyxc.backends.cpu import convolution, depthwise, gemm, gemm_plan, integer_convolution, integer_depthwise, pooling
from onyxc.backends.cpu.epilogue import Epilogue, Operand
from onyxc.backends.cpu.shapes import ConvShape, dense_strides, planar_strides
from onyxc.backends.cpu.vectors import cast, fill, hold, lanes_of
from onyxc.backends.kernels.expression import multiplicities
from onyxc.backends.lowering import registry
from onyxc.backends.lowering.scalar import bits
from onyxc.backends.recipe import Argument, Constant, Input, Output, Packed, Piece, Recipe, Temporary
from onyxc.backends.target import Target
from onyxc.compiler.ir import facts
from onyxc.compiler.ir.channels_last import ints
from onyxc.compiler.ir.graph import Array, Graph, Node, Value

# nodes of an epilogue's expression that are kept as they are: TVM's passes see shared parts again and again
LARGEST_TREE, SMALL_TREE = 100, 3
_EIGHT_BIT = ("int8", "uint8")
LOOKUP, TABLE = "onyxc.Lookup", 256  # entries
_OPERANDS = ("float32", "int32", "int8", "uint8")


def recipe(name: str, body: Graph, constant: tuple[bool, ...], target: Target) -> Recipe | None:
    """The recipe by the first template that fits, or None."""
    nodes = body.nodes
    first = next((i for i, n in enumerate(nodes) if not n.is_op("Transpose")), 0)
    before, (anchor, *rest) = nodes[:first], nodes[first:]
    after = rest.pop() if rest and rest[-1].is_op("Transpose") else None
    template = _TEMPLATES.get(facts.key(anchor))
    if template is None or not all(_is_expression(n) for n in rest) or len(body.outputs) != 1:
        return None
    if (before or after) and template is not _matmul:
        return None
    return template(name, _Group(body, anchor, rest, constant, before, after), target)


class _Group:
    """A body as anchor and epilogue; around a matrix product, Transposes of its operands and of its result."""

    def __init__(
        self,
        body: Graph,
        anchor: Node,
        rest: list[Node],
        constant: tuple[bool, ...],
        before: list[Node],
        after: Node | None,
    ) -> None:
        self.body, self.anchor, self.rest, self.after = body, anchor, rest, after
        self.moved = {n.output: n for n in before}
        self.constant = {v for v, c in zip(body.inputs, constant, strict=True) if c}
        self.shape = anchor.output.dims

    def role(self, value: Value) -> Argument:
        """The argument that stands for a value of the body."""
        if value.const is not None:
            return Constant(value.const)
        return Input(self.body.inputs.index(value))

    def input(self, index: int) -> Value:
        """An input of the anchor that is there."""
        value = self.anchor.inputs[index]
        assert value is not None
        return value

    def operand(self, index: int) -> tuple[Value, tuple[int, ...]]:
        """An input of the anchor as it lies in memory, and its element strides as the anchor sees it."""
        value = self.input(index)
        node = self.moved.get(value)
        if node is None or node.inputs[0] is None:
            return value, _dense(value.dims)
        source, perm = node.inputs[0], ints(node, "perm")
        return source, tuple(_dense(source.dims)[a] for a in perm)

    def result_strides(self) -> tuple[int, ...]:
        """Element strides of the result along the anchor's output dimensions."""
        if self.after is None:
            return _dense(self.shape)
        perm, stored = ints(self.after, "perm"), _dense(self.after.output.dims)
        return tuple(stored[perm.index(axis)] for axis in range(len(perm)))

    def is_constant(self, value: Value) -> bool:
        """Whether the value is known at compile time."""
        return value.const is not None or value in self.constant

    def packed(self, value: Value, pack: Callable[[Array], Array]) -> Argument:
        """The constant ``value`` in the form that ``pack`` makes of it."""
        if value.const is not None:
            return Constant(pack(value.const))
        return Packed(self.body.inputs.index(value), pack)

    def operands(self) -> list[Value] | None:
        """Values that the epilogue reads beside the accumulator; None when one has an unfit dtype."""
        found: dict[Value, None] = {}
        inner = {self.anchor.output, *(n.output for n in self.rest)}
        for node in self.rest:
            for value in node.inputs:
                if value is not None and value not in inner and not _is_number(value):
                    if value.dtype not in _OPERANDS:
                        return None
                    found[value] = None
        return list(found)

    def epilogue(self, operands: list[Value], strides: list[tuple[int, ...]]) -> Epilogue:
        """The nodes behind the anchor as an expression on vectors."""
        anchor, rest = self.anchor, self.rest

        def apply(acc: Any, loaded: list[Any]) -> Any:
            env: dict[Value, Any] = {anchor.output: acc, **dict(zip(operands, loaded, strict=True))}
            lanes = lanes_of(acc)
            for node in rest:
                arguments = []
                for value in node.inputs:
                    if value is None:
                        continue
                    if value not in env:
                        assert value.const is not None
                        env[value] = fill(registry.const(value.const.reshape(()).item(), value.dtype), lanes)
                    arguments.append(env[value])
                if facts.key(node) == LOOKUP:
                    x, table = arguments
                    env[node.output] = table[cast(bits(x, "uint8"), "int32")]
                else:
                    dear = node.is_op(*facts.DEAR)
                    given = [hold(a) if dear and _size(a) > SMALL_TREE else a for a in arguments]
                    env[node.output] = registry.ELEMENTWISE[node.domain, node.op](node, *given)
                    if node is not rest[-1] and (dear or _size(env[node.output]) > LARGEST_TREE):
                        env[node.output] = hold(env[node.output])
            return env[rest[-1].output] if rest else acc

        tables = {n.inputs[1]: TABLE for n in rest if facts.key(n) == LOOKUP}
        made = tuple(Operand(v.dtype, s, tables.get(v, 0)) for v, s in zip(operands, strides, strict=True))
        return Epilogue(made, apply, self.body.outputs[0].dtype)


def _is_expression(node: Node) -> bool:
    """Whether the node can be computed on a vector in registers."""
    return (node.domain, node.op) in registry.ELEMENTWISE or facts.key(node) == LOOKUP


def _size(expr: Any) -> int:
    """Nodes of an expression as a tree."""
    return sum(times for _, times in multiplicities(expr))


def _is_number(value: Value) -> bool:
    return value.const is not None and value.const.size == 1


def _dense(dims: tuple[int, ...]) -> tuple[int, ...]:
    """Element strides of a dense tensor."""
    return tuple(prod(dims[i + 1 :]) for i in range(len(dims)))


def _broadcast_strides(
    dims: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Element strides of a tensor (default: a dense one) of ``dims`` when it is broadcast to ``shape``."""
    missing = len(shape) - len(dims)
    full, steps = (1,) * missing + dims, (0,) * missing + (strides or _dense(dims))
    return tuple(0 if d == 1 and s != 1 else step for d, s, step in zip(full, shape, steps, strict=True))


def _four(strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of up to three leading dimensions and the channel as (n, h, w, c)."""
    return (0,) * (4 - len(strides)) + strides


def _supported(group: _Group) -> bool:
    x, w = group.input(0), group.input(1)
    floats = x.dtype == w.dtype == "float32"
    integers = x.dtype in _EIGHT_BIT and w.dtype in _EIGHT_BIT
    return (floats or integers) and group.is_constant(w)


def _zero_points(group: _Group) -> tuple[int, Array] | None:
    """The input's zero point and the weights' zero points, where both are known."""
    points = []
    for index in (2, 3):
        value = group.anchor.input(index)
        if value is None:
            points.append(np.zeros((), np.int32))
        elif value.const is None:
            return None
        else:
            points.append(value.const.astype(np.int32))
    if points[0].size != 1:
        return None
    return int(points[0].reshape(())), points[1].reshape(-1) if points[1].size > 1 else points[1].reshape(())


def _finish(
    name: str, group: _Group, shape: ConvShape, pack: Callable[[Array], Array], target: Target
) -> Recipe | None:
    """The direct-convolution recipe of ``shape``; ``pack`` gives the model's weights as [O, I/g, KH, KW]."""
    operands = group.operands()
    zero = _zero_points(group)
    if operands is None or zero is None:
        return None
    strides = [_four(_broadcast_strides(v.dims, group.shape)) for v in operands]
    epilogue = group.epilogue(operands, strides)
    points = zero[1].reshape(-1, 1, 1, 1) if zero[1].ndim else zero[1]
    if integer_depthwise.fits(shape, target):
        narrow = integer_depthwise.plan(shape, target, zero[1])
        kernel = integer_depthwise.emit(name, narrow, epilogue, target)
        weights = group.packed(group.input(1), lambda w: integer_depthwise.pack(pack(w), narrow))
    elif depthwise.fits(shape):
        thin = depthwise.plan(shape, target)
        kernel = depthwise.emit(name, thin, epilogue, target)
        weights = group.packed(group.input(1), lambda w: depthwise.pack(pack(w), thin, points))
    elif integer_convolution.fits(shape, target):
        bytewise = integer_convolution.plan(shape, target, zero[1], tuple(strides))  # type: ignore[arg-type]
        kernel = integer_convolution.emit(name, bytewise, epilogue, target)
        weights = group.packed(group.input(1), lambda w: integer_convolution.pack(pack(w), bytewise))
    else:
        plan = convolution.plan(shape, target, tuple(strides))  # type: ignore[arg-type]
        kernel = convolution.emit(name, plan, epilogue, target)
        weights = group.packed(group.input(1), lambda w: convolution.pack(pack(w), plan, points))
    args = (group.role(group.input(0)), weights, *(group.role(v) for v in operands), Output(0))
    return [Piece(kernel, args, len(args) - 1)]


def _conv(name: str, group: _Group, target: Target) -> Recipe | None:
    if not _supported(group):
        return None
    node, x, w = group.anchor, group.input(0), group.input(1)
    zero = _zero_points(group)
    if zero is None:
        return None
    planar = bool(node.attrs["planar"])
    n, h, width, c = (x.dims[0], x.dims[2], x.dims[3], x.dims[1]) if planar else x.dims
    out_n, out_h, out_w, out_c = group.shape
    pads = ints(node, "pads")
    shape = ConvShape(
        batch=n, in_channels=c, out_channels=out_c, group=int(node.attrs["group"]), in_size=(h, width),  # type: ignore[arg-type]
        out_size=(out_h, out_w), kernel=(w.dims[2], w.dims[3]), strides=ints(node, "strides"),  # type: ignore[arg-type]
        dilations=ints(node, "dilations"), pads=pads,  # type: ignore[arg-type]
        x_strides=planar_strides(c, h, width) if planar else dense_strides(h, width, c),
        y_strides=dense_strides(out_h, out_w, out_c)[:3], x_dtype=x.dtype, w_dtype=w.dtype,
        acc_dtype=node.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=zero[0],
    )  # fmt: skip
    assert out_n == n
    return _finish(name, group, shape, lambda array: array, target)


def _matmul(name: str, group: _Group, target: Target) -> Recipe | None:
    """A product with constant weights is a pointwise convolution; any other one reads its second operand as it comes."""
    a, b = group.input(0), group.input(1)
    if not _supported(group) or len(b.dims) != 2 or not 2 <= len(a.dims) <= 4 or group.moved or group.after:
        return _batched_matmul(name, group, target)
    zero = _zero_points(group)
    if zero is None:
        return None
    n, h, w = (1,) * (4 - len(a.dims)) + a.dims[:-1]
    depth, columns = b.dims
    shape = ConvShape(
        batch=n, in_channels=depth, out_channels=columns, group=1, in_size=(h, w), out_size=(h, w), kernel=(1, 1),
        strides=(1, 1), dilations=(1, 1), pads=(0, 0, 0, 0), x_strides=dense_strides(h, w, depth),
        y_strides=dense_strides(h, w, columns)[:3], x_dtype=a.dtype, w_dtype=b.dtype,
        acc_dtype=group.anchor.output.dtype, y_dtype=group.body.outputs[0].dtype, x_zero_point=zero[0],
    )  # fmt: skip
    return _finish(name, group, shape, lambda array: np.ascontiguousarray(array.T)[:, :, None, None], target)


def _batched_matmul(name: str, group: _Group, target: Target) -> Recipe | None:
    a, b = group.input(0), group.input(1)
    zero = _zero_points(group)
    operands = group.operands()
    rank = len(group.shape)
    if zero is None or zero[1].ndim or operands is None or a.dtype not in _OPERANDS or b.dtype not in _OPERANDS:
        return None
    if min(len(a.dims), len(b.dims)) < 2 or "int32" in (a.dtype, b.dtype):
        return None
    (*batch, m, n), k = group.shape, a.dims[-1]
    (a_source, a_strides), (b_source, b_strides) = group.operand(0), group.operand(1)
    shape = gemm_plan.GemmShape(
        batch=tuple(batch), m=m, n=n, k=k, a_strides=_broadcast_strides(a.dims, (*batch, m, k), a_strides),
        b_strides=_broadcast_strides(b.dims, (*batch, k, n), b_strides), y_strides=group.result_strides()[:-1],
        a_dtype=a.dtype, b_dtype=b.dtype,
        acc_dtype=group.anchor.output.dtype, y_dtype=group.body.outputs[0].dtype, a_zero_point=zero[0],
        b_zero_point=int(zero[1]),
    )  # fmt: skip
    strides = [_broadcast_strides(v.dims, group.shape) for v in operands]
    assert all(len(s) == rank for s in strides)
    plan = gemm_plan.plan(shape, target, tuple(strides))
    kernel = gemm.emit(name, plan, group.epilogue(operands, strides), target)
    scratch = [Temporary(plan.scratch_dtype, (plan.scratch_size,))] if plan.scratch_size else []
    read = (group.role(a_source), group.role(b_source), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, *scratch, Output(0)), len(read))]


def _pool(name: str, group: _Group, target: Target) -> Recipe | None:
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


def _global_pool(name: str, group: _Group, target: Target) -> Recipe | None:
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


def _pooled(name: str, group: _Group, shape: pooling.PoolShape, target: Target) -> Recipe | None:
    operands = group.operands()
    if operands is None:
        return None
    strides = [_four(_broadcast_strides(v.dims, group.shape)) for v in operands]
    kernel = pooling.emit(name, pooling.plan(shape, target), group.epilogue(operands, strides), target)
    read = (group.role(group.input(0)), *(group.role(v) for v in operands))
    return [Piece(kernel, (*read, Output(0)), len(read))]


_TEMPLATES: dict[str, Callable[[str, _Group, Target], Recipe | None]] = {
    "onyxc.Conv": _conv,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "onyxc.Pool": _pool,
    "ReduceMean": _global_pool,
    "ReduceMax": _global_pool,
}
