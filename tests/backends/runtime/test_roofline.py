"""The least time of a step on a machine of known limits."""

from __future__ import annotations

import pytest

from onyxc.backends.artifact.steps import Step
from onyxc.backends.runtime.roofline import Machine, size_text

MACHINE = Machine(1, {"float32": 100.0, "int8": 400.0}, {1000: 10.0, 10_000: 5.0, 100_000: 1.0})


@pytest.mark.parametrize(("block", "rate"), [(0, 10), (1000, 10), (1001, 5), (100_000, 1), (10**9, 1)])
def test_a_block_counts_as_the_next_larger_one(block: int, rate: float) -> None:
    assert MACHINE.rate(block) == rate


def test_bound_by_arithmetic() -> None:
    step = Step("k", flops=100_000, read_bytes=400, written_bytes=100)
    assert MACHINE.seconds(step, 0) == 1000
    assert MACHINE.bound(step, 0) == "compute"


def test_bound_by_memory() -> None:
    step = Step("k", flops=1000, read_bytes=600, written_bytes=200)
    assert MACHINE.seconds(step, 0) == 80
    assert MACHINE.bound(step, 0) == "memory"
    assert MACHINE.bound(Step("copy", read_bytes=8, written_bytes=8), 0) == "memory"


def test_weights_come_from_where_all_of_them_fit() -> None:
    step = Step("k", constant_bytes=500, read_bytes=400, written_bytes=100)
    assert MACHINE.seconds(step, 500) == 50 + 50
    assert MACHINE.seconds(step, 50_000) == 50 + 500


def test_bytes_have_a_peak_of_their_own() -> None:
    assert MACHINE.seconds(Step("k", flops=100_000, dtype="uint8"), 0) == 250
    unknown = Machine(1, {"float32": 100.0}, {1000: 10.0})
    step = Step("k", flops=100_000, read_bytes=100, dtype="int8")
    assert unknown.seconds(step, 0) == 10
    assert unknown.bound(step, 0) == "memory"


def test_sizes_in_words() -> None:
    assert [size_text(n) for n in (16 << 10, 1 << 20, 256 << 20)] == ["16 KiB", "1 MiB", "256 MiB"]
