"""Two-dimensional networks from [N, C, H, W] to channels-last, [N, H, W, C].

    y = Conv(x, w); z = Relu(y)   ->   y' = onyxc.Conv(x', w); z' = Relu(y'); z = Transpose(z')

One forward walk: every value may have a channels-last twin. Convolutions and poolings make twins, operators
that do not care about the order of axes pass them on, everything else reads the value transposed back, which
costs nothing where nobody does (dead-code removes it). A model's own Transposes to and from channels-last
(TensorFlow exports) become twins and vanish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir import facts, infer, schema
from onyxc.compiler.ir.channels_last import TO_FIRST, TO_LAST, ints
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.types import is_float
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes.layout.padding import explicit_pads

PLANAR_CHANNELS = 4  # a first convolution with at most so many channels reads the planar image as it is


def _perm(values: tuple[int, ...]) -> list[int]:
    """Per-axis numbers of [N, C, H, W] in the order [N, H, W, C]."""
    return [values[a] for a in TO_LAST]


class _Twins:
    """The walk's state: values and their channels-last twins."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.twins: dict[Value, Value] = {}

    def has(self, value: Value | None) -> bool:
        return value is not None and value in self.twins

    def get(self, value: Value, before: Node) -> Value:
        """The twin, made by a Transpose if there is none; of lower-rank values, the value that broadcasts alike."""
        if value in self.twins:
            return self.twins[value]
        if value.const is not None:
            array = value.const
            if array.size == 1:
                return value
            full = array.reshape((1,) * (4 - array.ndim) + array.shape)
            twin = self.graph.constant(np.ascontiguousarray(full.transpose(TO_LAST)), value.name + "_last", value.dtype)
        else:
            if value.tensor.rank < 4:
                shape = self.graph.constant(np.array((1,) * (4 - value.tensor.rank) + value.dims, np.int64), "shape")
                value = infer.add(self.graph, "Reshape", [value, shape], before).output
            twin = infer.add(self.graph, "Transpose", [value], before, perm=TO_LAST).output
        self.twins[value] = twin
        return twin

    def replace(self, node: Node, made: Node) -> None:
        """``made`` computes the twin of ``node``'s output: readers of the old value get it transposed back."""
        for old, new in zip(node.outputs, made.outputs, strict=True):
            back = infer.add(self.graph, "Transpose", [new], node, perm=TO_FIRST, output_names=[old.name]).output
            back.type = old.type
            self.twins[back] = new
            self.graph.replace_uses(old, back)
        self.graph.erase(node)

    def standard(self, node: Node, inputs: list[Value | None], **attrs: object) -> None:
        """Replace ``node`` by the same operator on twins, with some attributes changed."""
        made = infer.add(
            self.graph, node.op, inputs, node, outputs=len(node.outputs), domain=node.domain, name=node.name,
            **{**node.attrs, **attrs},
        )  # fmt: skip
        self.replace(node, made)


def _is_2d(node: Node) -> bool:
    types = [node.output.tensor, *(v.tensor for v in node.inputs[:1] if v is not None)]
    return all(t.is_static and t.rank == 4 for t in types)


def _convolution(node: Node, twins: _Twins) -> bool:
    weight = node.inputs[1]
    if not _is_2d(node) or weight is None or weight.const is None or len(node.inputs) > (2 if node.op == "Conv" else 4):
        return False
    if node.op == "Conv" and node.output.dtype not in ("float32",):
        return False
    x = node.inputs[0]
    assert x is not None
    planar = not twins.has(x) and x.dims[1] <= PLANAR_CHANNELS and node.attrs["group"] == 1 and is_float(x.dtype)
    attrs = {k: node.attrs.get(k) for k in ("strides", "dilations")}
    made = infer.add(
        twins.graph, "Conv", [x if planar else twins.get(x, node), *node.inputs[1:]], node, domain=schema.DOMAIN,
        name=node.name, kernel_shape=weight.dims[2:], pads=explicit_pads(node, x.dims[2:], weight.dims[2:]),
        strides=attrs["strides"] or (1, 1), dilations=attrs["dilations"] or (1, 1), group=node.attrs["group"],
        planar=int(planar),
    )  # fmt: skip
    twins.replace(node, made)
    return True


