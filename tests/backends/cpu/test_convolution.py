"""Direct convolution against numpy, for every x86 level that this machine runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_reference import make_shape, reference

from onyxc.backends.cpu import convolution
from onyxc.backends.cpu.convolution import ConvShape, dense_strides, matmul_shape, pack, plan
from onyxc.backends.cpu.epilogue import Epilogue, Operand, bias, requantize
from onyxc.backends.cpu.vectors import T, constant, lanes_of
from onyxc.backends.target import get
from onyxc.compiler.ir.channels_last import shuffle_order

Array = np.ndarray[Any, Any]
TARGETS = ["x86-64-v4", "x86-64-v3", "x86-64-v2"]


def relu(acc: Any, operands: list[Any]) -> Any:
    """max(acc + bias [+ residual], 0)"""
    for value in operands:
        acc = acc + value
    return T.max(acc, constant(0, "float32", lanes_of(acc)))


CASES = {
    "1x1": make_shape((1, 9, 11, 24), 40, (1, 1)),
    "1x1 batch": make_shape((3, 5, 7, 17), 58, (1, 1)),
    "1x1 stride 2": make_shape((2, 9, 11, 16), 33, (1, 1), (2, 2)),
    "1x1 padded": make_shape((1, 5, 6, 8), 16, (1, 1), pads=(1, 2, 0, 1)),
    "1x1 padded at the end": make_shape((2, 4, 5, 8), 24, (1, 1), pads=(0, 0, 1, 1)),
    "3x3": make_shape((1, 14, 14, 32), 64, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 wide": make_shape((1, 5, 56, 8), 64, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 small": make_shape((2, 7, 7, 24), 116, (3, 3), pads=(1, 1, 1, 1)),
    "3x3 stride 2": make_shape((1, 15, 15, 5), 17, (3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3 asymmetric": make_shape((1, 12, 13, 3), 5, (3, 3), (2, 1), (0, 2, 1, 0)),
    "3x3 dilation": make_shape((1, 20, 33, 8), 24, (3, 3), pads=(12, 12, 12, 12), dilations=(12, 12)),
    "5x5": make_shape((1, 11, 12, 6), 20, (5, 5), pads=(2, 2, 2, 2)),
    "5x5 tiny image": make_shape((2, 2, 3, 6), 20, (5, 5), pads=(2, 2, 2, 2)),
    "7x7 planar": make_shape((1, 32, 40, 3), 64, (7, 7), (2, 2), (3, 3, 3, 3), planar=True),
    "1x7": make_shape((1, 9, 17, 12), 24, (1, 7), pads=(0, 3, 0, 3)),
    "7x1 of a column": make_shape((1, 40, 1, 12), 24, (7, 1), (1, 1), (3, 0, 3, 0)),
    "groups": make_shape((1, 8, 9, 36), 60, (3, 3), pads=(1, 1, 1, 1), group=3),
    "groups to a wide buffer": make_shape((2, 6, 6, 32), 48, (3, 3), (2, 2), (1, 1, 1, 1), group=4, extra=3),
    "1x1 groups": make_shape((1, 7, 7, 58), 116, (1, 1), group=2),
    "one row": matmul_shape(1, 100, 1000),
    "four rows": matmul_shape(4, 65, 130),
    "many rows": matmul_shape(126, 96, 192),
    "one column": matmul_shape(30, 20, 1),
}


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("case", CASES)
def test_float(case: str, level: str, call: Any) -> None:
    shape, target = CASES[case], get(level)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((shape.batch, *shape.in_size, shape.in_channels), np.float32)
    w = rng.standard_normal((shape.out_channels, shape.group_in, *shape.kernel), np.float32)
    b = rng.standard_normal(shape.out_channels, np.float32)
    residual = rng.standard_normal((shape.batch, *shape.out_size, shape.out_channels), np.float32)
    extra = shape.y_strides[2] - shape.out_channels
    y = np.full((*residual.shape[:3], shape.out_channels + extra), 77, np.float32)
    epilogue = Epilogue((bias(), Operand("float32", dense_strides(*residual.shape[1:]))), relu)
    made = plan(shape, target, tuple(o.strides for o in epilogue.operands))
    kernel = convolution.emit("kernel", made, epilogue, target)
    source = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if shape.x_strides[3] != 1 else x
    call(kernel, target, [source, pack(w, made), b, residual, y])
    expected = np.maximum(reference(x, w, shape) + b + residual, 0)
    np.testing.assert_allclose(y[..., : shape.out_channels], expected, rtol=2e-5, atol=2e-4)
    assert (y[..., shape.out_channels :] == 77).all()


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("types", [("uint8", "int8"), ("int8", "uint8")])
@pytest.mark.parametrize("case", ["1x1", "3x3 asymmetric", "3x3 small", "groups", "one row"])
def test_integer(case: str, types: tuple[str, str], level: str, call: Any) -> None:
    base, target = CASES[case], get(level)
    rng = np.random.default_rng(5)
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    fields |= {
        "x_dtype": types[0],
        "w_dtype": types[1],
        "acc_dtype": "int32",
        "y_dtype": types[0],
        "x_zero_point": 3,
    }
    shape = ConvShape(**fields)
    ranges = {"uint8": (0, 256), "int8": (-128, 128)}
    x = rng.integers(*ranges[types[0]], (shape.batch, *shape.in_size, shape.in_channels)).astype(types[0])
    w = rng.integers(*ranges[types[1]], (shape.out_channels, shape.group_in, *shape.kernel)).astype(types[1])
    zero = rng.integers(0, 9, shape.out_channels).astype(types[1])
    scale = (rng.random(shape.out_channels, np.float32) + 0.5) * np.float32(1e-3)
    sums = reference(x.astype(np.int64) - 3, w.astype(np.int64) - zero.astype(np.int64).reshape(-1, 1, 1, 1), shape)

    exact = Epilogue(y_dtype="int32")
    made = plan(shape, target)
    packed = pack(w, made, zero)
    y = np.zeros(sums.shape, np.int32)
    call(convolution.emit("kernel", made, exact, target), target, [x, packed, y])
    np.testing.assert_array_equal(y, sums)

    quantized = Epilogue((bias(),), lambda acc, ops: requantize(acc, ops[0], 7, types[0]), types[0])
    made = plan(shape, target, ((0, 0, 0, 1),))
    z = np.zeros(sums.shape, types[0])
    call(convolution.emit("kernel", made, quantized, target), target, [x, packed, scale, z])
    low, high = ranges[types[0]]
    np.testing.assert_array_equal(z, np.clip(np.rint(sums.astype(np.float32) * scale) + 7, low, high - 1).astype(types[0]))


@pytest.mark.parametrize("level", TARGETS)
def test_shuffled_groups(level: str, call: Any) -> None:
    """Channels are read in the order of a table."""
    shape, target = make_shape((1, 7, 7, 40), 28, (1, 1), group=4, shuffle=4), get(level)
    rng = np.random.default_rng(8)
    x = rng.standard_normal((1, 7, 7, 40), np.float32)
    w = rng.standard_normal((28, 10, 1, 1), np.float32)
    order = shuffle_order(40, 4)
    made, y = plan(shape, target), np.zeros((1, 7, 7, 28), np.float32)
    call(convolution.emit("kernel", made, Epilogue(), target), target, [x, pack(w, made), order.astype(np.int32), y])
    np.testing.assert_allclose(y, reference(x[..., order], w, shape), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("rows", "share"), [(12, 2), (16, 2), (24, 1), (64, 1)])
def test_tiles_prefetch_the_next_panel_together(rows: int, share: int) -> None:
    """Each of few tiles asks for so many lines of a step's weights that none is left out."""
    target = get("x86-64-v4")
    made = plan(matmul_shape(rows, 384, 384), target)
    assert made.ahead
    assert made.rows * share >= made.panels[0].width // 16 > made.rows * (share - 1)
    text = str(convolution.emit("kernel", made, Epilogue(), target).func)
    assert text.count("llvm.prefetch") == share * len(made.tiles) * made.unroll
