"""Any fused group: injective stages inlined, one kernel a materialised stage, a sum kept in registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, te, tirx

from onyxc.backends.cuda import lower, matmul, schedule
from onyxc.backends.cuda.stages import Stage, key, materialised
from onyxc.backends.cuda.unit import Sum, Unit
from onyxc.backends.kernels.generic import Piece
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
    sums = _sums(stages, memory, {hash(t.op) for t in outputs})
    kernels = [s for s in stages if s not in sums]
    pieces = []
    for index, stage in enumerate(kernels):
        label = lower.symbol(name if len(kernels) == 1 else f"{name}_{index}")
        try:
            pieces.append(_piece(label, stage, [s for s in sums.values() if s.reader is stage], memory, target))
        except OnyxcError:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise BuildError(f"CUDA kernel {label}: {error}") from error
    known = {key(t) for t in (*inputs, *outputs)}
    return pieces, [t for s in kernels for t in s.tensors if key(t) not in known]


def _sums(stages: list[Stage], memory: dict[Any, Any], outputs: set[int]) -> dict[Stage, Sum]:
    """Reductions whose elements are each read once, by one element of one injective stage."""
    readers: dict[Any, list[tuple[Stage, list[Any]]]] = {}
    for stage in stages:
        for tensor, places in Unit(memory).trace(stage).items():
            readers.setdefault(tensor, []).append((stage, places))
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


def _piece(name: str, stage: Stage, sums: list[Sum], memory: dict[Any, Any], target: Target) -> Piece:
    unit = Unit(memory)
    plan = matmul.plan(stage, sums, memory)
    sch, results = matmul.build(plan, unit) if plan else _threads(stage, sums, unit)
    (launch,) = lower.launches(sch.mod["main"], target)
    reads = list(unit.reads)
    kernel = lower.kernel(launch, list(range(len(reads) + len(results))), name, target)
    kernel.work = sum(s.domain * max(1, s.work) for s in (stage, *(s.stage for s in sums)))
    return Piece(kernel, (*(memory[r] for r in reads), *stage.tensors), len(reads))


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
