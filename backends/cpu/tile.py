"""The register tile: accumulators of several output vectors for several pixels, and one step of their sum."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.vectors import Expr, constant, fill, span


class Tile:
    """Accumulators [block, pixel] of vectors; constant indices let LLVM keep them all in registers."""

    def __init__(self, lanes: Sequence[int], pixels: int, dtype: str, start: Expr | None = None) -> None:
        self.lanes = tuple(lanes)
        self.pixels = pixels
        self.acc = T.alloc_buffer((len(lanes), pixels, max(lanes)), dtype, scope="local")
        for block, pixel in product(range(len(lanes)), range(pixels)):
            self.set(block, pixel, constant(0, dtype, lanes[block]) if start is None else fill(start, lanes[block]))

    def set(self, block: int, pixel: int, value: Expr) -> None:
        """Replace one accumulator."""
        T.buffer_store(self.acc, value, [block, pixel, span(0, self.lanes[block])])

    def get(self, block: int, pixel: int) -> Expr:
        """One accumulator."""
        return self.acc[block, pixel, span(0, self.lanes[block])]

    def step(self, weights: Sequence[Expr], inputs: Iterable[int], load: Callable[[int], Expr]) -> None:
        """Add weights times input for the pixels ``inputs``; ``load(pixel)`` is its scalar element.

        Pixel outer, block inner: the other order keeps every broadcast alive and spills.
        """
        held = [T.bind(vector) for vector in weights]
        for pixel in inputs:
            element = T.bind(load(pixel))
            for block, lanes in enumerate(self.lanes):
                self.add(block, pixel, held[block] * fill(element, lanes))

    def add(self, block: int, pixel: int, value: Expr) -> None:
        """Add ``value`` to one accumulator."""
        self.set(block, pixel, self.get(block, pixel) + value)

    def maximum(self, block: int, pixel: int, value: Expr) -> None:
        """Keep the larger of ``value`` and one accumulator."""
        self.set(block, pixel, T.max(self.get(block, pixel), value))

    def vectors(self) -> Iterator[tuple[int, int, Expr]]:
        """(pixel, first channel, sum) of every vector, pixel by pixel as they lie in memory."""
        for pixel in range(self.pixels):
            offset = 0
            for block, lanes in enumerate(self.lanes):
                yield pixel, offset, T.bind(self.get(block, pixel))
                offset += lanes
