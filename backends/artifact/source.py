"""The C source of an artifact: one translation unit that includes the runtime's C files.

    tables     names, shapes, sizes                              `translation_unit`
    body.h     what a body gives to the public API              backends/runtime/body.h
    body       what computes them                                `cpu_body`, or another backend's
    api.c      the public functions                              backends/runtime/api.c
    profile.c  timing by steps, and the machine's limits         backends/runtime/profile.c

A backend whose processor is not the CPU writes its own body: C text that defines ``struct Context``, the
functions ``body_create, body_run, body_input, body_output, body_bind, body_output_shape, body_destroy, body_timing,
body_profile``. It may use ``load_weights`` / ``unload_weights`` (weights.c), ``fail`` and ``allocate`` (body.h), the
macros ``INPUTS``,
``OUTPUTS``, ``ARENA_BYTES``, ``WEIGHT_BYTES`` and the tables ``input_tensors``, ``output_tensors``, and it may embed
further files (`Body.files`, such as cubins, by ``.incbin "name"``). Offsets come from `memory.plan` and
`weights.collect`, which give the same answers to everybody. Header, manifest, public C functions, the runner and
the Python loader then work unchanged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onyxc.backends.artifact.level import Level
from onyxc.backends.artifact.manifest import Manifest, Tensor
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


def translation_unit(manifest: Manifest, body: Body) -> str:
    """The whole C text of an artifact."""
    return "\n".join(
        [
            f"/* {comment(manifest.name)} for {manifest.target} */",
            "#define _GNU_SOURCE",
            f"#define MODEL(x) {manifest.prefix}_##x",
            f"#define MODEL_NAME {string(manifest.name)}",
            f"#define TARGET_NAME {string(manifest.target)}",
            f"#define INPUTS {len(manifest.inputs)}",
            f"#define OUTPUTS {len(manifest.outputs)}",
            f"#define ARENA_BYTES {manifest.arena_bytes}",
            f"#define WEIGHT_BYTES {manifest.weight_bytes}",
            *([f"#define WEIGHTS_FILE {string(manifest.weights)}"] if manifest.weights else []),
            f'#include "{manifest.header}"',
            '#include "profile.h"',
            '#include "body.h"',
            '#include "weights.c"',
            *_tensor_table("input", manifest.inputs),
            *_tensor_table("output", manifest.outputs),
            body.source,
            '#include "api.c"',
            '#include "peak.c"',
            '#include "profile.c"',
            "",
        ]
    )


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


def cpu_body(levels: Sequence[Level], weights: Weights, prefix: str) -> Body:
    """The entry functions of ``levels``, best first; ``prefix`` is what stands before the kernels' symbols."""
    program = levels[0].program
    has_count = ", ".join(str(int(b.name in program.counts)) for b in program.outputs)
    lines = [
        f"#define SCRATCH_BYTES {max(level.plan.scratch_bytes for level in levels)}",
        '#include "pool.c"',
        '#include "clock.h"',
        '#include "features.c"',
        '#include "levels.c"',
        "#define IO(index) (((char **)A)[(index) - (INPUTS + OUTPUTS)]) /* see cpu.c */",
        "#define I64(address) (*(int64_t *)(address))",
        "#define TRUE(address) (*(uint8_t *)(address) != 0)",
        f"static const char has_count[] = {{{has_count or 0}}};",
    ]
    rows = []
    for level in levels:
        text, row = _level(level, weights, prefix)
        lines += text
        rows.append(row)
    lines += ["static const Level levels[] = {", *rows, "};", '#include "cpu.c"']
    return Body("\n".join(lines), max(level.plan.arena_bytes for level in levels))


