"""Winograd convolution against numpy, for every x86 level that this machine runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_reference import make_shape, reference

from onyxc.backends.cpu import winograd
from onyxc.backends.cpu.epilogue import Epilogue, Operand, bias
from onyxc.backends.cpu.shapes import ConvShape, dense_strides
from onyxc.backends.cpu.vectors import T, constant, lanes_of
from onyxc.backends.cpu.winograd_plan import make, pack
from onyxc.backends.cpu.winograd_transforms import outputs as possible
from onyxc.backends.target import get

Array = np.ndarray[Any, Any]


def relu(acc: Any, operands: list[Any]) -> Any:
    """max(acc + bias [+ residual], 0)"""
    for value in operands:
        acc = acc + value
    return T.max(acc, constant(0, "float32", lanes_of(acc)))


def run(shape: ConvShape, outputs: tuple[int, int], level: str, call: Any) -> tuple[Array, Array]:
    """Result (with the channels of a wider buffer, which start as 77) and float64 reference, bias and residual added."""
    target = get(level)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((shape.batch, *shape.in_size, shape.in_channels), np.float32)
    w = rng.standard_normal((shape.out_channels, shape.group_in, *shape.kernel), np.float32)
    b = rng.standard_normal(shape.out_channels, np.float32)
    residual = rng.standard_normal((shape.batch, *shape.out_size, shape.out_channels), np.float32)
    y = np.full((*residual.shape[:3], shape.y_strides[2]), 77, np.float32)
    epilogue = Epilogue((bias(), Operand("float32", dense_strides(*residual.shape[1:]))), relu)
    made = make(shape, outputs, target)
    kernel = winograd.emit("kernel", made, epilogue, target)
    scratch = np.full(made.scratch, np.nan, np.float32)
    arrays = [x, pack(w, made), b, residual, y, scratch]
    call(kernel, target, arrays)
    return y, np.maximum(reference(x, w, shape) + b + residual, 0)


CASES = {
    "3x3": make_shape((1, 14, 14, 32), 64, (3, 3), pads=(1, 1, 1, 1)),
    "odd channels": make_shape((1, 9, 11, 17), 58, (3, 3), pads=(1, 1, 1, 1)),
    "batch": make_shape((3, 7, 7, 24), 40, (3, 3), pads=(1, 1, 1, 1)),
    "no padding": make_shape((1, 10, 13, 16), 16, (3, 3)),
    "asymmetric padding": make_shape((1, 8, 15, 16), 20, (3, 3), pads=(2, 0, 0, 2)),
    "several strips": make_shape((2, 30, 33, 8), 24, (3, 3), pads=(1, 1, 1, 1)),
    "tiny image": make_shape((2, 2, 3, 16), 20, (3, 3), pads=(1, 1, 1, 1)),
    "groups": make_shape((1, 8, 9, 36), 60, (3, 3), pads=(1, 1, 1, 1), group=3),
    "to a wide buffer": make_shape((2, 6, 6, 32), 40, (3, 3), pads=(1, 1, 1, 1), extra=3),
    "5x5": make_shape((1, 11, 12, 20), 20, (5, 5), pads=(2, 2, 2, 2)),
    "3x5": make_shape((1, 11, 12, 20), 36, (3, 5), pads=(1, 2, 1, 2)),
    "1x3": make_shape((1, 9, 17, 12), 24, (1, 3), pads=(0, 1, 0, 1)),
    "5x1": make_shape((1, 40, 1, 12), 24, (5, 1), pads=(2, 0, 2, 0)),
    "stride 2": make_shape((2, 15, 18, 20), 36, (3, 3), (2, 2), (1, 1, 1, 1)),
    "stride 2 down": make_shape((1, 17, 12, 16), 16, (5, 3), (2, 1), (2, 1, 2, 1)),
    "2x2": make_shape((1, 9, 9, 16), 16, (2, 2), pads=(0, 0, 1, 1)),
    "4x7": make_shape((1, 12, 10, 16), 16, (4, 7), pads=(1, 3, 2, 3)),
    "one output channel": make_shape((1, 12, 12, 16), 1, (3, 3), pads=(1, 1, 1, 1)),
}
SMALLER = {"3x3": ((4, 2), (2, 4), (2, 2)), "odd channels": ((2, 2),), "tiny image": ((2, 4),), "stride 2": ((2, 2),)}
RUNS = [
    *((case, tuple(map(max, map(possible, shape.kernel, shape.strides))), "x86-64-v4") for case, shape in CASES.items()),
    *((case, outputs, "x86-64-v4") for case, many in SMALLER.items() for outputs in many),
    *((case, (4, 2), level) for case in ("3x3", "odd channels", "groups") for level in ("x86-64-v3", "x86-64-v2")),
]


@pytest.mark.parametrize(("case", "outputs", "level"), RUNS)
def test_float(case: str, outputs: tuple[int, int], level: str, call: Any) -> None:
    shape = CASES[case]
    y, expected = run(shape, outputs, level, call)
    assert np.abs(y[..., : shape.out_channels] - expected).max() < 4e-5 * expected.std()
    assert (y[..., shape.out_channels :] == 77).all()


@pytest.mark.parametrize(
    ("kernel", "outputs", "bound"), [(3, 2, 1e-5), (3, 4, 4e-5), (5, 2, 4e-5), (5, 4, 1e-4), (7, 2, 1e-4)]
)
def test_errors_are_as_stated(kernel: int, outputs: int, bound: float, call: Any) -> None:
    shape = make_shape((1, 12, 12, 512), 16, (kernel, kernel), pads=(kernel // 2,) * 4)
    y, expected = run(shape, (outputs, outputs), "x86-64-v4", call)
    assert np.abs(y - expected).max() < bound * expected.std()
