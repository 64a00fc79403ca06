"""From a graph to an artifact folder: programs, machine code, files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
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

BATCH = 4  # kernels in one LLVM module: fewer make the linker work, more leave a core idle


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
    """The program of one CPU target with its machine code, checked; LLVM begins while the others are still lowered."""
    report(f"lowering for {target.name}", 0, 1)
    with worker.Background[list[Kernel]](lambda batch: _generate(batch, target), jobs) as side:
        batches = _Batches(side.add)
        compiler = Compiler(target, name, made=lambda recipe: batches.take([piece.kernel for piece in recipe]))
        program = compiler.program(graph)
        kernels = program.kernels()
        report(f"generating code for {len(kernels)} kernels", 0, 1)
        batches.take(kernels)
        batches.flush()
        made = side.finish()
    objects = dict(zip(map(_names, batches.begun), (data for data, _ in made), strict=True))
    found = {kernel: sums for _, measured in made for kernel, sums in measured.items() if sums.moves}
    notes: list[str] = []
    if found:
        report(f"planning {len(found)} kernels again that touch the stack", 0, 1)
        notes, changed = replan.replan(compiler, found, jobs)
        program = compiler.program(graph)
        now = {k.name: k for k in program.kernels()}
        parts = [[now.pop(name) for name in _names(batch) if name in now] for batch in batches.begun]
        parts = [part for part in (*parts, list(now.values())) if part]
        stale = [b for b in parts if _names(b) not in objects or any(k.name in changed for k in b)]
        fresh = worker.map_forked(lambda batch: compile_objects(batch, target), stale, jobs)
        objects |= dict(zip(map(_names, stale), fresh, strict=True))
        objects = {_names(part): objects[_names(part)] for part in parts}
    return Level(target, program, [data for made in objects.values() for data in made], notes)


@dataclass
class _Batches:
    """Kernels in the order in which they come, each once; every `BATCH` of them go to ``begin``."""

    begin: Callable[[list[Kernel]], None]
    begun: list[list[Kernel]] = field(default_factory=list)
    waiting: list[Kernel] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def take(self, kernels: Sequence[Kernel]) -> None:
        for kernel in kernels:
            if kernel.name not in self.known:
                self.known.add(kernel.name)
                self.waiting.append(kernel)
                if len(self.waiting) == BATCH:
                    self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.begun.append(self.waiting)
            self.begin(self.waiting)
            self.waiting = []


def _names(kernels: Sequence[Kernel]) -> tuple[str, ...]:
    return tuple(k.name for k in kernels)


def _generate(kernels: list[Kernel], target: Target) -> tuple[list[bytes], dict[str, spills.Sums]]:
    objects = compile_objects(kernels, target)
    return objects, spills.measure(kernels, objects, target)