def _level(level: Level, weights: Weights, prefix: str) -> tuple[list[str], str]:
    """The functions and tables of one level, and its row in the table of levels."""
    program, plan, name = level.program, level.plan, level.identifier
    writer = _Writer(level, weights, f"{prefix}{name}__")
    writer.steps(program.steps, 1)
    counts = [program.counts.get(b.name) for b in program.outputs]
    tensors = (*program.inputs, *program.outputs)
    places = {
        "input": [writer.place(b) for b in program.inputs],
        "output": [writer.place(b) for b in program.outputs],
        "count": [writer.place(b) if b else 0 for b in counts],
    }
    parameters = "Pool *pool, char *A, char *W, char *S"
    lines = [
        f"/* {comment(level.target.name)} */",
        *(f"static const int64_t {kind}_{name}[] = {{{', '.join(map(str, v or [0]))}}};" for kind, v in places.items()),
        f"static const char apart_{name}[] = {{{', '.join(str(int(b in writer.apart)) for b in tensors) or 0}}};",
        f"static const char *const features_{name}[] = {{{''.join(f'{string(f)}, ' for f in level.target.features)}NULL}};",
        "#pragma GCC visibility push(hidden)",
        *writer.prototypes.values(),
        "#pragma GCC visibility pop",
        *writer.tasks,
        "",
        "/* A: arena, W: weights, S: scratch of this thread */",
        f"static ALWAYS_INLINE void steps_{name}({parameters}, Clock *clock) {{",
        "    (void)pool, (void)A, (void)W, (void)S, (void)clock;",
        *writer.lines,
        "}",
        f"static void entry_{name}({parameters}) {{ steps_{name}(pool, A, W, S, NULL); }}",
        f"static void profiled_{name}({parameters}, Clock *clock) {{ steps_{name}(pool, A, W, S, clock); }}",
    ]
    row = (
        f"    {{{string(level.target.name)}, features_{name}, {plan.arena_bytes}, {writer.timed}, entry_{name}, "
        f"profiled_{name}, {', '.join(f'{kind}_{name}' for kind in places)}, apart_{name}}},"
    )
    return lines, row


class _Writer:
    """Writes steps as C statements, and a task function for each call that threads share."""

    def __init__(self, level: Level, weights: Weights, prefix: str):
        self.plan, self.weights, self.prefix, self.level = level.plan, weights, prefix, level.identifier
        self.apart = _apart(level.program)
        self.prototypes: dict[str, str] = {}
        self.tasks: list[str] = []
        self.lines: list[str] = []
        self.timed = 0  # steps that tick, numbered as `artifact.steps` lists them

    def place(self, buffer: Buffer) -> int:
        """Arena offset, or the complement of an offset into the weights (as cpu.c reads it)."""
        if buffer.root()[0].kind == "constant":
            return ~self.weights.offset(buffer)
        return self.plan.offset(buffer)

    def address(self, buffer: Buffer) -> str:
        if buffer.kind == "scratch":
            return "S"
        root, inside = buffer.root()
        if root in self.apart:
            return f"IO({self.apart[root]}) + {inside}"
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
                        self.put(depth, f"{copied}, {step.source.nbytes}); {self.tick()}")
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

    def tick(self) -> str:
        self.timed += 1
        return f"tick(clock, {self.timed - 1});"

    def call(self, call: Call, depth: int) -> None:
        kernel = call.kernel
        symbol = self.prefix + kernel.name
        parameters = ", ".join(["void *"] * len(call.args) + ["int32_t begin", "int32_t end"])
        self.prototypes.setdefault(symbol, f"extern void {symbol}({parameters});")
        arguments = "".join(f"{self.address(b)}, " for b in call.args)
        if kernel.tasks == 1 or not _worth_threads(call):
            self.put(depth, f"{symbol}({arguments}0, {kernel.tasks}); {self.tick()}")
            return
        task = f"task_{self.level}_{len(self.tasks)}"
        head = f"static void {task}(char *A, char *W, char *S, int32_t begin, int32_t end)"
        self.tasks.append(f"{head} {{ (void)A, (void)W, (void)S; {symbol}({arguments}begin, end); }}")
        self.put(depth, f"parallel(pool, {task}, {kernel.tasks}); {self.tick()} /* {kernel.name} */")

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


def _apart(program: Program) -> dict[Buffer, int]:
    """Inputs and outputs that may lie anywhere, with their index (outputs behind inputs): whole buffers, each used once."""
    tensors = (*program.inputs, *program.outputs)
    used = Counter(b.root()[0] for b in (*tensors, *program.counts.values()))
    return {b: i for i, b in enumerate(tensors) if b.base is None and b.kind != "constant" and used[b] == 1}


def _worth_threads(call: Call) -> bool:
    written = sum(b.nbytes for b in call.args[call.reads :])
    return max(call.kernel.work, written) >= SERIAL_WORK