def _pool(node: Node, twins: _Twins) -> bool:
    x = node.inputs[0]
    if not _is_2d(node) or not twins.has(x) or len(node.outputs) > 1:
        return False
    assert x is not None
    kernel = ints(node, "kernel_shape")
    made = infer.add(
        twins.graph, "Pool", [twins.twins[x]], node, domain=schema.DOMAIN, name=node.name,
        kind="max" if node.op == "MaxPool" else "average", kernel_shape=kernel,
        pads=explicit_pads(node, x.dims[2:], kernel), strides=node.attrs.get("strides") or (1, 1),
        dilations=node.attrs.get("dilations") or (1, 1), ceil_mode=node.attrs["ceil_mode"],
        count_include_pad=node.attrs.get("count_include_pad", 0),
    )  # fmt: skip
    if made.output.dims != tuple(_perm(node.output.dims)):
        twins.graph.erase(made)
        return False
    twins.replace(node, made)
    return True


def _global_pool(node: Node, twins: _Twins) -> bool:
    if not _is_2d(node) or not twins.has(node.inputs[0]):
        return False
    op = "ReduceMean" if node.op == "GlobalAveragePool" else "ReduceMax"
    axes = twins.graph.constant(np.array([1, 2], np.int64), "axes")
    x = twins.twins[node.inputs[0]]  # type: ignore[index]
    twins.replace(node, infer.add(twins.graph, op, [x, axes], node, keepdims=1, name=node.name))
    return True


def _lrn(node: Node, twins: _Twins) -> bool:
    x = node.inputs[0]
    if not _is_2d(node) or not twins.has(x):
        return False
    made = infer.add(twins.graph, "LRN", [twins.twins[x]], node, domain=schema.DOMAIN, name=node.name, **node.attrs)  # type: ignore[index]
    twins.replace(node, made)
    return True


def _elementwise(node: Node, twins: _Twins) -> bool:
    if not any(twins.has(v) for v in node.inputs) or not node.output.tensor.is_static or node.output.tensor.rank != 4:
        return False
    if any(v is not None and not v.tensor.is_static for v in node.inputs):
        return False
    attrs = {}
    if "axis" in node.attrs and len(node.inputs) > 1:  # per-channel parameters: axis 1 of NCHW is the last one now
        if node.attrs["axis"] not in (1, -3):
            return False
        attrs["axis"] = 3
        inputs = [twins.get(node.inputs[0], node), *node.inputs[1:]]  # type: ignore[arg-type]
    else:
        inputs = [None if v is None else twins.get(v, node) for v in node.inputs]
    twins.standard(node, inputs, **attrs)
    return True


def _axis(node: Node, twins: _Twins) -> bool:
    """Concat, Split, Softmax and others with one ``axis`` and all tensors of rank four."""
    if not any(twins.has(v) for v in node.inputs[:1]) and not (
        node.op == "Concat" and any(twins.has(v) for v in node.inputs)
    ):
        return False
    data = node.inputs if node.op == "Concat" else node.inputs[:1]
    if any(v is None or not v.tensor.is_static or v.tensor.rank != 4 for v in [*data, *node.outputs]):
        return False
    axis = node.attrs["axis"]
    assert isinstance(axis, int)
    inputs: list[Value | None] = [twins.get(v, node) for v in data if v is not None]
    inputs += node.inputs[len(data) :]
    twins.standard(node, inputs, axis=TO_LAST.index(axis % 4))
    return True


def _parameters(node: Node, twins: _Twins) -> bool:
    """One tensor of data, and parameters that are scalars or lie along ``axis``."""
    x = node.inputs[0]
    if not _is_2d(node) or not twins.has(x):
        return False
    attrs = {}
    along_axis = any(v is not None and v.tensor.is_static and v.tensor.elements > 1 for v in node.inputs[1:])
    if along_axis and "axis" in node.attrs:
        if node.attrs["axis"] not in (1, -3) or node.attrs.get("block_size"):
            return False
        attrs["axis"] = 3
    twins.standard(node, [twins.twins[x], *node.inputs[1:]], **attrs)  # type: ignore[index]
    return True


def _gather(node: Node, twins: _Twins) -> bool:
    """Gather with one-dimensional indices keeps the rank."""
    indices = node.inputs[1]
    assert indices is not None
    if not indices.tensor.is_static or indices.tensor.rank != 1:
        return False
    return _axis(node, twins)


