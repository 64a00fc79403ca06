"""Kernels whose accumulators do not fit the registers are found in the machine code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tvm.tirx.script import builder as T

from onyxc.backends.cpu import inspect, spills
from onyxc.backends.cpu.tile import Tile
from onyxc.backends.cpu.vectors import dense, function, span
from onyxc.backends.kernels.codegen import compile_objects
from onyxc.backends.program import Kernel
from onyxc.backends.target import Target, get
from onyxc.backends.x86.disassembly import Instruction

LEVELS = {"x86-64-v2": (2, 12), "x86-64-v3": (2, 12), "x86-64-v4": (3, 20), "aarch64": (4, 20)}


def product(name: str, target: Target, pixels: int) -> Kernel:
    """y[pixel, 0:2 vectors] = sum over k of x[pixel, k] * w[k, 0:2 vectors], with all sums in one tile."""
    lanes, depth = target.lanes(), 64
    with function(name, [("x", "float32"), ("w", "float32"), ("y", "float32")]) as made:
        x = dense(made.pointers[0], "float32", (pixels, depth))
        w = dense(made.pointers[1], "float32", (depth, 2 * lanes))
        y = dense(made.pointers[2], "float32", (pixels, 2 * lanes))
        tile = Tile((lanes, lanes), pixels, "float32")
        with T.serial(0, depth) as k:
            tile.step([w[k, span(b * lanes, lanes)] for b in (0, 1)], range(pixels), lambda m: x[m, k])
        for m, offset, value in tile.vectors():
            T.buffer_store(y, value, [m, span(offset, lanes)])
    kernel = made.kernel(1, 0, target)
    kernel.planned = True
    return kernel


@pytest.mark.parametrize("level", LEVELS)
def test_a_tile_that_is_too_large(level: str) -> None:
    target = get(level)
    fits, not_fits = (product(f"tile_{pixels}", target, pixels) for pixels in LEVELS[level])
    found = spills.measure([fits, not_fits], compile_objects([fits, not_fits], target), target)
    good, bad = found[fits.name], found[not_fits.name]
    assert good.moves == 0 < good.products < good.instructions
    assert bad.moves > 4
    assert bad.cost > good.cost


def test_only_kernels_of_templates_count() -> None:
    target = get("x86-64-v3")
    kernel = product("tile", target, 12)
    kernel.planned = False
    assert spills.measure([kernel], compile_objects([kernel], target), target) == {}


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_machine_code_and_assembly_agree(level: str) -> None:
    target = get(level)
    kernels = [product(f"tile_{pixels}", target, pixels) for pixels in (2, 12, 14)]
    found = spills.measure(kernels, compile_objects(kernels, target), target)
    assert [found[k.name].moves for k in kernels] == [inspect.spills(k, target) for k in kernels]


def code(*rows: str) -> Iterator[Instruction]:
    """Instructions one byte apart: flags of a row are product, stack, stores, or a number to jump to."""
    for at, row in enumerate(rows):
        target = int(row) if row.isdecimal() else -1
        yield Instruction(at, target, "product" in row, "stack" in row, "stores" in row)


def test_only_innermost_loops_count() -> None:
    made = list(code("", "product", "product stack", "1", "product stack", "0", "stack", "7", "7"))
    assert [(body[0].at, body[-1].at) for body in spills.inner_loops(made)] == [(1, 3), (7, 7)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["product", "stack", "stack"], True),
        (["stack", "stack"], False),  # no product
        (["product", "stores", "", ""], False),  # a transform: it reads, computes, writes
        (["product", "product", "stores", "stack", "stack"], True),  # a short sum that was unrolled
    ],
)
def test_what_a_sum_is(rows: list[str], expected: bool) -> None:
    assert spills.is_sum(list(code(*rows))) is expected


def test_unknown_code_is_no_finding() -> None:
    assert spills.in_function(b"\x0f") == spills.Sums()
