"""What onnx's own checker and shape inference let pass: element types and sizes that contradict each other."""

from __future__ import annotations

from math import prod

from onyxc.compiler.errors import ModelError
from onyxc.compiler.ir import infer, schema
from onyxc.compiler.ir.graph import Node, Value
from onyxc.compiler.ir.types import Dim, TensorType, Type

# The spelling of element types in onnx.defs where it is not numpy's
_SPELLING = {
    "float32": "float", "float64": "double", "float4_e2m1fn": "float4e2m1", "float8_e8m0fnu": "float8e8m0",
    **{f"float8_{kind}": f"float8{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz")},
}  # fmt: skip


def check_node(node: Node, opset: int) -> None:
    """Check a node's inputs against its schema, and against each other.

    Raises:
        ModelError: they clash.
    """
    _check_types(node, opset)
    _check_channels(node)
    _check_reshape(node)
    _check_branches(node)
    if node.graph is not None and node.graph.parent is None:  # a branch may never be taken
        check_sizes(node)


def check_sizes(node: Node) -> None:
    """No dimension of a result is negative.

    Raises:
        ModelError: a window or a slice is larger than the input.
    """
    for value in node.outputs:
        if any(isinstance(d, int) and d < 0 for d in _shape(value) or ()):
            raise ModelError(
                f"{node.label()}: {value.name!r} would be {value.type}, a window or slice is larger than the input"
            )


def check_output(value: Value, declared: Type, opset: int) -> None:
    """An output of a graph has the element type that its node gives.

    Raises:
        ModelError: it has another one.
    """
    node = value.producer
    if node is None or node.subgraphs() or schema.find(node.op, opset, node.domain) is None:
        return
    made = infer.output_types(node, opset)[node.outputs.index(value)]
    if isinstance(made, TensorType) and isinstance(declared, TensorType) and made.dtype != declared.dtype:
        raise ModelError(f"{node.label()} gives {made}, but the output {value.name!r} is declared as {declared}")


def _check_types(node: Node, opset: int) -> None:
    """Every input has a type that the operator takes; inputs of one type variable agree."""
    found = schema.find(node.op, opset, node.domain)
    if found is None or not found.inputs:
        return
    bound: dict[str, tuple[str, Value]] = {}
    for index, value in enumerate(node.inputs):
        if value is None or not isinstance(value.type, TensorType) or value.type.shape is None:
            continue
        formal = found.inputs[min(index, len(found.inputs) - 1)]
        dtype = f"tensor({_SPELLING.get(value.dtype, value.dtype)})"
        if not any(t.startswith("tensor(") for t in formal.types):
            continue
        if dtype not in formal.types:
            allowed = ", ".join(sorted(t[7:-1] for t in formal.types if t.startswith("tensor(")))
            raise ModelError(f"{node.label()}: input {value.name!r} is {value.type}, the operator takes {allowed}")
        first, other = bound.setdefault(formal.type_str, (value.dtype, value))
        if first != value.dtype and formal.is_homogeneous:
            raise ModelError(f"{node.label()}: {other!r} and {value!r} must have the same element type")


def _check_channels(node: Node) -> None:
    """Weights fit the channels of what they weigh."""
    x = _shape(node.input(0))
    if x is None or len(x) < 2 or not isinstance(x[1], int) or node.domain:
        return
    if node.is_op("Conv", "ConvInteger", "QLinearConv", "ConvTranspose"):
        weight = _shape(node.input(3 if node.op == "QLinearConv" else 1))
        if weight is None or len(weight) < 2:
            return
        wanted = weight[0] if node.op == "ConvTranspose" else weight[1]
        groups = 1 if node.op == "ConvTranspose" else node.integer("group", 1)
        if isinstance(wanted, int) and wanted * groups != x[1]:
            raise ModelError(f"{node.label()}: the weight {list(weight)} needs {wanted * groups} channels, not {x[1]}")
    if node.is_op("BatchNormalization", "InstanceNormalization"):
        for value in node.inputs[1:]:
            if _shape(value) not in (None, (x[1],)) and _numbers(_shape(value)):
                raise ModelError(f"{node.label()}: {value!r} does not fit {x[1]} channels")


def _check_reshape(node: Node) -> None:
    """A Reshape keeps the number of elements."""
    target, x, result = node.const(1), _shape(node.input(0)), _shape(node.output if node.outputs else None)
    if not node.is_op("Reshape") or target is None or not _numbers(x) or not _numbers(result):
        return
    if prod(d for d in x or () if isinstance(d, int)) != prod(d for d in result or () if isinstance(d, int)):
        raise ModelError(f"{node.label()}: {list(x or ())} cannot become {list(result or ())}")


def _check_branches(node: Node) -> None:
    """The branches of an If give the same types."""
    if not node.is_op("If"):
        return
    for results in zip(*(g.outputs for g in node.subgraphs()), strict=False):
        if len({v.type.dtype for v in results if isinstance(v.type, TensorType)}) > 1:
            types = " or ".join(str(v.type) for v in results)
            raise ModelError(f"{node.label()}: its branches give different types, {types}")


def _shape(value: Value | None) -> tuple[Dim, ...] | None:
    return value.type.shape if value is not None and isinstance(value.type, TensorType) else None


def _numbers(shape: tuple[Dim, ...] | None) -> bool:
    return shape is not None and all(isinstance(d, int) for d in shape)
