"""Conversions between all element types: Cast, CastLike, BitCast, and tests of floats."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from onyxc.backends.lowering import narrow
from onyxc.backends.lowering.registry import broadcast, elementwise, lowers, storage
from onyxc.backends.lowering.scalar import attr, bits, cast, element, is_floating, like, wide
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

Expr = Any

SUB_BYTE = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}


def source_dtype(node: Node) -> str:
    """The dtype of the first input as ONNX sees it."""
    return node.operand().dtype


def plain(x: Expr, dtype: str) -> Expr:
    """``x``, stored as ``dtype``, as a number to compute with."""
    if dtype in SUB_BYTE:  # only the low bits count: whoever wrote them may not have extended the sign
        return _wrap(cast(x, "int32"), dtype)
    return narrow.decode(x, dtype) if narrow.is_narrow(dtype) else x


def convert(x: Expr, target: str, saturate: bool = True, rounding: str = "up") -> Expr:
    """A number as ``target``, in that type's storage, by ONNX's rules."""
    if narrow.is_narrow(target):
        return narrow.encode(to_float(x), target, saturate, rounding)
    if target == "bool":
        return _nonzero(wide(x))
    if target in SUB_BYTE:
        return _wrap(_integer(x, "int32"), target)
    if target in ("float16", "bfloat16"):
        return x if element(x) == target else cast(to_float(x), target)
    if is_floating(x) and not target.startswith("float"):
        return _integer(x, target)
    return cast(wide(x), target)


def _nonzero(x: Expr) -> Expr:
    if element(x) == "bool":
        return x
    differs = tirx.NE(x, like(x, 0))  # code generation makes this an ordered comparison, false for NaN
    return tirx.Or(differs, tirx.isnan(x)) if is_floating(x) else differs


def to_float(x: Expr) -> Expr:
    """Any number as float32."""
    if element(x) == "bool":
        x = cast(x, "int32")
    return cast(x, "float32")


def _integer(x: Expr, target: str) -> Expr:
    """Toward zero, by way of a wide integer so that what does not fit wraps instead of being anything."""
    if not is_floating(x):
        return cast(x, target)
    middle = "int32" if target in ("int8", "uint8", "int16", "uint16", "int32") else "int64"
    return cast(wide(x), target) if target == "uint64" else cast(cast(wide(x), middle), target)


def _wrap(x: Expr, target: str) -> Expr:
    """The low bits of an int32, as the small integer of that many bits."""
    width = SUB_BYTE[target]
    if target.startswith("u"):
        return cast(tirx.bitwise_and(x, like(x, (1 << width) - 1)), "uint8")
    up = like(x, 32 - width)
    return cast(tirx.shift_right(tirx.shift_left(x, up), up), "int8")


@elementwise("Cast")
def cast_to(node: Node, x: Expr) -> Expr:
    """X as another element type.

    Raises:
        UnsupportedError: strings are involved.
    """
    source, target = source_dtype(node), node.output.dtype
    if "string" in (source, target):
        raise UnsupportedError(f"{node.label()}: strings cannot be converted in native code")
    if source == target:
        return x
    return convert(plain(x, source), target, bool(attr(node, "saturate", 1)), attr(node, "round_mode", "up"))


@lowers("CastLike")
def cast_like(node: Node, inputs: list[te.Tensor | None]) -> list[te.Tensor]:
    """X as the element type of the second input, whose shape plays no part."""
    return [broadcast(node, [x for x in inputs[:1] if x is not None], cast_to)]


@elementwise("BitCast")
def bit_cast(node: Node, x: Expr) -> Expr:
    """The same bits as another type of the same width."""
    source, target = source_dtype(node), node.output.dtype
    if source == "bool":
        x = cast(x, "uint8")
    if target == "bool":
        return tirx.NE(bits(x, "uint8"), like(x, 0, "uint8"))
    made = bits(x, storage(target))
    return _wrap(cast(made, "int32"), target) if target in SUB_BYTE else made


@elementwise("IsNaN")
def is_nan(node: Node, x: Expr) -> Expr:
    """Whether x is not a number."""
    return tirx.isnan(wide(plain(x, source_dtype(node))))


@elementwise("IsInf")
def is_infinite(node: Node, x: Expr) -> Expr:
    """Whether x is infinite, of a sign that is asked for."""
    x = wide(plain(x, source_dtype(node)))
    above = tirx.EQ(x, like(x, float("inf")))
    below = tirx.EQ(x, like(x, float("-inf")))
    if attr(node, "detect_positive") and attr(node, "detect_negative"):
        return tirx.Or(above, below)
    if attr(node, "detect_positive"):
        return above
    return below if attr(node, "detect_negative") else like(x, False, "bool")
