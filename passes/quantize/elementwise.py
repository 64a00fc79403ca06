"""Rules for what happens to quantized tensors between products: arithmetic, averages, softmax, clamps and lookup tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from onyxc.compiler.ir.facts import BROADCASTING, UNARY
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.integer import POOL, exponentials, limits
from onyxc.compiler.ir.reference import run_node
from onyxc.compiler.rewrite import Builder, rule
from onyxc.passes.quantize.parameters import Parameters, dequantized, own, quantizer

FUNCTIONS = (UNARY - {"Cast", "Identity", "IsInf", "IsNaN", "Not", "BitwiseNot"}) | (
    BROADCASTING & {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Clip", "PRelu", "Sum", "Mean"}
)


def inner(value: Value | None) -> Node | None:
    """The producer of a value that nothing else reads."""
    return value.producer if value is not None and value.only_user is not None else None


@dataclass(frozen=True, eq=False)
class End:
    """A QuantizeLinear seen from above: ``value`` is clamped to the codes [low, high] and quantized."""

    value: Value
    to: Parameters
    low: int
    high: int

    @property
    def result(self) -> dict[str, Any]:
        """What our operators say of what they return."""
        return {**self.to.attributes("y"), "dtype": self.to.dtype, "low": self.low, "high": self.high}

    def node(self, *ops: str) -> Node | None:
        """The producer of ``value``, if it is one of ``ops`` and nothing else reads its result."""
        node = inner(self.value)
        return node if node is not None and node.is_op(*ops) else None


def end(node: Node) -> End | None:
    """What a QuantizeLinear quantizes, behind Relu and Clip: it is monotone, so Q(Clip(x)) = Clip(Q(x))."""
    to, value = quantizer(node), node.inputs[0]
    if to is None or value is None:
        return None
    bounds: list[tuple[int, int]] = []
    while (clip := inner(value)) is not None and (found := _bounds(clip, to)) is not None:
        bounds.append(found)
        value = clip.operand()
    low, high = limits(to.dtype)
    for least, most in reversed(bounds):  # the innermost acts first
        low, high = (min(max(code, least), most) for code in (low, high))
    return End(value, to, low, high)


def _bounds(node: Node, to: Parameters) -> tuple[int, int] | None:
    """The codes between which a Relu or a Clip with constant bounds keeps its input."""
    least, most = limits(to.dtype)
    if node.is_op("Relu"):
        return to.code(0.0), most
    if not node.is_op("Clip") or any(v is not None and v.const is None for v in node.inputs[1:]):
        return None
    lower, upper = node.const(1), node.const(2)
    return least if lower is None else to.code(lower.item()), most if upper is None else to.code(upper.item())


def _operands(node: Node | None) -> list[tuple[Value, Parameters]]:
    """The inputs, if all are dequantized with one scale each."""
    found = [dequantized(v) for v in node.inputs] if node is not None else []
    operands = [f for f in found if f is not None and f[1].per_tensor]
    return operands if len(operands) == len(found) else []


@rule("QuantizeLinear")
def arithmetic(op: Builder, node: Node) -> Value | None:
    """Q(Add(DQ(a), DQ(b))) and Q(Mul(DQ(a), DQ(b)))."""
    found = end(node)
    last = found.node("Add", "Mul", "Sum") if found is not None else None
    operands = _operands(last)
    if found is None or last is None or len(operands) != 2:
        return None
    (a, pa), (b, pb) = operands
    name = "QMul" if last.op == "Mul" else "QAdd"
    return own(op, name, [a, b], **pa.attributes("a"), **pb.attributes("b"), **found.result)


@rule("QuantizeLinear")
def average_pool(op: Builder, node: Node) -> Value | None:
    """Q(AveragePool(DQ(x))); windows that ceil_mode adds stay float."""
    found = end(node)
    last = found.node("AveragePool") if found is not None else None
    operands = _operands(last)
    if found is None or last is None or not operands or last.attrs.get("ceil_mode"):
        return None
    ((x, px),) = operands
    pool: dict[str, Any] = {k: last.attrs[k] for k in POOL if k in last.attrs}
    return own(op, "QAveragePool", [x], **pool, **px.attributes("x"), **found.result)


@rule("QuantizeLinear")
def global_average_pool(op: Builder, node: Node) -> Value | None:
    """Q(GlobalAveragePool(DQ(x))), or an AveragePool whose one window is the whole map:
    clip(rint(f32(sum(x) - n * zx) * (sx / (sy * n))) + zy), as in mlas' qlgavgpool.cpp."""
    found = end(node)
    last = found.node("GlobalAveragePool", "AveragePool") if found is not None else None
    operands = _operands(last)
    if found is None or last is None or not operands or not operands[0][0].tensor.is_static:
        return None
    ((x, px),) = operands
    whole = last.attrs.get("kernel_shape") == x.dims[2:] and not any(last.integers("pads"))
    if last.op == "AveragePool" and not whole:
        return None
    n = prod(x.dims[2:])
    total = op.ReduceSum(op.Cast(x, to=6), op.constant(np.arange(2, x.tensor.rank), "axes"), keepdims=1)
    if px.zero_point:
        total = op.Add(total, op.constant(np.asarray(-n * px.zero_point, np.int32), "bias"))
    scale = op.constant(np.asarray(px.scale / np.float32(found.to.scale * np.float32(n)), np.float32), "scale")
    attrs = {k: v for k, v in found.result.items() if k != "y_scale"}
    return own(op, "Requantize", [total, scale], zero_point=attrs.pop("y_zero_point"), **attrs)


