"""Fake quantization becomes integer computation.

    Q(Relu(Conv(DQ(x), DQ(w), DQ(b))))  ->  Requantize(Add(ConvInteger(x, w, zx, zw), b)) {low = zero point}
    Q(Add(DQ(a), DQ(b)))                ->  QAdd(a, b)                  also Mul, and a Relu or Clip in between
    Q(AveragePool(DQ(x)))               ->  QAveragePool(x)
    Q(GlobalAveragePool(DQ(x)))         ->  Requantize(Add(ReduceSum(Cast(x)), -n * zx))
    Q(Softmax(DQ(x)))                   ->  QSoftmax(x, exponentials)
    Q(Sigmoid(DQ(x)))                   ->  Lookup(x, table)            any function of one tensor, element by element
    Move(DQ(x)), Q(Move(x))             ->  DQ(Move(x)), Move(Q(x))     Reshape, MaxPool, Pad, Slice, Concat, ...
    Q(Clip(DQ(x)))                      ->  x, Clip(x) or Rescale(x)
    Conv(DQ(x), DQ(w))                  ->  Mul(Cast(ConvInteger(x, w)), sx * sw)      where nothing quantizes it
    Relu(DQ(w)), w constant             ->  Relu(w')                    weights that meet float activations

The integers are those of onnxruntime's optimized kernels (`compiler.ir.integer` has the formulas). With ``literal``
Add, Mul, averages and Softmax stay float, which rounds as the ONNX text does. Scales must be constant, float32 and, for
activations, one per tensor; codes are uint8 or int8. What does not fit stays float, which is correct as it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onyxc.compiler.ir.graph import Graph, Node, Value
from onyxc.compiler.ir.reference import run_node
from onyxc.compiler.rewrite import Builder, apply_rules, rule
from onyxc.compiler.transform import Pass, PassResult
from onyxc.passes.quantize import elementwise, movement, products


@dataclass(frozen=True)
class FoldFakeQuant(Pass):
    """QuantizeLinear and DequantizeLinear around float operators become integer operators."""

    literal: bool = False

    name: ClassVar[str] = "fold-fake-quant"

    def run(self, graph: Graph) -> PassResult:
        """Movement first, then what ends in a QuantizeLinear, then the rest; inner graphs included."""
        counts, refused = Counter[str](), Counter[str]()
        first = [constant_scale, *movement.RULES, quantize_constant]
        averages = [elementwise.global_average_pool, elementwise.average_pool]
        inexact = [elementwise.arithmetic, *averages, elementwise.softmax]
        second = [product, *(() if self.literal else inexact), elementwise.clamp, elementwise.lookup]
        for rules in ([*first, *second], [product_to_real], [dequantize_constant]):
            result = apply_rules(graph, rules)
            counts.update(result.counts)
            refused.update(result.refused)
        erase_dead(graph)
        return PassResult(dict(counts), dict(refused))


def erase_dead(graph: Graph) -> None:
    """Erase the nodes that nothing reads."""
    for node in reversed(graph):
        for inner in node.subgraphs():
            erase_dead(inner)
        if not any(v.uses for v in node.outputs):
            graph.erase(node)


@rule("QuantizeLinear")
def quantize_constant(op: Builder, node: Node) -> Value | None:
    """Weights that the model quantizes itself are quantized now."""
    return _computed(op, node)


@rule("DequantizeLinear")
def dequantize_constant(op: Builder, node: Node) -> Value | None:
    """Constants that only float operators read."""
    return _computed(op, node)


@rule("Mul")
def constant_scale(op: Builder, node: Node) -> Value | None:
    """The scale of a bias, where it is written as the product of two scales."""
    wanted = all(u.is_op("DequantizeLinear") and u.inputs[1] is node.output for u in node.output.users)
    return _computed(op, node) if wanted and node.output.dtype == "float32" else None


def _computed(op: Builder, node: Node) -> Value | None:
    arrays = [None if v is None else v.const for v in node.inputs]
    if any(v is not None and v.const is None for v in node.inputs):
        return None
    (array,) = run_node(node, arrays, op.graph.root().opset)
    source = node.operand()
    value = op.constant(np.asarray(array).astype(node.output.dtype), source.name)
    mask = source.facts.get("sparsity")
    zero = node.const(2)
    if mask is not None and mask.shape == value.dims and (zero is None or not np.any(zero)):
        value.facts["sparsity"] = mask
    return value


@rule("QuantizeLinear")
def product(op: Builder, node: Node) -> Value | None:
    """Conv, Gemm, MatMul, with a bias and a Relu or Clip, up to a QuantizeLinear."""
    found = elementwise.end(node)
    last = found.node("Conv", "Gemm", "MatMul", "Add") if found is not None else None
    if found is None or last is None:
        return None
    bias = None
    if last.op == "Add":
        for value, other in (last.inputs, last.inputs[::-1]):
            source = elementwise.inner(value)
            if source is not None and source.is_op("MatMul"):
                last, bias = source, other
                break
    total = products.integer_sum(op, last)
    if total is None:
        return None
    done = products.add_bias(op, total, bias if bias is not None else total.bias, rounded=bias is None)
    return None if done is None else products.requantize(op, done, found.to, found.low, found.high)


@rule("Conv", "Gemm", "MatMul")
def product_to_real(op: Builder, node: Node) -> Value | None:
    """A product of quantized tensors whose result stays float."""
    found = products.integer_sum(op, node)
    if found is None:
        return None
    done = products.add_bias(op, found, found.bias, rounded=False)
    return products.to_real(op, done or found)
