"""Channels-last rules for operators that work element by element, along axes, or in normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Node, Value
from onyxc.passes.layout.twins import Order, Twin, Twins, is_static, per_axis


def elementwise(node: Node, twins: Twins) -> bool:
    """Every operand takes the order of the largest one that has a twin."""
    values = [v for v in node.inputs if v is not None]
    if not is_static(node.output) or not all(map(is_static, values)):
        return False
    having = [v for v in values if twins.has(v)]
    if not having:
        return False
    main = max(having, key=lambda v: v.tensor.elements)
    if any(v.tensor.elements > main.tensor.elements for v in values if v.const is None):
        return False
    rank = node.output.tensor.rank
    order = widened(twins[main].order, rank - main.tensor.rank)
    attrs = {}
    if "axis" in node.attrs and len(values) > 1:  # parameters along an axis
        attrs["axis"] = Twin(main, order).axis(node.integer("axis"))
        inputs = [twins.aligned(values[0], rank, order, node), *node.inputs[1:]]
    else:
        inputs = [None if v is None else twins.aligned(v, rank, order, node) for v in node.inputs]
    twins.standard(node, inputs, order, **attrs)
    return True


def widened(order: Order, missing: int) -> Order:
    """The order of a value that gets ``missing`` axes in front."""
    return (*range(missing), *(None if a is None else a + missing for a in order))


def along_axis(node: Node, twins: Twins) -> bool:
    """Concat, Split, Softmax, ArgMax: one ``axis``."""
    data = [v for v in (node.inputs if node.op == "Concat" else node.inputs[:1]) if v is not None]
    first = next((v for v in data if twins.has(v)), None)
    if first is None or not all(map(is_static, [*data, *node.outputs])):
        return False
    known, axis = twins[first], node.integer("axis")
    order, attrs = known.order, {"axis": known.axis(axis)}
    if node.op in ("ArgMax", "ArgMin") and not node.integer("keepdims", 1):
        order, attrs["keepdims"] = without(order, (axis % first.tensor.rank,)), 1
    inputs: list[Value | None] = [twins.get(v, known.order, node) for v in data]
    twins.standard(node, [*inputs, *node.inputs[len(data) :]], order, **attrs)
    return True


def without(order: Order, axes: tuple[int, ...]) -> Order:
    """The order when ``axes`` are gone: their stored axes have one element."""
    gone = set(axes)
    return tuple(None if a is None or a in gone else a - sum(g < a for g in gone) for a in order)


def with_parameters(node: Node, twins: Twins) -> bool:
    """One tensor of data, and parameters that are scalars or lie along ``axis``."""
    known = twins.find(node)
    if known is None:
        return False
    attrs = {}
    if any(is_static(v) and v.tensor.elements > 1 for v in node.inputs[1:] if v is not None) and "axis" in node.attrs:
        if node.attrs.get("block_size"):
            return False
        attrs["axis"] = known.axis(node.integer("axis"))
    twins.standard(node, [known.stored, *node.inputs[1:]], known.order, **attrs)
    return True


def reduce(node: Node, twins: Twins) -> bool:
    """Reductions of stored axes; axes that go stay as axes of one element."""
    known, axes = twins.find(node), node.const(1)
    if known is None or (node.input(1) is not None and axes is None):
        return False
    rank = node.operand().tensor.rank
    if axes is None or not axes.size:
        if node.attrs.get("noop_with_empty_axes"):
            return False
        axes = np.arange(rank)
    numbers = tuple(int(a) % rank for a in np.atleast_1d(axes))
    moved = twins.constant([known.order.index(a) for a in numbers], "axes")
    order = known.order if node.attrs["keepdims"] else without(known.order, numbers)
    twins.standard(node, [known.stored, moved], order, keepdims=1)
    return True


def pad(node: Node, twins: Twins) -> bool:
    """Amounts for every axis."""
    known, pads = twins.find(node), node.const(1)
    if known is None or pads is None or node.input(3) is not None:
        return False
    rank = len(pads) // 2
    moved = [*per_axis(pads[:rank], known.order, 0), *per_axis(pads[rank:], known.order, 0)]
    twins.standard(node, [known.stored, twins.constant(moved, "pads"), *node.inputs[2:3]], known.order)
    return True


def resize(node: Node, twins: Twins) -> bool:
    """Scales or sizes for every axis."""
    known, roi = twins.find(node), node.const(1)
    if known is None or node.attrs.get("axes") or (roi is not None and roi.size):
        return False
    inputs: list[Value | None] = [known.stored, None]
    for slot in (2, 3):
        numbers = node.const(slot)
        if node.input(slot) is not None and numbers is None:
            return False
        used = numbers is not None and numbers.size == node.output.tensor.rank
        made = np.array(per_axis(numbers, known.order, 1), numbers.dtype) if numbers is not None and used else None
        inputs.append(None if made is None else twins.graph.constant(made, "sizes"))
    twins.standard(node, inputs if inputs[3] is not None else inputs[:3], known.order)
    return True


def normalization(node: Node, twins: Twins) -> bool:
    """InstanceNormalization and GroupNormalization as reductions and arithmetic on the stored form.

        v = mean((mean(x) - x)^2);   y = (x - mean(x)) * (scale / sqrt(v + epsilon)) + bias

    The two differences differ in sign, lest they become one value that has to be stored.
    """
    known, scale, bias = twins.find(node), node.input(1), node.input(2)
    if known is None or scale is None or bias is None or node.output.dtype != "float32":
        return False
    if known.order[-1] != 1 or known.order[0] != 0:
        return False
    dims, channels = known.stored.dims, known.stored.dims[-1]
    groups = node.integer("num_groups") if node.op == "GroupNormalization" else channels
    apart = groups != channels
    shape = (*dims[:-1], groups, channels // groups) if apart else dims
    axes = twins.constant([*range(1, len(dims) - 1), *[len(dims)] * apart], "axes")

    def made(op: str, *inputs: Value, **attrs: int) -> Value:
        options: dict[str, Any] = dict(attrs)
        return infer.add(twins.graph, op, inputs, node, **options).output

    x = twins.reshaped(known.stored, shape, node)
    gain, shift = (twins.reshaped(v, shape[len(dims) - 1 :], node) for v in (scale, bias))
    epsilon = twins.graph.constant(np.float32(node.real("epsilon", 1e-5)), "epsilon")
    mean = made("ReduceMean", x, axes, keepdims=1)
    back = made("Sub", mean, x)
    variance = made("ReduceMean", made("Mul", back, back), axes, keepdims=1)
    factor = made("Mul", made("Reciprocal", made("Sqrt", made("Add", variance, epsilon))), gain)
    y = made("Add", made("Mul", made("Sub", x, mean), factor), shift)
    twins.replace(node, [twins.reshaped(y, dims, node)], known.order)
    return True
