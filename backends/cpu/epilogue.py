"""What follows the sum: bias, scale, residual, activation, requantisation, on whole vectors in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.vectors import Expr, cast, constant, dense, fill, lanes_of, span, store, strided


@dataclass(frozen=True)
class Operand:
    """An extra input, with an element stride along each dimension of the output (0: broadcast).

    ``table``: it is flat, and the epilogue chooses the elements itself; strides mean nothing then.
    """

    dtype: str
    strides: tuple[int, ...]
    table: int = 0  # entries


def _same(acc: Expr, operands: Sequence[Expr]) -> Expr:
    del operands
    return acc


@dataclass(frozen=True)
class Epilogue:
    """``apply(accumulator, operands)`` makes the output vector; all have the accumulator's number of lanes.

    A table among the operands is the buffer itself.
    """

    operands: tuple[Operand, ...] = ()
    apply: Callable[[Expr, list[Expr]], Expr] = field(default=_same)
    y_dtype: str = "float32"

    def parameters(self) -> list[tuple[str, str]]:
        """Names and types of the operands' pointers, for the signature."""
        return [(f"operand{i}", operand.dtype) for i, operand in enumerate(self.operands)]

    def views(self, pointers: Sequence[Expr], sizes: Sequence[int], strides: Sequence[Sequence[int]] = ()) -> list[Expr]:
        """Buffers over the operands' pointers; ``strides`` replaces theirs, where dimensions were merged."""
        chosen = strides or [operand.strides for operand in self.operands]
        pairs = zip(self.operands, pointers, chosen, strict=True)
        return [dense(p, o.dtype, (o.table,)) if o.table else strided(p, o.dtype, sizes, step) for o, p, step in pairs]

    def write(self, y: Expr, acc: Expr, index: Sequence[Expr], valid: int, views: Sequence[Expr]) -> None:
        """Apply to ``acc`` and store its first ``valid`` lanes from ``index`` of ``y`` on, along the last dimension."""
        store(y, cast(self.value(acc, index, views), self.y_dtype), index, valid)

    def value(self, acc: Expr, index: Sequence[Expr], views: Sequence[Expr]) -> Expr:
        """What ``acc`` becomes, its first lane being at ``index`` of the output."""
        lanes = lanes_of(acc)
        pairs = zip(self.operands, views, strict=True)
        values = [view if o.table else T.bind(_load(view, index, lanes)) for o, view in pairs]
        return self.apply(acc, values)


def _load(view: Expr, index: Sequence[Expr], lanes: int) -> Expr:
    """``lanes`` elements of ``view`` along the last dimension: a vector, a gather, or one element for all lanes."""
    *outer, last = index
    if int(view.strides[-1]) == 0:
        return fill(view[(*outer, 0)], lanes)
    return view[(*outer, span(last, lanes))]


def bias(rank: int = 4, dtype: str = "float32") -> Operand:
    """A value per output channel."""
    return Operand(dtype, (0,) * (rank - 1) + (1,))


def requantize(acc: Expr, scale: Expr, zero_point: int, dtype: str) -> Expr:
    """int32 -> ``dtype``: times ``scale``, rounded half to even, plus ``zero_point``, saturated.

    The result stays int32; the store narrows it.
    """
    lanes = lanes_of(acc)
    low, high = (0, 255) if dtype == "uint8" else (-128, 127)
    rounded = T.round(cast(acc, "float32") * scale)
    # saturate in float: the conversion of a large float to int32 is undefined
    bounded = T.max(
        T.min(rounded, constant(high - zero_point, "float32", lanes)),
        constant(low - zero_point, "float32", lanes),
    )
    return cast(bounded, "int32") + constant(zero_point, "int32", lanes)
