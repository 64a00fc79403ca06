"""Products of bfloat16 with constant weights, where the processor multiplies bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onyxc.backends.artifact import steps
from onyxc.backends.cpu import bf16_product
from onyxc.backends.kernels.codegen import assembly
from onyxc.backends.target import get
from onyxc.compiler import driver

TARGET = get("x86-64-v4+bf16")
Array = np.ndarray[Any, Any]
SIZES = [(1, 16, 16), (5, 50, 33), (7, 17, 64), (30, 3, 1), (1, 130, 31), (23, 100, 2)]  # rows, columns, depth


def normal(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(ml_dtypes.bfloat16)


def exact(a: Array, b: Array) -> Array:
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32).astype(ml_dtypes.bfloat16)


@pytest.mark.parametrize(("rows", "columns", "depth"), SIZES)
def test_against_numpy(call: Callable[..., None], rows: int, columns: int, depth: int) -> None:
    a, b = normal((rows, depth)), normal((depth, columns), 1)
    plan = bf16_product.plan(rows, columns, depth, TARGET)
    packed = bf16_product.pack(b, plan)
    assert packed.size == plan.packed_size
    y = np.zeros((rows, columns), np.uint16)
    call(bf16_product.emit("k", plan, TARGET), TARGET, [a.view(np.uint16), packed, y])
    got, wanted = y.view(ml_dtypes.bfloat16).astype(np.float64), exact(a, b).astype(np.float64)
    scale = np.abs(a.astype(np.float64)) @ np.abs(b.astype(np.float64))
    assert np.all(np.abs(got - wanted) <= np.abs(wanted) * 2.0**-7 + scale * 2.0**-22)  # half to even may fall elsewhere
    assert (got == wanted).mean() > 0.98


def test_infinities_and_what_is_no_number(call: Callable[..., None]) -> None:
    a, b = np.ones((4, 3), ml_dtypes.bfloat16), np.ones((3, 16), ml_dtypes.bfloat16)
    a[1, 2], a[2, 0], a[3, :2] = np.nan, np.inf, (np.inf, -np.inf)
    plan = bf16_product.plan(4, 16, 3, TARGET)
    y = np.zeros((4, 16), np.uint16)
    call(bf16_product.emit("k", plan, TARGET), TARGET, [a.view(np.uint16), bf16_product.pack(b, plan), y])
    got = y.view(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(got[:, 0], [3, np.nan, np.inf, np.nan])


def test_the_instruction_is_used() -> None:
    plan = bf16_product.plan(64, 128, 256, TARGET)
    text = assembly(bf16_product.emit("k", plan, TARGET), TARGET)
    assert "vdpbf16ps" in text
    assert "callq" not in text.partition("\nk:")[2].partition(".Lfunc_end")[0]


def model(dtype: int) -> onnx.ModelProto:
    """Two products with constant weights; two kernels of one LLVM module."""

    def constant(name: str, shape: tuple[int, ...], seed: int) -> onnx.TensorProto:
        array = normal(shape, seed)
        if dtype == TensorProto.FLOAT:
            return onnx.numpy_helper.from_array(array.astype(np.float32), name)
        return helper.make_tensor(name, dtype, shape, array.tobytes(), raw=True)

    nodes = [helper.make_node("MatMul", ["x", "v"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", dtype, [2, 5, 48])],
        [helper.make_tensor_value_info("y", dtype, [2, 5, 20])], [constant("v", (48, 32), 1), constant("w", (32, 20), 2)],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def notes(artifact: driver.Artifact, level: str) -> list[str]:
    return [s.note for s in steps.read(artifact.folder)[level]]


def test_a_model(tmp_path: Any) -> None:
    artifact = driver.compile(model(TensorProto.BFLOAT16), target=TARGET.name, out=tmp_path / "a")
    assert all(note.startswith("bfloat16 product") for note in notes(artifact, TARGET.name))
    if get("host") != TARGET:
        pytest.skip("this machine does not multiply bfloat16")
    x = normal((2, 5, 48), 3)
    wanted = exact(exact(x, normal((48, 32), 1)), normal((32, 20), 2)).astype(np.float32)
    (found,) = artifact.run({"x": x})
    np.testing.assert_allclose(np.asarray(found).astype(np.float32), wanted, rtol=0.02, atol=0.5)
    plain = driver.compile(model(TensorProto.BFLOAT16), target="x86-64-v4").run({"x": x})[0]
    assert (np.asarray(plain) == np.asarray(found)).mean() > 0.9


def test_float32_keeps_its_precision() -> None:
    artifact = driver.compile(model(TensorProto.FLOAT), target=TARGET.name)
    assert not any("bfloat16" in note for note in notes(artifact, TARGET.name))
