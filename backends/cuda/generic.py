"""Any fused group: injective stages inlined, one kernel a materialised stage, a sum kept in registers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, te, tirx

from onyxc.backends.cuda import lower, matmul, rows, schedule
from onyxc.backends.cuda.stages import Key, Stage, key, materialised
from onyxc.backends.cuda.unit import Readers, Sum, Unit, readers_of
from onyxc.backends.kernels.generic import Piece
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError, OnyxcError


def build_all(
    name: str, inputs: Sequence[te.Tensor], outputs: Sequence[te.Tensor], target: Target
) -> tuple[list[Piece], list[te.Tensor]]:
    """Kernels, in order, that compute ``outputs``, and the tensors between them, which need memory of their own.

    The counterpart of `onyxc.backends.kernels.generic.build_all`, with the same names and arguments.

    Raises:
        UnsupportedError: a stage is no te.compute.
        BuildError: TVM refuses the schedule.
    """
    stages = materialised(inputs, outputs)
    memory = {key(t): t for t in (*inputs, *(t for s in stages for t in s.tensors))}
    readers, wanted = readers_of(stages, memory), {hash(t.op) for t in outputs}
    row_groups = {row.stage: row for row in rows.find(stages, readers, wanted)}
    within = {s for row in row_groups.values() for s in row.sums}
    sums = _sums([s for s in stages if s not in within], readers, wanted)
    kernels = [s for s in stages if s not in sums and s not in within]
    pieces = []
    for index, stage in enumerate(kernels):
        label = lower.symbol(name if len(kernels) == 1 else f"{name}_{index}")
        mine = [s for s in sums.values() if s.reader is stage]
        if not stage.size:
            pieces.append(_nothing(label, stage))
            continue
        try:
            made = _row(row_groups[stage], memory) if stage in row_groups else _plain(stage, mine, memory)
            pieces.append(_piece(label, stage, made, memory, target))
        except OnyxcError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise BuildError(f"CUDA kernel {label}: {error}") from error
    known = {key(t) for t in (*inputs, *outputs)}
    return pieces, [t for s in kernels for t in s.tensors if key(t) not in known]


def _sums(stages: list[Stage], readers: Readers, outputs: set[int]) -> dict[Stage, Sum]:
    """Reductions whose elements are each read once, by one element of one injective stage."""
    sums = {}
    for stage in stages:
        if not stage.is_reduction or hash(stage.op) in outputs or schedule.shares(stage.size, stage.domain):
            continue
        found = [pair for t in stage.tensors for pair in readers.get(key(t), [])]
        reader = found[0][0]
        first, *others = (place for _, places in found for place in places)
        same = all(_same(first, other) for other in others) and all(r is reader for r, _ in found)
        if same and not reader.is_reduction and reader.size == stage.size and _inside(first, stage, reader):
            sums[stage] = Sum(stage, reader, first)
    return sums


def _same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    return all(tvm_ffi.structural_equal(a, b) for a, b in zip(left, right, strict=True))


def _inside(place: Sequence[Any], stage: Stage, reader: Stage) -> bool:
    """Whether ``place`` is an element of ``stage`` for every element of ``reader``, guarded or not."""
    analyzer = tvm.sym.Analyzer()
    for axis in reader.op.axis:
        analyzer.bind(axis.var, axis.dom)
    limits = zip(place, stage.op.axis, strict=True)
    return all(analyzer.can_prove(tirx.all(i >= 0, i < a.dom.extent)) for i, a in limits)


@dataclass(frozen=True)
class _Made:
    unit: Unit
    schedule: s_tir.Schedule
    results: list[Any]
    parts: list[Stage]


def _row(row: rows.Row, memory: dict[Key, Any]) -> _Made:
    return _Made(*rows.build(row, memory), [*row.sums, row.stage])


def _plain(stage: Stage, sums: list[Sum], memory: dict[Key, Any]) -> _Made:
    unit, plan = Unit(memory), matmul.plan(stage, sums, memory)
    sch, results = matmul.build(plan, unit) if plan else _threads(stage, sums, unit)
    return _Made(unit, sch, results, [stage, *(s.stage for s in sums)])


def _nothing(name: str, stage: Stage) -> Piece:
    """A kernel for results without elements; the host program never launches it."""
    parameters = ", ".join(f"void* p{i}" for i in range(len(stage.tensors)))
    source = f'extern "C" __global__ void {name}({parameters}) {{}}\n'
    return Piece(Kernel(name, source=source), tuple(stage.tensors), 0)


def _piece(name: str, stage: Stage, made: _Made, memory: dict[Key, Any], target: Target) -> Piece:
    (launch,) = lower.launches(made.schedule.mod["main"], target)
    everything = [*(memory[r] for r in made.unit.reads), *stage.tensors]
    used = sorted(launch.arguments)  # without what the simplifier found to be needless
    kernel = lower.kernel(launch, used, name, target)
    kernel.work = sum(s.domain * max(1, s.work) for s in made.parts)
    return Piece(kernel, tuple(everything[i] for i in used), sum(i < len(made.unit.reads) for i in used))


def _threads(stage: Stage, sums: list[Sum], unit: Unit) -> tuple[s_tir.Schedule, list[Any]]:
    """One element a thread, its sums in registers; or, for a reduction, what suits its shape."""
    results = unit.results(stage, sums)
    sch = s_tir.Schedule(te.create_prim_func([*unit.reads.values(), *results]))
    *local, block = sch.get_child_blocks(sch.get_sblock("root"))
    if stage.is_reduction:
        schedule.reduce_alone(sch, block, schedule.shares(stage.size, stage.domain))
    else:
        thread = schedule.spread(sch, block)
        for reduction in local:
            schedule.reduce_in_thread(sch, reduction, thread)
    return sch, results
