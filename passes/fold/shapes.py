"""Shape arithmetic where only some dimensions are known.

    Gather(Shape(%x: [N, 3, 8]), @1)                             ->   @3
    Reshape(%x: [N, 3, 8], Concat(Gather(Shape(%x), @0), @24))    ->   Reshape(%x, @[0, 24])
    Expand(%x: [N, 1], Concat(Gather(Shape(%x), @0), @7))         ->   Expand(%x, @[1, 7])

One forward walk follows integer vectors element by element: an element is a number, a dimension's symbol, or unknown.
Refused: targets in which more than one element would have to be inferred.
"""

from __future__ import annotations

import operator
from collections import ChainMap, Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from onyxc.compiler.errors import ModelError, UnsupportedError
from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Array, Graph, Node, Value
from onyxc.compiler.ir.types import Dim, TensorType, is_integer, numpy_dtype
from onyxc.compiler.transform import Pass, PassResult

UNKNOWN = "?"
LIMIT = 64  # elements of vectors that are followed
Known = ChainMap[Value, tuple[Dim, ...]]


@dataclass(frozen=True)
class FoldShapes(Pass):
    """Computes shapes of which some dimensions are symbols."""

    name: ClassVar[str] = "fold-shapes"

    def run(self, graph: Graph) -> PassResult:
        """One forward walk; types are inferred again behind every change."""
        counts: Counter[str] = Counter()
        _walk(graph, ChainMap(), counts, graph.root().opset)
        return PassResult(dict(counts))


def _walk(graph: Graph, known: Known, counts: Counter[str], opset: int) -> None:
    for node in graph:
        for inner in node.subgraphs():
            _walk(inner, known.new_child(), counts, opset)
        if node.subgraphs() or node.domain not in ("", schema.DOMAIN) or not node.outputs:
            continue
        try:
            infer.refine(node, opset)
        except (ModelError, UnsupportedError):
            continue
        if node.op in _TARGETS and _TARGETS[node.op](node, known):
            counts[node.op.lower()] += 1
            infer.refine(node, opset)
        elements = _follow(node, known)
        if elements is None:
            continue
        known[node.output] = elements
        if all(isinstance(e, int) for e in elements):
            shape = node.output.tensor.shape or ()
            array = np.array(elements, numpy_dtype(node.output.dtype)).reshape((len(elements),) if shape else ())
            graph.replace(node, [graph.constant(array, node.output.name)])
            counts["constants"] += 1


def _elements(value: Value | None, known: Known) -> tuple[Dim, ...] | None:
    """What is known of an integer (or bool) scalar or vector."""
    if value is None or value in known:
        return None if value is None else known[value]
    if value.const is None or value.const.ndim > 1 or value.const.size > LIMIT:
        return None
    if not (is_integer(value.dtype) or value.dtype == "bool"):
        return None
    return tuple(int(v) for v in value.const.ravel())


def _follow(node: Node, known: Known) -> tuple[Dim, ...] | None:
    """The elements of a node's result."""
    type = node.output.type
    if not isinstance(type, TensorType) or type.shape is None or len(type.shape) > 1:
        return None
    if not (is_integer(type.dtype) or type.dtype == "bool") or len(node.outputs) != 1:
        return None
    if node.is_op("Shape"):
        return _shape(node)
    given = [_elements(v, known) for v in node.inputs]
    rule = _RULES.get(node.op)
    made = None if rule is None else rule(node, given)
    return made if made is not None and len(made) <= LIMIT and any(e != UNKNOWN for e in made) else None


def _shape(node: Node) -> tuple[Dim, ...] | None:
    value = node.inputs[0]
    if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
        return None
    end = node.integer("end") if "end" in node.attrs else None
    return value.type.shape[node.integer("start") : end]


# ---- how elements move

Given = Sequence[tuple[Dim, ...] | None]
Movement = Callable[[Node, Given], tuple[Dim, ...] | None]


def _copy(node: Node, given: Given) -> tuple[Dim, ...] | None:
    return given[0]


def _gather(node: Node, given: Given) -> tuple[Dim, ...] | None:
    data, index = given
    if data is None or index is None or not all(isinstance(i, int) and -len(data) <= i < len(data) for i in index):
        return None
    return tuple(data[i] for i in index if isinstance(i, int))


def _slice(node: Node, given: Given) -> tuple[Dim, ...] | None:
    numbers = [g[0] for g in given[1:] if g is not None and len(g) == 1 and isinstance(g[0], int)]
    if given[0] is None or len(numbers) != len(given) - 1:
        return None
    start, end, _, step = [*numbers, *(0, 1)[len(numbers) - 2 :]]
    return given[0][start:end:step] if step > 0 else None


def _concat(node: Node, given: Given) -> tuple[Dim, ...] | None:
    widths = [v.tensor.shape for v in node.inputs if v is not None]
    made: list[Dim] = []
    for elements, shape in zip(given, widths, strict=True):
        if elements is None:
            if shape is None or not isinstance(shape[0], int) or shape[0] > LIMIT:
                return None
            elements = (UNKNOWN,) * shape[0]
        made += elements
    return tuple(made)


