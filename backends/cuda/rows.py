"""Softmax, norms and the like: one block a row, which computes the row's sums and then its elements.

    x[r, c] = f(y[r, c], s1[r], s2[r])     s1[r] = sum over k of ...     s2[r] = sum over k of g(..., s1[r])

Rows and columns are the flat axis of the stage, cut where its sums change; sums lie in shared memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import s_tir, te, tirx

from onyxc.backends.cuda.stages import Key, Stage, key
from onyxc.backends.cuda.unit import Readers, Unit, unflat

NARROW = 32  # columns below which a thread an element does as well
WARP, WIDE = 32, 256  # threads a row


@dataclass(frozen=True)
class Row:
    """``stage`` and the reductions that its blocks compute for themselves, producers first."""

    stage: Stage
    sums: tuple[Stage, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows = self.sums[0].size
        return rows, self.stage.size // rows


def find(stages: Sequence[Stage], readers: Readers, outputs: set[int]) -> list[Row]:
    """The row groups among ``stages``; ``outputs``: hashes of the operations that must be in memory."""
    free = [s for s in stages if s.is_reduction and hash(s.op) not in outputs]
    found = []
    for stage in stages:
        if not stage.is_reduction:
            sums = _sums(stage, [s for s in free if s is not stage], readers)
            if sums and Row(stage, sums).shape[1] >= NARROW:
                found.append(Row(stage, sums))
    return found


def _sums(stage: Stage, candidates: list[Stage], readers: Readers) -> tuple[Stage, ...]:
    """Those of ``candidates`` that only ``stage`` reads, or each other, row by row."""
    uses = {s: [use for t in s.tensors for use in readers.get(key(t), [])] for s in candidates}
    direct = [s for s in candidates if any(reader is stage for reader, _ in uses[s])]
    rows = direct[0].size if direct else 0
    kept = [s for s in candidates if s.size == rows > 1 and not stage.size % rows]
    while True:
        inside = [
            s
            for s in kept
            if all(r is stage or r in kept for r, _ in uses[s])
            and all(_is_row(s, r, place, rows) for r, places in uses[s] for place in places)
        ]
        if len(inside) == len(kept):
            return tuple(kept)
        kept = inside


def _is_row(total: Stage, reader: Stage, place: Sequence[Any], rows: int) -> bool:
    """Whether element (r, c) of ``reader``, cut in ``rows`` rows, reads element r of ``total``."""
    columns = reader.size // rows
    r, c = tirx.Var("r", "int32"), tirx.Var("c", "int32")
    analyzer = tvm.sym.Analyzer()
    analyzer.bind(r, tvm.ir.Range(0, rows))
    analyzer.bind(c, tvm.ir.Range(0, columns))
    env = unflat(reader.op.axis, analyzer.simplify(r * columns + c))
    flat: Any = tirx.const(0, "int32")
    for index, axis in zip(place, total.op.axis, strict=True):
        flat = flat * int(axis.dom.extent) + Unit({}).expand(index, env)
    return bool(analyzer.can_prove(tirx.EQ(flat, r)))


def build(row: Row, memory: Mapping[Key, Any]) -> tuple[Unit, s_tir.Schedule, list[Any]]:
    """What the kernel reads, its schedule, and its result as rows x columns."""
    rows, columns = row.shape
    unit = Unit(memory)
    made: list[tuple[Stage, list[Any]]] = []

    def at(r: Any) -> None:
        for total, tensors in made:
            unit.local.update({key(t): m[r] for t, m in zip(total.tensors, tensors, strict=True)})

    for total in row.sums:
        made.append((total, unit.reduction(total, (rows,), lambda r, total=total: unflat(total.op.axis, r), at)))

    def element(r: Any, c: Any) -> Any:
        at(r)
        return unit.expand(row.stage.op.body[0], unflat(row.stage.op.axis, r * columns + c))

    result = te.compute((rows, columns), element, name=str(row.stage.op.name))
    sch = s_tir.Schedule(te.create_prim_func([*unit.reads.values(), result]))
    _schedule(sch, WIDE if columns > 8 * WARP else WARP)
    return unit, sch, [result]


def _schedule(sch: s_tir.Schedule, threads: int) -> None:
    *sums, block = sch.get_child_blocks(sch.get_sblock("root"))
    row, column = sch.get_loops(block)
    _, thread = sch.split(column, [None, threads])
    sch.bind(row, "blockIdx.x")
    sch.bind(thread, "threadIdx.x")
    for total in reversed(sums):
        for index in range(len(sch.get(total).writes)):
            sch.set_scope(total, index, "shared")
        sch.compute_at(total, row, preserve_unit_loops=True)
        _, _, *terms = sch.get_loops(total)
        _, lane = sch.split(sch.fuse(*terms) if len(terms) > 1 else terms[0], [None, threads])
        sch.bind(lane, "threadIdx.x")
