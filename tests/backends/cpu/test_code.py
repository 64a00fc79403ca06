"""The machine code of the inner loops: accumulators stay in registers, on processors that are not here too."""

from __future__ import annotations

from typing import Any

import pytest
from convolution_reference import square

from onyxc.backends.cpu import convolution, depthwise, gemm, winograd
from onyxc.backends.cpu.epilogue import Epilogue, bias
from onyxc.backends.cpu.gemm import GemmShape
from onyxc.backends.cpu.inspect import loops, spills
from onyxc.backends.cpu.shapes import matmul_shape
from onyxc.backends.cpu.winograd_plan import make as winograd_plan
from onyxc.backends.target import get

LEVELS = ["x86-64-v3", "x86-64-v4", "aarch64"]


SHAPES = {
    "3x3 56": square(64, 56, 64, 3),
    "3x3 14": square(256, 14, 256, 3),
    "3x3 7": square(512, 7, 512, 3),
    "3x3 stride 2": square(128, 56, 128, 3, 2),
    "1x1": square(256, 56, 64, 1),
    "1x1 2048": square(2048, 7, 512, 1),
    "one row": matmul_shape(1, 2048, 1000),
    "four rows": matmul_shape(4, 512, 512),
}


def add_bias(acc: Any, operands: list[Any]) -> Any:
    """acc + bias"""
    return acc + operands[0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_convolution_does_not_spill(name: str, level: str) -> None:
    target = get(level)
    made = convolution.plan(SHAPES[name], target, ((0, 0, 0, 1),))
    kernel = convolution.emit("kernel", made, Epilogue((bias(),), add_bias), target)
    hot = max(loops(kernel, target), key=lambda loop: loop.products)
    assert spills(kernel, target) == 0
    assert hot.instructions < 2.2 * hot.products


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["3x3 56", "3x3 14", "3x3 7"])
def test_winograd_products_do_not_spill(name: str, level: str) -> None:
    target = get(level)
    made = winograd_plan(SHAPES[name], (2, 4), target)
    kernel = winograd.emit("kernel", made, Epilogue((bias(),), add_bias), target)
    assert spills(kernel, target) == 0
    assert any(loop.is_sum for loop in loops(kernel, target))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kernel_size", [3, 5, 7])
def test_depthwise_does_not_spill(kernel_size: int, level: str) -> None:
    target = get(level)
    made = depthwise.plan(square(96, 28, 96, kernel_size, group=96), target)
    kernel = depthwise.emit("kernel", made, Epilogue((bias(),), add_bias), target)
    assert spills(kernel, target) <= 2


@pytest.mark.parametrize("level", LEVELS)
def test_gemm_does_not_spill(level: str) -> None:
    target = get(level)
    made = gemm.plan(GemmShape((4,), 128, 64, 128, (16384, 128, 1), (8192, 64, 1), (8192, 64)), target)
    assert spills(gemm.emit("kernel", made, Epilogue(), target), target) == 0


@pytest.mark.parametrize("level", ["armv7", "aarch64+dotprod"])
def test_other_processors_compile(level: str) -> None:
    target = get(level)
    made = convolution.plan(square(32, 14, 48, 3), target)
    assert loops(convolution.emit("kernel", made, Epilogue(), target), target)
