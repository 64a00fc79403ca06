"""The generated entry function: its ticks are those of the table of steps."""

from __future__ import annotations

import re

from artifact_tools import call, chain, tensor

from onyxc.backends.artifact import source, weights
from onyxc.backends.artifact.describe import describe
from onyxc.backends.artifact.level import Level
from onyxc.backends.program import Copy, If, Loop, Program
from onyxc.backends.target import get

HOST = get("host")


def text(program: Program) -> str:
    return source.cpu_body([Level(HOST, program)], weights.collect(program), "m__").source


def test_every_step_ticks_in_order() -> None:
    x, y, z = tensor("x", kind="input"), tensor("y", kind="output"), tensor("z")
    flag, turn = tensor("f", (), "bool", "input"), tensor("t", (), "int64")
    nothing = Copy(tensor("n", (0,), kind="input"), tensor("m", (0,), kind="output"))
    body = [call("twice", x, z), Copy(z, y)]
    steps = [call("add", x, x, z), nothing, If(flag, [Copy(z, y)], [call("twice", x, y)]), Loop(None, None, turn, body)]
    program = Program("p", [x, flag, nothing.source], [y, nothing.target], steps)
    made = text(program)
    assert re.findall(r"tick\(clock, (\d+)\)", made) == list("01234")
    called = re.findall(r"(?:m__\w+?__)?(\w+)\(.*\); tick", made)
    assert [c.rpartition("__")[2].replace("memmove", "copy") for c in called] == [s.kernel for s in describe(program)]


def test_shared_calls_tick_too() -> None:
    made = text(chain(elements=1000, steps=3, work=10**9))
    assert re.findall(r"parallel\(pool, \w+, 1000\); tick\(clock, (\d)\)", made) == ["0", "1", "2"]


def test_a_normal_run_has_no_clock() -> None:
    assert re.search(r"static void entry_\w+\(.*\) \{ steps_\w+\(pool, A, W, S, NULL\); \}", text(chain()))
