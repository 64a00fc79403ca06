"""The C source of an artifact: one translation unit that includes the runtime's C files.

    tables     names, shapes, sizes                              `translation_unit`
    body.h     the six functions between tables and public API   backends/runtime/body.h
    body       what computes them                                `cpu_body`, or another backend's
    api.c      the public functions                              backends/runtime/api.c

A backend whose processor is not the CPU writes its own body: C text that defines ``struct Context`` and the
functions ``body_create, body_run, body_input, body_output, body_output_shape, body_destroy``. It may use
``load_weights`` / ``unload_weights`` (weights.c), ``fail`` and ``allocate`` (body.h), the macros ``INPUTS``,
``OUTPUTS``, ``ARENA_BYTES``, ``WEIGHT_BYTES`` and the tables ``input_tensors``, ``output_tensors``, and it may embed
further files (`Body.files`, such as cubins, by ``.incbin "name"``). Offsets come from `memory.plan` and
`weights.collect`, which give the same answers to everybody. Header, manifest, public C functions, the runner and
the Python loader then work unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onyxc.backends.artifact.manifest import Manifest, Tensor
from onyxc.backends.artifact.memory import Plan
from onyxc.backends.artifact.names import comment, string
from onyxc.backends.artifact.weights import Weights
from onyxc.backends.program import Buffer, Call, Copy, If, Loop, Program, Step

SERIAL_WORK = 200_000  # operations or bytes written; below, waking threads costs more than it gains


@dataclass(frozen=True)
class Body:
    """The computing part of an artifact as C text; ``files`` are what it includes or embeds."""

    source: str
    arena_bytes: int
    files: Mapping[str, bytes] = field(default_factory=dict)


def translation_unit(manifest: Manifest, body: Body, *, features: Sequence[str], weights_digest: str) -> str:
    """The whole C text of an artifact."""
    lines = [
        f"/* {comment(manifest.name)} for {manifest.target}; weights {weights_digest} */",
        "#define _GNU_SOURCE",
        f"#define MODEL(x) {manifest.prefix}_##x",
        f"#define MODEL_NAME {string(manifest.name)}",
        f"#define TARGET_NAME {string(manifest.target)}",
        f"#define INPUTS {len(manifest.inputs)}",
        f"#define OUTPUTS {len(manifest.outputs)}",
        f"#define ARENA_BYTES {manifest.arena_bytes}",
        f"#define WEIGHT_BYTES {manifest.weight_bytes}",
        f"#define REQUIRED_FEATURES {''.join(f'{string(f)}, ' for f in features)}",
        *([f"#define WEIGHTS_FILE {string(manifest.weights)}"] if manifest.weights else []),
        f'#include "{manifest.header}"',
        '#include "body.h"',
        '#include "features.c"',
        '#include "weights.c"',
        *_tensor_table("input", manifest.inputs),
        *_tensor_table("output", manifest.outputs),
        body.source,
        '#include "api.c"',
    ]
    if manifest.weight_bytes and not manifest.weights:
        lines.append(_embedded(f"{manifest.prefix}_weights"))
    return "\n".join(lines) + "\n"


def _tensor_table(side: str, tensors: Sequence[Tensor]) -> list[str]:
    shapes = [
        f"static const int64_t {side}_{i}_shape[] = {{{', '.join(map(str, t.shape)) or '0'}}};"
        for i, t in enumerate(tensors)
    ]
    rows = [
        f"    {{{string(t.name)}, {string(t.dtype)}, {len(t.shape)}, {int(t.dynamic)}, {side}_{i}_shape, {t.bytes}}},"
        for i, t in enumerate(tensors)
    ]
    return [*shapes, f"static const OnyxcTensorV1 {side}_tensors[] = {{", *(rows or ["    {0}"]), "};"]


def _embedded(symbol: str) -> str:
    return f"""\
