"""The host program of a CUDA artifact: tables and control flow for host.c, and the kernels' cubin.

A program without control flow is one graph: uploads, kernels, downloads. With it, every run of steps between two
decisions is a graph, and the decisions are C code that reads one value back from the device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from onyxc.backends.artifact import memory
from onyxc.backends.artifact import weights as weights_
from onyxc.backends.artifact.names import string
from onyxc.backends.artifact.source import Body
from onyxc.backends.cuda import nvrtc
from onyxc.backends.program import ALIGNMENT, Buffer, Call, Copy, If, Kernel, Loop, Program, Step
from onyxc.backends.target import Target
from onyxc.compiler.errors import BuildError

_FOLDER = Path(__file__).parent
CUBIN = "model.cubin"
LAUNCH, COPY, UPLOAD, DOWNLOAD = range(4)


def cuda_body(program: Program, target: Target) -> Body:
    """What `artifact.write` needs in place of the CPU's entry function.

    Raises:
        BuildError: NVRTC is missing or refuses a kernel.
    """
    arch = dict(target.options)["arch"]
    code = nvrtc.compile_source(source(program), arch)
    files = {CUBIN: code.image, **{name: (_FOLDER / name).read_bytes() for name in ("host.h", "host.c")}}
    return Body(_Writer(program).text(), memory.plan(program).arena_bytes, files)


def source(program: Program) -> str:
    """The CUDA C of all kernels: what NVRTC compiles, and the emulator (`emulator.build_driver`)."""
    return "\n".join(k.source for k in _distinct(program.kernels())[0])


def _distinct(kernels: Sequence[Kernel]) -> tuple[list[Kernel], dict[int, int]]:
    """Kernels that differ in more than their names; and which of them stands for each kernel, by its id."""
    found: dict[tuple[object, ...], int] = {}
    kept: list[Kernel] = []
    numbers = {}
    for kernel in kernels:
        text = re.sub(rf"\b{kernel.name}\b", "", kernel.source)
        key = (text, kernel.grid, kernel.block, kernel.shared_bytes)
        if key not in found:
            if any(k.name == kernel.name for k in kept):
                raise BuildError(f"two kernels are called {kernel.name!r}")
            found[key] = len(kept)
            kept.append(kernel)
        numbers[id(kernel)] = found[key]
    return kept, numbers


class _Writer:
    """Collects the tables while it walks the steps."""

    def __init__(self, program: Program):
        self.program = program
        self.plan, self.weights = memory.plan(program), weights_.collect(program)
        self.kernels, self.numbers = _distinct(program.kernels())
        self.places: list[int] = []
        self.steps: list[str] = []
        self.segments: list[tuple[int, int]] = []
        self.start = 0  # of the open segment
        self.lines: list[str] = []
        self.staging: dict[Buffer, int] = {}
        self.staging_bytes = 0

    def text(self) -> str:
        """The C source of the body."""
        inputs = [self.stage(b) for b in self.program.inputs]
        for buffer, place in zip(self.program.inputs, inputs, strict=True):
            self.transfer(UPLOAD, buffer, place)
        self.walk(self.program.steps, 1)
        outputs = [self.stage(b) for b in self.program.outputs]
        counts = [self.program.counts.get(b.name) for b in self.program.outputs]
        counted = [self.stage(b) if b else -1 for b in counts]
        for buffer in dict.fromkeys([*self.program.outputs, *(b for b in counts if b)]):
            self.transfer(DOWNLOAD, buffer, self.staging[buffer])
        self.close(1)
        most = max([1, *(len(s.args) for s in self.program.walk() if isinstance(s, Call))])
        records = [f"{{{string(k.name)}, {_braces(k.grid)}, {_braces(k.block)}, {k.shared_bytes}}}" for k in self.kernels]
        segments = [_braces(s) for s in self.segments]
        return "\n".join(
            [
                'extern const char MODEL(cubin)[] __attribute__((visibility("hidden")));',
                "#define CUBIN MODEL(cubin)",
                f"#define STAGING_BYTES {max(self.staging_bytes, ALIGNMENT)}",
                f"#define MOST_ARGUMENTS {most}",
                f"#define KERNELS {len(records)}",
                f"#define SEGMENTS {len(segments)}",
                '#include "host.h"',
                _table("KernelRecord", "kernels", records),
                _table("Step", "steps", self.steps),
                _table("Segment", "segments", segments),
                _table("int64_t", "places", self.places),
                _table("int64_t", "input_staging", inputs),
                _table("int64_t", "output_staging", outputs),
                _table("int64_t", "count_staging", counted),
                '#include "host.c"',
                "#define RUN(number) if (!run_segment(context, number)) return 0",
                "#define READ(variable, place) if (!read_back(context, place, &variable, sizeof variable)) return 0",
                "#define WRITE(place, value) if (!write_number(context, place, value)) return 0",
                "static int entry(Context *context) {",
                "    (void)context;",
                *self.lines,
                "    return 1;",
                "}",
                _EMBED,
            ]
        )

    def stage(self, buffer: Buffer) -> int:
        """Where ``buffer`` lies in the host's staging memory."""
        if buffer not in self.staging:
            self.staging[buffer] = self.staging_bytes
            self.staging_bytes += -(-max(1, buffer.nbytes) // ALIGNMENT) * ALIGNMENT
        return self.staging[buffer]

    def place(self, buffer: Buffer) -> int:
        """Arena offset, or the complement of an offset into the weights."""
        if buffer.root()[0].kind == "constant":
            return ~self.weights.offset(buffer)
        return self.plan.offset(buffer)

    def add(self, kind: int, buffers: Sequence[Buffer], kernel: int = 0, size: int = 0, staging: int = 0) -> None:
        """Append one step to the open segment."""
        fields = (kind, kernel, len(self.places), len(buffers), size, staging)
        self.steps.append(_braces(fields))
        self.places += [self.place(b) for b in buffers]

    def transfer(self, kind: int, buffer: Buffer, staging: int) -> None:
        """A copy between host and device."""
        if buffer.nbytes:
            self.add(kind, [buffer], size=buffer.nbytes, staging=staging)

    def close(self, depth: int) -> None:
        """End the open segment and run it here."""
        if self.start < len(self.steps):
            self.put(depth, f"RUN({len(self.segments)});")
            self.segments.append((self.start, len(self.steps)))
            self.start = len(self.steps)

    def put(self, depth: int, text: str) -> None:
        """Append a line of the entry function."""
        self.lines.append("    " * depth + text)

    def walk(self, steps: Sequence[Step], depth: int) -> None:
        """Write ``steps`` in order."""
        for step in steps:
            match step:
                case Call():
                    if any(b.nbytes for b in step.args[step.reads :]):
                        self.add(LAUNCH, step.args, self.numbers[id(step.kernel)])
                case Copy():
                    if step.source.nbytes:
                        self.add(COPY, [step.target, step.source], size=step.source.nbytes)
                case If():
                    self.branch(step, depth)
                case Loop():
                    self.loop(step, depth)

    def branch(self, step: If, depth: int) -> None:
        """Read the condition back and choose."""
        self.close(depth)
        self.put(depth, "{")
        self.put(depth + 1, "uint8_t condition;")
        self.put(depth + 1, f"READ(condition, {self.place(step.condition)});")
        self.put(depth + 1, "if (condition) {")
        self.walk(step.then, depth + 2)
        self.close(depth + 2)
        self.put(depth + 1, "} else {")
        self.walk(step.otherwise, depth + 2)
        self.close(depth + 2)
        self.put(depth + 1, "}")
        self.put(depth, "}")

    def loop(self, step: Loop, depth: int) -> None:
        """Read trip count and condition back."""
        self.close(depth)
        self.put(depth, "{")
        self.put(depth + 1, "int64_t trip = INT64_MAX, turn = 0;")
        self.put(depth + 1, "uint8_t condition = 1;")
        if step.trip:
            self.put(depth + 1, f"READ(trip, {self.place(step.trip)});")
        self.put(depth + 1, "for (; turn < trip; turn++) {")
        if step.condition:
            self.put(depth + 2, f"READ(condition, {self.place(step.condition)});")
            self.put(depth + 2, "if (!condition) break;")
        self.put(depth + 2, f"WRITE({self.place(step.iteration)}, turn);")
        self.walk(step.body, depth + 2)
        self.close(depth + 2)
        self.put(depth + 1, "}")
        self.put(depth + 1, "(void)condition;")
        if step.count:
            self.put(depth + 1, f"WRITE({self.place(step.count)}, turn);")
        self.put(depth, "}")


def _braces(values: Sequence[object]) -> str:
    return f"{{{', '.join(map(str, values))}}}"


def _table(kind: str, name: str, rows: Sequence[object]) -> str:
    lines = [f"    {row}," for row in rows] or ["    {0}"]
    return "\n".join([f"static const {kind} {name}[] = {{", *lines, "};"])


_EMBED = f"""\
#define QUOTED(x) #x
#define TEXT(x) QUOTED(x)
__asm__(".pushsection .rodata.cubin,\\"a\\",%progbits\\n"
        ".balign 64\\n"
        ".globl " TEXT(MODEL(cubin)) "\\n"
        ".hidden " TEXT(MODEL(cubin)) "\\n"
        TEXT(MODEL(cubin)) ":\\n"
        ".incbin \\"{CUBIN}\\"\\n"
        ".popsection\\n");"""
