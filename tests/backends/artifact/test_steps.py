"""The table of steps: what it says of calls and copies, and how it is written and read."""

from __future__ import annotations

from pathlib import Path

import pytest
from artifact_tools import call, chain, constant, tensor

from onyxc.backends.artifact import steps
from onyxc.backends.artifact.describe import describe
from onyxc.backends.artifact.steps import Step
from onyxc.backends.program import Copy, If, Loop, Origin, Program
from onyxc.compiler.errors import ModelError


def test_calls_know_their_bytes() -> None:
    first, *others = describe(chain(elements=16, steps=3))
    assert first == Step("add", constant_bytes=64, read_bytes=64, written_bytes=64, tasks=16)
    assert (first.bytes, first.intensity, first.operators, first.name) == (192, 0.0, "add", "")
    assert [s.kernel for s in others] == ["add", "add"]


def test_an_operand_that_is_read_twice_counts_once() -> None:
    x, y = tensor("x", kind="input"), tensor("y", kind="output")
    (step,) = describe(Program("p", [x], [y], [call("add", x, x, y)]))
    assert (step.read_bytes, step.written_bytes) == (64, 64)


def test_the_origin_tells_nodes_operations_and_what_is_read() -> None:
    x, w, y = tensor("x", kind="input"), constant("w", range(1000)), tensor("y", kind="output")
    made = call("add", x, w, y)
    made.origin = Origin(("Gather table", "Add sum"), "16 -> 16", 16, (64, 128))
    made.kernel.note = "rows"
    (step,) = describe(Program("p", [x], [y], [made]))
    assert step == Step("add", ("Gather table", "Add sum"), "16 -> 16", 16, 128, 64, 64, "float32", 16, "rows")
    assert (step.operators, step.name, step.intensity) == ("Gather+Add", "table", 16 / 256)


def test_rearrangements_go_without_saying() -> None:
    assert Step("k", ("Split a", "Transpose b", "MatMul c", "Softmax d")).operators == "MatMul+Softmax"
    assert Step("k", ("Reshape a", "Transpose b")).operators == "Reshape+Transpose"
    assert Step("copy").operators == "copy"


def test_order_is_that_of_the_entry_function() -> None:
    x, y, flag, turn = tensor("x"), tensor("y"), tensor("f", (), "bool"), tensor("t", (), "int64")
    body = [call("twice", x, y), Copy(y, x), Copy(tensor("n", (0,)), tensor("m", (0,)))]
    program = Program("p", [], [], [If(flag, [call("add", x, x, y)], [Copy(x, y)]), Loop(None, None, turn, body)])
    assert [s.kernel for s in describe(program)] == ["add", "copy", "twice", "copy"]
    weights = Program("p", [], [], [Copy(constant("w", range(4)), tensor("c", (4,)))])
    assert describe(weights) == (Step("copy", constant_bytes=16, written_bytes=16),)


def test_tables_are_read_as_written(tmp_path: Path) -> None:
    table = (Step("k", ("Conv a", "Relu b"), "4 -> 4", 10, 1, 2, 3, "int8", 4, "direct, 4 x 6"), Step("copy"))
    steps.write(tmp_path, {"x86-64-v3": table, "x86-64-v2": ()})
    assert steps.read(tmp_path) == {"x86-64-v3": table, "x86-64-v2": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no steps.json: compile the model again"),
        ("{", "is broken"),
        ("[]", "is broken"),
        ('{"version": 1, "levels": {"a": [{"kernel": "k"}]}}', "is broken"),
        ('{"version": 99, "levels": {}}', "newer onyxc"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / steps.FILE).write_text(text)
    with pytest.raises(ModelError, match=message):
        steps.read(tmp_path)