def _axes_input(slots: tuple[int, ...], axes_slot: int) -> Callable[[Node, _Twins], bool]:
    """Rule for operators whose per-axis numbers are listed beside an input of constant axes."""

    def rule(node: Node, twins: _Twins) -> bool:
        x, axes = node.inputs[0], node.input(axes_slot)
        if not twins.has(x) or not _is_2d(node) or (axes is not None and axes.const is None):
            return False
        if axes is None:
            numbers = list(range(len(node.const(slots[0])))) if slots and node.const(slots[0]) is not None else None  # type: ignore[arg-type]
            if numbers is None or len(numbers) > 4:
                return False
        else:
            numbers = [int(a) % 4 for a in np.atleast_1d(axes.const)]  # type: ignore[arg-type]
        moved = twins.graph.constant(np.array([TO_LAST.index(a) for a in numbers], np.int64), "axes")
        inputs = [twins.twins[x], *node.inputs[1:]]  # type: ignore[index]
        inputs += [None] * (axes_slot + 1 - len(inputs))
        inputs[axes_slot] = moved
        twins.standard(node, inputs)
        return True

    return rule


def _reduce(node: Node, twins: _Twins) -> bool:
    if not node.attrs["keepdims"]:
        return False
    return _axes_input((), 1)(node, twins)


def _pad(node: Node, twins: _Twins) -> bool:
    x, pads = node.inputs[0], node.const(1)
    if not twins.has(x) or not _is_2d(node) or pads is None or node.input(3) is not None:
        return False
    moved = np.array([*_perm(tuple(pads[:4])), *_perm(tuple(pads[4:]))], np.int64)
    twins.standard(node, [twins.twins[x], twins.graph.constant(moved, "pads"), *node.inputs[2:3]])  # type: ignore[index]
    return True


def _resize(node: Node, twins: _Twins) -> bool:
    x = node.inputs[0]
    if not twins.has(x) or not _is_2d(node) or node.attrs.get("axes"):
        return False
    roi = node.const(1)
    if roi is not None and roi.size:
        return False
    inputs: list[Value | None] = [twins.twins[x], None]  # type: ignore[index]
    for slot in (2, 3):
        numbers = node.const(slot)
        if node.input(slot) is not None and numbers is None:
            return False
        used = numbers is not None and numbers.size == 4
        inputs.append(twins.graph.constant(numbers[list(TO_LAST)], "sizes") if used else None)  # type: ignore[index]
    twins.standard(node, inputs if inputs[3] is not None else inputs[:3])
    return True


def _transpose(node: Node, twins: _Twins) -> bool:
    x = node.inputs[0]
    assert x is not None
    if node.attrs.get("perm") == TO_FIRST:
        twins.twins[node.output] = x
    elif node.attrs.get("perm") == TO_LAST and x in twins.twins:
        twins.graph.replace(node, [twins.twins[x]])
        return True
    return False


_RULES: dict[str, Callable[[Node, _Twins], bool]] = {
    "Conv": _convolution, "ConvInteger": _convolution, "MaxPool": _pool, "AveragePool": _pool,
    "GlobalAveragePool": _global_pool, "GlobalMaxPool": _global_pool, "LRN": _lrn, "Concat": _axis, "Split": _axis,
    "Softmax": _axis, "LogSoftmax": _axis, "QuantizeLinear": _parameters, "DequantizeLinear": _parameters,
    "onyxc.Lookup": _parameters, "Gather": _gather, "Slice": _axes_input((1,), 3), "Pad": _pad,
    "Resize": _resize, "Transpose": _transpose, **dict.fromkeys(facts.REDUCTIONS, _reduce),
}  # fmt: skip


@dataclass(frozen=True)
class ChannelsLast(Pass):
    """Convolutions with constant float32 or 8-bit weights, and what surrounds them, to channels-last."""

    name: ClassVar[str] = "channels-last"

    def run(self, graph: Graph) -> PassResult:
        """Rewrite ``graph`` (inner graphs each on their own)."""
        counts: Counter[str] = Counter()
        twins = _Twins(graph)
        for node in graph.nodes:
            for inner in node.subgraphs():
                if node.domain != schema.DOMAIN:
                    counts.update(self.run(inner).counts)
            key = facts.key(node)
            rule = _RULES.get(key) or (_elementwise if facts.is_elementwise(node) else None)
            if rule is not None and rule(node, twins):
                counts[key] += 1
        return PassResult(counts)
