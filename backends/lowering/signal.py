"""DFT and STFT for any length: self-sorting passes, one for each factor of the length.

One pass with factor p turns sequences of n elements, s of them interleaved, into p times as many of m = n / p:

    y[s (p q + j) + r] = w_n^(q j) * sum over i < p of x[s (q + m i) + r] * w_p^(i j)

so that after all passes element k is at place k. A prime length is one pass, the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

from tvm import tirx
from tvm.tirx.script import builder as T

from onyxc.backends.kernels.imperative import Array, Imperative
from onyxc.backends.lowering.code import Code, kernel
from onyxc.backends.lowering.registry import axes, imperative, parameter, required, static
from onyxc.backends.lowering.words import Cell, Expr, cast, fix, i32, split
from onyxc.compiler.errors import UnsupportedError
from onyxc.compiler.ir.graph import Node

TASKS = 16  # at most so many parts of the lines, each with a table of roots of its own


def factors(length: int) -> list[int]:
    """The factors of ``length``, fours first."""
    found, rest = [], length
    for p in (4, 2, 3, 5):
        while rest % p == 0:
            found.append(p)
            rest //= p
    p = 7
    while rest > 1:
        while rest % p == 0:
            found.append(p)
            rest //= p
        p = p + 2 if p * p <= rest else max(rest, p + 2)
    return found


@dataclass
class Transform:
    """Complex transforms of ``length`` in scratch: roots, then two lines, real and imaginary parts apart."""

    length: int
    inverse: bool
    kind: str
    work: Array
    base: Expr

    SIZE = 6  # scratch elements, in units of the length

    def at(self, part: int, index: Expr | int) -> Expr:
        """Place in scratch: part 0, 1 the roots, 2, 3 and 4, 5 the lines."""
        return self.base + part * self.length + index

    def roots(self) -> None:
        """The table cos, sin of 2 pi k / length."""
        sign = 1.0 if self.inverse else -1.0
        with T.serial(0, self.length) as k:
            angle = fix(cast(k, "float64") * tirx.const(2 * pi / self.length, "float64"))
            self.work[self.at(0, k)] = cast(tirx.cos(angle), self.kind)
            self.work[self.at(1, k)] = cast(tirx.sin(angle) * tirx.const(sign, "float64"), self.kind)

    def run(self) -> int:
        """Transform the line in parts 2, 3; the result's first part is returned."""
        source, target, stride, rest = 2, 4, 1, self.length
        for p in factors(self.length):
            rest //= p
            self.turn(source, target, p, rest, stride)
            source, target, stride = target, source, stride * p
        return source

    def turn(self, source: int, target: int, p: int, m: int, stride: int) -> None:
        """The pass with factor ``p``."""
        n = self.length
        with T.serial(0, m) as q, T.serial(0, p) as j, T.serial(0, stride) as r:
            real, imaginary = Cell(self.kind, 0), Cell(self.kind, 0)
            step = fix(q * j * stride)  # w_n^(q j), counted in roots of the whole length
            with T.serial(0, p) as i:
                turn = fix(tirx.truncmod(step + i * j * (n // p), n))
                where = fix(stride * (q + m * i) + r)
                a, b = fix(self.work[self.at(source, where)]), fix(self.work[self.at(source + 1, where)])
                c, s = fix(self.work[self.at(0, turn)]), fix(self.work[self.at(1, turn)])
                real.add(a * c - b * s)
                imaginary.add(a * s + b * c)
            place = fix(stride * (p * q + j) + r)
            self.work[self.at(target, place)] = real.get()
            self.work[self.at(target + 1, place)] = imaginary.get()


def lines(
    node: Node,
    sizes: tuple[int, int],
    inverse: bool,
    shape: tuple[int, ...],
    write: Callable[[Code, Transform, Expr], None],
) -> Imperative:
    """A kernel of transforms; ``sizes``: elements of a line, and lines; ``write`` loads, runs and stores one."""
    length, count = sizes
    kind = "float64"  # elements that cancel to nothing are compared, and looked at, as zeros
    tasks = max(1, min(TASKS, count))

    def emit(code: Code) -> None:
        work = code.scratch[0]
        transform = Transform(length, inverse, kind, work, fix(code.task * (Transform.SIZE * length)))
        transform.roots()
        first = fix(tirx.truncdiv(code.task * count, tasks))
        with T.serial(first, tirx.truncdiv((code.task + 1) * count, tasks)) as line:
            write(code, transform, line)

    scratch = [((tasks * Transform.SIZE * length,), kind)]
    total = count * length * (sum(factors(length)) or 1) * 8
    return kernel(node, [(shape, node.output.dtype)], emit, tasks=tasks, scratch=scratch, work=total)


@imperative("DFT")
def dft(node: Node) -> Imperative:
    """Lines along the axis, cut or filled with zeros to ``dft_length``; one-sided halves by symmetry."""
    dims = static(node, 0).dims
    given, where = parameter(node, 1, "dft_length"), parameter(node, 2, "axis")
    default = node.attrs.get("axis", -2)
    (axis,) = axes(where if where is not None else default, len(dims))
    inverse, onesided = bool(node.attrs.get("inverse", 0)), bool(node.attrs.get("onesided", 0))
    outer, present, inner = split(dims[:-1], axis)
    parts, half = dims[-1], inverse and onesided
    length = int(given.reshape(-1)[0]) if given is not None else 2 * (present - 1) if half else present
    if length < 1:
        raise UnsupportedError(f"{node.label()}: a transform of {length} elements")
    kept = length // 2 + 1 if onesided and not inverse else length
    shape = (*dims[:axis], kept, *dims[axis + 1 : -1], 1 if half else 2)
    known = min(present, length // 2 + 1 if half else length)

    def write(code: Code, transform: Transform, line: Expr) -> None:
        x, y, work = code.ins[0], code.outs[0], transform.work
        o, i = fix(tirx.truncdiv(line, inner)), fix(tirx.truncmod(line, inner))
        with T.serial(0, known) as t:
            place = fix(((o * present + t) * inner + i) * parts)
            work[transform.at(2, t)] = x[place]
            work[transform.at(3, t)] = x[place + 1] if parts == 2 else 0
        with T.serial(known, length) as t:
            mirrored = fix(length - t)
            exists = fix(mirrored < known) if half else None
            for part, sign in ((2, 1.0), (3, -1.0)):
                if exists is None:
                    work[transform.at(part, t)] = 0
                else:
                    factor = tirx.Select(exists, tirx.const(sign, transform.kind), tirx.const(0, transform.kind))
                    work[transform.at(part, t)] = work[transform.at(part, T.min(mirrored, known - 1))] * factor
        if half:  # the transform of a real line has real ends
            work[transform.at(3, 0)] = 0
            if length % 2 == 0 and known == length // 2 + 1:
                work[transform.at(3, length // 2)] = 0
        store(transform, y, (o * kept * inner + i) * shape[-1], inner * shape[-1], kept, shape[-1])

    return lines(node, (length, outer * inner), inverse, shape, write)


def store(transform: Transform, y: Array, start: Expr, step: int, kept: int, parts: int) -> None:
    """Run the transform, and write its first ``kept`` elements ``step`` apart."""
    result = transform.run()
    scale = tirx.const(1 / transform.length if transform.inverse else 1.0, transform.kind)
    first = fix(i32(start))
    with T.serial(0, kept) as k:
        for part in range(parts):
            y[first + k * step + part] = transform.work[transform.at(result + part, k)] * scale


@imperative("STFT")
def stft(node: Node) -> Imperative:
    """A line is a frame of the signal times the window."""
    batch, total, parts = (*static(node, 0).dims, 1)[:3]
    step, size = required(node, 1, "frame_step"), parameter(node, 3, "frame_length")
    hop = int(step.reshape(-1)[0])
    window = node.input(2)
    width = window.dims[0] if window is not None else 0
    length = int(size.reshape(-1)[0]) if size is not None else width or total
    frames = 1 + (total - length) // hop
    kept = length // 2 + 1 if node.attrs.get("onesided", 1) else length
    used = min(length, width) if width else length

    def write(code: Code, transform: Transform, line: Expr) -> None:
        x, factor = code.ins[0], code.ins[2] if len(code.ins) > 2 else None
        entry, frame = fix(tirx.truncdiv(line, frames)), fix(tirx.truncmod(line, frames))
        with T.serial(0, used) as t:
            place = fix((entry * total + frame * hop + t) * parts)
            weight = tirx.const(1, transform.kind) if factor is None else cast(factor[t], transform.kind)
            transform.work[transform.at(2, t)] = cast(x[place], transform.kind) * weight
            imaginary = cast(x[place + 1], transform.kind) * weight if parts == 2 else 0
            transform.work[transform.at(3, t)] = imaginary
        with T.serial(used, length) as t:
            transform.work[transform.at(2, t)] = 0
            transform.work[transform.at(3, t)] = 0
        store(transform, code.outs[0], line * (kept * 2), 2, kept, 2)

    return lines(node, (length, batch * frames), False, (batch, frames, kept, 2), write)
