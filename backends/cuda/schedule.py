"""Threads for one stage: one element a thread, or one warp an element where a long sum makes few of them."""

from __future__ import annotations

from math import prod
from typing import Any

from tvm import s_tir

THREADS = 256
WARP = 32
FEW = 4096  # elements: below this a thread each leaves the processor idle
LONG = 128  # terms: from here on a warp shares a sum

SPATIAL, REDUCTION = 0, 2  # IterVar kinds


def extents(sch: s_tir.Schedule, block: Any, kind: int) -> list[int]:
    """Extents of the block's axes of one kind."""
    return [int(v.dom.extent) for v in sch.get(block).iter_vars if int(v.iter_type) == kind]


def _flat(sch: s_tir.Schedule, block: Any, kind: int) -> Any:
    """One loop over all the block's axes of ``kind``; a unit loop where there is none."""
    loops = sch.get_loops(block)
    kinds = [int(v.iter_type) for v in sch.get(block).iter_vars]
    chosen = [loop for loop, k in zip(loops, kinds, strict=True) if k == kind]
    if not chosen:
        return sch.add_unit_loop(loops[0] if loops else block)
    return sch.fuse(*chosen) if len(chosen) > 1 else chosen[0]


def spread(sch: s_tir.Schedule, block: Any) -> Any:
    """One element of ``block`` a thread; returns the thread's loop."""
    size = prod(extents(sch, block, SPATIAL))
    threads = THREADS if size >= 64 * THREADS else min(64, max(WARP, -(-size // WARP) * WARP))
    grid, thread = sch.split(_flat(sch, block, SPATIAL), [None, threads])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    return thread


def reduce_in_thread(sch: s_tir.Schedule, reduction: Any, thread: Any) -> None:
    """Compute ``reduction`` under ``thread`` into a register, its initial value outside the loops."""
    for index in range(len(sch.get(reduction).writes)):
        sch.set_scope(reduction, index, "local")
    sch.compute_at(reduction, thread, preserve_unit_loops=True)
    sch.decompose_reduction(reduction, sch.get_loops(reduction)[2])


def shares(size: int, domain: int) -> bool:
    """Whether a warp should share each sum of a reduction of ``domain`` terms to ``size`` elements."""
    return size <= FEW and domain >= LONG * size


def reduce_in_warp(sch: s_tir.Schedule, reduction: Any) -> None:
    """One warp an element, its lanes along the reduction."""
    sums = _flat(sch, reduction, REDUCTION)
    outer = _flat(sch, reduction, SPATIAL)
    _, lane = sch.split(sums, [None, WARP])
    sch.bind(outer, "blockIdx.x")
    sch.bind(lane, "threadIdx.x")


def reduce_alone(sch: s_tir.Schedule, reduction: Any, shared: bool) -> None:
    """A reduction that is an output: by warps if ``shared``, else in a register, then stored."""
    if shared:
        reduce_in_warp(sch, reduction)
    elif len(sch.get(reduction).writes) > 1:
        spread(sch, reduction)
        sch.decompose_reduction(reduction, sch.get_loops(reduction)[2])
    else:
        store = sch.cache_write(reduction, 0, "local")
        reduce_in_thread(sch, reduction, spread(sch, store))
