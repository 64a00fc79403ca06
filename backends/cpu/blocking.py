"""Choice of register blocks: how many output vectors by how many pixels are accumulated at a time.

A tile keeps ``blocks`` x ``pixels`` accumulators in registers for the whole sum; each step of the sum loads
``blocks`` weight vectors and broadcasts ``pixels`` input elements. Nothing here imports TVM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from math import ceil, gcd

from onyxc.backends.cpu.shapes import Window
from onyxc.backends.target import Target

_LATENCY = 4  # cycles of a fused multiply-add; two are started a cycle
_STREAM = ((1 / 2, 64.0), (1 / 2, 32.0))  # share of L1, L2 that a panel may fill, and bytes a cycle from there
_OUTWEIGHS = 4  # weights so many times larger than images are better read by one thread each than by all
_NEAR = 512 << 10  # bytes of weights that stay in L2 and may be read again for each of many bands
_BAND_PIXELS = 24  # of such a band; twice as many where weights come from farther off
_AWRY = 1 / 32  # of all units, by which bands may differ
_FAR = 20.0  # bytes a cycle from L3
_PAGE = 4096  # lines so far apart fall into one set of L1, which has at least eight ways
_SET_PIXELS = 7
_SMALL = 9  # about as many accumulators as hide the latency
_PAIR = 1.12  # a whole vector and half a one share a broadcast badly


@dataclass(frozen=True)
class Panel:
    """A run of equal output-channel panels: each ``lanes`` wide vectors, ``channels`` of them real.

    ``count`` panels start at ``start`` (channels inside the group).
    """

    start: int
    count: int
    lanes: tuple[int, ...]
    channels: int

    @property
    def width(self) -> int:
        """Packed channels of one panel, padding included."""
        return sum(self.lanes)


def costs(panels: Sequence[Panel]) -> tuple[int, ...]:
    """Relative work of one panel of each run.

    Tasks are counted by it, so that ranges of equally many tasks are equal work for threads.
    """
    unit = gcd(*(p.width for p in panels))
    return tuple(p.width // unit for p in panels)


def panel_tasks(panels: Sequence[Panel], units: int) -> int:
    """Tasks of all panels, each of which is ``units`` pieces of work."""
    return units * sum(p.count * cost for p, cost in zip(panels, costs(panels), strict=True))


def bands(units: int, pixels: int, images: int, weights: int) -> int:
    """How many bands of rows the tasks of a kernel are divided into first: its ``units``, with ``pixels`` of all images.
    ``images``, ``weights``: their bytes.

    Then threads find rows that they wrote themselves in their own caches, and write rows that no other has read: on
    two cores whose caches are far apart, lines that both have read are written at 2 GB/s. Narrow bands keep a
    processor's prefetches, which run ahead of a panel by a dozen tiles, out of the other threads' rows. But each band
    reads all weights. Where there are few bands, half of the threads should have half of them.
    """
    if units < 2 or weights > _OUTWEIGHS * images:
        return 1
    if weights <= _NEAR:
        return ceil(units / max(1, round(_BAND_PIXELS * units / pixels)))
    quarter = ceil(units / 4)
    return 4 if pixels >= 8 * _BAND_PIXELS and 4 * quarter - units <= max(1, _AWRY * units) else 2


@dataclass(frozen=True)
class Taps:
    """Kernel columns ``begin`` to ``end`` for which exactly ``pixels`` of a tile read inside the image."""

    begin: int
    end: int
    pixels: tuple[int, ...]


@dataclass(frozen=True)
class Tiles:
    """A run of ``count`` equal tiles of ``width`` pixels along a row, the first at pixel ``start``."""

    start: int
    count: int
    width: int
    taps: tuple[Taps, ...] = ()


def tail_lanes(channels: int, lanes: int) -> int:
    """Width of the last vector when ``channels`` (1..lanes) are left: all of it or half, which has four lanes at least.

    A quarter computes no faster, and its weights lie across cache lines.
    """
    half = lanes // 2
    return half if half >= 4 and channels <= half else lanes


def split_panels(channels: int, lanes: int, blocks: int) -> tuple[Panel, ...]:
    """Divide ``channels`` into near-equal panels of at most ``blocks`` vectors; only the last may differ."""
    vectors = ceil(channels / lanes)
    count = ceil(vectors / blocks)
    each = ceil(vectors / count)
    full = channels // (each * lanes)
    rest = channels - full * each * lanes
    panels = []
    if full:
        panels.append(Panel(0, full, (lanes,) * each, each * lanes))
    if rest:
        whole, left = divmod(rest, lanes)
        widths = (lanes,) * whole + ((tail_lanes(left, lanes),) if left else ())
        panels.append(Panel(channels - rest, 1, widths, rest))
    return tuple(panels)


def register_tiles(target: Target) -> Iterator[tuple[int, int]]:
    """All (blocks, pixels) whose accumulators and operands fit the registers, known never to spill."""
    # one broadcast on x86; without FMA also products and copies of operands; on ARM an input vector a pixel
    spare, vector = (4, 1) if target.arch != "x86_64" else (1, 0) if "fma" in target.features else (5, 0)
    for blocks in range(1, 15):
        limit = min(target.registers, 31 if blocks <= 2 else 30)
        if blocks == 1 and target.registers == 16:
            limit = 12  # broadcasts of two steps
        for pixels in range(1, 15):
            if blocks * pixels + blocks + vector * pixels + spare <= limit:
                yield blocks, pixels


def step_cycles(blocks: int, pixels: int, panel_bytes: float, depth: int, target: Target) -> float:
    """Model of the cycles of one step of the sum in a ``blocks`` x ``pixels`` tile."""
    products = blocks * pixels
    caches = zip((target.l1, target.l2), _STREAM, strict=True)
    rate = next((speed for size, (share, speed) in caches if panel_bytes <= size * share), _FAR)
    loads = blocks + pixels
    fused = target.vector_bytes == 64 or target.arch != "x86_64"  # a broadcast is a part of the product's instruction
    issue = max(products / 2, loads / 2, _LATENCY, 0 if fused else (products + loads) / 4)
    return max(issue, panel_bytes / depth / rate) + 0.04 * (blocks + pixels) + products / depth


def choose_blocks(
    channels: int,
    pixels: int,
    depth: int,
    pixel_bytes: int,
    lanes: int,
    itemsize: int,
    target: Target,
    straight: bool = False,
    most_blocks: int = 14,
) -> tuple[int, int]:
    """The (blocks, pixels) tile that needs the fewest modelled cycles for a row of ``pixels``.

    ``depth``: steps of the sum; ``pixel_bytes`` between inputs of neighbours; ``itemsize``: bytes of a packed weight;
    ``straight``: steps are few enough that LLVM makes straight code of them and keeps their inputs in registers, for
    which a small tile leaves room; ``most_blocks``: limit of the blocks.
    """

    def cost(tile: tuple[int, int]) -> float:
        blocks, width = tile
        tiles = ceil(pixels / width)
        each, wide = divmod(pixels, tiles)
        total = 0.0
        for panel in split_panels(channels, lanes, blocks):
            size = (panel.width if pixels > 1 else channels) * depth * itemsize  # for one pixel none is used again
            vectors = len(panel.lanes)
            pair = target.vector_bytes == 64 and vectors == len(set(panel.lanes)) == 2
            times = panel.count * (_PAIR if pair else 1)
            for count, m in ((wide, each + 1), (tiles - wide, each)):
                total += times * count * step_cycles(vectors, m, size, depth, target)
        return total

    longest = pixels if pixel_bytes % _PAGE or not pixel_bytes else _SET_PIXELS
    tiles = [tile for tile in register_tiles(target) if tile[0] <= most_blocks and tile[1] <= longest]
    if straight:
        tiles = [tile for tile in tiles if tile[0] * tile[1] <= _SMALL and tile[1] <= target.registers // 4]
    return min(tiles, key=cost)


def split_evenly(total: int, limit: int) -> list[int]:
    """Sizes of the near-equal parts, each at most ``limit``, larger ones first."""
    parts = ceil(total / limit)
    each, larger = divmod(total, parts)
    return [each + 1] * larger + [each] * (parts - larger)


def join(tiles: Iterable[Tiles]) -> tuple[Tiles, ...]:
    """``tiles``, one after the other along a row, with equal neighbours joined."""
    runs: list[Tiles] = []
    for tile in tiles:
        if runs and (runs[-1].width, runs[-1].taps) == (tile.width, tile.taps):
            runs[-1] = replace(runs[-1], count=runs[-1].count + tile.count)
        else:
            runs.append(tile)
    return tuple(runs)


def row_tiles(shape: Window, pixels: int, same_count: Callable[[int], int] = lambda pixel: 0) -> tuple[Tiles, ...]:
    """Divide a row into near-equal tiles of at most ``pixels``, and join neighbours that have the same valid taps.

    Pixels that ``same_count`` tells apart also keep tiles apart.
    """
    widths = split_evenly(shape.out_size[1], pixels)
    starts = accumulate(widths, initial=0)
    tiles = [Tiles(start, 1, width, _taps(shape, start, width)) for start, width in zip(starts, widths, strict=False)]
    counts = {t.start: [same_count(t.start + m) for m in range(t.width)] for t in tiles}
    groups = groupby(tiles, key=lambda t: counts[t.start])
    return tuple(run for _, group in groups for run in join(group))


def _taps(shape: Window, start: int, width: int) -> tuple[Taps, ...]:
    """Runs of kernel columns with the pixels of a tile for which they fall inside the image."""

    def valid(kx: int) -> tuple[int, ...]:
        first = start * shape.strides[1] - shape.pads[1] + kx * shape.dilations[1]
        return tuple(m for m in range(width) if 0 <= first + m * shape.strides[1] < shape.in_size[1])

    taps = []
    for pixels, run in groupby(range(shape.kernel[1]), key=valid):
        columns = list(run)
        if pixels:
            taps.append(Taps(columns[0], columns[-1] + 1, pixels))
    return tuple(taps)
