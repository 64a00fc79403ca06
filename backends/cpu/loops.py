"""The loops outside a tile: task ranges, tiles of a row, kernel rows inside the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tvm.tirx.script import builder as T

from onyxc.backends.cpu.blocking import Tiles
from onyxc.backends.cpu.shapes import Window
from onyxc.backends.cpu.vectors import Expr, Signature


def turns(start: Expr, stop: Expr) -> Iterator[Expr]:
    """A loop from ``start`` to ``stop`` (excluded), or no loop for a single turn.

    LLVM moves all loads of a one-turn loop before it, where they need a register each.
    """
    if isinstance(start, int) and isinstance(stop, int) and stop - start == 1:
        yield start
        return
    with T.serial(start, stop) as number:
        yield number


def each_panel(
    made: Signature, counts: Sequence[int], units: int, costs: Sequence[int] = (), bands: int = 1
) -> Iterator[tuple[int, Expr, Expr, Expr]]:
    """Loops over the kernel's task range: (class, number in the class, first unit, last unit excluded).

    Tasks count class by class, ``counts[class]`` numbers each, ``units`` units a number, ``costs[class]`` (default 1)
    tasks a unit; the unit belongs to the range that holds its first task. With ``bands`` the units are divided first,
    and all classes are counted inside each band.
    """
    costs = costs or (1,) * len(counts)
    size = -(-units // bands)
    if size == units:
        yield from _each_panel(made.begin, made.end, counts, units, costs)
        return
    tasks = size * sum(count * cost for count, cost in zip(counts, costs, strict=True))
    with T.serial(T.truncdiv(made.begin, tasks), T.truncdiv(made.end + (tasks - 1), tasks)) as band:
        begin, end = (T.bind(v - band * tasks) for v in (made.begin, made.end))
        rest = size if units % size == 0 else T.bind(T.min(units - band * size, size))
        for kind, number, start, stop in _each_panel(begin, end, counts, rest, costs):
            first = T.bind(band * size)
            yield kind, number, T.bind(first + start), T.bind(first + stop)


def _each_panel(
    begin: Expr, end: Expr, counts: Sequence[int], units: Expr, costs: Sequence[int]
) -> Iterator[tuple[int, Expr, Expr, Expr]]:
    first: Expr = 0
    for kind, (count, cost) in enumerate(zip(counts, costs, strict=True)):
        low, high = (
            T.bind(T.truncdiv(T.max(T.min(v - first, count * units * cost), 0) + (cost - 1), cost)) for v in (begin, end)
        )
        with T.serial(T.truncdiv(low, units), T.truncdiv(high + (units - 1), units)) as number:
            start = T.bind(T.max(low - number * units, 0))
            stop = T.bind(T.min(high - number * units, units))
            yield kind, number, start, stop
        first += count * units * cost


def each_tile(runs: Sequence[Tiles], start: Expr, stop: Expr) -> Iterator[tuple[Tiles, Expr]]:
    """Loops over the tiles number ``start`` to ``stop`` of a row: (run, first pixel), inside the loop of each run."""
    first = 0
    for run in runs:
        with T.serial(T.max(start, first), T.min(stop, first + run.count)) as number:
            yield run, T.bind(run.start + (number - first) * run.width)
        first += run.count


def each_run(runs: Sequence[Tiles]) -> Iterator[tuple[Tiles, Expr]]:
    """Loops over all tiles of a row: (run, first pixel), inside the loop of each run."""
    for run in runs:
        if run.count == 1:
            yield run, run.start
            continue
        with T.serial(0, run.count) as number:
            yield run, T.bind(run.start + number * run.width)


def valid_rows(shape: Window, row: Expr) -> tuple[Expr, Expr]:
    """First and last (excluded) kernel row inside the image for output row ``row``."""
    size, step, dilation, pad = shape.kernel[0], shape.strides[0], shape.dilations[0], shape.pads[0]
    low, high = 0, size
    if pad:
        low = T.bind(T.truncdiv(T.max(pad - row * step, 0) + (dilation - 1), dilation))
    if (shape.out_size[0] - 1) * step - pad + (size - 1) * dilation >= shape.in_size[0]:
        rest = T.max(shape.in_size[0] + pad - row * step + (dilation - 1), 0)
        high = T.bind(T.min(T.truncdiv(rest, dilation), size))
    return low, high