@rule("QuantizeLinear")
def softmax(op: Builder, node: Node) -> Value | None:
    """Q(Softmax(DQ(x))), of one type of codes; the sum of the exponentials is scaled by the static length of the axis."""
    found = end(node)
    last = found.node("Softmax") if found is not None else None
    operands = _operands(last)
    if found is None or last is None or not operands or (found.low, found.high) != limits(found.to.dtype):
        return None
    ((x, px),) = operands
    length = x.tensor.shape[last.integer("axis", -1)] if x.tensor.shape else None
    if px.dtype != found.to.dtype or not isinstance(length, int) or length < 1:
        return None
    table = op.constant(exponentials(px.scale.item(), length), "exponentials")
    return own(op, "QSoftmax", [x, table], axis=last.integer("axis", -1), **px.attributes("x"), **found.result)


@rule("QuantizeLinear")
def clamp(op: Builder, node: Node) -> Value | None:
    """Q(Clip(DQ(x))): nothing, Clip or Rescale on the codes."""
    found = end(node)
    source = dequantized(found.value) if found is not None else None
    if found is None or source is None or not source[1].per_tensor:
        return None
    x, px = source
    if not px.same(found.to):
        return own(op, "Rescale", [x], **px.attributes("x"), **found.result)
    bounds = found.low, found.high
    if bounds == limits(found.to.dtype):
        return x
    return op.Clip(x, *(op.constant(np.asarray(bound, found.to.dtype), "bound") for bound in bounds))


# ---- any function of one tensor, element by element


@rule("QuantizeLinear")
def lookup(op: Builder, node: Node) -> Value | None:
    """Q(f(DQ(x))): all 256 results, computed in float32 now."""
    to = quantizer(node)
    inside: set[Node] = set()
    source = _source(node.inputs[0], inside) if to is not None else None
    found = dequantized(source)
    if to is None or source is None or found is None or not inside or not found[1].per_tensor:
        return None
    if any(user is not node and user not in inside for n in inside for user, _ in n.output.uses):
        return None
    x, px = found
    if x.tensor.shape != node.output.tensor.shape:
        return None
    codes = np.arange(256, dtype=np.uint8).view(px.dtype)
    real = np.asarray((codes.astype(np.float32) - np.float32(px.zero_point)) * px.scale)
    table = _compute(node, op.graph, inside, source, real)
    return own(op, "Lookup", [x, op.constant(table, "table")])


def _source(value: Value | None, inside: set[Node]) -> Value | None:
    """The one dequantized tensor of which ``value`` is a function; the nodes in between go into ``inside``."""
    node = value.producer if value is not None else None
    if node is None or node.is_op("DequantizeLinear"):
        return value
    if not node.is_op(*FUNCTIONS) or len(node.outputs) != 1:
        return None
    inside.add(node)
    others = [v for v in node.inputs if v is not None and not (v.const is not None and v.const.size == 1)]
    sources = {_source(v, inside) for v in others}
    return sources.pop() if len(sources) == 1 else None


def _compute(last: Node, graph: Graph, inside: set[Node], source: Value, real: Array) -> Array:
    """The codes that ``last`` makes of the numbers ``real`` of ``source``."""
    known: dict[Value, Array] = {source: real}
    for node in [*(n for n in graph if n in inside), last]:
        arrays = [v if v is None or v in known else v.const for v in node.inputs]
        arrays = [known[v] if isinstance(v, Value) else v if v is None else v.reshape(()) for v in arrays]
        (known[node.output],) = run_node(node, arrays, graph.root().opset)
    return np.asarray(known[last.output])
