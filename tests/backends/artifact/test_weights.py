"""The block of constants: aligned, deduplicated, deterministic."""

from __future__ import annotations

import io

import numpy as np
import pytest
from artifact_tools import call, constant, tensor

from onyxc.backends.artifact import weights
from onyxc.backends.program import Buffer, If, Program
from onyxc.compiler.errors import BuildError


def _program() -> tuple[Program, list[Buffer]]:
    x, y = tensor("x", kind="input"), tensor("y", kind="output")
    a, b, c = constant("a", np.arange(16)), constant("b", np.ones(16)), constant("c", np.arange(16))
    steps = [call("add", x, a, y), If(constant("yes", True, "bool"), [call("add", y, b, x)], [call("add", x, c, y)])]
    return Program("p", [x], [y], list(steps)), [a, b, c]


def test_equal_constants_are_kept_once() -> None:
    program, (a, b, c) = _program()
    found = weights.collect(program)
    assert found.offset(a) == found.offset(c) != found.offset(b)
    assert all(offset % 64 == 0 for offset in found.offsets.values())
    file = io.BytesIO()
    found.write(file)
    block = file.getvalue()
    assert len(block) == found.nbytes
    assert a.data is not None
    assert block[found.offset(a) :].startswith(a.data.tobytes())
    assert block[found.offset(b) :].startswith(np.ones(16, "f4").tobytes())


def test_the_block_is_the_same_each_time() -> None:
    files = [io.BytesIO() for _ in range(3)]
    for file in files:
        weights.collect(_program()[0]).write(file)
    assert len({file.getvalue() for file in files}) == 1


def test_views_outputs_and_counts_of_constants_have_a_place() -> None:
    a = constant("a", np.arange(16))
    part = Buffer("part", "float32", (4,), "output", base=a, offset=32)
    found = weights.collect(Program("p", [], [part], []))
    assert found.offset(part) == 32


@pytest.mark.parametrize("data", [None, np.zeros(3, "f4")])
def test_missing_or_short_data_is_an_error(data: np.ndarray | None) -> None:
    broken = Buffer("w", "float32", (4,), "constant", data)
    with pytest.raises(BuildError, match="'w' has"):
        weights.collect(Program("p", [], [broken], []))


def test_empty_and_scalar_constants() -> None:
    program = Program("p", [], [constant("e", np.zeros((0, 3))), constant("s", 5.0)], [])
    file = io.BytesIO()
    weights.collect(program).write(file)
    assert file.getvalue()[64:68] == np.float32(5).tobytes()
