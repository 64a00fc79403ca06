"""Biases become additions of their own, so that every epilogue is an elementwise chain.

Conv(x, w, b)                      ->  Add(Conv(x, w), b[C, 1, ...])
Gemm(a, b, c) {alpha, beta, trans} ->  Add(MatMul(a, alpha b), beta c)     b constant, or alpha = 1
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.ir import infer
from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.transform import Pass, PassResult


@dataclass(frozen=True)
class SplitBias(Pass):
    """Conv, ConvTranspose and Gemm without bias input; the sum follows as Add."""

    name: ClassVar[str] = "split-bias"

    def run(self, graph: Graph) -> PassResult:
        """Rewrite every node of ``graph`` and of its inner graphs."""
        counts: Counter[str] = Counter()
        for node in list(graph.walk()):
            if node.is_op("Conv", "ConvTranspose") and node.input(2) is not None:
                _split_conv(node)
                counts[node.op] += 1
            elif node.is_op("Gemm") and _split_gemm(node):
                counts["Gemm"] += 1
        return PassResult(counts)


def _split_conv(node: Node) -> None:
    graph = node.owner
    shape = (-1, *(1,) * (node.output.tensor.rank - 2))
    attrs: dict[str, Any] = node.attrs
    made = infer.add(graph, node.op, node.inputs[:2], node, name=node.name, **attrs)
    made.output.type = node.output.type
    total = infer.add(graph, "Add", [made.output, _reshaped(graph, node.operand(2), shape, node)], node)
    graph.replace(node, [total.output])


def _reshaped(graph: Graph, value: Value, shape: tuple[int, ...], before: Node) -> Value:
    if value.const is not None:
        return graph.constant(value.const.reshape(shape), value.name + "_bias", value.dtype)
    target = graph.constant(np.array(shape, np.int64), "shape")
    return infer.add(graph, "Reshape", [value, target], before).output


def _split_gemm(node: Node) -> bool:
    graph, attrs = node.owner, node.attrs
    a, b, c = node.operand(0), node.operand(1), node.input(2)
    alpha, beta = node.real("alpha", 1.0), node.real("beta", 1.0)
    if node.output.dtype not in ("float32", "float64") or (alpha != 1 and b.const is None):
        return False
    if attrs["transA"]:
        a = infer.add(graph, "Transpose", [a], node, perm=(1, 0)).output
    if b.const is not None:
        array: Any = b.const.T if attrs["transB"] else b.const
        if alpha != 1:
            array = (array.astype(np.float64) * alpha).astype(array.dtype)
        moved = graph.constant(np.ascontiguousarray(array), b.name, b.dtype)
        moved.facts.update(_moved_facts(b.facts, bool(attrs["transB"]), alpha))
        b = moved
    elif attrs["transB"]:
        b = infer.add(graph, "Transpose", [b], node, perm=(1, 0)).output
    result = infer.add(graph, "MatMul", [a, b], node, name=node.name).output
    if c is not None and beta != 0:
        if beta != 1:
            scale = graph.constant(np.array(beta, c.const.dtype if c.const is not None else np.float32), "beta")
            c = infer.add(graph, "Mul", [c, scale], node).output
        result = infer.add(graph, "Add", [result, c], node).output
    graph.replace(node, [result])
    return True


def _moved_facts(facts: dict[str, Any], transposed: bool, alpha: float) -> dict[str, Any]:
    kept = {}
    if "sparsity" in facts:
        kept["sparsity"] = facts["sparsity"].T if transposed else facts["sparsity"]
    palette = facts.get("palette")
    if isinstance(palette, np.ndarray) and alpha == 1:
        per_channel = palette.ndim > 1  # a codebook behind the axes of the weight
        kept["palette"] = palette.swapaxes(0, 1) if transposed and per_channel else palette
    return kept