__asm__(".pushsection .rodata.weights,\\"a\\",%progbits\\n"
        ".balign 64\\n"
        ".globl {symbol}\\n"
        ".hidden {symbol}\\n"
        "{symbol}:\\n"
        ".incbin \\"weights.bin\\"\\n"
        ".popsection\\n");"""


def cpu_body(program: Program, plan: Plan, weights: Weights, prefix: str) -> Body:
    """The entry function of ``program``; ``prefix`` is what stands before the kernels' symbols."""
    writer = _Writer(plan, weights, prefix)
    writer.steps(program.steps, 1)
    counts = [program.counts.get(b.name) for b in program.outputs]
    tables = (
        ("int64_t", "input_places", [writer.place(b) for b in program.inputs]),
        ("int64_t", "output_places", [writer.place(b) for b in program.outputs]),
        ("int64_t", "count_places", [writer.place(b) if b else 0 for b in counts]),
        ("char", "has_count", [int(b is not None) for b in counts]),
    )
    lines = [
        f"#define SCRATCH_BYTES {plan.scratch_bytes}",
        '#include "pool.c"',
        "#define I64(address) (*(int64_t *)(address))",
        "#define TRUE(address) (*(uint8_t *)(address) != 0)",
        *(f"static const {kind} {name}[] = {{{', '.join(map(str, v or [0]))}}};" for kind, name, v in tables),
        "#pragma GCC visibility push(hidden)",
        *writer.prototypes.values(),
        "#pragma GCC visibility pop",
        *writer.tasks,
        "",
        "/* A: arena, W: weights, S: scratch of this thread */",
        "static void entry(Pool *pool, char *A, char *W, char *S) {",
        "    (void)pool, (void)A, (void)W, (void)S;",
        *writer.lines,
        "}",
        '#include "cpu.c"',
    ]
    return Body("\n".join(lines), plan.arena_bytes)


class _Writer:
    """Writes steps as C statements, and a task function for each call that threads share."""

    def __init__(self, plan: Plan, weights: Weights, prefix: str):
        self.plan, self.weights, self.prefix = plan, weights, prefix
        self.prototypes: dict[str, str] = {}
        self.tasks: list[str] = []
        self.lines: list[str] = []

    def place(self, buffer: Buffer) -> int:
        """Arena offset, or the complement of an offset into the weights (as cpu.c reads it)."""
        if buffer.root()[0].kind == "constant":
            return ~self.weights.offset(buffer)
        return self.plan.offset(buffer)

    def address(self, buffer: Buffer) -> str:
        if buffer.kind == "scratch":
            return "S"
        place = self.place(buffer)
        return f"W + {~place}" if place < 0 else f"A + {place}"

    def steps(self, steps: Sequence[Step], depth: int) -> None:
        for step in steps:
            match step:
                case Call():
                    self.call(step, depth)
                case Copy():
                    if step.source.nbytes:
                        copied = f"memmove({self.address(step.target)}, {self.address(step.source)}"
                        self.put(depth, f"{copied}, {step.source.nbytes});")
                case If():
                    self.put(depth, f"if (TRUE({self.address(step.condition)})) {{")
                    self.steps(step.then, depth + 1)
                    if step.otherwise:
                        self.put(depth, "} else {")
                        self.steps(step.otherwise, depth + 1)
                    self.put(depth, "}")
                case Loop():
                    self.loop(step, depth)

    def put(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def call(self, call: Call, depth: int) -> None:
        kernel = call.kernel
        symbol = self.prefix + kernel.name
        parameters = ", ".join(["void *"] * len(call.args) + ["int32_t begin", "int32_t end"])
        self.prototypes.setdefault(symbol, f"extern void {symbol}({parameters});")
        arguments = "".join(f"{self.address(b)}, " for b in call.args)
        if kernel.tasks == 1 or not _worth_threads(call):
            self.put(depth, f"{symbol}({arguments}0, {kernel.tasks});")
            return
        task = f"task_{len(self.tasks)}"
        head = f"static void {task}(char *A, char *W, char *S, int32_t begin, int32_t end)"
        self.tasks.append(f"{head} {{ (void)A, (void)W, (void)S; {symbol}({arguments}begin, end); }}")
        self.put(depth, f"parallel(pool, {task}, {kernel.tasks}); /* {kernel.name} */")

    def loop(self, loop: Loop, depth: int) -> None:
        trip = f"I64({self.address(loop.trip)})" if loop.trip else "INT64_MAX"
        go_on = f" && TRUE({self.address(loop.condition)})" if loop.condition else ""
        self.put(depth, "{")
        self.put(depth + 1, f"const int64_t trip = {trip};")
        self.put(depth + 1, "int64_t turn = 0;")
        self.put(depth + 1, f"for (; turn < trip{go_on}; turn++) {{")
        self.put(depth + 2, f"I64({self.address(loop.iteration)}) = turn;")
        self.steps(loop.body, depth + 2)
        self.put(depth + 1, "}")
        if loop.count:
            self.put(depth + 1, f"I64({self.address(loop.count)}) = turn;")
        self.put(depth, "}")


def _worth_threads(call: Call) -> bool:
    written = sum(b.nbytes for b in call.args[call.reads :])
    return max(call.kernel.work, written) >= SERIAL_WORK
