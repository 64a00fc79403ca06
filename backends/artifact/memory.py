"""The static memory plan: one arena, in which buffers that are never live at once share bytes.

Steps are numbered in order, depth first; a buffer lives from its first to its last use. The exceptions:

    inputs, outputs, counts   live for the whole run (the caller fills and reads them between runs)
    buffers of a loop         live from the loop's start to its end, unless private to one turn: used only inside
                              the body, and written as a whole by a direct step of it before any other use

A call may write its result over an operand that dies there, where its kernel reads and writes the same places
(`Call.in_place`); the two then are one buffer. Views (`Buffer.base`) use the memory of their root. Placement
is greedy: largest buffer first, into the tightest gap.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onyxc.backends.program import ALIGNMENT, SLACK, Buffer, Call, Copy, If, Loop, Program, Step


@dataclass(frozen=True)
class Plan:
    """Arena offset of every root buffer that is not a constant, and the arena's size."""

    offsets: dict[Buffer, int]
    arena_bytes: int
    scratch_bytes: int = 0  # of each thread

    def offset(self, buffer: Buffer) -> int:
        """Where ``buffer`` (a view, or a root) starts in the arena."""
        root, inside = buffer.root()
        return self.offsets[root] + inside


@dataclass
class Lifetime:
    """Numbers of the first and last step that use a buffer, both included."""

    first: int
    last: int

    def cover(self, first: int, last: int) -> None:
        """Grow to include first..last."""
        self.first, self.last = min(self.first, first), max(self.last, last)


@dataclass(frozen=True)
class _Use:
    position: int
    loops: tuple[int, ...]  # numbers of the loops around it, outermost first
    defines: bool  # writes all of the root, and is a direct step of the innermost loop


@dataclass
class _Walk:
    """Numbers the steps and notes every use of every root buffer."""

    position: int = 0
    uses: dict[Buffer, list[_Use]] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)  # of each loop

    def note(self, buffer: Buffer | None, loops: tuple[int, ...], direct: bool = False) -> None:
        if buffer is not None and buffer.kind != "scratch":
            root = buffer.root()[0]
            use = _Use(self.position, loops, direct and buffer.nbytes == root.nbytes)
            self.uses.setdefault(root, []).append(use)

    def steps(self, steps: Sequence[Step], loops: tuple[int, ...], direct: bool = True) -> None:
        for step in steps:
            self.position += 1
            if isinstance(step, Loop):
                self.loop(step, loops)
            elif isinstance(step, If):
                self.note(step.condition, loops)
                self.steps(step.then, loops, direct=False)
                self.steps(step.otherwise, loops, direct=False)
            else:
                reads, writes = operands(step)
                for buffer in reads:
                    self.note(buffer, loops)
                for buffer in writes:
                    self.note(buffer, loops, direct)

    def loop(self, step: Loop, loops: tuple[int, ...]) -> None:
        number, start = len(self.spans), self.position
        self.spans.append((start, start))
        controls = (step.trip, step.condition, step.iteration, step.count)
        for buffer in controls:
            self.note(buffer, loops)
        self.steps(step.body, (*loops, number))
        self.position += 1
        for buffer in controls:
            self.note(buffer, loops)
        self.spans[number] = (start, self.position)


def operands(step: Call | Copy) -> tuple[tuple[Buffer, ...], tuple[Buffer, ...]]:
    """The buffers that ``step`` reads, and those that it writes."""
    if isinstance(step, Copy):
        return (step.source,), (step.target,)
    return step.args[: step.reads], step.args[step.reads :]


def lifetimes(program: Program) -> dict[Buffer, Lifetime]:
    """Lifetime of every root buffer of ``program`` that is not a constant."""
    walk = _Walk()
    walk.steps(program.steps, ())
    end = walk.position + 1
    found = {}
    for root, uses in walk.uses.items():
        life = Lifetime(uses[0].position, uses[-1].position)
        for loop in dict.fromkeys(number for use in uses for number in use.loops):
            if not _is_private(uses, loop):
                life.cover(*walk.spans[loop])
        found[root] = life
    for buffer in (*program.inputs, *program.outputs, *program.counts.values()):
        found.setdefault(buffer.root()[0], Lifetime(0, end)).cover(0, end)
    return {root: life for root, life in found.items() if root.kind != "constant"}


