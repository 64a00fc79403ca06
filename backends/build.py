"""From a graph to an artifact folder: program, machine code, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from onyxc.backends.artifact.write import write
from onyxc.backends.compile import to_program
from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.lowering import registry
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
    target: Target,
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
    """Lower, generate code (in ``jobs`` processes) and write the artifact."""
    report("lowering", 0, 1)
    program = to_program(graph, target, name)
    body, objects = None, []
    if target.kind == "cuda":
        from onyxc.backends.cuda.host import cuda_body

        body = cuda_body(program, target)
    else:
        kernels = program.kernels()
        report(f"generating code for {len(kernels)} kernels", 0, 1)
        batches = [kernels[i : i + BATCH] for i in range(0, len(kernels), BATCH)]
        made = worker.map_forked(lambda batch: compile_objects(batch, target), batches, jobs)
        objects = [data for part in made for data in part]
    report("linking", 0, 1)
    write(
        program, objects, target, out, library=library, weights=weights, compiler=compiler, info=info, body=body,
        runner=runner,
    )  # fmt: skip
