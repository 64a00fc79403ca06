"""Numbers that describe a graph: what `onyxc inspect` shows and what passes report before and after."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any
from weakref import ref

import numpy as np

from onyxc.compiler.ir.graph import Array, Graph, Node
from onyxc.compiler.ir.types import TensorType, is_float


@dataclass(frozen=True)
class Statistics:
    """``nodes``: with inner graphs and fused bodies; ``parameters``: elements of float constants and of integer
    constants of rank 2 and more; ``zeros``: how many of them are zero; ``bytes``: of all constants;
    ``flops``: multiplications and additions of convolutions and matrix products."""

    nodes: int
    parameters: int
    zeros: int
    bytes: int
    flops: int

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


@dataclass
class Zeros:
    """Counts the zeros of arrays, which do not change, once each: of large weights it takes as long as a pass."""

    known: dict[int, tuple[ref[Array], int]] = field(default_factory=dict)

    def count(self, array: Array) -> int:
        """How many elements are zero."""
        seen = self.known.get(id(array))
        if seen is not None and seen[0]() is array:  # else the id is that of an array that is gone
            return seen[1]
        found = array.size - int(np.count_nonzero(array))
        self.known[id(array)] = (ref(array), found)
        return found


def measure(graph: Graph, counter: Zeros | None = None) -> Statistics:
    """Statistics of a graph and everything inside it; ``counter``: kept between measures of the same weights."""
    counter = counter or Zeros()
    nodes = parameters = zeros = size = flops = 0
    seen: set[int] = set()
    for node in graph.walk():
        nodes += 1
        flops += node_flops(node)
        for value in node.inputs:
            if value is None or value.const is None or id(value.const) in seen:
                continue
            seen.add(id(value.const))
            array = value.const
            size += array.nbytes
            if array.dtype != object and (is_float(value.dtype) or array.ndim >= 2):
                parameters += array.size
                zeros += counter.count(array)
    return Statistics(nodes, parameters, zeros, size, flops)


def operators(graph: Graph) -> Counter[str]:
    """How often each operator occurs, inner graphs included."""
    return Counter(f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.walk())


def node_flops(node: Node) -> int:
    """Two for each multiply-add of a convolution or matrix product with static shapes, else 0."""
    product = _PRODUCTS.get(node.op)
    if product is None or not node.outputs:
        return 0
    types: list[Any] = [node.output.type, *(v.type for v in node.inputs if v is not None)]
    if not all(isinstance(t, TensorType) and t.is_static for t in types):
        return 0
    return 2 * product(node)


def _conv(node: Node, weight: int = 1) -> int:
    return node.output.tensor.elements * prod(node.operand(weight).dims[1:])


def _conv_transpose(node: Node) -> int:
    return node.operand(0).tensor.elements * prod(node.operand(1).dims[1:])


def _matmul(node: Node) -> int:
    a = node.operand(0)
    inner = a.dims[0] if node.attrs.get("transA") else a.dims[-1] if a.dims else 1
    return node.output.tensor.elements * inner


_PRODUCTS = {
    "Conv": _conv,
    "ConvInteger": _conv,
    "QLinearConv": lambda n: _conv(n, 3),
    "ConvTranspose": _conv_transpose,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _matmul,
}
