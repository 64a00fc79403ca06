"""What is known at compile time is computed at compile time.

    %0 = Add(@a, @b)       ->   @c            the value that onnx.reference computes
    %1 = Shape(%x)         ->   @s            where the shape of %x is static
    %2 = If(@true) {...}        is left to inline-if

One walk from inputs to outputs also infers every type again, so shapes that a folded constant settles are known
downstream. Refused: operators that draw random numbers; results of more than ``max_bytes`` that are larger than what
they were computed from; QuantizeLinear and DequantizeLinear of constants unless ``quantized`` (quantization passes look
for them); operators that onnx.reference cannot run.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from onyxc.compiler.errors import ModelError, UnsupportedError
from onyxc.compiler.ir import facts, infer, proto, schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import SequenceType, TensorType, Type, numpy_dtype
from onyxc.compiler.transform import Pass, PassResult

MOVES = frozenset(("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather"))
QUANTIZED = frozenset(("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"))


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Computes nodes whose inputs are constants, and shapes that are static."""

    max_bytes: int = 1 << 20
    quantized: bool = False

    name: ClassVar[str] = "fold-constants"

    def run(self, graph: Graph) -> PassResult:
        """One forward walk, inner graphs included."""
        counts, refused = Counter[str](), Counter[str]()
        self._walk(graph, graph.root().opset, counts, refused)
        return PassResult(dict(counts), dict(refused))

    def _walk(self, graph: Graph, opset: int, counts: Counter[str], refused: Counter[str]) -> None:
        for node in graph:
            if node.subgraphs():
                for inner in node.subgraphs():
                    self._walk(inner, opset, counts, refused)
                _refine_from_branches(node)
                continue
            refine(node, opset)
            values = self._values(node, opset, refused)
            if values is not None:
                made = [graph.constant(v, o.name, _dtype(o.type)) for v, o in zip(values, node.outputs, strict=True)]
                _keep_facts(node, made)
                graph.replace(node, made)
                counts[node.op] += 1

    def _values(self, node: Node, opset: int, refused: Counter[str]) -> list[Array] | None:
        """The results of a node that can be computed now."""
        if node.domain or node.op in facts.NONDETERMINISTIC or not node.outputs:
            return None
        size = static_size(node)
        if size is not None:
            return [size]
        if not node.inputs or any(v is not None and v.const is None for v in node.inputs):
            return None
        if node.op in QUANTIZED and not self.quantized:
            return None
        if not all(isinstance(v.type, TensorType) for v in node.outputs):
            return None
        if self._grows(node):
            refused[f"{node.op}: the result is larger than max-bytes"] += 1
            return None
        values = evaluate(node, opset)
        if values is None:
            refused[f"{node.op}: onnx.reference cannot compute it"] += 1
        return values

    def _grows(self, node: Node) -> bool:
        before = sum(v.const.nbytes for v in node.inputs if v is not None and v.const is not None)
        if node.op == "Range":  # also with limits of one element, which leave its type open
            start, limit, step = (float(v.const.ravel()[0]) for v in node.inputs if v is not None and v.const is not None)
            return step == 0 or (limit - start) / step * before / 3 > self.max_bytes
        if not all(v.tensor.is_static for v in node.outputs):
            return node.op in ("Expand", "Tile", "ConstantOfShape")
        after = sum(v.tensor.nbytes for v in node.outputs)
        return after > self.max_bytes and after > before


def refine(node: Node, opset: int) -> bool:
    """Infer the node's types again; whether they became more precise.

    Types stay where the operator is unknown, and where the node does not fit: that may be in a branch never taken.
    """
    if node.domain not in ("", schema.DOMAIN) or not node.outputs:
        return False
    try:
        return infer.refine(node, opset)
    except (ModelError, UnsupportedError):
        return False


def static_size(node: Node) -> Array | None:
    """The result of Shape or Size of a value with a static shape."""
    value = node.input(0)
    if not node.is_op("Shape", "Size") or value is None or not isinstance(value.type, TensorType):
        return None
    if node.op == "Size":
        return np.array(value.tensor.elements, np.int64) if value.type.is_static else None
    if value.type.shape is None:
        return None
    dims = value.type.shape[node.integer("start") : node.integer("end") if "end" in node.attrs else None]
    return np.array(dims, np.int64) if all(isinstance(d, int) for d in dims) else None


def evaluate(node: Node, opset: int) -> list[Array] | None:
    """The outputs of a node with constant inputs by onnx.reference; None when it cannot, or errs about a type."""
    from onnx.reference import ReferenceEvaluator

    made = proto.node_to_proto(node, schema.find(node.op, opset, node.domain))
    feeds = {v.name: v.const for v in node.inputs if v is not None and v.const is not None}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(made, opsets={node.domain: opset}).run(None, feeds)
    except Exception:  # the evaluator raises whatever numpy does; not folding is always right
        return None
    values = [_as_declared(r, v.type) for r, v in zip(results, node.outputs, strict=True)]
    return None if any(v is None for v in values) else [v for v in values if v is not None]


def _as_declared(result: Any, type: Type) -> Array | None:
    if isinstance(result, list) or not isinstance(type, TensorType):
        return None
    array = np.asarray(result)
    if type.dtype == "string":
        return array.astype(object)
    if array.dtype != numpy_dtype(type.dtype):
        return None
    known = type.shape
    fits = known is None or (
        len(known) == array.ndim and all(d == n for d, n in zip(known, array.shape, strict=True) if isinstance(d, int))
    )
    return array if fits else None


def _keep_facts(node: Node, made: Sequence[Value]) -> None:
    """What only moves elements keeps zeros zero, and the palette of a whole tensor."""
    source = node.input(0)
    if source is None or not source.facts or facts.key(node) not in MOVES:
        return
    for value in made:
        if "sparsity" in source.facts:
            value.facts["sparsity"] = value.array != 0
        palette = source.facts.get("palette")
        if isinstance(palette, np.ndarray) and palette.ndim == 1:  # codebooks of channels would have to move, too
            value.facts["palette"] = palette


def _dtype(type: Type) -> str | None:
    return "string" if isinstance(type, TensorType) and type.dtype == "string" else None


def _refine_from_branches(node: Node) -> None:
    """An If's results have the types on which its branches agree."""
    if not node.is_op("If"):
        return
    first, *others = node.subgraphs()
    for index, value in enumerate(node.outputs):
        found = first.outputs[index].type
        if isinstance(found, SequenceType) or any(g.outputs[index].type != found for g in others):
            continue
        value.type = infer.merge(value.type, found)
