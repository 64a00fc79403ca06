"""How a tensor is quantized, read from the QuantizeLinear and DequantizeLinear nodes around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onyxc.compiler.ir.graph import Array, Node, Value
from onyxc.compiler.ir.integer import limits
from onyxc.compiler.ir.schema import DOMAIN
from onyxc.compiler.rewrite import Builder

BYTES = ("uint8", "int8")


def own(op: Builder, name: str, inputs: Sequence[Value], **attrs: Any) -> Value:
    """A new node of our domain."""
    return op.node(name, *inputs, domain=DOMAIN, **attrs).output


def apply(op: Builder, node: Node, inputs: Sequence[Value | None]) -> Node:
    """The operator of ``node`` on other inputs."""
    attrs: dict[str, Any] = dict(node.attrs)
    return op.node(node.op, *inputs, outputs=len(node.outputs), **attrs)


@dataclass(frozen=True, eq=False)
class Parameters:
    """real = scale * (q - zero_point); both of shape [], or [C] along ``axis``. ``dtype`` is that of q."""

    scale: Array
    zero_point: Array
    dtype: str
    axis: int = 0

    @property
    def per_tensor(self) -> bool:
        """Whether one scale serves all elements."""
        return self.scale.ndim == 0

    def same(self, other: Parameters) -> bool:
        """Whether equal codes mean equal numbers (per-tensor parameters only)."""
        one = self.per_tensor and other.per_tensor and self.dtype == other.dtype
        return one and bool(self.scale == other.scale) and bool(self.zero_point == other.zero_point)

    def attributes(self, prefix: str) -> dict[str, Any]:
        """As attributes of our operators."""
        return {f"{prefix}_scale": float(self.scale), f"{prefix}_zero_point": int(self.zero_point)}

    def code(self, real: float) -> int:
        """What QuantizeLinear makes of one number."""
        low, high = limits(self.dtype)
        scaled = np.float64(np.rint(np.float32(real) / np.float32(self.scale)))
        return int(np.clip(scaled + int(self.zero_point), low, high))


def of_node(node: Node, dtype: str) -> Parameters | None:
    """The parameters of a QuantizeLinear or DequantizeLinear; None: not constant, blocked or not float32."""
    scale, zero = node.const(1), node.const(2)
    if scale is None or scale.dtype != np.float32 or not np.all(scale > 0) or not np.all(np.isfinite(scale)):
        return None
    if (zero is None and node.input(2) is not None) or node.attrs.get("block_size", 0):
        return None
    zero = np.zeros(scale.shape, np.int32) if zero is None else zero.astype(np.int32)
    if scale.size == 1 and zero.size == 1:
        return Parameters(scale.reshape(()), zero.reshape(()), dtype)
    first = node.inputs[0]
    if scale.ndim != 1 or zero.shape != scale.shape or first is None or first.tensor.shape is None:
        return None
    return Parameters(scale, zero, dtype, node.integer("axis", 1) % first.tensor.rank)


def dequantized(value: Value | None, dtypes: tuple[str, ...] = BYTES) -> tuple[Value, Parameters] | None:
    """The quantized tensor behind ``value``, when that is a DequantizeLinear of one of ``dtypes`` to float32."""
    node = value.producer if value is not None else None
    if node is None or not node.is_op("DequantizeLinear") or value is None or value.dtype != "float32":
        return None
    source = node.inputs[0]
    if source is None or source.dtype not in dtypes:
        return None
    parameters = of_node(node, source.dtype)
    return None if parameters is None else (source, parameters)


def quantizer(node: Node) -> Parameters | None:
    """The parameters of a QuantizeLinear from float32 to 8 bits with one scale."""
    source, dtype = node.inputs[0], node.output.dtype
    if not node.is_op("QuantizeLinear") or dtype not in BYTES or source is None or source.dtype != "float32":
        return None
    parameters = of_node(node, dtype)
    return parameters if parameters is not None and parameters.per_tensor else None
