"""What nodes cost whatever the processor: arithmetic operations, and bytes that must be read.

Counted are the operations that the operator's definition asks for: a convolution has two for each multiply-add, even
if its kernel does with fewer (Winograd); an elementwise function is one for each element, even an exponential.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from onyxc.compiler.ir import facts
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.statistics import node_flops
from onyxc.compiler.ir.types import TensorType, itemsize

_STEPS = {  # operations for each element of the input
    "Softmax": 5, "LogSoftmax": 5, "QSoftmax": 5, "LayerNormalization": 7, "RMSNormalization": 5,
    "InstanceNormalization": 7, "GroupNormalization": 7, "BatchNormalization": 2, "Resize": 8,
}  # fmt: skip
_RECURRENT = ("LSTM", "GRU", "RNN")
_TAKING = frozenset("Gather GatherElements GatherND Slice".split())


def operations(nodes: Iterable[Node]) -> int | None:
    """Operations of ``nodes`` together; None if one of them is of a kind that is not counted here."""
    counts = [_operations(n) for n in nodes]
    return None if None in counts else sum(c or 0 for c in counts)


def _operations(node: Node) -> int | None:
    """For static shapes; see `operations`."""
    key, op = facts.key(node), node.op
    first = node.input(0)
    if not all(isinstance(v.type, TensorType) and v.type.is_static for v in (*node.outputs, *filter(None, node.inputs))):
        return None
    if key in facts.CONVOLUTIONS | facts.PRODUCTS:
        return node_flops(node)
    if key in facts.MOVEMENT:
        return 0
    results = sum(v.tensor.elements for v in node.outputs if v.name)
    if facts.is_elementwise(node):
        return results
    if key in facts.POOLS or op == "QAveragePool":
        window = prod(node.integers("kernel_shape", (0,)))
        return results * window or (first.tensor.elements if first else 0)
    if key in facts.REDUCTIONS or op in _STEPS:
        return _STEPS.get(op, 1) * (first.tensor.elements if first and op != "Resize" else results)
    if op == "LRN" and first:
        return first.tensor.elements * (int(node.integer("size", 1)) + 4)
    if op in _RECURRENT and first:
        weights = sum(v.tensor.elements for v in node.inputs[1:3] if v is not None)
        return 2 * first.dims[0] * first.dims[1] * weights
    return None


def bytes_read(value: Value) -> int:
    """Bytes of ``value`` that its users read: of a table that they only take from, no more than they take."""
    whole = value.tensor.elements * itemsize(value.dtype)
    takers = [user for user, slot in value.uses if isinstance(user, Node) and slot == 0 and user.is_op(*_TAKING)]
    if not takers or len(takers) < len(value.uses):
        return whole
    return min(whole, sum(t.output.tensor.elements for t in takers) * itemsize(value.dtype))
