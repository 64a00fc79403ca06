"""Plan of fused attention: softmax(q k^T, scaled and masked) v, a block of rows at a time. Nothing here imports TVM."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import ceil, prod

from onyxc.backends.cpu.blocking import Panel, Tiles, choose_blocks, join, register_tiles, split_evenly, split_panels
from onyxc.backends.target import Target

_FEW_TASKS = 8
_LEAST_TILES = 4  # of a task: it packs keys and values for all of them
_LONG, _BLOCK = 1024, 512  # keys beyond which a block of them is taken at a time, and that block


@dataclass(frozen=True)
class AttentionShape:
    """y[*batch, row, :] = softmax over keys of f(q[*batch, row, :] k[*batch, :, key]) v[*batch, key, :], all float32.

    ``rows``, ``keys``; ``depth`` of q and k, ``width`` of v and y. Strides in elements, 0 to repeat a batch: of q along
    (*batch, row, depth), of k along (*batch, depth, key), of v along (*batch, key, column), of y along (*batch, row),
    contiguous behind. ``starts``: first elements of q, k and v.
    """

    batch: tuple[int, ...]
    rows: int
    keys: int
    depth: int
    width: int
    q_strides: tuple[int, ...]
    k_strides: tuple[int, ...]
    v_strides: tuple[int, ...]
    y_strides: tuple[int, ...]
    starts: tuple[int, int, int] = (0, 0, 0)

    @property
    def work(self) -> int:
        """Operations of the two products."""
        return 2 * prod(self.batch) * self.rows * self.keys * (self.depth + self.width)


@dataclass(frozen=True)
class KeyBlock:
    """``count`` blocks of ``keys`` keys from key ``start`` on, each in ``panels`` of the first product."""

    start: int
    count: int
    keys: int
    panels: tuple[Panel, ...]

    @property
    def padded(self) -> int:
        """Columns of a row of scores."""
        return sum(p.count * p.width for p in self.panels)


@dataclass(frozen=True)
class AttentionPlan:
    """How attention is computed.

    ``tiles`` of rows: the scores of one stay in cache; ``blocks`` of keys, more than one where the softmax goes on from
    block to block; ``panels`` of the columns of v; ``chunks``: tasks of one batch, which share its rows.
    """

    shape: AttentionShape
    tiles: tuple[Tiles, ...]
    blocks: tuple[KeyBlock, ...]
    panels: tuple[Panel, ...]
    chunks: int

    @property
    def long(self) -> bool:
        """Whether the softmax goes on from one block of keys to the next."""
        return sum(b.count for b in self.blocks) > 1

    @property
    def count(self) -> int:
        """Number of row tiles of one batch."""
        return sum(t.count for t in self.tiles)

    @property
    def tasks(self) -> int:
        """Units of work: batches, times parts of their rows."""
        return prod(self.shape.batch) * self.chunks

    @property
    def padded(self) -> int:
        """Columns of v in its panels."""
        return sum(p.count * p.width for p in self.panels)

    @property
    def scores(self) -> tuple[int, int]:
        """First element of the scores in scratch, behind packed keys and values, and elements between their rows."""
        block = self.blocks[0]
        return self.shape.depth * block.padded + block.keys * self.padded, max(b.padded for b in self.blocks)

    @property
    def state(self) -> int:
        """First element in scratch of what goes on from block to block: per row v's sums, then maximum and total."""
        start, pitch = self.scores
        return start + max(t.width for t in self.tiles) * pitch

    @property
    def scratch_size(self) -> int:
        """Floats of scratch memory of a thread."""
        return self.state + (self.shape.rows * (self.padded + 2) if self.long else 0)


def plan(shape: AttentionShape, target: Target) -> AttentionPlan:
    """Choose the blocks of ``shape``."""
    lanes = target.lanes(4)
    keys = shape.keys if shape.keys <= _LONG else _BLOCK
    blocks, rows = choose_blocks(shape.width, shape.rows, keys, 4 * keys + 4, lanes, 4, target)
    key_blocks = max(b for b, r in register_tiles(target) if r == rows)
    widths = split_evenly(shape.rows, rows)
    starts = accumulate(widths, initial=0)
    tiles = join(Tiles(start, 1, width) for start, width in zip(starts, widths, strict=False))
    full, rest = divmod(shape.keys, keys)
    parts = [KeyBlock(0, full, keys, split_panels(keys, lanes, key_blocks))]
    if rest:
        parts.append(KeyBlock(full * keys, 1, rest, split_panels(rest, lanes, key_blocks)))
    wanted = ceil(_FEW_TASKS / prod(shape.batch))
    chunks = max(1, min(wanted, len(widths) // _LEAST_TILES))
    return AttentionPlan(shape, tiles, tuple(parts), split_panels(shape.width, lanes, blocks), chunks)
