"""What a convolution's kernel reads and writes, as its template sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from onyxc.backends.cpu.epilogue import Epilogue
from onyxc.backends.cpu.shapes import ConvShape
from onyxc.backends.cpu.vectors import Expr, Signature, dense, function, strided

P = TypeVar("P")


@dataclass
class Buffers(Generic[P]):
    """A kernel that is being written: its plan, and views of its arguments.

    ``x`` and ``y``: [n, h, w, c]; ``weights``: flat; ``operands``: what the epilogue reads, broadcast to y.
    """

    plan: P
    epilogue: Epilogue
    x: Expr
    weights: Expr
    y: Expr
    operands: list[Expr]


@contextmanager
def convolution(
    name: str,
    plan: P,
    shape: ConvShape,
    weights: tuple[str, int],
    epilogue: Epilogue,
    strides: Sequence[Sequence[int]] = (),
) -> Iterator[tuple[Signature, Buffers[P]]]:
    """Write ``name(x, packed weights, operands..., y, begin, end)`` in the block of the with statement.

    ``weights``: dtype and number of the packed ones; ``strides``: of the operands, where they are not the epilogue's.
    """
    dtype, size = weights
    sizes = (shape.batch, *shape.out_size, shape.out_channels)
    parameters = [("x", shape.x_dtype), ("w", dtype), *epilogue.parameters(), ("y", epilogue.y_dtype)]
    with function(name, parameters) as made:
        x, w, *operands, y = made.pointers
        views = Buffers(
            plan,
            epilogue,
            strided(x, shape.x_dtype, (shape.batch, *shape.in_size, shape.in_channels), shape.x_strides),
            dense(w, dtype, (size,)),
            strided(y, epilogue.y_dtype, sizes, (*shape.y_strides, 1)),
            epilogue.views(operands, sizes, strides),
        )
        yield made, views
