"""The memory plan: a program run in the planned arena computes what it computes with a place for every buffer."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from artifact_tools import call, chain, constant, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from onyxc.backends.artifact import memory
from onyxc.backends.artifact.memory import Lifetime
from onyxc.backends.program import ALIGNMENT, SLACK, Buffer, Call, Copy, If, Kernel, Loop, Program, Step

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 30), st.integers(0, 10)), max_size=40))
def test_no_two_live_buffers_overlap(rows: list[tuple[int, int, int]]) -> None:
    lives = {tensor(f"b{i}", (n,), "uint8"): Lifetime(a, a + d) for i, (n, a, d) in enumerate(rows)}
    plan = memory.place(lives)
    for (a, la), (b, lb) in combinations(lives.items(), 2):
        if la.first <= lb.last and lb.first <= la.last:
            low, high = sorted((a, b), key=plan.offset)
            assert plan.offset(low) + low.nbytes + SLACK <= plan.offset(high)
    assert all(offset % ALIGNMENT == 0 for offset in plan.offsets.values())
    assert all(plan.offset(b) + b.nbytes + SLACK <= plan.arena_bytes for b in lives)
    assert plan.arena_bytes >= memory.peak_bytes(lives)


class _Maker:
    """A random program that reads only what was written before on every path."""

    def __init__(self, data: st.DataObject):
        self.data = data
        self.pool: list[Buffer] = []
        self.x = tensor("x", (64,), "uint8", "input")
        self.y = tensor("y", (128,), "uint8", "output")
        self.turns = 0

    def program(self) -> Program:
        defined = self.steps([], {self.x}, 3)
        steps, known = defined
        steps.append(Call(Kernel("mix"), (*self.some(known), self.y), 2))
        return Program("random", [self.x], [self.y], steps)

    def some(self, known: set[Buffer]) -> tuple[Buffer, Buffer]:
        order = sorted(known, key=lambda b: (b.kind, len(b.name), b.name))
        first, second = (self.data.draw(st.sampled_from(order)) for _ in range(2))
        if self.data.draw(st.booleans()):  # a view of the second half
            second = Buffer("view", "uint8", (second.nbytes // 2,), base=second, offset=second.nbytes // 2)
        return first, second

    def target(self) -> Buffer:
        if self.pool and not self.data.draw(st.integers(0, 2)):
            return self.data.draw(st.sampled_from(self.pool))
        self.pool.append(tensor(f"b{len(self.pool)}", (self.data.draw(st.integers(1, 3)) * 64,), "uint8"))
        return self.pool[-1]

    def steps(self, made: list[Step], known: set[Buffer], depth: int) -> tuple[list[Step], set[Buffer]]:
        for _ in range(self.data.draw(st.integers(1, 5))):
            kind = self.data.draw(st.sampled_from(["mix", "mix", "mix", "part", "if", "loop"][: 6 if depth else 4]))
            if kind == "mix":
                target = self.target()
                reads = self.some(known - {target} or {self.x})
                in_place = self.data.draw(st.sampled_from([(), (0,), (1,), (0, 1)]))
                made.append(Call(Kernel("mix"), (*reads, target), 2, in_place))
                known = known | {target}
            elif kind == "part":
                targets = sorted(known - {self.x}, key=lambda b: (len(b.name), b.name))
                if targets:
                    root = self.data.draw(st.sampled_from(targets))
                    part = Buffer("part", "uint8", (root.nbytes // 2,), base=root)
                    made.append(Call(Kernel("mix"), (self.x, self.x, part), 2))
            elif kind == "if":
                condition = self.some(known)[0]
                then, in_then = self.steps([], known, depth - 1)
                otherwise, in_other = self.steps([], known, depth - 1)
                made.append(If(condition, then, otherwise))
                known = in_then & in_other
            else:
                made.append(self.loop(known, depth))
        return made, known

    def loop(self, known: set[Buffer], depth: int) -> Loop:
        self.turns += 1
        trip = constant(f"trip{self.turns}", [self.data.draw(st.integers(0, 3))], "int64")
        turn = tensor(f"turn{self.turns}", (), "int64")
        condition = self.some(known)[0] if self.data.draw(st.booleans()) else None
        return Loop(trip, condition, turn, self.steps([], known, depth - 1)[0])


class _Machine:
    """Runs a program on bytes; ``where`` gives the memory of a buffer."""

    def __init__(self, where: Any):
        self.where = where
        self.trace: list[int] = []  # what every call wrote, summed

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            if isinstance(step, Call):
                a, b, out = map(self.where, step.args)
                if not step.in_place:
                    out[:] = 0x55  # a kernel may write before it reads
                out[:] = np.resize(a, out.size) * 3 + np.resize(b, out.size) + 7
                self.trace.append(int(out.sum()))
            elif isinstance(step, Copy):
                self.where(step.target)[:] = self.where(step.source)
            elif isinstance(step, If):
                self.run(step.then if self.where(step.condition)[0] % 2 else step.otherwise)
            else:
                assert step.trip is not None
                for turn in range(int(self.where(step.trip).view(np.int64)[0])):
                    if step.condition is not None and self.where(step.condition)[0] % 3 == 0:
                        break
                    self.where(step.iteration).view(np.int64)[0] = turn
                    self.run(step.body)


def _run(program: Program, plan: memory.Plan | None) -> list[Any]:
    arena = np.full(plan.arena_bytes if plan else 0, 0xAA, np.uint8)
    alone: dict[Buffer, Bytes] = {}

    def where(buffer: Buffer) -> Bytes:
        root, offset = buffer.root()
        if root.data is not None:
            return root.data.view(np.uint8)
        if plan:
            return arena[plan.offset(buffer) :][: buffer.nbytes]
        return alone.setdefault(root, np.zeros(root.nbytes, np.uint8))[offset : offset + buffer.nbytes]

    for number, buffer in enumerate(program.inputs):
        where(buffer)[:] = np.arange(buffer.nbytes) * 5 + number
    machine = _Machine(where)
    machine.run(program.steps)
    return [machine.trace, *(where(b).copy() for b in (*program.outputs, *program.inputs))]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_planned_programs_compute_the_same(data: st.DataObject) -> None:
    program = _Maker(data).program()
    for found, expected in zip(_run(program, memory.plan(program)), _run(program, None), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_chain_needs_two_places_between_its_ends() -> None:
    program = chain(elements=1024, steps=10)
    assert memory.plan(program).arena_bytes == 4 * (4096 + SLACK)


def test_results_take_over_operands_that_die() -> None:
    x, y, *inner = tensor("x", kind="input"), tensor("y", kind="output"), *(tensor(f"t{i}") for i in range(3))
    steps = [call("twice", a, b) for a, b in zip([x, *inner], [*inner, y], strict=True)]
    for step in steps:
        step.in_place = (0,)
    plan = memory.plan(Program("p", [x], [y], list(steps)))
    assert len({plan.offset(b) for b in inner}) == 1
    assert len({plan.offset(b) for b in (x, y, inner[0])}) == 3
    steps.append(call("twice", inner[0], tensor("z")))  # the operand is read later: no longer in place
    assert len({memory.plan(Program("p", [x], [y], list(steps))).offset(b) for b in inner}) == 2


def test_scratch_memory_does_not_keep_a_result_out_of_its_operand() -> None:
    x, y, a, b = tensor("x", kind="input"), tensor("y", kind="output"), tensor("a"), tensor("b")
    working = Buffer("scratch", "float32", (64,), "scratch")
    first, second, last = call("one", x, a), Call(Kernel("two"), (a, b, working), 1, (0,)), call("three", b, y)
    plan = memory.plan(Program("p", [x], [y], [first, second, last]))
    assert plan.offset(a) == plan.offset(b)
    assert plan.scratch_bytes >= working.nbytes


def test_a_buffer_private_to_one_turn_shares_memory_after_it() -> None:
    x, y = tensor("x", kind="input"), tensor("y", kind="output")
    turn, state = tensor("turn", (), "int64"), tensor("state")
    private, later = tensor("private", (4096,)), tensor("later", (4096,))
    body: list[Step] = [call("twice", state, private), call("twice", private, later), call("twice", later, state)]
    loop = Loop(constant("trip", 3, "int64"), None, turn, body)
    program = Program("loop", [x], [y], [Copy(x, state), loop, Copy(state, y)])
    lives = memory.lifetimes(program)
    assert (lives[private].first, lives[private].last) == (3, 4)
    assert (lives[state].first, lives[state].last) == (1, 7)
    body.insert(0, call("twice", later, tensor("other")))  # now read before it is written: carried to the next turn
    lives = memory.lifetimes(program)
    assert (lives[later].first, lives[later].last) == (2, 7)


def test_a_buffer_written_under_a_condition_lives_for_the_whole_loop() -> None:
    kept, condition = tensor("kept"), constant("c", True, "bool")
    body: list[Step] = [If(condition, [call("twice", tensor("x", kind="input"), kept)], []), Copy(kept, tensor("z"))]
    program = Program("p", [], [], [Loop(None, condition, tensor("turn", (), "int64"), body)])
    life = memory.lifetimes(program)[kept]
    assert (life.first, life.last) == (1, 5)


def test_views_use_the_memory_of_their_root() -> None:
    root = tensor("root", (8,))
    half = Buffer("half", "float32", (4,), base=root, offset=16)
    quarter = Buffer("quarter", "float32", (2,), base=half, offset=8)
    program = Program("p", [root], [quarter], [])
    plan = memory.plan(program)
    assert plan.offset(quarter) == plan.offset(root) + 24
    assert list(plan.offsets) == [root]


def test_an_empty_program_has_an_arena() -> None:
    assert memory.plan(Program("p", [], [], [])).arena_bytes > 0