def _product(node: Node, given: Given) -> tuple[Dim, ...] | None:
    if given[0] is None or (len(given) > 1 and given[1] not in ((0,), (-1,))):
        return None
    numbers = [e for e in given[0] if isinstance(e, int)]
    return (prod(numbers),) if len(numbers) == len(given[0]) else None


def _fill(node: Node, given: Given) -> tuple[Dim, ...] | None:
    value = node.attrs.get("value")
    if given[0] is None or len(given[0]) != 1 or not isinstance(given[0][0], int) or given[0][0] > LIMIT:
        return None
    return (int(value.ravel()[0]) if isinstance(value, np.ndarray) else 0,) * given[0][0]


def _arithmetic(function: Callable[[int, int], int], neutral: int | None = None) -> Movement:
    """Element by element; a symbol stays itself next to a neutral number."""

    def one(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return function(a, b)
        return a if b == neutral and neutral is not None else UNKNOWN

    def both(node: Node, given: Given) -> tuple[Dim, ...] | None:
        if len(given) != 2 or given[0] is None or given[1] is None:
            return None
        length = max(len(given[0]), len(given[1]))
        a, b = (g * length if len(g) == 1 else g for g in given if g is not None)
        swap = node.op in ("Add", "Mul")
        return tuple(one(y, x) if swap and isinstance(x, int) else one(x, y) for x, y in zip(a, b, strict=True))

    return both


def _divide(a: int, b: int) -> int:
    """ONNX integer division rounds towards zero; a division by zero is left to the run."""
    return int(a / b) if b else 0


def _equal(node: Node, given: Given) -> tuple[Dim, ...] | None:
    if given[0] is None or given[1] is None:
        return None
    length = max(len(given[0]), len(given[1]))
    a, b = (g * length if len(g) == 1 else g for g in given if g is not None)

    def one(x: Dim, y: Dim) -> Dim:
        if isinstance(x, int) and isinstance(y, int):
            return int(x == y)
        number = x if isinstance(x, int) else y
        return 0 if isinstance(number, int) and number < 0 and UNKNOWN not in (x, y) else UNKNOWN

    return tuple(one(x, y) for x, y in zip(a, b, strict=True))


def _where(node: Node, given: Given) -> tuple[Dim, ...] | None:
    if any(g is None for g in given):
        return None
    length = max(len(g) for g in given if g is not None)
    choice, a, b = (g * length if len(g) == 1 else g for g in given if g is not None)
    return tuple(UNKNOWN if c == UNKNOWN else (x if c else y) for c, x, y in zip(choice, a, b, strict=True))


_RULES: dict[str, Movement] = {
    "Identity": _copy, "Cast": _copy, "Squeeze": _copy, "Unsqueeze": _copy, "Reshape": _copy,
    "Gather": _gather, "Slice": _slice, "Concat": _concat, "ReduceProd": _product, "ConstantOfShape": _fill,
    "Add": _arithmetic(operator.add, 0), "Sub": _arithmetic(operator.sub, 0), "Mul": _arithmetic(operator.mul, 1),
    "Div": _arithmetic(_divide, 1), "Max": _arithmetic(max), "Min": _arithmetic(min), "Equal": _equal, "Where": _where,
}  # fmt: skip


# ---- targets


def _fix_reshape(node: Node, known: Known) -> bool:
    """Give a Reshape a constant target; whether it did."""
    value, shape = node.inputs[0], node.input(1)
    elements = _elements(shape, known)
    if value is None or shape is None or shape.const is not None or elements is None or node.attrs.get("allowzero"):
        return False
    before = value.tensor.shape or ()
    target: list[Dim] = []
    for index, element in enumerate(elements):
        copied = not isinstance(element, int) and element != UNKNOWN and before[index : index + 1] == (element,)
        target.append(0 if copied else element)
    unknown = [i for i, e in enumerate(target) if not isinstance(e, int) or e == -1]
    if len(unknown) > 1:
        return False
    numbers = [e if isinstance(e, int) else -1 for e in target]
    _set(node, np.array(numbers, np.int64))
    node.output.type = TensorType(value.dtype, tuple(_dim(e, UNKNOWN) for e in elements))
    return True


def _fix_expand(node: Node, known: Known) -> bool:
    """Give an Expand a constant target: 1 where the dimension is there already; whether it did."""
    value, shape = node.inputs[0], node.input(1)
    elements = _elements(shape, known)
    if value is None or shape is None or shape.const is not None or elements is None or value.tensor.shape is None:
        return False
    before = value.tensor.shape
    aligned = [*[None] * (len(elements) - len(before)), *before][-len(elements) :] if elements else []
    target = [1 if e != UNKNOWN and e == d else e for e, d in zip(elements, aligned, strict=True)]
    if not all(isinstance(e, int) for e in target):
        return False
    _set(node, np.array(target, np.int64))
    result = node.output.tensor.shape
    if result is not None and len(result) == len(elements):
        node.output.type = TensorType(value.dtype, tuple(map(_dim, elements, result)))
    return True


def _dim(element: Dim, otherwise: Dim) -> Dim:
    """The dimension that a target element stands for."""
    return otherwise if element in (UNKNOWN, -1, 0, 1) else element


def _set(node: Node, target: Array) -> None:
    node.owner.set_input(node, 1, node.owner.constant(target, "shape"))


_TARGETS = {"Reshape": _fix_reshape, "Expand": _fix_expand}
