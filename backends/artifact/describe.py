"""The table of a program's steps (`steps.Step`), in the order in which its entry function times them."""

from __future__ import annotations

from onyxc.backends.artifact.steps import Step
from onyxc.backends.program import Call, Copy, Program


def describe(program: Program) -> tuple[Step, ...]:
    """Every call, and every copy that moves something."""
    made = []
    for step in program.walk():
        if isinstance(step, Call):
            made.append(_call(step))
        elif isinstance(step, Copy) and step.source.nbytes:
            made.append(_copy(step))
    return tuple(made)


def _call(call: Call) -> Step:
    reads, written = call.args[: call.reads], [b for b in call.args[call.reads :] if b.kind != "scratch"]
    sizes = call.origin.reads if call.origin else [b.nbytes for b in reads]
    amounts = {(b.root(), b.shape): n for b, n in zip(reads, sizes, strict=True)}  # an operand read twice counts once
    constant = sum(n for ((root, _), _), n in amounts.items() if root.kind == "constant")
    return Step(
        kernel=call.kernel.name,
        nodes=call.origin.nodes if call.origin else (),
        shape=call.origin.shape if call.origin else "",
        flops=call.origin.flops if call.origin else 0,
        constant_bytes=constant,
        read_bytes=sum(amounts.values()) - constant,
        written_bytes=sum(b.nbytes for b in written),
        dtype=next((b.dtype for b in (*reads, *written)), "float32"),
        tasks=call.kernel.tasks,
        note=call.kernel.note,
    )


def _copy(copy: Copy) -> Step:
    size, constant = copy.source.nbytes, copy.source.root()[0].kind == "constant"
    return Step(
        "copy",
        constant_bytes=size if constant else 0,
        read_bytes=0 if constant else size,
        written_bytes=size,
        dtype=copy.source.dtype,
    )