def _is_private(uses: list[_Use], loop: int) -> bool:
    """Whether no value passes from one turn of ``loop`` to the next, or out of it."""
    return all(loop in use.loops for use in uses) and uses[0].defines and uses[0].loops[-1] == loop


def plan(program: Program) -> Plan:
    """Place all buffers of ``program``."""
    lives = lifetimes(program)
    merged = merge(program, lives)
    made = place(lives)
    calls = (s for s in program.walk() if isinstance(s, Call))
    scratch = max((_room(b) for c in calls for b in c.args if b.kind == "scratch"), default=0)
    offsets = {**made.offsets, **{b: made.offsets[home] for b, home in merged.items()}}
    return Plan(offsets, made.arena_bytes, scratch)


def merge(program: Program, lives: dict[Buffer, Lifetime]) -> dict[Buffer, Buffer]:
    """Results that are computed in place -> the buffer that they take over; ``lives`` loses the former.

    Only calls outside of If and Loop, whose operand is read for the last time and whose result is written for the
    first time; pinned buffers (inputs, outputs, counts) never qualify.
    """
    home: dict[Buffer, Buffer] = {}
    pinned = {b.root()[0] for b in (*program.inputs, *program.outputs, *program.counts.values())}
    for position, step in _top_level(program.steps):
        if not isinstance(step, Call) or not step.in_place:
            continue
        (result, *others) = (b for b in step.args[step.reads :] if b.kind != "scratch")
        if others or result.base is not None or result in pinned or lives[result].first != position:
            continue
        for index in step.in_place:
            root = step.args[index].root()[0]
            owner = home.get(root, root)
            if (
                owner in lives and owner not in pinned and owner is not result and lives[owner].last == position
                and root.nbytes == result.nbytes == step.args[index].nbytes
                and sum(a.root()[0] is root for a in step.args[: step.reads]) == 1
            ):  # fmt: skip
                lives[owner].cover(position, lives.pop(result).last)
                home[result] = owner
                break
    return home


def _top_level(steps: Sequence[Step]) -> Iterator[tuple[int, Step]]:
    """Steps outside of control flow with their numbers, as `_Walk` gives them."""
    walk = _Walk()
    for step in steps:
        before = walk.position
        walk.steps([step], ())
        yield before + 1, step


def place(lives: dict[Buffer, Lifetime]) -> Plan:
    """Offsets such that no two buffers with overlapping lifetimes overlap."""
    order = sorted(lives, key=lambda b: (-_room(b), lives[b].first))  # stable: equal ones keep order of use
    offsets: dict[Buffer, int] = {}
    first, last, start, stop = (np.zeros(len(order), np.int64) for _ in range(4))
    for i, buffer in enumerate(order):
        life, room = lives[buffer], _room(buffer)
        clash = np.flatnonzero((first[:i] <= life.last) & (last[:i] >= life.first))
        taken = clash[np.argsort(start[clash], kind="stable")]
        offsets[buffer] = _tightest_gap(zip(start[taken].tolist(), stop[taken].tolist(), strict=True), room)
        first[i], last[i] = life.first, life.last
        start[i], stop[i] = offsets[buffer], offsets[buffer] + room
    return Plan(offsets, max((int(s) for s in stop), default=0) or ALIGNMENT)


def _room(buffer: Buffer) -> int:
    return -(-(buffer.nbytes + SLACK) // ALIGNMENT) * ALIGNMENT


def _tightest_gap(taken: Iterable[tuple[int, int]], room: int) -> int:
    best, best_size, end = -1, 0, 0
    for low, high in taken:
        if low - end >= room and (best < 0 or low - end < best_size):
            best, best_size = end, low - end
        end = max(end, high)
    return end if best < 0 else best


def peak_bytes(lives: dict[Buffer, Lifetime]) -> int:
    """The most bytes that are live at once: no plan needs less."""
    events: Iterator[tuple[int, int]] = (
        e for b, life in lives.items() for e in ((life.first, _room(b)), (life.last + 1, -_room(b)))
    )
    running = np.cumsum([size for _, size in sorted(events)])
    return int(running.max()) if running.size else 0
