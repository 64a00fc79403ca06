"""Threads for one stage over a flat axis: an element a thread, or a warp an element where sums are long and few."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from onyxc.backends.lowering.scalar import highest, lowest

THREADS = 256
WARP = 32
FEW = 4096  # elements: below this a thread each leaves the processor idle
LONG = 128  # terms: from here on a warp shares a sum


def _teach(combine: Callable[[Any, Any], Any], identity: Callable[[str], Any]) -> None:
    """Let TVM share a reduction among threads although its identity is another than TVM's own (a finite number)."""
    functions = (
        tvm_ffi.convert(lambda left, right: [combine(left[0], right[0])]),
        tvm_ffi.convert(lambda values: [identity(str(values[0].ty.dtype))]),
    )
    tvm.get_global_func("s_tir.schedule.RegisterReducer")(1, *functions)
    for function in functions:  # TVM would give them back when the process ends, after Python has: they stay for good
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(function))


_teach(tirx.max, lowest)
_teach(tirx.min, highest)


def spread(sch: s_tir.Schedule, block: Any) -> Any:
    """One element of ``block`` a thread; returns the thread's loop."""
    (flat,) = sch.get_loops(block)
    size = int(sch.get(flat).extent)
    threads = THREADS if size >= 64 * THREADS else min(2 * WARP, -(-size // WARP) * WARP)
    grid, thread = sch.split(flat, [None, threads])
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
    flat, *terms = sch.get_loops(reduction)
    _, lane = sch.split(sch.fuse(*terms) if len(terms) > 1 else terms[0], [None, WARP])
    sch.bind(flat, "blockIdx.x")
    sch.bind(lane, "threadIdx.x")


def reduce_alone(sch: s_tir.Schedule, reduction: Any, shared: bool) -> None:
    """A reduction that is an output: by warps if ``shared``, else in a register, then stored."""
    if shared:
        reduce_in_warp(sch, reduction)
        return
    stores = [sch.cache_write(reduction, i, "local") for i in range(len(sch.get(reduction).writes))]
    if len(stores) == 1:
        reduce_in_thread(sch, reduction, spread(sch, stores[0]))
        return
    flat, *terms = sch.get_loops(reduction)
    grid, thread = sch.split(flat, [None, WARP])
    sch.bind(grid, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    for store in stores:
        sch.reverse_compute_at(store, thread, preserve_unit_loops=True)
    sch.decompose_reduction(reduction, terms[0])
