"""From a graph to an artifact folder: programs, machine code, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from onyxc.backends import replan
from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.write import write
from onyxc.backends.compile import Compiler, to_program
from onyxc.backends.cpu import spills
from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.lowering import registry
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target
from onyxc.compiler import worker
from onyxc.compiler.ir.graph import Graph

BATCH = 8  # kernels in one LLVM module: fewer make the linker work, more leave a core idle


def keep() -> frozenset[str]:
    """Standard operators that some lowering computes directly, so that passes do not expand them."""
    tables = (registry.ELEMENTWISE, registry.LOWERINGS, registry.IMPERATIVE)
    control = {"If", "Loop", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}
    return frozenset(op for table in tables for domain, op in table if not domain) | control


def build(
    graph: Graph,
    targets: Sequence[Target],
    out: Path,
    *,
    name: str,
    jobs: int = 1,
    library: Literal["shared", "static"] = "shared",
    weights: Literal["embedded", "beside"] = "embedded",
    compiler: str = "",
    runner: bool = True,
    info: dict[str, Any] | None = None,
    report: worker.Report = worker.quiet,
) -> None:
    """Lower for ``targets``, best first, generate code (in ``jobs`` processes) and write the artifact."""
    body = None
    if targets[0].kind == "cuda":
        from onyxc.backends.cuda.host import cuda_body

        report("lowering", 0, 1)
        program = to_program(graph, targets[0], name)
        levels, body = [Level(targets[0], program)], cuda_body(program, targets[0])
    else:
        levels = [_level(graph, target, name, jobs, report) for target in targets]
    report("linking", 0, 1)
    write(levels, out, library=library, weights=weights, compiler=compiler, info=info, body=body, runner=runner)


def _level(graph: Graph, target: Target, name: str, jobs: int, report: worker.Report) -> Level:
    """The program of one CPU target with its machine code, checked."""
    report(f"lowering for {target.name}", 0, 1)
    compiler = Compiler(target, name)
    program = compiler.program(graph)
    kernels = program.kernels()
    report(f"generating code for {len(kernels)} kernels", 0, 1)
    batches = _batches(kernels)
    made = worker.map_forked(lambda batch: _generate(batch, target), batches, jobs)
    objects = dict(zip(map(_names, batches), (data for data, _ in made), strict=True))
    found = {kernel: sums for _, measured in made for kernel, sums in measured.items() if sums.moves}
    notes: list[str] = []
    if found:
        report(f"planning {len(found)} kernels again that touch the stack", 0, 1)
        notes, changed = replan.replan(compiler, found, jobs)
        program = compiler.program(graph)
        batches = _batches(program.kernels())
        stale = [b for b in batches if _names(b) not in objects or any(k.name in changed for k in b)]
        fresh = worker.map_forked(lambda batch: compile_objects(batch, target), stale, jobs)
        objects |= dict(zip(map(_names, stale), fresh, strict=True))
    return Level(target, program, [data for batch in batches for data in objects[_names(batch)]], notes)


def _batches(kernels: list[Kernel]) -> list[list[Kernel]]:
    return [kernels[i : i + BATCH] for i in range(0, len(kernels), BATCH)]


def _names(kernels: list[Kernel]) -> tuple[str, ...]:
    return tuple(k.name for k in kernels)


def _generate(kernels: list[Kernel], target: Target) -> tuple[list[bytes], dict[str, spills.Sums]]:
    objects = compile_objects(kernels, target)
    return objects, spills.measure(kernels, objects, target)
