"""Words of which tensor rules are made: reading, shapes, positions, padding, constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import te, tirx

from onyxc.backends.lowering.scalar import HALF, cast, like, select, wide
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Array, Node

Expr = Any
Inputs = Sequence[Any]  # te.Tensor, or None for an input left out


def shape_of(x: Any) -> tuple[int, ...]:
    """The static shape of a TE tensor."""
    return tuple(int(d) for d in x.shape)


def at(x: Any, index: Sequence[Expr]) -> Expr:
    """The element of ``x`` at ``index``, as an expression."""
    return x[tuple(index)].asobject()


def compute(shape: Sequence[int], element: Callable[..., Expr], name: str) -> Any:
    """The tensor of ``shape`` whose element at an index is ``element(*index)``."""
    return te.compute(tuple(shape), lambda *index: element(*index), name=name)


def needed(node: Node, inputs: Inputs, index: int = 0) -> Any:
    """Input ``index``, which the operator requires.

    Raises:
        UnsupportedError: it is left out.
    """
    if index >= len(inputs) or inputs[index] is None:
        raise UnsupportedError(f"{node.label()}: input {index} is missing")
    return inputs[index]


def optional(inputs: Inputs, index: int) -> Any | None:
    """Input ``index``, or None."""
    return inputs[index] if index < len(inputs) else None


def reshaped(x: Any, shape: Sequence[int], name: str = "reshape") -> Any:
    """``x`` in another shape of as many elements."""
    old = shape_of(x)
    if old == tuple(shape):
        return compute(shape, lambda *i: at(x, i), name)
    return compute(shape, lambda *i: at(x, unravel(ravel(i, shape), old)), name)


def ravel(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """The row-major position of an index."""
    position: Expr = tirx.const(0, "int32")
    for i, extent in zip(index, shape, strict=True):
        position = position * extent + i
    return position


def unravel(position: Expr, shape: Sequence[int]) -> list[Expr]:
    """The index at a row-major position."""
    index: list[Expr] = []
    rest = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    for axis, (extent, step) in enumerate(zip(shape, rest, strict=True)):
        part = position if step == 1 else tirx.floordiv(position, step)
        whole = axis == 0 or all(d == 1 for d in shape[:axis])
        index.append(tirx.const(0, "int32") if extent == 1 else part if whole else tirx.floormod(part, extent))
    return index


def replaced(index: Sequence[Expr], axis: int, value: Expr) -> list[Expr]:
    """``index`` with another coordinate along ``axis``."""
    return [*index[:axis], value, *index[axis + 1 :]]


def every(conditions: Sequence[Expr]) -> Expr | None:
    """The conjunction, None when there is nothing to hold."""
    result: Expr | None = None
    for condition in conditions:
        result = condition if result is None else tirx.And(result, condition)
    return result


def guarded(conditions: Sequence[Expr], then: Expr, otherwise: Expr) -> Expr:
    """``then`` where all conditions hold; it is not evaluated elsewhere."""
    condition = every(conditions)
    return then if condition is None else tirx.if_then_else(condition, then, otherwise)


def inside(position: Expr, extent: int, low: int, high: int) -> list[Expr]:
    """What remains to be asked for ``position``, which runs over [low, high], to lie in [0, extent)."""
    asked = []
    if low < 0:
        asked.append(position >= tirx.const(0, "int32"))
    if high >= extent:
        asked.append(position < tirx.const(extent, "int32"))
    return asked


def padded(x: Any, before: Sequence[int], after: Sequence[int], value: Expr, name: str = "padded") -> Any:
    """``x`` with ``value`` around it; a negative count crops."""
    old = shape_of(x)
    if not any(before) and not any(after):
        return x
    shape = [d + b + a for d, b, a in zip(old, before, after, strict=True)]

    def element(*index: Expr) -> Expr:
        source, asked = [], []
        for i, extent, low, total in zip(index, old, before, shape, strict=True):
            position = i - low if low else i
            source.append(position)
            asked += inside(position, extent, -low, total - 1 - low)
        return guarded(asked, at(x, source), value)

    return compute(shape, element, name)


def position(index: Expr, extent: int) -> Expr:
    """An index operand as a safe int32: from the end when negative, limited to what exists."""
    index = cast(index, "int32")
    index = select(index < like(index, 0), index + like(index, extent), index)
    return tirx.max(tirx.min(index, like(index, max(0, extent - 1))), like(index, 0))


def constant(array: Array, dtype: str, name: str) -> Any:
    """A small constant tensor, written out as conditions on the position."""
    values = np.asarray(array)
    if values.size > 64:
        raise UnsupportedError(f"{name}: a constant of {values.size} elements")

    def element(*index: Expr) -> Expr:
        at_ = ravel(index, values.shape)
        result: Expr = tirx.const(values.reshape(-1)[-1].item(), dtype)
        for number, value in list(enumerate(values.reshape(-1)))[-2::-1]:
            result = select(at_ <= tirx.const(number, "int32"), tirx.const(value.item(), dtype), result)
        return result

    return compute(values.shape, element, name)


def filled(shape: Sequence[int], value: float | int | bool, dtype: str, name: str) -> Any:
    """A tensor of one value."""
    return compute(shape, lambda *_: tirx.const(value, dtype), name)


def widen(x: Any) -> Any:
    """``x`` in the type in which it is computed."""
    return compute(shape_of(x), lambda *i: wide(at(x, i)), "wide") if str(x.dtype) in HALF else x


def zeroed(index: Sequence[Expr], along: Sequence[int]) -> list[Expr]:
    """``index`` with 0 along the reduced axes."""
    return [tirx.const(0, "int32") if a in along else i for a, i in enumerate(index)]
