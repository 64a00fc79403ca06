"""The registry: what an operator computes, as TE expressions or imperative code, for every processor.

Three kinds of entry:

    @elementwise("Relu")       fn(node, *x) -> expression; x are scalar *or vector* tirx expressions of the inputs'
                               dtypes, already broadcast. The same function serves TE groups and the epilogues
                               of kernel templates, so it writes constants as ``const(value, x.dtype)``.
    @lowers("Softmax")         fn(node, inputs) -> list[te.Tensor], one for each output; None = input left out
    @imperative("TopK")        fn(node) -> Imperative; alone in its kernel, never fused

``node`` gives attributes, static types and constant inputs (axes, sizes): `parameter` reads those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import te, tirx

from onyxc.backends.kernels.imperative import Imperative
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Array, Node
from onyxc.compiler.ir.types import TensorType

Elementwise = Callable[..., Any]
Lowering = Callable[[Node, "list[te.Tensor | None]"], "list[te.Tensor]"]
Key = tuple[str, str]  # domain, operator

ELEMENTWISE: dict[Key, Elementwise] = {}
LOWERINGS: dict[Key, Lowering] = {}
IMPERATIVE: dict[Key, Callable[[Node], Imperative]] = {}

# Sub-byte integers take a byte each at run time; float8 and smaller floats are kept as their bits.
STORAGE: dict[str, str] = {
    "int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8",
    "float8_e4m3fn": "uint8", "float8_e4m3fnuz": "uint8", "float8_e5m2": "uint8", "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8", "float4_e2m1fn": "uint8",
}  # fmt: skip


def storage(dtype: str) -> str:
    """The dtype in which tensors of ``dtype`` are held by TE tensors and buffers."""
    return STORAGE.get(dtype, dtype)


def elementwise(*ops: str, domain: str = "") -> Callable[[Elementwise], Elementwise]:
    """Register an expression rule for operators that work element by element."""

    def register(rule: Elementwise) -> Elementwise:
        ELEMENTWISE.update({(domain, op): rule for op in ops})
        return rule

    return register


def lowers(*ops: str, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Register a TE rule."""

    def register(rule: Lowering) -> Lowering:
        LOWERINGS.update({(domain, op): rule for op in ops})
        return rule

    return register


def imperative(*ops: str, domain: str = "") -> Callable[[Callable[[Node], Imperative]], Callable[[Node], Imperative]]:
    """Register a rule that makes imperative code."""

    def register(rule: Callable[[Node], Imperative]) -> Callable[[Node], Imperative]:
        IMPERATIVE.update({(domain, op): rule for op in ops})
        return rule

    return register


def lower(node: Node, inputs: Sequence[te.Tensor | None]) -> list[te.Tensor]:
    """The TE tensors of a node's outputs.

    Raises:
        UnsupportedError: no TE rule is registered for the operator.
    """
    key = (node.domain, node.op)
    if key in ELEMENTWISE:
        return [broadcast(node, [x for x in inputs if x is not None], ELEMENTWISE[key])]
    if key not in LOWERINGS:
        raise UnsupportedError(f"{node.label()}: no lowering for this operator")
    return LOWERINGS[key](node, list(inputs))


def broadcast(node: Node, inputs: Sequence[te.Tensor], rule: Elementwise) -> te.Tensor:
    """``rule`` over the inputs, broadcast to the node's output shape (ONNX multidirectional broadcasting)."""
    shape = node.output.dims

    def element(*index: Any) -> Any:
        return rule(node, *(x[aligned(index, x.shape)].asobject() for x in inputs))

    return te.compute(shape, element, name=node.op.lower())


def aligned(index: Sequence[Any], shape: Sequence[Any]) -> tuple[Any, ...]:
    """The index into a tensor of ``shape`` that broadcasts, right-aligned, against ``index``."""
    tail = index[len(index) - len(shape) :]
    return tuple(0 if int(d) == 1 else i for i, d in zip(tail, shape, strict=True))


def const(value: float | int, dtype: str) -> Any:
    """A constant of scalar or vector ``dtype``."""
    return tirx.const(value, dtype)


def parameter(node: Node, index: int, what: str) -> Array | None:
    """The constant at input ``index`` (axes, sizes, ...), None when left out.

    Raises:
        UnsupportedError: the input is there, but only known at run time.
    """
    value = node.input(index)
    if value is None:
        return None
    if value.const is None:
        raise UnsupportedError(
            f"{node.label()}: {what} ({value.name!r}) must be known at compile time; give it with --input-value"
        )
    return value.const


def required(node: Node, index: int, what: str) -> Array:
    """The constant at input ``index``, which the operator cannot do without; errors as `parameter`."""
    found = parameter(node, index, what)
    if found is None:
        raise UnsupportedError(f"{node.label()}: {what} is left out")
    return found


def static(node: Node, index: int) -> TensorType:
    """The static type of input ``index``."""
    value = node.operand(index)
    if not value.tensor.is_static:
        raise UnsupportedError(f"{node.label()}: the shape of {value.name!r}, {value.type}, is not static")
    return value.tensor


def axes(values: Any, rank: int) -> tuple[int, ...]:
    """Axes as non-negative numbers."""
    return tuple(int(a) + rank if int(a) < 0 else int(a) for a in np.atleast_1d(values))
