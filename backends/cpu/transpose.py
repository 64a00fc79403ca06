"""Copies that turn a strided matrix into contiguous rows, square blocks of it transposed in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.cpu.vectors import Expr, span
from onyxc.backends.kernels.squares import transpose

Store = Callable[[Expr, Expr], None]


@dataclass(frozen=True)
class Block:
    """A part of a matrix to copy: ``rows``, of which ``lanes`` columns from ``column`` on, ``valid`` of them real.

    ``outer``: the indices in front of the matrix's own two; ``first``: the first row.
    """

    outer: tuple[Expr, ...]
    column: Expr
    rows: int
    lanes: int
    valid: int
    first: Expr = 0

    def lines(self) -> list[Expr]:
        """The columns; past the last real one it is repeated, so that nothing is read outside the matrix."""
        return [self.column + min(lane, self.valid - 1) for lane in range(self.lanes)]


def copy_rows(source: Expr, block: Block, store: Store) -> None:
    """Hand every row of ``source[*outer, row, column]`` to ``store(row, vector)``."""
    with T.serial(0, block.rows) as row:
        store(row, source[(*block.outer, block.first + row, span(block.column, block.lanes))])


def copy_turned(source: Expr, block: Block, store: Store) -> None:
    """The same of ``source[*outer, column, row]``, contiguous along row: squares are transposed in registers."""
    lanes = block.lanes

    def square(start: Expr, count: int) -> None:
        loaded = [T.bind(source[(*block.outer, line, span(block.first + start, lanes))]) for line in block.lines()]
        for i, vector in enumerate(transpose(loaded)[:count]):
            store(start + i, vector)

    with T.serial(0, block.rows // lanes) as number:
        square(T.bind(number * lanes), lanes)
    if block.rows % lanes:
        square(block.rows - block.rows % lanes, block.rows % lanes)  # may read on into the slack behind the buffer


def copy_elements(source: Expr, block: Block, store: Store) -> None:
    """As `copy_rows`, element by element, for a matrix that is contiguous along neither side."""
    with T.serial(0, block.rows) as row:
        elements = [T.bind(source[(*block.outer, block.first + row, line)]) for line in block.lines()]
        store(row, tirx.Shuffle(elements, [tirx.const(i, "int32") for i in range(block.lanes)]))
